"""Names and ids with custom tables; the released tables are checked by the golden cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from jukebox.data import artist_genre_processor
from jukebox.data.artist_genre_processor import ArtistGenreProcessor, format_table, norm, parse_table
from jukebox.utils.errors import UserError

ARTISTS = {"unknown": 0, "": 0, "the_beatles": 1, "celine_dion": 2, "dionne_warwick": 3, "beat_farmers": 4}
GENRES = {"unknown": 0, "hip": 1, "hop": 2, "rock": 3, "folk": 4, "folky": 4}


def test_v2_names_are_words() -> None:
    ag = ArtistGenreProcessor(artist_ids=ARTISTS, genre_ids=GENRES)
    assert ag.get_artist_id("The Beatles!") == 1 and ag.get_artist_id("Queen") == 0
    assert (
        ag.get_genre_ids("Hip-Hop") == [1, 2]
        and ag.get_genre_ids("Polka Rock") == [0, 3]
        and ag.get_genre_ids("") == [0]
    )
    assert ag.get_artist(0) == "_unknown" and ag.get_genre([4, 3, -1]) == "folk_folky_rock"
    assert ag.y_bins == [5, 5] and ag.own_tables
    assert norm("  AC/DC__live ") == "ac_dc_live"


def test_v3_names_are_whole() -> None:
    ag = ArtistGenreProcessor(v3=True, artist_ids={"ac/dc": 1}, genre_ids={"hip-hop": 7})
    assert ag.get_artist_id("AC/DC") == 1 and ag.get_genre_ids("Hip-Hop") == [7] and ag.get_genre_ids("hip hop") == [0]
    assert ag.get_genre([7]) == "hip-hop" and ag.get_genre([0, -1]) == "unknown" and ag.get_artist(0) == "unknown"


def test_near_names() -> None:
    ag = ArtistGenreProcessor(artist_ids=ARTISTS, genre_ids=GENRES)
    assert ag.nearest_artists("Beatels")[0] == "the_beatles"
    assert ag.nearest_artists("Dion")[:2] == ["celine_dion", "dionne_warwick"]  # has the word
    assert len(ag.nearest_artists("x")) == 3 and len(ag.nearest_artists("x", n=9)) == 4  # without unknown
    assert ag.nearest_genres("Rok")[0] == "rock"


def test_lists_by_part_and_by_pattern() -> None:
    ag = ArtistGenreProcessor(artist_ids=ARTISTS, genre_ids=GENRES)
    assert ag.list_artists() == ["beat_farmers", "celine_dion", "dionne_warwick", "the_beatles"]
    assert ag.list_artists("BEAT") == ["beat_farmers", "the_beatles"]
    assert ag.list_artists("beat*") == ["beat_farmers"]
    assert ag.list_genres("f?lk") == ["folk"]


def test_table_files(tmp_path: Path) -> None:
    table = {"unknown": 0, "": 0, "a;b": 1, "é ": 2}
    path = tmp_path / "ids.txt"
    path.write_text(format_table(table).replace("\n", "\r\n"), encoding="utf-8", newline="")
    assert ArtistGenreProcessor(artist_ids=path).artist_ids == table
    for wrong in ("abc", "a;x", "a;-1"):
        with pytest.raises(UserError, match="ids, line 2"):
            parse_table(f"ok;1\n{wrong}\n", "ids")
    with pytest.raises(UserError, match="missing"):
        _ = ArtistGenreProcessor(genre_ids=tmp_path / "missing").genre_ids


def test_released_tables_are_looked_for_when_a_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        path = tmp_path / "fetched.txt"
        path.write_text("unknown;0\nnina;3\n")
        return path

    monkeypatch.setattr(artist_genre_processor, "_fetch", fetch)
    monkeypatch.setattr(artist_genre_processor, "LOCAL_TABLES", tmp_path)
    ag = ArtistGenreProcessor(v3=True)
    assert not fetched and not ag.own_tables
    assert ag.get_artist_id("Nina") == 3 and fetched == ["v3_artist_ids.txt"]
    assert ag.get_artist_id("Nina") == 3 and len(fetched) == 1
    (tmp_path / "v3_genre_ids.txt").write_text("jazz;5\n")
    assert ag.get_genre_ids("Jazz") == [5] and len(fetched) == 1  # a table here wins


def test_patterns_find_names_as_people_write_them() -> None:
    processor = ArtistGenreProcessor(False, {"unknown": 0, "ac_dc": 1, "the_beatles": 2}, {"unknown": 0, "hip": 1})
    assert processor.list_artists("AC/DC") == ["ac_dc"] and processor.list_artists("The Beatles") == ["the_beatles"]
    assert processor.list_artists("/") == [] and len(processor.list_artists()) == 2


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffzo\u00eb;1\n", encoding="utf-8")
    assert ArtistGenreProcessor(True, tmp_path / "a.txt", {}).get_artist_id("Zo\u00eb") == 1
