"""The columns of a label row: each once."""

from __future__ import annotations

import pytest

from jukebox.utils.label_row import LabelRow


@pytest.mark.parametrize(("genres", "tokens"), [(1, 0), (5, 8), (3, 1)])
def test_each_column_has_one_meaning(genres: int, tokens: int) -> None:
    row = LabelRow(genres, tokens)
    parts = [row.total, row.offset, row.length, row.artist, row.genre, row.lyrics]
    columns = list(range(row.size))
    assert [column for part in parts for column in columns[part]] == columns
    assert columns[row.times] == columns[row.total] + columns[row.offset] + columns[row.length]
    assert (len(columns[row.genre]), len(columns[row.lyrics])) == (genres, tokens)
