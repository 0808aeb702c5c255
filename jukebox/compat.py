"""What older scripts take from `jukebox.train` and `jukebox.utils.fp16`. Only for them: nothing of ours uses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from jukebox.hparams import Hyperparams, all_defaults, pick, take_hparams
from jukebox.training.ema import EMA, AverageOptions, make_ema
from jukebox.training.optim import Adam, OptimizerOptions, make_optimizer
from jukebox.training.parallel import wrap_for_ranks
from jukebox.training.scaler import LossScaler, make_scaler
from jukebox.training.schedule import Schedule, ScheduleOptions
from jukebox.utils import dist_adapter as dist
from jukebox.weights.checkpoints import restore_opt

FusedAdam = Adam


class FP16FusedAdam(Adam):
    """`Adam` with half-precision moments for half parameters."""

    def __init__(self, params: Any, *args: Any, **options: Any) -> None:
        super().__init__(params, *args, **{**options, "half_state": True})


def _whole(hps: object) -> Hyperparams:
    return Hyperparams({**all_defaults(), **take_hparams(hps)})


def get_optimizer(model: nn.Module, hps: object) -> tuple[torch.optim.Optimizer, Schedule, LossScaler]:
    """(optimizer, learning-rate schedule, loss scaler) of a model, resumed from the checkpoint it was restored from."""
    hps = _whole(hps)
    optimizer, _ = make_optimizer([p for p in model.parameters() if p.requires_grad], pick(OptimizerOptions, hps))
    schedule = Schedule(optimizer, pick(ScheduleOptions, hps))
    restore_opt(optimizer, schedule, hps.restore_prior if hps.prior else hps.restore_vqvae)
    return optimizer, schedule, make_scaler(hps.fp16, hps.fp16_loss_scale, hps.fp16_scale_window)


def get_ema(model: nn.Module, hps: object) -> EMA | None:
    """The average of a model's weights that the hyper-parameters ask for, without a warm-up as ever."""
    options = replace(pick(AverageOptions, _whole(hps)), ema_warmup=False)
    return make_ema(model.parameters(), options, dist.get_world_size())


def get_ddp(model: nn.Module, hps: object) -> nn.Module:
    """The model as it is called in training, with the model itself as `module`."""
    device = next(model.parameters()).device
    if dist.get_world_size() == 1:
        return nn.DataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    return wrap_for_ranks(model, device, _whole(hps).bucket)[0]
