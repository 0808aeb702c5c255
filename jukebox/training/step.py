"""One training step, from top to bottom, and the evaluation beside it.

A step draws its random numbers only from (seed, step, rank). Gradients that are not finite are never used, in any
precision. Change here what happens between a batch and new weights; the parts are in the modules beside this one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jukebox.hparams import Hyperparams, pick
from jukebox.prior.prior import SimplePrior
from jukebox.training.ema import EMA, AverageOptions, averaged_weights, make_ema
from jukebox.training.optim import OptimizerOptions, ScaledOptimizer, can_average, make_optimizer
from jukebox.training.parallel import wrap_for_ranks
from jukebox.training.scaler import LossScaler, clip_scale, gradient_norm, is_fit, make_scaler
from jukebox.training.schedule import Schedule, ScheduleOptions
from jukebox.training.sharding import Shards
from jukebox.utils import dist_adapter as dist
from jukebox.utils.audio_utils import audio_preprocess
from jukebox.utils.dist_utils import any_rank, gather_objects
from jukebox.utils.precision import read_dtype
from jukebox.utils.torch_utils import seed_everything
from jukebox.vqvae.vqvae import VQVAE

# Audio [N, T, C] float32, or packed codes [N, L] int64 (see `codes.py`); or (audio, labels [N, LabelRow.size]
# int64), or with the times of lyric characters (audio, labels, times [N, lyrics, 2]).
Batch = Any


TrainedModel = VQVAE | SimplePrior


@dataclass(frozen=True)
class StepOptions:
    """The hyper-parameters of the same names.

    `losses` are those of a VQ-VAE's losses, see `LossSettings.from_hps`, with `loss_fn`; empty for a prior.
    """

    seed: int
    clip: float
    ignore_grad_norm: float
    aug_blend: bool
    fp16: bool
    bf16: bool
    fsdp: bool
    losses: Mapping[str, Any] = field(default_factory=dict)


def step_options(hps: Hyperparams) -> StepOptions:
    """What of the hyper-parameters a step needs."""
    return replace(pick(StepOptions, hps), losses={} if hps.prior else hps)


@dataclass
class Training:
    """Everything that changes while a model is trained.

    `model` is the plain module, whose names go into checkpoints; `wrapped` is what is called, which may average
    gradients over ranks. With `shards` the optimizer's parameters are this rank's parts. `step` counts updates, those
    included that were skipped.
    """

    model: TrainedModel
    wrapped: nn.Module  # as the model, and with `no_sync` where ranks meet
    parameters: list[nn.Parameter]
    optimizer: ScaledOptimizer
    optimizer_name: str
    schedule: Schedule
    scaler: LossScaler
    average: EMA | None
    device: torch.device
    options: StepOptions
    shards: Shards | None = None
    averages_itself: bool = False  # whether the optimizer's step moves the average as well
    step: int = 0
    skipped: int = 0  # updates that were skipped

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The trained parameters with their names in the model, as optimizer and average know them, in order."""
        names = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        return list(zip(names, self.parameters, strict=True))


def make_training(model: TrainedModel, hps: Hyperparams, device: torch.device) -> Training:
    """Puts optimizer, schedule, loss scale and weight average around a model that is on its device."""
    wrapped, shards = wrap_for_ranks(model, device, hps.bucket, hps.fsdp)  # now all ranks have the weights of rank 0
    parameters = shards.parts if shards else [p for p in model.parameters() if p.requires_grad]
    optimizer, name = make_optimizer(parameters, pick(OptimizerOptions, hps))
    average = make_ema(parameters, pick(AverageOptions, hps), dist.get_world_size())
    return Training(
        model=model,
        wrapped=wrapped,
        parameters=parameters,
        optimizer=optimizer,
        optimizer_name=name,
        schedule=Schedule(optimizer, pick(ScheduleOptions, hps)),
        scaler=make_scaler(hps.fp16, hps.fp16_loss_scale, hps.fp16_scale_window),
        average=average,
        device=device,
        options=step_options(hps),
        shards=shards,
        averages_itself=can_average(optimizer, average),
    )


def train_step(training: Training, batches: Sequence[Batch]) -> dict[str, float]:
    """One update from one or more batches, whose gradients are averaged.

    Returns:
        The means of the batches' metrics, and of the step: `grad_norm`, `loss_scale`, `lr`, `skipped` (1 if the
        gradients were not used) and `overflow` (1 if they or the loss were not finite).
    """
    options = training.options
    seed_everything(options.seed, "step", training.step, dist.get_rank())
    training.step += 1
    training.schedule.step(training.step)
    metrics = backward(training, batches)
    scale = training.scaler.scale
    grad_norm = gradient_norm(training.parameters, scale)
    if training.shards is not None:
        grad_norm = training.shards.norm(grad_norm)
    bad_loss = any_rank(not math.isfinite(metrics["loss"]), training.device)
    overflow = bad_loss or not math.isfinite(grad_norm)
    skipped = overflow or not is_fit(grad_norm, options.ignore_grad_norm)
    if not skipped:
        average = training.average
        if average is not None and training.averages_itself:
            assert hasattr(training.optimizer, "average_into")
            averages: dict[torch.Tensor, torch.Tensor] = dict(zip(training.parameters, average.averages(), strict=True))
            training.optimizer.average_into(averages, average.advance())
        training.optimizer.step(scale=clip_scale(grad_norm, options.clip, scale))
        if average is not None and not training.averages_itself:
            average.step()
    training.skipped += int(skipped)
    training.scaler.update(overflow)
    training.optimizer.zero_grad(set_to_none=True)
    lr = training.schedule.get_lr()
    return dict(metrics, grad_norm=grad_norm, loss_scale=scale, lr=lr, skipped=float(skipped), overflow=float(overflow))


def backward(training: Training, batches: Sequence[Batch]) -> dict[str, float]:
    """Leaves the mean gradient of the batches in the parameters, times the loss scale. Returns mean metrics."""
    training.model.train()
    model, collected = training.wrapped, []
    for i, batch in enumerate(batches):
        more = i < len(batches) - 1  # ranks meet once, at the last batch
        with model.no_sync() if more and isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
            loss, metrics = forward(model, batch, training.options, training.device)
            (loss * (training.scaler.scale / len(batches))).backward()
        collected.append({"loss": loss.detach(), **metrics})
    if training.shards is not None:
        training.shards.take_gradients()
    return mean_metrics(collected)


def forward(
    model: nn.Module, batch: Batch, options: StepOptions, device: torch.device
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and scalar metrics of one batch."""
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    x, *labels = [part.to(device, non_blocking=True) for part in parts]
    if x.is_floating_point():
        x = audio_preprocess(x, options)  # [N, T, C] -> [N, T, 1]
    # Sharded weights come and go, so casts of them are not kept from layer to layer.
    with torch.autocast(device.type, torch.bfloat16, enabled=bool(options.bf16), cache_enabled=not options.fsdp):
        if options.losses:
            _, loss, metrics = model(x, options.losses, loss_fn=options.losses["loss_fn"])
        else:
            given = dict(zip(("y", "times"), labels, strict=False))
            _, loss, metrics = model(x, dtype=read_dtype(options.fp16), **given)
    return loss, {name: value for name, value in metrics.items() if torch.is_tensor(value) and value.dim() == 0}


def mean_metrics(collected: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Means of scalars by name, fetched from the device all at once."""
    names = list(collected[0])
    table = torch.stack([torch.stack([metrics[name].detach().float() for name in names]) for metrics in collected])
    return dict(zip(names, table.mean(0).tolist(), strict=True))


def batch_items(batch: Batch) -> int:
    """Chunks in a batch."""
    return len(batch[0] if isinstance(batch, (tuple, list)) else batch)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    average: EMA | None,
    batches: Iterable[Batch],
    options: StepOptions,
    device: torch.device,
    counts: Sequence[int] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Means of the metrics over the held-out items of all ranks, with the averaged weights, or the model's for None.

    How items are put together in batches, and on how many ranks, does not matter.

    Args:
        batches: as many on every rank, since sharded weights are gathered by all ranks together.
        counts: items of each batch that count (0: it only keeps step with other ranks); None: all of them.
        stop: asked before each batch, on all ranks; True ends the evaluation without a result.

    Returns:
        The metrics by name; empty without an item, or if it was ended.
    """
    seed_everything(options.seed, "evaluate", dist.get_rank())
    plain = replace(options, aug_blend=False)
    training = model.training
    model.eval()
    items, sums, stopped = 0, dict[str, float](), False
    with averaged_weights(average):
        for i, batch in enumerate(batches):
            stopped = stop()
            if stopped:
                break
            loss, metrics = forward(model, batch, plain, device)
            count = batch_items(batch) if counts is None else counts[i]
            if count:
                means = mean_metrics([{"loss": loss, **metrics}])
                items, sums = items + count, {name: sums.get(name, 0.0) + count * means[name] for name in means}
    model.train(training)
    everybody = [] if stopped else [part for part in gather_objects((items, sums)) if part[0]]
    total = sum(count for count, _ in everybody)
    return {name: sum(part[name] for _, part in everybody) / total for name in (everybody[0][1] if everybody else ())}
