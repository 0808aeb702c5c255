"""Adam against its formula written out, in one list and many, and its state on the disk."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tiny_training import tiny_hps
from torch import nn

from jukebox.hparams import pick
from jukebox.training import optim
from jukebox.training.optim import Adam, OptimizerOptions, make_optimizer

SHAPES = [(5, 3), (7,), (2, 3, 4), (1,)]


def _params(dtypes: list[torch.dtype], seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
        for shape, dtype in zip(SHAPES, dtypes, strict=True)
    ]


def _grads(params: list[nn.Parameter], step: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for i, parameter in enumerate(params):
        grad = torch.randn(parameter.shape, generator=generator) * scale
        parameter.grad = None if (i + step) % 4 == 0 else grad.to(parameter.dtype)  # each sits out now and then


class SlowAdam:
    """The update of one parameter at a time, in double precision and element by element."""

    def __init__(self, params: list[nn.Parameter], lr: float, beta1: float, beta2: float, eps: float, wd: float):
        self.params, self.values = params, [p.detach().double().flatten().tolist() for p in params]
        self.moments = [([0.0] * p.numel(), [0.0] * p.numel()) for p in params]
        self.steps = [0] * len(params)
        self.lr, self.beta1, self.beta2, self.eps, self.wd = lr, beta1, beta2, eps, wd

    def step(self, scale: float) -> None:
        for i, parameter in enumerate(self.params):
            if parameter.grad is None:
                continue
            self.steps[i] += 1
            t, (m, v) = self.steps[i], self.moments[i]
            size = self.lr * math.sqrt(1 - self.beta2**t) / (1 - self.beta1**t)
            for j, grad in enumerate(parameter.grad.double().flatten().tolist()):
                g = grad / scale
                m[j] = self.beta1 * m[j] + (1 - self.beta1) * g
                v[j] = self.beta2 * v[j] + (1 - self.beta2) * g * g
                p = self.values[i][j]
                self.values[i][j] = p - size * (m[j] / (math.sqrt(v[j]) + self.eps) + self.wd * p)


@pytest.mark.parametrize("chunk", [1, 10, 2**25])
def test_the_formula(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "CHUNK", chunk)
    params = _params([torch.float32] * 4)
    slow = SlowAdam(params, 0.01, 0.9, 0.95, 1e-8, 0.02)
    fast = Adam(params, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.02)
    for step in range(12):
        _grads(params, step, 8.0)
        before = [None if p.grad is None else p.grad.clone() for p in params]
        slow.step(8.0)
        fast.step(scale=8.0)
        for parameter, grad in zip(params, before, strict=True):
            assert (grad is None and parameter.grad is None) or torch.equal(parameter.grad, grad)  # left as they were
    for parameter, values in zip(params, slow.values, strict=True):
        torch.testing.assert_close(
            parameter.detach().double().flatten(), torch.tensor(values, dtype=torch.float64), rtol=0, atol=1e-6
        )


def test_half_state_follows_float_state() -> None:
    """Half moments lose digits, not the way: both optimizers end near each other."""
    dtypes = [torch.float16, torch.float32, torch.float16, torch.float32]
    one, two = _params(dtypes), _params(dtypes)
    exact, half = Adam(one, lr=0.01), Adam(two, lr=0.01, half_state=True)
    for step in range(10):
        _grads(one, step, 64.0)
        _grads(two, step, 64.0)
        exact.step(scale=64.0)
        half.step(scale=64.0)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=4e-3 if a.dtype == torch.float16 else 0)
    assert half.state[two[0]]["exp_avg"].dtype == torch.float16
    assert half.state[two[0]]["exp_avg"].abs().max() > 64000  # the multiplier uses the range
    assert half.state[two[1]]["exp_avg"].dtype == torch.float32
    assert exact.state[one[0]]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("half_state", [False, True])
def test_resumed_from_the_disk_it_goes_on_bit_for_bit(half_state: bool, tmp_path: Any) -> None:
    dtypes = [torch.float16, torch.float32, torch.float16, torch.float32]
    whole = _params(dtypes)
    optimizer = Adam(whole, lr=0.01, weight_decay=0.01, half_state=half_state)
    for step in range(4):
        _grads(whole, step, 16.0)
        optimizer.step(scale=16.0)
    torch.save(optimizer.state_dict(), tmp_path / "opt")
    resumed = copy.deepcopy(whole)
    other = Adam(resumed, lr=0.5, half_state=half_state)
    other.load_state_dict(torch.load(tmp_path / "opt", weights_only=True))
    for a, b in zip(whole, resumed, strict=True):
        for name, value in optimizer.state.get(a, {}).items():
            loaded = other.state[b][name]
            assert (
                torch.equal(value, loaded) and value.dtype == loaded.dtype
                if torch.is_tensor(value)
                else value == loaded
            )
    for step in range(4, 8):
        for params, opt in ((whole, optimizer), (resumed, other)):
            _grads(params, step, 16.0)
            opt.step(scale=16.0)
    for a, b in zip(whole, resumed, strict=True):
        assert torch.equal(a, b)


def test_the_choice_of_an_optimizer() -> None:
    hps = tiny_hps(beta2=0.95, weight_decay=0.1)
    optimizer, name = make_optimizer(_params([torch.float32] * 4), pick(OptimizerOptions, hps), fused=False)
    assert name == "Adam"
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.01, (0.9, 0.95), 1e-8, 0.1)
    half, name = make_optimizer(
        _params([torch.float16] * 4), pick(OptimizerOptions, tiny_hps(fp16_opt=True)), fused=False
    )
    assert isinstance(half, Adam) and half.half_state and "half" in name
