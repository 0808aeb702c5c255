"""The letter times: against a search over every path, and on alignments whose times are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from jukebox.page.times import STEP, CharacterTimes, character_times, lines_of, lrc, monotone_path


def best_by_search(evidence: np.ndarray, floor: float) -> float:
    """The slow twin: tries every non-decreasing path."""
    steps, characters = evidence.shape
    score = np.log(evidence + floor)
    paths = itertools.combinations_with_replacement(range(characters), steps)
    return max(sum(score[t, c] for t, c in enumerate(path)) for path in paths)


@pytest.mark.parametrize("steps, characters", [(1, 1), (1, 5), (6, 1), (5, 4), (7, 5), (4, 8)])
def test_path_is_the_best_of_all(steps: int, characters: int) -> None:
    rng = np.random.default_rng(steps * 10 + characters)
    for _ in range(5):
        evidence = rng.random((steps, characters)) ** 4
        path = monotone_path(evidence, 0.01)
        assert (np.diff(path) >= 0).all()
        score = np.log(evidence + 0.01)[np.arange(steps), path].sum()
        assert score == pytest.approx(best_by_search(evidence, 0.01), abs=1e-12)


def test_path_waits_where_nothing_is_known() -> None:
    evidence = np.zeros((6, 3))
    evidence[0, 0] = evidence[5, 2] = 1.0
    assert monotone_path(evidence, 0.1).tolist() == [0, 0, 0, 0, 0, 2]


def test_a_whole_song_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    steps, characters = 30_000, 40
    evidence = (rng.random((steps, characters)) * 0.02).astype(np.float32)
    evidence[np.arange(steps), np.arange(steps) * characters // steps] += 0.01  # hardly more than the noise
    assert (monotone_path(evidence, 0.01) == monotone_path(evidence.astype(np.float64), 0.01)).all()


def test_known_times_are_found(song) -> None:
    times = character_times(song.alignment, song.seconds / len(song.alignment))
    assert np.abs(times.starts - song.starts).max() < 1e-9
    assert times.ends[-1] == pytest.approx(song.end)
    assert (times.ends[:-1] == times.starts[1:]).all()
    rows = (np.arange(len(song.alignment)) + 0.5) * times.seconds_per_row
    assert times.lit.tolist() == [song.at(t) for t in rows]


def test_a_glance_elsewhere_does_not_move_the_light(song) -> None:
    rng = np.random.default_rng(0)
    noisy = song.alignment.copy()
    away = rng.choice(len(noisy), 60, replace=False)  # one row in ten attends to some other character altogether
    noisy[away] = 0.0
    noisy[away, rng.integers(0, noisy.shape[1], len(away))] = 0.5
    row = song.seconds / len(noisy)
    times = character_times(noisy, row)
    argmax_error = np.mean([abs(c - song.at((r + 0.5) * row)) for r, c in enumerate(noisy.argmax(axis=1))])
    sung = np.flatnonzero(times.lit >= 0)
    error = np.mean([abs(times.lit[r] - song.at((r + 0.5) * row)) for r in sung if song.at((r + 0.5) * row) >= 0])
    assert error < 0.1 < argmax_error
    assert np.nanmedian(np.abs(times.starts - song.starts)) < 0.011


def test_a_trace_of_attention_says_nothing() -> None:
    alignment = np.zeros((6, 4))
    alignment[0:2, 0] = alignment[3:5, 1] = alignment[5, 3] = 0.5
    alignment[2, 3], alignment[3:5, 3] = 0.001, 0.01  # in row 2 nothing is sung, and what little there is is ahead
    assert character_times(alignment, 0.1).lit.tolist() == [0, 0, 0, 1, 1, 3]


def test_short_rows_are_pooled_and_stay_in_place(song) -> None:
    fine = np.repeat(song.alignment, 4, axis=0)
    times = character_times(fine, song.seconds / len(fine))
    assert len(times.lit) == len(fine)
    assert np.abs(times.starts - song.starts).max() < STEP


def test_rows_that_do_not_divide_into_steps() -> None:
    alignment = np.zeros((11, 2))
    alignment[:5, 0] = alignment[5:, 1] = 1.0
    times = character_times(alignment, 0.004)  # steps of two rows, the last of one; in rows 4 and 5 the light waits
    assert times.lit.tolist() == [0] * 6 + [1] * 5
    assert times.ends[1] == pytest.approx(0.044)


def test_shift_reads_each_character_one_column_later(song) -> None:
    shifted = np.zeros_like(song.alignment)
    shifted[:, 1:] = song.alignment[:, :-1]
    times = character_times(shifted, song.seconds / len(shifted), shift=1)
    assert np.abs(times.starts[:-1] - song.starts[:-1]).max() < 1e-9
    assert np.isnan(times.starts[-1])


def test_part_of_the_lyrics_and_skipped_characters() -> None:
    alignment = np.zeros((8, 6))
    alignment[2:4, 1] = 1.0
    alignment[4:6, 4] = 1.0
    times = character_times(alignment, 0.5)
    assert times.lit.tolist() == [-1, -1, 1, 1, 4, 4, -1, -1]
    np.testing.assert_array_equal(times.starts, [np.nan, 1.0, 2.0, 2.0, 2.0, np.nan])
    np.testing.assert_array_equal(times.ends, [np.nan, 2.0, 2.0, 2.0, 3.0, np.nan])
    assert times.changes() == [(1.0, 1), (2.0, 4), (3.0, -1)]


def test_light_goes_out_at_the_end_of_the_audio() -> None:
    times = character_times(np.eye(2), 0.5)
    assert times.changes() == [(0.0, 0), (0.5, 1), (1.0, -1)]


@pytest.mark.parametrize("shape, shift", [((0, 4), 0), ((4, 0), 0), ((4, 3), 0), ((4, 3), 3), ((4, 3), 9)])
def test_nothing_to_see_lights_nothing(shape: tuple[int, int], shift: int) -> None:
    times = character_times(np.zeros(shape), 0.1, shift)
    assert times.lit.shape == (shape[0],) and (times.lit == -1).all()
    assert times.starts.shape == (shape[1],) and np.isnan(times.starts).all() and np.isnan(times.ends).all()
    assert times.changes() == []


def test_nan_counts_as_no_attention() -> None:
    alignment = np.eye(3)
    alignment[0, 2] = np.nan
    assert character_times(alignment, 0.1).lit.tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_type(dtype: torch.dtype) -> None:
    assert character_times(torch.eye(4, dtype=dtype, requires_grad=True), 0.1).lit.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "shape, row, shift", [((4,), 0.1, 0), ((4, 2, 1), 0.1, 0), ((4, 2), 0.0, 0), ((4, 2), 0.1, -1)]
)
def test_what_cannot_be_is_refused(shape: tuple[int, ...], row: float, shift: int) -> None:
    with pytest.raises(ValueError, match=r"expected \[rows, characters\]"):
        character_times(np.ones(shape), row, shift)


def test_lines_know_where_they_start() -> None:
    text = "ab\n\nc\n"
    assert lines_of(text) == [(0, "ab"), (3, ""), (4, "c"), (6, "")]
    assert all(text[start : start + len(line)] == line for start, line in lines_of(text))


def test_lrc() -> None:
    text = "ab\n\n[x]\ncd\nee"
    starts = np.array([61.239, 62, 62, 62, 63.5, 64, 64, 64, np.nan, 125.999, 126, np.nan, np.nan])
    times = CharacterTimes(np.zeros(1, int), starts, starts, 0.01)
    assert lrc(text, times, "A\n B") == "[ar:A B]\n[01:01.24]ab\n[01:03.50] [x]\n[02:06.00]cd\n"
    assert lrc("", CharacterTimes(np.zeros(0, int), np.zeros(0), np.zeros(0), 0.01)) == ""
