"""What a training run leaves on the disk, and how it resumes from there.

The names of the files are in `utils/run_files.py`. Checkpoints of a sharded run hold whole averaged weights as all
others do, and name their shards. `model` holds the weights to sample with: averaged ones if an average is kept, and
then `raw_model` those in training. There is no state of random generators to save: every step draws from (seed, step,
rank).
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from jukebox.hparams import Hyperparams
from jukebox.make_models import load_checkpoint, save_checkpoint
from jukebox.training.ema import EMA, averaged_state, counters, read_counters
from jukebox.training.saved_shards import load_shards, save_shards
from jukebox.training.step import Training
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import any_rank, gather_objects
from jukebox.utils.errors import UserError
from jukebox.utils.files import link_or_copy
from jukebox.utils.precision import odd_numbers
from jukebox.utils.run_files import RunFiles
from jukebox.vqvae.vqvae import VQVAE

# A run cannot resume with another of these; whatever else changes is taken from the new command.
FIXED = ("prior", "level", "levels", "fp16_params", "fp16_opt", "finetune_layers")

RECENT = 60.0  # seconds of training that an evaluation may put at risk


def run_files(hps: Hyperparams) -> RunFiles:
    """Where everything of a run is."""
    return RunFiles(os.path.join(hps.local_logdir, hps.name))


def save_training(
    training: Training, files: RunFiles, record: Mapping[str, Any], data: Mapping[str, Any], keep: bool = False
) -> str:
    """Writes `checkpoint_latest`, and with `keep` the same under the name of its step.

    Args:
        training: what is trained.
        files: of the run.
        record: `hps` and `command` of the run, and more plain types and tensors to put into the file.
        data: the position in the data.
        keep: also leave a `checkpoint_step_N`.

    Returns:
        The path of `checkpoint_latest`.
    """
    extra = dict(record)
    model, average, shards = training.model, training.average, training.shards
    latest, kept = files.latest, files.kept(training.step)
    weights: Mapping[str, torch.Tensor]
    if shards is not None:
        folder = new_shards_folder(files, training.step)
        extra["shards"] = {"folder": folder, **save_shards(training, os.path.join(files.folder, folder))}
        weights = shards.merged_state(average)
        if dist.get_rank() > 0:
            return latest
    else:
        weights = averaged_state(model, average)
        if average is not None:
            extra["raw_model"] = {key: value.detach() for key, value in model.state_dict().items()}
            extra["average"] = average_entry(training, average)
    if isinstance(model, VQVAE):
        extra["codebook"] = model.state_extra()
    elif model.labeller is not None:
        extra["labels"] = model.labeller.state()
    save_checkpoint(
        kept if keep else latest,
        extra.pop("hps"),
        weights,
        None if shards is not None else training.optimizer,
        training.step,
        scaler=training.scaler.state_dict(),
        skipped=training.skipped,
        data=dict(data),
        **extra,
    )
    if keep:
        link_or_copy(kept, latest)
    remove_old_shards(files)
    return latest


def new_shards_folder(files: RunFiles, step: int) -> str:
    """A name that no folder has yet, the same on all processes: shards that a checkpoint names are never touched."""
    names = (f"shards_{step}" + (f"_{i}" if i else "") for i in itertools.count())
    taken = set(files.names())
    return gather_objects(next(name for name in names if name not in taken))[0]


def remove_old_shards(files: RunFiles) -> None:
    """Deletes folders of shards that no checkpoint of the run names."""
    folders = {name for name in files.names() if name.startswith("shards_")}
    for path in files.checkpoints() if folders else ():
        named = load_checkpoint(path).get("shards") or {}
        folders.discard(named.get("folder", ""))
    for name in folders:
        shutil.rmtree(os.path.join(files.folder, name), ignore_errors=True)


def check_same_run(checkpoint: Mapping[str, Any], hps: Hyperparams) -> None:
    """Refuses to resume from a checkpoint of another kind of run.

    Raises:
        UserError: what must be the same is not.
    """
    saved = checkpoint.get("hps", {})
    for key in FIXED:
        if key in saved and saved[key] != hps[key]:
            raise UserError(
                f"the checkpoint was written with {key}={saved[key]}, and training cannot resume with "
                f"{key}={hps[key]}: give the old value, or another --name to start over"
            )


def check_same_vqvae(checkpoint: Mapping[str, Any], digest: str, path: str, restore_vqvae: str) -> None:
    """Refuses to resume a prior whose codes came from another VQ-VAE.

    Args:
        checkpoint: of the run, from `path`.
        digest: of the VQ-VAE at hand, see `vqvae_digest`.
        restore_vqvae: where that one is from.

    Raises:
        UserError: the checkpoint names another one.
    """
    if checkpoint.get("vqvae", digest) != digest:
        raise UserError(
            f"{path} learned the codes of another VQ-VAE than restore_vqvae={restore_vqvae}: "
            "give the old one, or another --name to start over"
        )


def restore_training(training: Training, checkpoint: Mapping[str, Any], folder: str) -> None:
    """Puts a run back to where a checkpoint was written; the model already has the checkpoint's `model`.

    A checkpoint without optimizer state, such as a released one, only gives its weights: training starts at step 0.
    Sharded and whole checkpoints resume sharded or whole, on any number of processes.

    Args:
        checkpoint: of the same kind of run, see `check_same_run`.
        folder: the checkpoint's, which holds its shards.

    Raises:
        UserError: the optimizer's state does not fit, is damaged, or shards are missing.
    """
    if checkpoint.get("opt") is None and not checkpoint.get("shards"):
        return
    try:
        _restore(training, checkpoint, folder)
        _check_restored(training)
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a damaged state leads to
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UserError(
            f"the checkpoint in {folder} has a damaged state of training ({type(error).__name__}: {reason}): "
            "start from an older checkpoint_step_N, with --restore_prior and another --name"
        ) from error


def _check_restored(training: Training) -> None:
    """Raises ValueError if numbers of the optimizer, the loss scale or the schedule cannot be right."""
    for name, parameter in training.named_parameters():
        for key, value in training.optimizer.state.get(parameter, {}).items():
            number = not torch.is_tensor(value) or value.dim() == 0
            if not number and value.shape != parameter.shape:
                raise ValueError(f"{key} of {name} has the shape {list(value.shape)}, not {list(parameter.shape)}")
            if number and not 0 <= float(value) < 2.0**63:
                raise ValueError(f"{key} of {name} is {float(value):g}")
            if not number and (odd := odd_numbers(value)):
                raise ValueError(f"{key} of {name} holds {odd}")
    if odd := _odd_weights(training):
        raise ValueError(f"a weight or an average holds {odd}")
    if not 0 < training.scaler.scale < 2.0**63:
        raise ValueError(f"the loss scale is {training.scaler.scale:g}")


def _restore(training: Training, checkpoint: Mapping[str, Any], folder: str) -> None:
    model = training.model
    settings = [{k: v for k, v in group.items() if k != "params"} for group in training.optimizer.param_groups]
    if checkpoint.get("shards"):
        shards = checkpoint["shards"]
        load_shards(training, folder, shards, int(checkpoint["step"]))
    else:
        restore_whole(training, checkpoint)
    for group, own in zip(training.optimizer.param_groups, settings, strict=True):
        group.update(own)  # betas, epsilon and weight decay are those of the command
    if "codebook" in checkpoint and isinstance(model, VQVAE):
        model.load_extra(checkpoint["codebook"])
    if "scaler" in checkpoint:
        training.scaler.load_state_dict(checkpoint["scaler"])
    training.step = int(checkpoint["step"])
    training.skipped = int(checkpoint.get("skipped", 0))
    training.schedule.step(training.step)


@torch.no_grad()
def restore_whole(training: Training, checkpoint: Mapping[str, Any]) -> None:
    """Weights, optimizer and average of a checkpoint that holds them whole; each process takes its part of them."""
    named, shards = training.named_parameters(), training.shards

    def part(i: int, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if shards is None else shards.part_of(tensor, shards.whole[i])

    raw = checkpoint.get("raw_model")
    if raw is not None and shards is None:
        training.model.load_state_dict(raw)
    elif raw is not None:
        for i, (name, parameter) in enumerate(named):
            parameter.copy_(part(i, raw[name]))
    opt = dict(checkpoint["opt"])
    if shards is not None:
        opt["state"] = {
            i: {k: part(i, v) if torch.is_tensor(v) and v.dim() else v for k, v in state.items()}
            for i, state in opt["state"].items()
        }
    try:
        training.optimizer.load_state_dict(opt)
    except ValueError as error:
        raise UserError(
            f"the checkpoint's optimizer belongs to another model ({error}): give another --name"
        ) from error
    if training.average is not None:
        saved = checkpoint.get("average", {})
        whole = {**checkpoint["model"], **saved.get("weights", {})}
        averages = [part(i, whole[name]) for i, (name, _) in enumerate(named)]
        training.average.load_state_dict({"averages": averages, **read_counters(saved, int(checkpoint["step"]))})


def average_entry(training: Training, average: EMA) -> dict[str, Any]:
    """What of an average `averaged_state` does not tell: the float32 values of half parameters, and its counters."""
    pairs = zip(training.named_parameters(), average.averages(), strict=True)
    return {"weights": {n: a for (n, p), a in pairs if p.dtype != torch.float32}, **counters(average)}


@dataclass(frozen=True)
class SaveOptions:
    """The hyper-parameters of the same names."""

    save: bool
    save_iters: int
    save_minutes: float


def best_loss(checkpoint: Mapping[str, Any]) -> float:
    """The lowest held-out loss of a run so far; infinite if its checkpoint does not say a number."""
    best = checkpoint.get("best")
    return best if isinstance(best, float) and not math.isnan(best) else math.inf


class Saver:
    """Decides when to write: every `save_iters` steps to keep, and `checkpoint_latest` by the clock besides."""

    def __init__(self, training: Training, files: RunFiles, record: Mapping[str, Any], options: SaveOptions) -> None:
        self.training, self.files, self.record, self.options = training, files, record, options
        self.on = options.save and (dist.get_rank() == 0 or training.shards is not None)
        self.saved: Any = None  # the step, the position in the data and the best loss that were written last
        self.saved_at = time.monotonic()
        self.best = math.inf  # the lowest held-out loss so far

    def after_step(self, data: Mapping[str, Any]) -> None:
        """To be called after every step, with the position in the data."""
        if self.training.step % self.options.save_iters == 0:
            self.save(data, keep=True)
            return
        due = time.monotonic() - self.saved_at > 60.0 * self.options.save_minutes
        if self.training.shards is not None:  # clocks differ, and all must write together
            due = any_rank(due, self.training.device)
        if due:
            self.save(data)

    def before_evaluation(self, data: Mapping[str, Any]) -> None:
        """To be called before an evaluation, which may take long, by all processes together."""
        recent = time.monotonic() - self.saved_at < RECENT
        if not recent if self.training.shards is None else any_rank(not recent, self.training.device):
            self.save(data)

    def keep_best(self, loss: float, data: Mapping[str, Any]) -> None:
        """Keeps the state as `checkpoint_best` if no evaluation found a lower loss; all processes call it together."""
        if loss <= self.best:
            self.best = loss
            self.save(data)
            if self.on and dist.get_rank() == 0:
                link_or_copy(self.files.latest, self.files.best)

    def save(self, data: Mapping[str, Any], keep: bool = False) -> None:
        """Writes the state now, unless that of this position is written already."""
        here = (self.training.step, dict(data), self.best)
        if self.options.save and self.saved != here:
            check_weights(self.training)
        if self.on and self.saved != here:
            save_training(self.training, self.files, {**self.record, "best": self.best}, data, keep)
            self.saved = here
        self.saved_at = time.monotonic()


def _odd_weights(training: Training) -> str:
    """What is wrong with the numbers of weights in training or their average; "" if they are finite."""
    averages = training.average.averages() if training.average is not None else []
    return next(filter(None, map(odd_numbers, (*training.parameters, *averages))), "")


def check_weights(training: Training) -> None:
    """Refuses to save weights that are not finite, on all processes together.

    Raises:
        UserError: they are not; the last checkpoint stays.
    """
    odd = bool(_odd_weights(training))
    if any_rank(odd, training.device) if training.shards is not None else odd:
        raise UserError(
            f"weights are not finite (NaN or infinite) at step {training.step} and are not saved: resume from the last "
            "checkpoint with a smaller --lr"
        )


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between a checkpoint's hyper-parameters and those of the command, as `key: old -> new`."""
    return [f"{key}: {saved[key]!r} -> {now[key]!r}" for key in sorted(saved) if key in now and saved[key] != now[key]]
