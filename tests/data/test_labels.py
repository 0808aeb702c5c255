"""Label rows and lyric windows beyond the golden cases: own tables, timed lyrics, messages, storing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jukebox.data.artist_genre_processor import format_table
from jukebox.data.fit_labels import labels_for
from jukebox.data.labels import EmptyLabeller, Labeller, get_relevant_lyric_tokens
from jukebox.data.lyric_window import get_timed_lyric_tokens
from jukebox.data.metadata import FolderMetadata, Notices, SongLabels
from jukebox.data.metadata_hook import from_hook
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, save_torch
from jukebox.utils.label_row import SIGNALS, Signal

TABLES = dict(artist_ids={"unknown": 0, "nina": 1, "ella": 2}, genre_ids={"unknown": 0, "jazz": 1, "folk": 2})


def make(n_tokens: int = 8, **more: object) -> Labeller:
    return Labeller(2, n_tokens, 1000, **{"v3": True, **TABLES, **more})  # type: ignore[arg-type]


def test_a_labeller_needs_no_table_until_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr("jukebox.data.artist_genre_processor.load_table", refuse)
    labeller = Labeller(5, 16, 1000)
    y = labeller.get_y_from_ids(1, [2, 3], [0] * 16, 5000, 0)
    assert y.shape == labeller.label_shape == (25,)
    labeller.set_y_lyric_tokens(y[None], {"info": [{"full_tokens": [1, 2]}]})
    assert labeller.state()["artist_ids"] is None
    with pytest.raises(AssertionError, match="looked up"):
        labeller.get_label("nina", "jazz", "la", 5000, 0)


def test_rows() -> None:
    labeller = make()
    label = labeller.get_label("Nina", "Folk", "la lé", 5000, 100)
    la = labeller.text_processor.tokenise("la le")
    assert label["y"].dtype == torch.long and label["y"].tolist() == [5000, 100, 1000, 1, 2, -1, 0, 0, 0, *la]
    assert label["info"] == dict(artist="Nina", genre="Folk", lyrics="la le", full_tokens=la)
    assert labeller.describe_label(label["y"]) == dict(artist="nina", genre="folk", lyrics="la le")
    assert labeller.describe_label(label["y"].numpy()) == labeller.describe_label(label["y"].tolist())
    batch = labeller.get_batch_labels([dict(artist="ella", genre="", lyrics="", total_length=5000, offset=0)] * 3)
    assert batch["y"].shape == (3, 14) and len(batch["info"]) == 3
    assert labeller.get_batch_labels([])["y"].shape == (0, 14)


def test_signals_are_columns_and_travel_with_the_labeller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("calm or wild", 2, ["calm", "wild"].index))
    labeller = Labeller.from_state(make(signals="mood").state())
    song = ("Nina", "Folk", "la lé", 5000, 100)
    for given, number in ((dict(mood="wild"), 1), (dict(mood=None), -1), ({}, -1), (dict(mood="calm", tempo=3), 0)):
        label = labeller.get_label(*song, **given)
        assert label["y"].tolist()[:7] == [5000, 100, 1000, 1, 2, -1, number] and label["y"].shape == (15,)
        assert {key: label["info"][key] for key in given} == given
        assert labeller.describe_label(label["y"])["lyrics"] == "la le"
    assert torch.equal(make().get_label(*song, mood="wild")["y"], make().get_label(*song)["y"])
    with pytest.raises(UserError, match="mood='sad' is not known: give calm or wild"):
        labeller.get_label(*song, mood="sad")


def test_signals_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("calm or wild", 2, ["calm", "wild"].index))
    (tmp_path / "a.json").write_text('{"artist": "nina", "Mood": "wild"}')
    (tmp_path / "metadata.csv").write_text("file,genre,mood\na.mp3,jazz,calm\nb.mp3,folk,sad\nc.mp3,folk,\n")
    notices = Notices()
    reader, labeller = FolderMetadata(tmp_path, notices), make(signals="mood")
    found = [labels_for(labeller, reader.read(f"{name}.mp3", {}, 5.0), notices, name).signals for name in "abc"]
    assert found == [{"mood": "wild"}, {}, {"mood": None}]
    assert notices.counts["a mood cannot be read, it counts as 'unknown'"] == 1
    assert notices.counts["no mood is known, it counts as 'unknown'"] == 1
    hooked = [from_hook(("nina", "jazz", None, *more), "a", notices) for more in ((), ({"mood": "calm"},))]
    assert [labels.signals for labels in hooked] == [{}, {"mood": "calm"}]
    assert from_hook(("nina", "jazz", None, "calm"), "a", notices) == SongLabels()


def test_too_many_genre_words_are_refused_with_the_number() -> None:
    labeller = Labeller(1, 0, 1000, **TABLES)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"2 words, and the model takes 1.*max_bow_genre_size"):
        labeller.get_label("nina", "jazz folk", "", 5000, 0)


def test_windows_outside_the_song_and_odd_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="0 to 4999"):
        get_relevant_lyric_tokens(range(100), 8, 5000, 5000, 10)
    with pytest.raises(UserError, match="even"):
        get_relevant_lyric_tokens(range(100), 7, 5000, 0, 10)


# --------------------------------------------------------------------------------------------- timed lyrics


def slow_timed(n_full: int, times: list[tuple[float, float]], n: int, offset: int, duration: int) -> list[int]:
    """Of all windows, the one whose middle is nearest to the middle of the tokens that sound; the earlier of two."""
    sounding = [i for i, (start, end) in enumerate(times) if end > offset and start < offset + duration]
    if sounding:
        middle = (sounding[0] + sounding[-1] + 1) // 2
    else:
        middle = sum(end <= offset for _, end in times)
    starts = range(n_full - n + 1)
    return list(range((best := min(starts, key=lambda s: (abs(s + n // 2 - middle), s))), best + n))


def test_timed_windows_equal_a_search_through_all_windows() -> None:
    rng = np.random.RandomState(0)
    for _ in range(300):
        n_full = int(rng.randint(4, 40))
        edges = np.cumsum(rng.randint(1, 60, 2 * n_full))
        times = [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]  # with pauses between
        n = int(rng.randint(1, n_full + 1))
        offset, duration = int(rng.randint(0, edges[-1])), int(rng.randint(1, 400))
        full = list(range(100, 100 + n_full))
        tokens, places = get_timed_lyric_tokens(full, times, n, offset, duration)
        assert places == slow_timed(n_full, times, n, offset, duration)
        assert tokens == [full[i] for i in places]
    assert get_timed_lyric_tokens([5, 6], [(0, 1), (1, 2)], 4, 0, 1) == ([0, 0, 5, 6], [-1, -1, 0, 1])


def test_the_window_follows_the_real_times() -> None:
    labeller = make(n_tokens=4)
    text = "abcdefghij"
    late = [(9000 + 100 * i, 9100 + 100 * i) for i in range(10)]  # all sung in the last tenth of the song
    timed = labeller.get_label("nina", "jazz", text, 10000, 8900, times=late)
    even = labeller.get_label("nina", "jazz", text, 10000, 8900)
    assert labeller.describe_label(timed["y"])["lyrics"] == "cdef"  # a to i sound in [8900, 9900)
    assert labeller.describe_label(even["y"])["lyrics"] == "ghij"
    rows = torch.stack([timed["y"], even["y"]])
    rows[:, 1] = 0
    places = labeller.set_y_lyric_tokens(rows, {"info": [timed["info"], even["info"]]})
    assert places == [[0, 1, 2, 3]] * 2


def test_token_times_are_counted_from_the_window() -> None:
    labeller = make(n_tokens=4)
    info = labeller.get_label("nina", "jazz", "a—b", 10000, 0, times=[(0, 10), (10, 30), (30, 41)])["info"]
    assert info["lyrics"] == "a--b" and info["token_times"] == [[0, 10], [10, 20], [20, 30], [30, 41]]
    _, places = labeller.lyric_window(info, 10000, 5, 1000)
    assert labeller.get_token_times(info, places, 5).tolist() == [[-5, 5], [5, 15], [15, 25], [25, 36]]
    short = labeller.get_label("nina", "jazz", "a", 10000, 0, times=[(7, 9)])["info"]
    _, places = labeller.lyric_window(short, 10000, 5, 1000)
    assert labeller.get_token_times(short, places, 5).tolist() == [[0, 0]] * 3 + [[2, 4]]
    untimed = labeller.get_label("nina", "jazz", "abcde", 10000, 0)["info"]
    assert labeller.get_token_times(untimed, [0, 1, 2, 3], 5).tolist() == [[0, 0]] * 4
    with pytest.raises(ValueError, match="times"):
        labeller.get_label("nina", "jazz", "abc", 10000, 0, times=[(0, 1)])


# ---------------------------------------------------------------------------------------- names and storing


def test_unknown_names_come_with_the_nearest() -> None:
    labeller = make()
    assert labeller.unknown_names("Ella", "JAZZ") == []
    lines = labeller.unknown_names("Ela", "jass")
    assert len(lines) == 2 and "'Ela'" in lines[0] and "nearest: ella, nina" in lines[0] and "jazz" in lines[1]


def test_state_travels_as_plain_types(tmp_path: Path) -> None:
    labeller = make(vocab="абв \n")
    save_torch(labeller.state(), tmp_path / "state.pt")
    other = Labeller.from_state(load_torch(tmp_path / "state.pt"))
    label = ("ella", "folk", "ваб", 5000, 0)
    assert other.get_label(*label)["y"].equal(labeller.get_label(*label)["y"])
    assert other.state() == labeller.state()
    released = Labeller(5, 16, 1000)
    assert Labeller.from_state(released.state()).state() == released.state()
    assert EmptyLabeller().state() is None


def test_a_folder_of_tables(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no artist_ids\.txt.*labels build"):
        Labeller.from_folder(tmp_path, 1, 8, 1000, v3=True)
    for name, table in (("artist_ids.txt", TABLES["artist_ids"]), ("genre_ids.txt", TABLES["genre_ids"])):
        (tmp_path / name).write_text(format_table(table))
    labeller = Labeller.from_folder(tmp_path, 1, 8, 1000, v3=True)
    assert labeller.ag_processor.get_artist_id("Ella") == 2 and labeller.text_processor.n_vocab == 79
    assert labeller.state()["vocab"] is None
    (tmp_path / "vocab.txt").write_text("xyz")
    assert Labeller.from_folder(str(tmp_path), 1, 8, 1000, v3=True).state()["vocab"] == "xyz"
    assert not Labeller.from_folder("", 1, 8, 1000).ag_processor.own_tables


def test_unknown_characters_are_told() -> None:
    labeller = Labeller(1, 8, 100, True, {"a": 1}, {"b": 1})
    assert labeller.unknown_characters("mila sola\n") == []
    assert labeller.unknown_characters("mila \U0001f600 <b>") == [
        "characters of the lyrics that the alphabet lacks are left out: \U0001f600 < > "
        "(a model trained with labels build --vocab=auto keeps all)"
    ]
    assert "\u2603 x2; nothing is left of them (" in labeller.unknown_characters("\u2603 \u2603")[0]


@pytest.mark.parametrize(
    "change",
    [
        {"artist_ids": "/dev/zero"},
        {"genre_ids": "/etc/passwd"},
        {"artist_ids": {"a": "1"}},
        {"artist_ids": {"a": -1}},
        {"genre_ids": {"a": 10**12}},
        {"genre_ids": {3: 1}},
        {"artist_ids": ["a"]},
        {"vocab": ["a"]},
        {"vocab": 3},
        {"n_tokens": 10**9},
        {"n_tokens": -1},
        {"n_tokens": 1.5},
        {"max_genre_words": 10**9},
        {"max_genre_words": None},
        {"sample_length": "x"},
        {"v3": "yes"},
        {"signals": ["mood"]},
        {"more": 1},
    ],
)
def test_a_description_from_elsewhere_is_checked(change: dict[str, Any]) -> None:
    """A table is data: a checkpoint that names a file instead had its first line printed, or filled the memory."""
    with pytest.raises(UserError, match=f"the checkpoint's labels .*{next(iter(change))}"):
        Labeller.from_state({**make().state(), **change})


def test_a_description_without_its_sizes_is_damaged() -> None:
    state = make().state()
    for key in ("max_genre_words", "n_tokens", "sample_length"):
        with pytest.raises(UserError, match=f"damaged: look at '{key}'"):
            Labeller.from_state({k: v for k, v in state.items() if k != key})
