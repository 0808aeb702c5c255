"""Window starts against a walk token by token, and batches that are cut and joined again."""

from __future__ import annotations

import pytest
import torch

from jukebox.utils.sample_utils import Window, get_starts, schedule, split_batch


def obvious_starts(total_length: int, n_ctx: int, hop_length: int) -> list[int]:
    """Slow twin: step by the hop until a window reaches the end, and pull that one back."""
    starts, start = [], 0
    while start + n_ctx < total_length:
        starts.append(start)
        start += hop_length
    return [*starts, total_length - n_ctx]


@pytest.mark.parametrize("n_ctx", [1, 7, 16])
@pytest.mark.parametrize("hop_length", [1, 3, 8, 16, 20])
def test_starts_cover_the_song(n_ctx: int, hop_length: int) -> None:
    for total_length in range(n_ctx, 90):
        starts = get_starts(total_length, n_ctx, hop_length)
        assert starts == obvious_starts(total_length, n_ctx, hop_length)
        assert starts == sorted(set(starts)) and starts[0] == 0 and starts[-1] + n_ctx == total_length


def test_starts_of_the_released_models() -> None:
    assert len(get_starts(27560, 8192, 4096)) == 6
    assert len(get_starts(110240, 8192, 4096)) == 26


def test_a_song_shorter_than_a_window_has_no_proper_start() -> None:
    assert get_starts(16, 24, 4) == []
    assert get_starts(16, 24, 16) == [-8]


def test_hop_must_move() -> None:
    with pytest.raises(ValueError, match="hop_length=0"):
        get_starts(16, 8, 0)


def test_the_drawing_in_the_docstring() -> None:
    assert schedule(20, 8, 5) == [Window(0, 8, 0), Window(5, 13, 3), Window(10, 18, 3), Window(12, 20, 6)]


@pytest.mark.parametrize("n_ctx, hop", [(8, 8), (8, 5), (8, 1), (7, 3), (8, 12)])
def test_windows_join_without_gap_or_overlap(n_ctx: int, hop: int) -> None:
    for total in range(1, 40):
        for known in range(0, 45):
            if hop > n_ctx and total > n_ctx:
                continue
            made = []
            for window in schedule(total, n_ctx, hop, known):
                assert window.new > 0 and window.end - window.start <= n_ctx and window.start + window.known >= known
                made += range(window.start + window.known, window.end)
            assert made == list(range(known, total))


def test_plan_of_twenty_seconds() -> None:
    """20 s at 44.1 kHz by a released model with three contexts of 8192 tokens."""
    windows = [schedule(total, 8192, hop) for total, hop in [(6890, 1024), (27560, 4096), (110240, 4096)]]
    assert [len(w) for w in windows] == [1, 6, 26]
    assert [sum(w.known for w in level) for level in windows] == [0, 21592, 102752]
    assert [sum(w.new for w in level) for level in windows] == [6890, 27560, 110240]


@pytest.mark.parametrize("n, split", [(7, 3), (6, 3), (3, 16), (1, 1)])
def test_split_batch(n: int, split: int) -> None:
    x = torch.arange(n * 2).view(n, 2)
    parts = split_batch(x, n, split)
    assert [len(p) for p in parts] == [min(split, n - i) for i in range(0, n, split)]
    assert torch.equal(torch.cat(parts), x)
    assert split_batch(None, n, split) == [None] * len(parts)
    pairs = split_batch([x, x + 1], n, split)
    assert torch.equal(torch.cat([second for _, second in pairs]), x + 1)
    assert split_batch([], n, split) == [[] for _ in parts]


def test_split_batch_refuses_what_it_cannot_cut() -> None:
    with pytest.raises(TypeError, match="dict"):
        split_batch({"a": 1}, 2, 1)
    with pytest.raises(ValueError, match="split_size=0"):
        split_batch(torch.zeros(2), 2, 0)
