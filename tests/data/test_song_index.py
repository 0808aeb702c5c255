"""Chunks over songs, against a search that walks along the line of songs sample by sample."""

from __future__ import annotations

import numpy as np
import pytest

from jukebox.data.song_index import SongIndex, choose_songs, split_sizes, split_songs


def slow_locate(lengths: list[int], sample_length: int, item: int, shift: int) -> tuple[int, int]:
    half = sample_length // 2
    begin = item * sample_length + shift
    start = song = 0
    while begin + half > start + lengths[song]:  # a middle on the border is still in this song
        start += lengths[song]
        song += 1
    offset = begin - start
    if offset + sample_length > lengths[song]:
        offset = max(0, min(offset - half, lengths[song] - sample_length))
    elif offset < 0:
        offset = min(lengths[song] - sample_length, offset + half)
    return song, offset


def test_every_item_and_shift_equals_the_slow_walk_and_fits() -> None:
    rng = np.random.RandomState(0)
    for _ in range(60):
        sample_length = int(rng.randint(2, 20))
        lengths = [int(n) for n in rng.randint(sample_length, 5 * sample_length, rng.randint(1, 6))]
        index = SongIndex(lengths, sample_length)
        assert len(index) == sum(lengths) // sample_length
        half = sample_length // 2
        for item in range(len(index)):
            for shift in range(-half, max(half, 1)):
                song, offset = index.locate(item, shift)
                assert (song, offset) == slow_locate(lengths, sample_length, item, shift)
                assert 0 <= offset <= lengths[song] - sample_length


def test_outside_and_too_short_are_errors() -> None:
    index = SongIndex([10, 10], 5)
    for item in (-1, 4, 5):
        with pytest.raises(IndexError):
            index.locate(item)
    with pytest.raises(ValueError, match="shorter"):
        SongIndex([10, 4], 5)
    assert len(SongIndex([], 5)) == 0


def test_songs_are_chosen_by_length() -> None:
    seconds = [2.9, 3.0, 3.1, 9.99, 10.0]
    assert choose_songs(seconds, 2.5, None, None) == [1, 2, 3, 4]
    assert choose_songs(seconds, 2.5, 3.05, 10.0) == [2, 3]
    assert choose_songs([3.0], 3.0, None, None) == [0]  # a chunk of whole seconds, a song of just that length


def test_split_by_song() -> None:
    names = [f"{i}.mp3" for i in range(40)]
    train, held_out = split_songs(names, 0.9)
    assert (len(train), len(held_out)) == split_sizes(40, 0.9) == (36, 4)
    assert sorted(train + held_out) == list(range(40))
    assert held_out != list(range(36, 40))  # drawn, not the last ones
    assert split_songs(names, 0.9) == (train, held_out)
    mixed = names[::-1]
    again = split_songs(mixed, 0.9)[1]
    assert {mixed[i] for i in again} == {names[i] for i in held_out}  # the order of files does not matter


@pytest.mark.parametrize(
    ("n", "share", "sizes"), [(1, 0.9, (1, 0)), (2, 0.9, (1, 1)), (2, 0.1, (1, 1)), (3, 1.0, (3, 0)), (3, 0.0, (0, 3))]
)
def test_splits_of_few_songs(n: int, share: float, sizes: tuple[int, int]) -> None:
    assert tuple(map(len, split_songs([str(i) for i in range(n)], share))) == sizes
