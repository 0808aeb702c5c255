"""Tables of labels as spreadsheets, other systems and data sets have them, and files beside songs in any case."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from jukebox.data.metadata import FolderMetadata, Notices
from jukebox.data.text_files import decode_text
from jukebox.utils.errors import UserError


def artist(folder: Path, name: str) -> str:
    return FolderMetadata(folder, Notices()).read(name, {}, 60.0).artist


def write(folder: Path, content: str | bytes, name: str = "metadata.csv") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def touch(folder: Path, *names: str) -> None:
    for name in names:
        write(folder, b"", name)


HEAD = "file,artist,genre,lyrics\n"


@pytest.mark.parametrize(
    "content",
    [
        HEAD + "a.mp3,Zoë,pop,la\nb.mp3,Bob,ska,lo\n,,,\n,,,\n",  # blank rows of a spreadsheet
        ",,,\n\n" + HEAD + "----,----,----,----\na.mp3,Zoë,pop,la\n\n;;;\nb.mp3,Bob,ska,lo",
        "sep=;\r\nfile;artist;genre\r\na.mp3;Zoë;pop\r\nb.mp3;Bob;ska\r\n",
        '"sep=|"\nfile|artist\na.mp3|Zoë\nb.mp3|Bob\n',
        "file\tartist, first\tartist\na.mp3\tx, y\tZoë\nb.mp3\tx\tBob\n",
        '\ufefffile,artist\r"a.mp3", "Zoë"\rb.mp3,Bob\r',  # line ends of an old Mac
        "File Name;Album-Artist;Genre\na.mp3;Zoë;pop\nb.mp3;Bob;ska",
        (HEAD + "a.mp3,Zoë,pop,la\nb.mp3,Bob,ska,lo\n").encode("utf-16"),
        "file\tartist\na.mp3\tZoë\nb.mp3\tBob".encode("utf-16-be"),
        (HEAD + "a.mp3,Zoë,pop,la\nb.mp3,Bob,ska,lo\n").encode("cp1252"),
        (HEAD + "a.mp3,Zoë,pop,la\nb.mp3,Bob,ska,lo\n").encode("utf-32"),
    ],
)
def test_spreadsheets(tmp_path: Path, content: str | bytes) -> None:
    write(tmp_path, content)
    assert (artist(tmp_path, "a.mp3"), artist(tmp_path, "b.mp3")) == ("Zoë", "Bob")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('{"file_name": "a.mp3", "artist": "Zoë"}\n\n{"file_name": "b.mp3", "artist": "Bob"}\n', "metadata.jsonl"),
        ('\ufeff{"file": "a", "Artist": "Zoë"}\r\n{"audio": "./b.mp3", "artists": ["Bob"]}', "METADATA.JSONL"),
        ('{"file": "a.mp3", "artist": "Zoë"}\n{"file": "b.mp3", "artist": "Bob"}', "metadata.json"),
        ('[{"path": "x/../a.mp3", "artist": "Zoë"}, {"path": ".\\\\b.mp3", "artist": "Bob"}]', "Metadata.JSON"),
        ("file\tartist\na.mp3\tZoë\nb.mp3\tBob", "metadata.tsv"),
        ("file_name,artist\na.mp3,Zoë\nb.mp3,Bob\n", "MetaData.CSV"),
    ],
)
def test_files_of_tables(tmp_path: Path, content: str, name: str) -> None:
    write(tmp_path, content.replace("x/../", ""), name)
    assert (artist(tmp_path, "a.mp3"), artist(tmp_path, "b.mp3")) == ("Zoë", "Bob")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("C:\\Users\\Ann\\Music\\disc\\one.mp3", "disc/one.mp3"),
        ("/home/ann/Music/disc/one.mp3", "disc/one.mp3"),
        ("file:///home/ann/Music/disc/one%20two.mp3", "disc/one two.mp3"),
        ("D:/one.mp3", "one.mp3"),
        ("\\\\server\\share\\disc\\one.mp3", "disc/one.mp3"),
        ("../{folder}/disc/one.mp3", "disc/one.mp3"),
        ("{folder}/disc/one.mp3", "disc/one.mp3"),
        ("{absolute}/disc/one.mp3", "disc/one.mp3"),
        ("DISC/One.MP3", "disc/one.mp3"),
        ("one", "disc/ONE.Mp3"),
        ("Cafe\u0301.mp3", "Caf\u00e9.mp3"),
        ("Caf\u00e9", "disc/Cafe\u0301.mp3"),
        ("ÉTÉ.mp3", unicodedata.normalize("NFD", "été.mp3")),
        ("01. One", "01. One.mp3"),
    ],
)
def test_which_file_a_row_is_about(tmp_path: Path, written: str, name: str) -> None:
    folder = tmp_path / "songs"
    file = written.format(folder=folder.name, absolute=folder)
    write(folder, json.dumps({file: dict(artist="Zoë"), "other.mp3": dict(artist="no")}), "metadata.json")
    assert artist(folder, name) == "Zoë"
    assert artist(folder, "disc/else.mp3") == "unknown"


def test_rows_that_fit_several_files(tmp_path: Path) -> None:
    touch(tmp_path, "a/song.mp3", "song.mp3")
    rows = ["C:\\M\\a\\song.mp3,in", "C:\\M\\b\\song.mp3,away", "Song.mp3,Upper", "song.mp3,lower"]
    write(tmp_path, "file,artist\n" + "\n".join(rows[:2]))
    assert artist(tmp_path, "a/song.mp3") == "in"
    assert artist(tmp_path, "song.mp3") == "away"  # the other row has its file
    write(tmp_path, "file,artist\n" + "\n".join(rows))
    assert artist(tmp_path, "song.mp3") == "lower" and artist(tmp_path, "Song.mp3") == "Upper"
    assert artist(tmp_path, "a/song.mp3") == "in"
    write(tmp_path, "file,artist\nC:\\x\\b.mp3,one\nC:\\y\\b.mp3,two")
    assert artist(tmp_path, "b.mp3") == "unknown"  # either could be meant


def test_names_that_differ_in_case_only_are_two_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp3", "A.mp3")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this file system has no case")
    write(tmp_path, "file,artist\na.mp3,lower")
    assert (artist(tmp_path, "a.mp3"), artist(tmp_path, "A.mp3")) == ("lower", "unknown")
    write(tmp_path, "file,artist\na,lower")
    assert (artist(tmp_path, "a.mp3"), artist(tmp_path, "A.mp3")) == ("lower", "unknown")
    (tmp_path / "metadata.csv").unlink()
    for beside in ("a.json", "a.mp3.json"):
        write(tmp_path, '{"artist": "beside"}', beside)
        assert (artist(tmp_path, "a.mp3"), artist(tmp_path, "A.mp3")) == ("beside", "unknown")
        (tmp_path / beside).unlink()


def test_a_path_of_this_machine_is_about_its_own_file(tmp_path: Path) -> None:
    touch(tmp_path, "songs/one.mp3", "elsewhere/one.mp3")
    write(tmp_path / "songs", f"file,artist\n{tmp_path / 'elsewhere' / 'one.mp3'},other")
    assert artist(tmp_path / "songs", "one.mp3") == "unknown"
    write(tmp_path / "songs", f"file,artist\n{tmp_path / 'songs' / 'one.mp3'},mine\n/{'x' * 5000}/one.mp3,far")
    assert artist(tmp_path / "songs", "one.mp3") == "mine"


def test_tables_of_subfolders_come_first(tmp_path: Path) -> None:
    write(tmp_path, '{"file_name": "one.mp3", "artist": "near", "genre": ""}', "train/metadata.jsonl")
    write(tmp_path, HEAD + "train/one.mp3,far,ska,la\ntrain/x/two.mp3,far,ska,la")
    reader = FolderMetadata(tmp_path, Notices())
    one = reader.read("train/one.mp3", {}, 60.0)
    assert (one.artist, one.genre, one.lyrics) == ("near", "ska", "la")
    assert reader.read("train/x/two.mp3", {}, 60.0).artist == "far"
    assert reader.unused_rows(["train/one.mp3", "train/x/two.mp3"]) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", HEAD + "a.mp3,Zoë,pop,la\n,Bob,ska,lo", "row 3 names no file"),
        ("metadata.csv", "sep=;\nfile;artist\na.mp3;A\n;B", "row 4 names no file"),
        ("metadata.csv", "file,lyrics,artist\na.mp3,la, la,Zoë", "row 2 has 4 cells and the first line 3"),
        ("metadata.csv", 'file,artist\na.mp3,A\nb.mp3,"B', "row 3.*quotation mark"),
        ("metadata.csv", "title,artist\nx,y", "needs the columns file"),
        ("metadata.jsonl", '{"file": "a", "artist": "A"}\n\n{"file": 3}', "row 3"),
        ("metadata.jsonl", '{"file": "a"}\n{"file": "b"', "row 2 is not JSON"),
        ("metadata.json", '[{"file": "a"}, {"artist": "b"}]', "entry 2"),
        ("sub/metadata.csv", "file,artist\n,b", "sub/metadata.csv, row 2"),
    ],
)
def test_messages_name_the_row(tmp_path: Path, name: str, content: str, message: str) -> None:
    write(tmp_path, content, name)
    with pytest.raises(UserError, match=message):
        artist(tmp_path, "sub/a.mp3")


def test_lyrics_with_commas_and_no_quotation_marks(tmp_path: Path) -> None:
    write(tmp_path, HEAD + "a.mp3,Zoë,pop,one, two, three\nb.mp3,Bob,ska,lo,,")
    reader = FolderMetadata(tmp_path, Notices())
    assert reader.read("a.mp3", {}, 9.0).lyrics == "one, two, three" and reader.read("b.mp3", {}, 9.0).lyrics == "lo"


def test_rows_that_are_about_nothing_are_named_with_what_they_nearly_are(tmp_path: Path) -> None:
    names = ["blue moon.mp3", "red sun.mp3"]
    rows = ["bluemoon.mp3,A", "red sun.wav,B", "quux.mp3,C", "zzyzx.mp3,D", "Blue Moon,E"]
    write(tmp_path, "file,artist\n" + "\n".join(rows))
    assert FolderMetadata(tmp_path, Notices()).unused_rows(names) == [
        "4 of the 5 rows of metadata.csv name no file here: row 2 'bluemoon.mp3' (did you mean blue moon?); "
        "row 3 'red sun.wav' (did you mean red sun.mp3?); row 4 'quux.mp3'"
    ]
    many = [f"{i:05d}.mp3" for i in range(20_000)]
    assert "5 of the 5 rows" in FolderMetadata(tmp_path, Notices()).unused_rows(many)[0]


def test_a_file_named_twice_takes_the_last_row_and_that_is_said(tmp_path: Path) -> None:
    write(tmp_path, "file,artist\na.mp3,A\nb.mp3,B\na.mp3,A\n./a.mp3,Z")
    reader = FolderMetadata(tmp_path, Notices())
    assert reader.read("a.mp3", {}, 9.0).artist == "Z"
    (line,) = reader.unused_rows(["a.mp3", "b.mp3"])
    assert line.startswith(
        "1 row of metadata.csv for a file named before, the last counts: row 5 (./a.mp3), which row 4"
    )


@pytest.mark.parametrize(
    ("song", "beside"),
    [
        ("ONE.WAV", ["ONE.JSON", "ONE.LRC"]),
        ("one.mp3", ["One.Json", "one.mp3.LRC"]),
        ("one.mp3", ["one.mp3.json", "one.srt"]),
        ("a/Cafe\u0301.mp3", ["a/Caf\u00e9.json", "a/CAF\u00c9.lrc"]),
        ("one.flac", ["one.flac.json", "one.txt"]),
        ("ONE.Flac", ["one.JSON", "ONE.FLAC.TXT"]),
    ],
)
def test_files_beside_songs(tmp_path: Path, song: str, beside: list[str]) -> None:
    stamp = "1\n00:00:01,000 --> 00:00:02,000\nla" if beside[1].endswith("srt") else "[00:01.00]la"
    write(tmp_path, json.dumps(dict(artist="Zoë")), beside[0])
    write(tmp_path, stamp, beside[1])
    reader = FolderMetadata(tmp_path, Notices())
    labels = reader.read(song, {}, 9.0)
    assert (labels.artist, labels.lyrics) == ("Zoë", "la") and labels.times is not None and labels.times[0][0] == 1.0
    assert reader.unused_rows([song]) == []
    assert reader.unused_rows([song.replace("ONE", "two").replace("one", "two").replace("Cafe", "two")]) != []


def test_encodings() -> None:
    for text in ("", "Zoë,la", "la", "ミラ、日本語の歌"):
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            assert (decode_text(text.encode(encoding)) or ("?",))[0] == text
    western = "naïve façade, all else is plain"
    assert decode_text(western.encode("cp1252")) == (western, "cp1252")
    assert decode_text(b"\xff\xfe\x61") is None and decode_text(bytes(range(256)) * 4) is None
    cut = "日本語の歌をうたう".encode()[:-1]
    assert decode_text(cut) == ("日本語の歌をうた\ufffd", "damaged utf-8")


OLD_TEXTS = {
    "gb18030": "[00:12.00]我和我的祖国 一刻也不能分割\n[00:16.50]无论我走到哪里 都流出一首赞歌",
    "big5": "[00:12.00]月亮代表我的心\n[00:16.50]你問我愛你有多深 我愛你有幾分",
    "cp932": "[00:12.00]さくら さくら\n[00:16.50]やよいの空は 見わたす限り",
    "euc_jp": "file,artist,lyrics\na.mp3,歌手,さくら さくら やよいの空は 見わたす限り かすみか雲か",
    "cp949": "[00:12.00]아리랑 아리랑 아라리요\n[00:16.50]아리랑 고개로 넘어간다",
    "cp1251": "Калинка, калинка, калинка моя!\nВ саду ягода малинка, малинка моя!",
    "koi8_r": "[00:12.00]Калинка, калинка, калинка моя!\n[00:16.50]В саду ягода малинка, малинка моя!",
    "cp1253": "Τα παιδιά του Πειραιά\nΑπό το παράθυρό μου στέλνω ένα δύο και τρία και τέσσερα φιλιά",
    "cp1252": "file;artist;lyrics\na.mp3;Zoë;süß: Frère Jacques, dormez-vous? Où êtes-vous, l'été à la forêt",
}


@pytest.mark.parametrize("encoding", OLD_TEXTS)
def test_old_encodings_are_told_apart(tmp_path: Path, encoding: str) -> None:
    text = OLD_TEXTS[encoding]
    assert decode_text(text.encode(encoding)) == (text, encoding)
    words = "".join(f"<00:0{i % 10}.00>{c}" for i, c in enumerate(text))
    assert decode_text(words.encode(encoding)) == (words, encoding)
    write(tmp_path, text.encode(encoding), "a.txt")
    notices = Notices()
    FolderMetadata(tmp_path, notices).read("a.mp3", {}, 30.0)
    name = encoding.replace("cp125", "Windows-125")
    assert f"the .txt file is not utf-8 and is read as {name}; save it as utf-8 if letters are wrong" in notices.counts


def test_a_guessed_encoding_is_said(tmp_path: Path) -> None:
    write(tmp_path, (HEAD + "a.mp3,Zoë,pop,").encode("cp1252"))
    write(tmp_path, "[00:01.00]une chanson française".encode("cp1252"), "a.lrc")
    notices = Notices()
    labels = FolderMetadata(tmp_path, notices).read("a.mp3", {}, 9.0)
    assert (labels.artist, labels.lyrics) == ("Zoë", "une chanson française")
    kinds = [kind for kind in notices.counts if "is read as Windows-1252" in kind]
    assert [kind.split(" is ")[0] for kind in kinds] == ["metadata.csv", "the .lrc file"]


def test_broken_tables_end_with_a_user_error_at_most(tmp_path: Path) -> None:
    """Small changes to good tables; a longer run of the same is 2,000 of each."""
    seeds: list[tuple[str, Any]] = [
        ("metadata.csv", 'sep=;\nfile;artist;lyrics\na.mp3;"A;B";la\nC:\\x\\b.mp3;B;"l\n[00:01.00]o"\n;;;\n'),
        ("metadata.json", '{"a.mp3": {"artist": "A", "lyrics": ["[00:01,5]la", "lo"]}, "b": {"genre": 3}}'),
        ("metadata.jsonl", '{"file_name": "a.mp3", "artist": "A"}\n{"file_name": "b.mp3", "lyrics": "\\u00e9"}\n'),
        ("a.json", '{"artist": ["A", "B"], "genre": null, "lyrics": "[00:01.00]<00:01.00>la"}'),
    ]
    draw = random.Random(1)
    refused = 0
    for i in range(400):
        name, content = seeds[i % len(seeds)]
        raw = bytearray(content.encode())
        for _ in range(draw.randint(1, 5)):
            at = draw.randrange(len(raw))
            raw[at : at + draw.randint(0, 4)] = bytes(
                draw.choices(b'\x00\xff\xfe"{}[],;:\n\\/09aA', k=draw.randint(0, 3))
            )
        write(tmp_path, bytes(raw), name)
        try:
            reader = FolderMetadata(tmp_path, Notices())
            labels = reader.read("a.mp3", {"lyrics": raw.decode("latin-1")}, 9.0)
            assert labels.times is None or len(labels.times) == len(labels.lyrics)
            reader.unused_rows(["a.mp3", "x/b.mp3"])
        except UserError:
            refused += 1
        (tmp_path / name).unlink()
    assert 20 < refused < 300
