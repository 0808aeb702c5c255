"""For the tests of pages: a short song whose every character has a known time, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from browser import launched

SR = 8000
SECONDS = 6.0
ROWS = 600  # rows of the alignment: 10 ms each
LYRICS = "Sing, o muse, of <b>&amp; \"one\"\nand of 'two'\n\n[Chorus]\nof caf\u00e9s \U0001f3b5 and stars"


@dataclass(frozen=True)
class Song:
    """x [1, T, 1]; alignment [ROWS, characters]; starts [characters] and end of the last one, in seconds."""

    sr: int
    seconds: float
    x: np.ndarray
    lyrics: str
    alignment: np.ndarray
    starts: np.ndarray
    end: float

    def at(self, time: float) -> int:
        """The character that is sung at a time, -1 for none: read off the known times."""
        if not self.starts[0] <= time < self.end:
            return -1
        return int(np.searchsorted(self.starts, time, "right")) - 1


@pytest.fixture
def song() -> Song:
    rng = np.random.default_rng(1)
    characters = len(LYRICS)
    lengths = rng.integers(3, 11, characters)  # rows per character
    first = 30 + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    end = int(first[-1] + lengths[-1])
    assert end < ROWS - 30
    alignment = rng.random((ROWS, characters)) * 0.01
    for character, (row, length) in enumerate(zip(first, lengths, strict=True)):
        alignment[row : row + length, character] += 0.5
    t = np.arange(int(SR * SECONDS)) / SR
    x = 0.4 * np.sin(2 * np.pi * 220 * t) * (0.2 + np.abs(np.sin(3 * t)))
    row_seconds = SECONDS / ROWS
    return Song(SR, SECONDS, x[None, :, None], LYRICS, alignment, first * row_seconds, end * row_seconds)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser
