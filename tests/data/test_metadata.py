"""Labels of files: where they come from, in which order, and what becomes of everything that is wrong with them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from jukebox.data.fit_labels import labels_for
from jukebox.data.labels import Labeller
from jukebox.data.metadata import FolderMetadata, Notices, SongLabels, as_text
from jukebox.data.metadata_hook import from_hook, load_hook
from jukebox.utils.errors import UserError

TAGS = dict(artist="Tag", genre="tags", lyrics="tagged words")


def read(folder: Path, name: str = "song.mp3", tags: dict[str, str] | None = None) -> tuple[SongLabels, list[str]]:
    notices = Notices()
    labels = FolderMetadata(folder, notices).read(name, TAGS if tags is None else tags, 60.0)
    return labels, list(notices.counts)


def put(folder: Path, name: str, content: Any) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_order_of_sources_for_each_field(tmp_path: Path) -> None:
    assert read(tmp_path)[0] == SongLabels("Tag", "tags", "tagged words")
    put(tmp_path, "metadata.csv", "file,artist,genre,lyrics\nsong.mp3,Csv,csv,\n")
    assert read(tmp_path)[0] == SongLabels("Csv", "csv", "tagged words")
    put(tmp_path, "metadata.json", {"song.mp3": dict(artist="Json", genre="", lyrics=None)})
    assert read(tmp_path) == (
        SongLabels("Json", "tags", "tagged words"),
        ["metadata.csv is not read where metadata.json is"],
    )
    (tmp_path / "metadata.csv").unlink()
    put(tmp_path, "song.txt", "plain\nwords")
    assert read(tmp_path)[0] == SongLabels("Json", "tags", "plain\nwords")
    put(tmp_path, "song.json", dict(artist="Side", lyrics="side\nwords", year=1999))
    assert read(tmp_path) == (SongLabels("Side", "tags", "side\nwords"), [])


def test_nothing_is_known(tmp_path: Path) -> None:
    labels, kinds = read(tmp_path, tags={})
    assert labels == SongLabels("unknown", "unknown", "", None)
    assert kinds == ["no artist is known, it counts as 'unknown'", "no genre is known, it counts as 'unknown'"]


@pytest.mark.parametrize("key", ["song.mp3", "song", "a/song.mp3", "a/song"])
def test_keys_of_the_folder_file(tmp_path: Path, key: str) -> None:
    put(tmp_path, "metadata.json", {key: dict(artist="A")})
    assert read(tmp_path, "a/song.mp3")[0].artist == "A"
    put(tmp_path, "metadata.json", [{"filename": key.replace("/", "\\"), "artist": "B"}])
    assert read(tmp_path, "a/song.mp3")[0].artist == "B"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, delimiter: str) -> None:
    rows = [["File", "Artist", "Genre", "Lyrics"], ["song.mp3", "Zoë", "pop", '"two\nlines, ""quoted"""']]
    put(tmp_path, "metadata.csv", "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows))
    assert read(tmp_path)[0] == SongLabels("Zoë", "pop", 'two\nlines, "quoted"')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.json", "{"),
        ("metadata.json", '["a"]'),
        ("metadata.json", '{"a": 3}'),
        ("metadata.json", '[{"artist": "no file"}]'),
        ("metadata.csv", "artist,genre\na,b\n"),
        ("metadata.csv", "file,artist\n,b\n"),
        ("metadata.csv", ""),
    ],
)
def test_a_broken_folder_file_stops_with_its_name(tmp_path: Path, name: str, content: str) -> None:
    put(tmp_path, name, content)
    with pytest.raises(UserError, match=name):
        FolderMetadata(tmp_path, Notices())
    (tmp_path / name).write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="utf-8"):
        FolderMetadata(tmp_path, Notices())


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_a_broken_sidecar_is_left_out(tmp_path: Path, content: str) -> None:
    put(tmp_path, "song.json", content)
    assert read(tmp_path) == (
        SongLabels("Tag", "tags", "tagged words"),
        ["the .json file beside it is not a JSON object, and is left out"],
    )
    (tmp_path / "song.json").write_bytes(b"\xff")
    assert read(tmp_path)[0].artist == "Tag"


def test_wrong_types(tmp_path: Path) -> None:
    put(tmp_path, "song.json", dict(artist=1975, genre=["rock", "pop"], lyrics={"a": 1}))
    labels, kinds = read(tmp_path)
    assert labels == SongLabels("1975", "rock; pop", "tagged words")
    assert kinds == ["lyrics is a dict, not text, and is left out"]
    given = (True, None, 1.5, ["a", None], "e\u0301", [], " a \n b", "\ud800x", ["a", "b"])
    found = [as_text("artist", value) for value in given]
    assert found == [None, None, "1.5", None, "é", None, "a b", "?x", "a; b"]
    assert as_text("lyrics", ["la", "lu"]) == "la\nlu" and as_text("lyrics", " la\n") == " la\n"


def test_tags_as_containers_name_them(tmp_path: Path) -> None:
    tags = {"album_artist": "Band", "genre": "ska", "lyrics-eng": "la"}
    assert read(tmp_path, tags=tags)[0] == SongLabels("Band", "ska", "la")
    assert read(tmp_path, tags={"unsyncedlyrics": "lo"})[0].lyrics == "lo"


# ---------------------------------------------------------------------------------------------- timed lyrics


def test_lrc_gives_times_to_the_same_words_and_wins_over_others(tmp_path: Path) -> None:
    put(tmp_path, "song.lrc", "[00:01.0]tagged\n[00:02.0]words")
    labels, kinds = read(tmp_path)
    assert labels.lyrics == "tagged words" and kinds == [] and labels.times is not None
    assert labels.times[0][0] == 1.0 and labels.times[7][0] == 2.0
    put(tmp_path, "song.json", dict(lyrics="something else"))
    labels, kinds = read(tmp_path)
    assert labels.lyrics == "tagged\nwords" and labels.times is not None and len(labels.times) == 12
    assert kinds == ["the .lrc file has other words than the other lyrics, and is used instead of them"]


def test_timed_lyrics_from_every_source(tmp_path: Path) -> None:
    content = "[ar:Ann]\r\n[00:01,50]mila\r\n[00:02.0]<00:02.0>so<00:02.5>la"

    def check(name: str, tags: dict[str, str]) -> None:
        labels = FolderMetadata(tmp_path, Notices()).read(name, tags, 60.0)
        assert labels.lyrics == "mila\nsola" and labels.times is not None, name
        assert [labels.times[i][0] for i in (0, 5, 7)] == pytest.approx([1.5, 2.0, 2.5])

    put(tmp_path, "side.json", dict(lyrics=content))
    put(tmp_path, "lines.json", dict(lyrics=content.split("\r\n")))
    put(tmp_path, "file.lrc", content)
    put(tmp_path, "list.json", dict(lyrics=[dict(start=1.5, end=2, text="mila"), dict(start=2, text="so<00:02.5>la")]))
    rows = [["file", "lyrics"], ["row.mp3", content]]
    put(tmp_path, "metadata.csv", "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in rows))
    for name in ("side", "lines", "file", "row", "list"):
        check(f"{name}.mp3", {})
    for key in ("lyrics", "lyrics-eng", "unsyncedlyrics"):
        check("tags.mp3", {key: content})
    put(tmp_path, "plain.json", dict(lyrics="mila sola"))  # untimed, and the tags have the times of the same words
    labels = FolderMetadata(tmp_path, Notices()).read("plain.mp3", {"lyrics": content}, 60.0)
    assert labels.lyrics == "mila sola" and labels.times is not None and labels.times[0][0] == 1.5
    result = from_hook(("a", "b", content), "x.mp3", Notices())
    assert result.lyrics == "mila\nsola" and result.times is not None


def test_the_line_of_a_translation_is_chosen_and_said(tmp_path: Path) -> None:
    put(tmp_path, "song.json", dict(lyrics="[00:01.00]mila\n[00:01.00]ミラ"))
    for line, words in ((1, "mila"), (2, "ミラ")):
        notices = Notices()
        assert FolderMetadata(tmp_path, notices, line).read("song.mp3", {}, 60.0).lyrics == words
        assert any("--lyric_line chooses another" in kind for kind in notices.counts)
        assert from_hook(("a", "b", "[00:01.00]mila\n[00:01.00]ミラ"), "x.mp3", notices, line).lyrics == words


def test_lrc_without_times_and_unreadable(tmp_path: Path) -> None:
    put(tmp_path, "song.lrc", "[ar:x]\nonly words")
    labels, kinds = read(tmp_path, tags=dict(artist="a", genre="b"))
    assert (labels.lyrics, labels.times) == ("only words", None)
    assert kinds == ["the .lrc file has no times, its words are used without them"]
    assert read(tmp_path)[0].lyrics == "tagged words"
    (tmp_path / "song.lrc").write_bytes(bytes(range(256)))
    assert read(tmp_path)[1] == ["the .lrc file is not utf-8 text, and is left out"]


# --------------------------------------------------------------------------------------------- for a labeller


def labeller(v3: bool, words: int = 2, n_tokens: int = 8) -> Labeller:
    genres = (
        {"unknown": 0, "rock": 1, "pop": 2, "hip-hop": 3}
        if v3
        else {"unknown": 0, "rock": 1, "pop": 2, "hip": 3, "hop": 4}
    )
    return Labeller(words, n_tokens, 1000, v3, {"unknown": 0, "nina": 1, "ella": 2}, genres)


def fit(made: Labeller, **labels: str) -> tuple[SongLabels, list[str]]:
    notices = Notices()
    out = labels_for(
        made, SongLabels(**{"artist": "Nina", "genre": "rock", "lyrics": "la", **labels}), notices, "x.mp3"
    )
    made.get_label(out.artist, out.genre, out.lyrics, 5000, 0)  # never fails
    return out, notices.lines()


def test_too_many_genre_words_are_cut_to_the_known_ones() -> None:
    labels, lines = fit(labeller(v3=False), genre="Weird Hip-Hop Rock")
    assert labels.genre == "hip hop"
    assert any("more than 2 words (max_bow_genre_size)" in line for line in lines)
    assert any("genre word" in line and "'weird'" in line for line in lines)


def test_the_first_known_of_several_genres_counts_in_v3() -> None:
    assert fit(labeller(v3=True, words=1), genre="Shoegaze; Hip-Hop; pop") == (SongLabels("Nina", "Hip-Hop", "la"), [])
    labels, lines = fit(labeller(v3=True, words=1), genre="Popp")
    assert labels.genre == "Popp" and "nearest are pop" in lines[0]


def test_each_kind_of_trouble_is_told_once_with_its_count() -> None:
    made, notices = labeller(v3=True, words=1), Notices()
    for i in range(10000):
        labels_for(made, SongLabels("Elli", "rock", "" if i % 2 else "шшшш日"), notices, f"{i}.mp3")
    assert notices.lines() == [
        "10000 of the files: artist is not in the label table, it counts as 'unknown' "
        "(first: 0.mp3: 'Elli', nearest are ella, nina)",
        "5000 of the files: letters of the lyrics are spelt with others; labels build --vocab=auto keeps them "
        "(first: 0.mp3)",
        "5000 of the files: no lyrics (first: 1.mp3)",
    ]
    assert fit(made, lyrics="😀😀😀😀la")[1][0].startswith("1 of the files: more than 30 %")
    assert fit(made, artist="unknown", genre="") == (SongLabels("unknown", "", "la"), [])
    assert fit(labeller(True, 1, n_tokens=0), lyrics="")[1] == []  # a model without lyrics misses none


# ------------------------------------------------------------------------------------------- a user's function


@pytest.mark.parametrize(
    ("result", "labels", "n_notices"),
    [
        (("a", "b", "c"), SongLabels("a", "b", "c"), 0),
        (["a", None, None], SongLabels("a", "unknown", ""), 0),
        ((1, ["x", "y"], "c"), SongLabels("1", "x; y", "c"), 0),
        ((b"a", "b", "c"), SongLabels("unknown", "b", "c"), 1),
        (None, SongLabels(), 1),
        ("abc", SongLabels(), 1),
        (("a", "b"), SongLabels(), 1),
    ],
)
def test_what_a_function_may_return(result: Any, labels: SongLabels, n_notices: int) -> None:
    notices = Notices()
    assert from_hook(result, "x.mp3", notices) == labels
    assert len(notices.counts) == n_notices


def test_loading_a_function(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def get_metadata(filename, test):\n    return filename, 'jazz', str(test)\n")
    assert load_hook(str(path))("f", True) == ("f", "jazz", "True")
    path.write_text("get_metadata = 3")
    for content, message in (("get_metadata = 3", "defines no"), ("1/0", "ZeroDivisionError"), ("def", "SyntaxError")):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            load_hook(str(path))
    with pytest.raises(UserError, match="is not a file"):
        load_hook(str(tmp_path / "missing.py"))
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UserError, match=r"end in \.py"):
        load_hook(str(tmp_path / "mine.txt"))


def test_a_function_edited_within_a_second_is_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import would leave bytecode beside the file and run it again: same length, same second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    for genre in ("jazz", "punk"):
        path.write_text(f"def get_metadata(filename, test):\n    return filename, {genre!r}, ''\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert load_hook(str(path))("f", False)[1] == genre
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize("content", ["3", "true", "null", "1.5", '"a"', "[" * 100_000])
def test_a_table_that_is_no_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "metadata.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="metadata.json"):
        FolderMetadata(tmp_path, Notices())


def test_a_quotation_mark_without_its_partner_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text('file,artist\na.mp3,"A\nb.mp3,B\n', encoding="utf-8")
    with pytest.raises(UserError, match="quotation mark"):
        FolderMetadata(tmp_path, Notices())


def test_names_in_tables_are_taken_as_people_write_them(tmp_path: Path) -> None:
    rows = {"./a.mp3": {"Artist": " Ann  Lee "}, "gone.mp3": {"artist": "B"}}
    (tmp_path / "metadata.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"Genre": "rock\nand roll"}), encoding="utf-8")
    reader = FolderMetadata(tmp_path, Notices())
    labels = reader.read("a.mp3", {}, 9.0)
    assert (labels.artist, labels.genre) == ("Ann Lee", "rock and roll")
    assert reader.unused_rows(["a.mp3"]) == ["1 of the 2 rows of metadata.json name no file here: row 2 'gone.mp3'"]


def test_times_without_words_leave_other_lyrics_alone(tmp_path: Path) -> None:
    (tmp_path / "a.lrc").write_text("[00:01.00]\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps({"lyrics": "la la"}), encoding="utf-8")
    labels = FolderMetadata(tmp_path, Notices()).read("a.mp3", {}, 9.0)
    assert labels.lyrics == "la la" and labels.times is None
