"""Filters and draws of logits."""

from __future__ import annotations

import pytest
import torch

from jukebox.prior.logits import SamplingOptions, draw, filter_logits


@pytest.mark.parametrize(
    "options",
    [SamplingOptions(), SamplingOptions(0.7), SamplingOptions(1.3, top_k=5), SamplingOptions(0.9, top_p=0.6)],
)
def test_draws_follow_the_distribution(options: SamplingOptions) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 12)
    n = 40000
    tokens = draw(logits.expand(n, 12), options, torch.rand(n))
    got = torch.bincount(tokens, minlength=12) / n
    want = filter_logits(logits / options.temp, options.top_k, options.top_p).softmax(-1)[0]
    assert torch.equal(got == 0, want == 0)
    torch.testing.assert_close(got, want, atol=0.012, rtol=0)


def test_top_p_keeps_the_one_that_crosses() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = [int(torch.isfinite(filter_logits(logits, top_p=p)).sum()) for p in (0.01, 0.49, 0.51, 0.79, 0.81, 0.99)]
    assert kept == [1, 1, 2, 2, 3, 4]


def test_top_k_keeps_ties() -> None:
    logits = torch.tensor([2.0, 1.0, 1.0, 0.0])
    assert torch.isfinite(filter_logits(logits, top_k=2)).tolist() == [True, True, True, False]


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24, 1.0])
def test_ends_of_the_interval_never_draw_what_was_removed(uniform: float) -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, -4.0, 0.5]])
    token = draw(logits, SamplingOptions(top_k=2), torch.tensor([uniform]))
    assert token.item() in (1, 2)


def test_one_number_decides_one_token() -> None:
    """A row's token depends on its own number and logits, not on the rest of the batch."""
    torch.manual_seed(0)
    logits, uniform = torch.randn(6, 30), torch.rand(6)
    together = draw(logits, SamplingOptions(0.8), uniform)
    alone = torch.cat([draw(logits[i : i + 1], SamplingOptions(0.8), uniform[i : i + 1]) for i in range(6)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(temp=0.0), "top_k=1"),
        (dict(top_k=-1), "0 or more"),
        (dict(top_p=1.0), "below 1"),
        (dict(top_k=3, top_p=0.5), "exclude"),
    ],
)
def test_options_that_cannot_work_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**values)
