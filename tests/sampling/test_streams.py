"""A song's random numbers depend on (seed, song, level, position) and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jukebox.sampling.streams import uniforms, window_noise


@pytest.mark.parametrize("start", range(9))
@pytest.mark.parametrize("count", [0, 1, 3, 4, 50])
def test_any_position_is_reached_at_once(start: int, count: int) -> None:
    whole = uniforms(7, 3, 2, 0, 100)
    assert np.array_equal(uniforms(7, 3, 2, start, count), whole[start : start + count])
    assert np.array_equal(uniforms(7, 3, 2, 2**40 + start, count), uniforms(7, 3, 2, 2**40, 100)[start : start + count])


def test_each_part_of_the_name_counts() -> None:
    base = uniforms(1, 2, 0, 0, 50)
    for other in [
        uniforms(2, 2, 0, 0, 50),
        uniforms(1, 3, 0, 0, 50),
        uniforms(1, 2, 1, 0, 50),
        uniforms(-1, 2, 0, 0, 50),
    ]:
        assert not np.any(base == other)
    assert not np.array_equal(uniforms(1, 12, 0, 0, 50), uniforms(11, 2, 0, 0, 50))


def test_they_are_uniform() -> None:
    x = uniforms(0, 0, 0, 0, 200_000)
    assert x.dtype == np.float32 and x.min() >= 0.0 and x.max() < 1.0
    counts = np.histogram(x, bins=20, range=(0, 1))[0]
    assert abs(counts - 10_000).max() < 500
    assert abs(np.corrcoef(x[:-1], x[1:])[0, 1]) < 0.01


def test_a_seed_keeps_its_meaning() -> None:
    assert uniforms(0, 0, 0, 0, 3).tolist() == pytest.approx(PINNED[0], abs=1e-7)
    assert uniforms(1234, 5, 2, 1000, 3).tolist() == pytest.approx(PINNED[1], abs=1e-7)


def test_windows_join_without_a_seam() -> None:
    whole = window_noise(5, [4, 9], 1, 0, 64, 0)
    parts = [
        window_noise(5, [4, 9], 1, 0, 32, 0),
        window_noise(5, [4, 9], 1, 16, 32, 16),
        window_noise(5, [4, 9], 1, 32, 32, 16),
    ]
    assert torch.equal(torch.cat([parts[0], parts[1][:, 16:], parts[2][:, 16:]], dim=1), whole)
    assert not parts[1][:, :16].any()
    assert torch.equal(window_noise(5, [9], 1, 0, 64, 0)[0], whole[1])


PINNED = (
    [0.3276331424713135, 0.6892711520195007, 0.38012659549713135],
    [0.2281641960144043, 0.2750890851020813, 0.954892098903656],
)
