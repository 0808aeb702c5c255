"""The loss of the autoregressive model against PyTorch's own."""

from __future__ import annotations

import math

import pytest
import torch

from jukebox.prior.autoregressive import bits


@pytest.mark.parametrize("large", [1.0, 60.0])
def test_cross_entropy_equals_the_slow_twin(large: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 5, 7) * large).requires_grad_()
    targets = torch.randint(0, 7, (2, 5))
    (3.0 * bits(logits, targets)).backward()
    grad, logits.grad = logits.grad, None
    slow = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()) / math.log(2)
    (3.0 * slow).backward()
    torch.testing.assert_close(bits(logits, targets), slow)
    torch.testing.assert_close(grad, logits.grad, rtol=1e-5, atol=1e-7)
    bad = logits.detach().index_fill(2, torch.tensor([3]), math.inf).requires_grad_()
    bits(bad, targets).backward()
    assert not torch.isfinite(bad.grad).all()  # what is not finite does not go unseen
