"""The columns of a label row: each once."""

from __future__ import annotations

import pytest

from jukebox.utils.errors import UserError
from jukebox.utils.label_row import SIGNALS, LabelRow, Signal, read_signal


@pytest.fixture(autouse=True)
def signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("a mood: calm or wild", 2, ["calm", "wild"].index))
    monkeypatch.setitem(
        SIGNALS, "tempo", Signal("beats per minute, 40 to 240", 50, lambda value: (float(value) - 40) // 4)
    )


@pytest.mark.parametrize(("genres", "tokens", "names"), [(1, 0, ""), (5, 8, "tempo"), (3, 1, "mood, tempo")])
def test_each_column_has_one_meaning(genres: int, tokens: int, names: str) -> None:
    row = LabelRow(genres, tokens, names)
    signals = [row.signal(name) for name in row.signal_names]
    parts = [row.total, row.offset, row.length, row.artist, row.genre, *signals, row.lyrics]
    columns = list(range(row.size))
    assert [column for part in parts for column in columns[part]] == columns
    assert columns[row.times] == columns[row.total] + columns[row.offset] + columns[row.length]
    assert (len(columns[row.genre]), len(columns[row.lyrics])) == (genres, tokens)


def test_values_of_signals() -> None:
    assert [read_signal("mood", value) for value in ("calm", "wild", None)] == [0, 1, -1]
    assert [read_signal("tempo", value) for value in (40, "99.5", 239)] == [0, 14, 49]
    for name, value in (
        ("mood", "sad"),
        ("mood", 3),
        ("tempo", 240),
        ("tempo", "fast"),
        ("tempo", [1]),
        ("tempo", "nan"),
    ):
        with pytest.raises(UserError, match=f"{name}=.*: give {SIGNALS[name].description}"):
            read_signal(name, value)


def test_an_unregistered_signal_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown signal 'moods'; did you mean mood"):
        LabelRow(1, 0, "tempo,moods")
