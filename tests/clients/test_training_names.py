"""What scripts that train in a loop of their own import."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from jukebox.hparams import setup_hparams
from jukebox.train import get_ddp, get_ema, get_optimizer
from jukebox.training.optim import Adam
from jukebox.utils.dist_utils import allgather, allreduce
from jukebox.utils.ema import CPUEMA, EMA, FusedEMA
from jukebox.utils.fp16 import FP16FusedAdam, FusedAdam
from jukebox.utils.torch_utils import zero_grad


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def settings(kind: str, **more: Any) -> Any:
    hps = setup_hparams("", dict(lr_warmup=0.0, **more))
    return hps if kind == "ours" else SimpleNamespace(**{key: hps[key] for key in hps if key != "fsdp"}, own=1)


@pytest.mark.parametrize("kind", ["ours", "another class"])
def test_a_loop_of_ones_own(model: nn.Module, kind: str) -> None:
    hps = settings(kind, lr=0.1, mu=0.5, fp16_loss_scale=None)
    ddp, ema = get_ddp(model, hps), get_ema(model, hps)
    optimizer, schedule, scaler = get_optimizer(model, hps)
    before = model.weight.detach().clone()
    ddp(torch.ones(4, 3)).square().sum().backward()
    assert ddp.module is model and scaler.scale == 1.0
    optimizer.step(scale=scaler.scale)
    schedule.step()
    ema.step()
    after = model.weight.detach().clone()
    assert not torch.equal(before, after) and schedule.get_lr() == pytest.approx(0.1)
    ema.swap()
    torch.testing.assert_close(model.weight.detach(), (before + after) / 2)
    ema.swap()
    assert torch.equal(model.weight, after)
    zero_grad(model)
    assert all(p.grad is None for p in model.parameters())


def test_no_average_where_none_is_asked_for(model: nn.Module) -> None:
    assert get_ema(model, settings("ours", ema=False)) is None
    kinds = {CPUEMA: dict(cpu_ema=True), FusedEMA: {}, EMA: dict(ema_fused=False)}
    for kind, choice in kinds.items():
        assert type(get_ema(model, settings("ours", **choice))) is kind
    assert CPUEMA(model.parameters(), mu=0.5, freq=2).mu == 0.25


def test_optimizers_by_their_older_names() -> None:
    half = nn.Linear(3, 2).half()
    half.weight.grad = torch.ones_like(half.weight)
    optimizer = FP16FusedAdam(half.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.0)
    optimizer.step(scale=2.0)
    assert optimizer.state[half.weight]["exp_avg"].dtype == torch.half and isinstance(optimizer, Adam)
    half.weight.grad = torch.ones_like(half.weight)
    whole = FusedAdam(half.parameters(), lr=0.1)
    whole.step()
    assert whole.state[half.weight]["exp_avg"].dtype == torch.float32


def test_collectives_of_one_process() -> None:
    assert allreduce(2.5) == 2.5
    (only,) = allgather(torch.tensor([1, 2]))
    assert only.tolist() == [1, 2]
