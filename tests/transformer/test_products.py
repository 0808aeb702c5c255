"""Each reshaped product against the masked one, for whole sequences and for runs that begin and end anywhere."""

from __future__ import annotations

import pytest
import torch

from jukebox.transformer.patterns import make_pattern
from jukebox.transformer.products import PRODUCTS, masked

KINDS = [0, 1, 2, 3, 4, 5, 7]


def pattern_of(kind: int, n_ctx: int, blocks: int):  # noqa: ANN201
    return make_pattern(kind, n_ctx, blocks, spread=2 if kind == 5 else None, prime_len=5 if kind == 7 else None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [24, 17, 6, 1])
def test_whole_sequence(kind: int, length: int) -> None:
    torch.manual_seed(0)
    pattern = pattern_of(kind, 24, 4)
    q, k, v = (torch.randn(2, 3, length, 5) for _ in range(3))
    got = PRODUCTS[type(pattern)](pattern, q, k, v, 0, 0, 0.0)
    torch.testing.assert_close(got, masked(pattern, q, k, v, 0, 0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
@pytest.mark.parametrize(("start", "length"), [(1, 1), (5, 3), (6, 6), (7, 17), (12, 11), (23, 1), (11, 2)])
def test_run_after_others(kind: int, start: int, length: int) -> None:
    """With the keys of everything before, or only of what the pattern still holds, the values are the same."""
    torch.manual_seed(0)
    pattern = pattern_of(kind, 24, 4)
    q, k, v = (torch.randn(2, 3, start + length, 5) for _ in range(3))
    want = masked(pattern, q, k, v, 0, 0)[:, :, start:]
    first = int(pattern.held(start)[0])
    for begin in {0 if kind in (0, 2) else first, first}:
        args = (q[:, :, start:], k[:, :, begin:], v[:, :, begin:], start, begin, 0.0)
        got = PRODUCTS[type(pattern)](pattern, *args)
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


def test_first_block_attends_to_nothing_before_it() -> None:
    pattern = pattern_of(3, 24, 4)
    q, k, v = (torch.randn(1, 1, 24, 4) for _ in range(3))
    out = PRODUCTS[type(pattern)](pattern, q, k, v, 0, 0, 0.0)
    assert torch.equal(out[:, :, :6], torch.zeros(1, 1, 6, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_keeps_the_mean(kind: int) -> None:
    torch.manual_seed(0)
    pattern = pattern_of(kind, 24, 4)
    q, k, v = (torch.randn(1, 1, 24, 4) for _ in range(3))
    product = PRODUCTS[type(pattern)]
    runs = torch.stack([product(pattern, q, k, v, 0, 0, 0.3) for _ in range(3000)])
    want = product(pattern, q, k, v, 0, 0, 0.0)
    assert (runs.std(0)[..., -1, :] > 0).all()
    torch.testing.assert_close(runs.mean(0), want, atol=0.15, rtol=0.0)
