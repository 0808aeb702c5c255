"""Which song, and where in it, each chunk of a data set is: plain arithmetic, no files.

The songs are one after the other on one long line; item i is the chunk that begins at i * sample_length on it. Chunks
that would cross a border between songs are moved into the song that their middle is in:

    songs    |<------- 0 ------->|<--------- 1 --------->|
    items    0####1####2####3####4####5####6####7####8###
    item 3                  ####   middle in song 0: half a chunk back
    item 4                    |->####   middle in song 1: forward, so that it begins in the song

Change here how chunks are laid over songs.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate


def choose_songs(
    seconds: Sequence[float], chunk_seconds: float, min_duration: float | None, max_duration: float | None
) -> list[int]:
    """Places of the songs that are neither too short nor too long: min_duration <= seconds < max_duration.

    Args:
        seconds: duration of each song.
        chunk_seconds: of a training chunk.
        min_duration: in seconds; None: a chunk's, rounded up to whole seconds.
        max_duration: in seconds; None: no limit.
    """
    low = math.ceil(chunk_seconds) if min_duration is None else min_duration
    high = math.inf if max_duration is None else max_duration
    return [i for i, duration in enumerate(seconds) if low <= duration < high]


def split_sizes(n: int, train_share: float) -> tuple[int, int]:
    """How many of n are for training, and how many are held out."""
    n_train = int(n * train_share)
    return n_train, n - n_train


def split_songs(names: Sequence[str], train_share: float) -> tuple[list[int], list[int]]:
    """Places of the songs for training and of those held out, chosen only by their names.

    A song keeps its rank in the draw when others are added, and no seed moves it, so runs can be compared. Both sides
    get at least one song if there are two and the share is between 0 and 1.
    """
    n_train, _ = split_sizes(len(names), train_share)
    if 0 < train_share < 1 and len(names) > 1:
        n_train = min(max(n_train, 1), len(names) - 1)
    elif len(names) == 1 and train_share > 0:
        n_train = 1
    drawn = sorted(
        range(len(names)), key=lambda i: hashlib.sha256(names[i].encode("utf-8", "surrogateescape")).digest()
    )
    return sorted(drawn[:n_train]), sorted(drawn[n_train:])


class SongIndex:
    """A virtual concatenation of songs, cut into chunks.

    Args:
        lengths: samples of each song, none shorter than a chunk.
        sample_length: samples of a chunk.
    """

    def __init__(self, lengths: Sequence[int], sample_length: int) -> None:
        if any(length < sample_length for length in lengths):
            raise ValueError("a song is shorter than a chunk")
        self.sample_length = sample_length
        self._ends = list(accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] // self.sample_length if self._ends else 0

    def locate(self, item: int, shift: int = 0) -> tuple[int, int]:
        """Where a chunk is taken from.

        Args:
            item: 0 to len - 1.
            shift: samples by which the chunk is moved along the line of songs, at most half a chunk.

        Returns:
            The place of the song, and the chunk's first sample in it; the chunk always fits.
        """
        half = self.sample_length // 2
        begin = item * self.sample_length + shift
        middle = begin + half
        if not 0 <= middle <= (self._ends[-1] if self._ends else -1):
            raise IndexError(f"item {item} moved by {shift}: its middle is outside of the {len(self)} items")
        song = bisect.bisect_left(self._ends, middle)  # a middle on a border belongs to the earlier song
        start, end = self._ends[song - 1] if song else 0, self._ends[song]
        if begin + self.sample_length > end:
            begin = max(
                start, min(begin - half, end - self.sample_length)
            )  # an odd length leaves one more sample to go
        elif begin < start:
            begin = min(end - self.sample_length, begin + half)
        return song, begin - start
