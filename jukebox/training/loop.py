"""A whole training run: set up, go through the data, save, evaluate, stop.

Read `run` first. The loop is the same whatever the model; what differs is in `setup`, `step.forward` and `previews`.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from jukebox.data.data_processor import DataProcessor, one_after_another
from jukebox.hparams import Hyperparams
from jukebox.make_models import load_checkpoint
from jukebox.training.checkpoint import (
    Saver,
    changes,
    check_same_run,
    latest_path,
    newest_checkpoint,
    restore_training,
    run_folder,
)
from jukebox.training.codes import CodesDataset
from jukebox.training.finetune import needs_matching
from jukebox.training.interrupt import StopRequest
from jukebox.training.logger import RunLogger
from jukebox.training.previews import log_previews
from jukebox.training.schedule import ScheduleOptions
from jukebox.training.setup import choose_precision, make_model, use_codes
from jukebox.training.step import Batch, Training, evaluate, make_training, train_step
from jukebox.utils import dist_adapter as dist
from jukebox.utils.audio_utils import calculate_bandwidth
from jukebox.utils.dist_utils import failing_together, print_once, setup_dist_from_mpi, shutdown
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.torch_utils import count_parameters

MOST_OVERFLOWS = 100  # so many steps in a row without finite gradients mean that the run is lost


@dataclass
class Run:
    """One training run and where it stands; `hps` has the data's `bandwidth` besides the command's values."""

    training: Training
    data: DataProcessor
    hps: Hyperparams
    epoch: int
    batches: int  # of this epoch that are done, on each rank
    last_step: int
    logger: RunLogger
    saver: Any = None
    overflows: int = 0  # in a row


def run(hps: Hyperparams, command: str) -> int:
    """Trains, or evaluates with `test` alone; goes on where an earlier run of the same name stopped.

    Args:
        hps: checked by `check_training`.
        command: the command line, for the record.

    Returns:
        The exit status: 0, or 128 plus the signal that asked for the end.
    """
    _, _, device = setup_dist_from_mpi(master_addr=hps.master_addr or None, port=hps.port, device=hps.device)
    with failing_together():
        choose_precision(hps, device)
        data = make_data(hps)
        path = newest_checkpoint(hps)
        checkpoint = load_checkpoint(path) if path else {}
        check_same_run(checkpoint, hps)
        bandwidth = measure_bandwidth(checkpoint, data, hps)
        model, vqvae = make_model(hps, path, device)
        dataset = getattr(data, "dataset", None)
        if isinstance(dataset, CodesDataset):
            use_codes(dataset, model, vqvae, hps)
        if hps.train:
            this = make_run(model, data, hps, bandwidth, checkpoint, command, device)
            checkpoint.clear()
            status = train(this)
        else:
            status = test(model, data, Hyperparams(hps, bandwidth=bandwidth), device)
        shutdown()
    return status


def make_data(hps: Hyperparams) -> DataProcessor:
    """The data of a run: chunks of audio, or with `codes_dir` the codes of such chunks.

    Without timed lyrics `align_loss` becomes 0 in `hps`, so that no head is named that nobody taught.
    """
    with_times = bool(hps.prior and hps.align_loss > 0)
    if hps.codes_dir:
        data = DataProcessor(hps, dataset=one_after_another(lambda: CodesDataset(hps, with_times)))
    else:
        data = DataProcessor(hps, with_times=with_times)
    dataset = getattr(data, "dataset", None)
    if with_times and dataset is not None and not dataset.has_times():
        print_once("no song has timed lyrics, an .lrc file beside it: align_loss has nothing to teach and is left out")
        hps.align_loss = 0.0
    return data


def measure_bandwidth(checkpoint: dict[str, Any], data: DataProcessor, hps: Hyperparams) -> dict[str, float]:
    """How loud the data are, by which a VQ-VAE's losses are divided; a run keeps what it measured first."""
    if hps.prior:
        return {}
    return checkpoint.get("bandwidth") or calculate_bandwidth(data.train_dataset, hps)


def make_run(
    model: Any,
    data: DataProcessor,
    hps: Hyperparams,
    bandwidth: dict[str, float],
    checkpoint: dict[str, Any],
    command: str,
    device: torch.device,
) -> Run:
    """Puts a run together, at the state of its own checkpoint, of `restore_prior`, or at the beginning."""
    full = Hyperparams(hps, bandwidth=bandwidth)
    training = make_training(model, full, device)
    epoch, batches = max(0, hps.curr_epoch), 0
    if checkpoint:
        restore_training(training, checkpoint, hps, run_folder(hps))
        if "data" in checkpoint:
            epoch, batches = data.load_state_dict(checkpoint["data"])
    elif hps.prior and hps.restore_prior:
        start = load_checkpoint(hps.restore_prior)
        if start.get("hps", {}).get("finetune_layers", "") == hps.finetune_layers and not needs_matching(start, model):
            restore_training(training, start, hps, os.path.dirname(hps.restore_prior))  # as an anneal does
    last_step = training.step + steps_left(len(data.train_loader), hps, epoch, batches)
    last_step = int(min(last_step, ScheduleOptions.from_hps(hps).end))
    logger = RunLogger(os.path.join(run_folder(hps), "logs"), full, training.step, last_step, device)
    introduce(training, len(data.train_loader), hps, command, checkpoint, last_step, logger)
    run = Run(training, data, full, epoch, batches, last_step, logger)
    run.saver = Saver(training, hps, command, lambda: data.state_dict(run.batches), {"bandwidth": bandwidth})
    return run


def steps_left(batches: int, hps: Hyperparams, epoch: int, done: int) -> int:
    """Steps to the end of the last epoch, after some batches of an epoch are done.

    Raises:
        UserError: the data make not one batch.
    """
    if not batches:
        raise UserError(
            "the songs make not one full batch: use more of them, a smaller --bs, or a shorter --sample_length"
        )
    per_epoch = math.ceil(batches / hps.iters_before_update)
    return max(0, (hps.epochs - epoch) * per_epoch - done // hps.iters_before_update)


def train(run: Run) -> int:
    """Goes through epochs until the last step or a request to stop, and saves."""
    with StopRequest() as stop:
        try:
            while run.epoch < run.hps.epochs and run.training.step < run.last_step and not stop.asked:
                train_epoch(run, stop)
        finally:
            run.logger.close()
        run.saver.save()
    end = "stopped: the same command goes on from there" if stop.asked else "done"
    where = f", {latest_path(run.hps)}" if run.hps.save else ""
    print_once(f"step {run.training.step}{where}: {end}")
    return 128 + stop.asked if stop.asked else 0


def train_epoch(run: Run, stop: StopRequest) -> None:
    """The rest of an epoch from where the data stand, and the evaluation after it."""
    training, hps = run.training, run.hps
    run.data.set_epoch(run.epoch, run.batches)
    for batches in groups(run.data.train_loader, hps.iters_before_update):
        metrics = train_step(training, batches, hps)
        run.batches += len(batches)
        run.logger.step(training.step, run.epoch, metrics)
        check_overflows(run, metrics)
        every = hps.sample_iters or hps.save_iters
        if every > 0 and training.step % every == 0:
            log_previews(training, batches[-1], hps, run.logger)
        run.saver.after_step()
        if stop.agree(training.device):
            return
        if training.step >= run.last_step:
            break
    if run.batches >= len(run.data.train_loader):
        run.epoch, run.batches = run.epoch + 1, 0
        run.data.set_epoch(run.epoch, 0)
    if hps.test:
        metrics = evaluate(training.model, training.average, run.data.test_loader, hps, training.device)
        run.logger.evaluation(training.step, metrics)


def check_overflows(run: Run, metrics: dict[str, float]) -> None:
    """Gives up where no step has had finite gradients for long; the weights are still those of the last good step."""
    run.overflows = run.overflows + 1 if metrics["overflow"] else 0
    if run.overflows >= MOST_OVERFLOWS:
        raise UserError(
            f"loss or gradients were not finite in {run.overflows} steps in a row, up to step {run.training.step}: "
            "go on from the last checkpoint with a smaller --lr, or without fp16"
        )


def groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last one has what is left."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group


def introduce(
    training: Training,
    batches: int,
    hps: Hyperparams,
    command: str,
    checkpoint: dict[str, Any],
    last_step: int,
    logger: RunLogger,
) -> None:
    """Says what is about to be trained, and leaves hyper-parameters and command line in the run's folder."""
    what = f"prior of level {hps.level}" if hps.prior else "VQ-VAE"
    kind = "fp16" if hps.fp16 else "bf16" if hps.bf16 else "fp32"
    ranks = dist.get_world_size()
    print_once(
        f"{what}: {count_parameters(training.model):,} parameters, {kind} on {training.device}, "
        f"{ranks} process{'es' if ranks > 1 else ''}, {training.optimizer_name}; "
        f"{batches} batches of {hps.bs} in an epoch of each process; steps {training.step} to {last_step}"
    )
    if checkpoint:
        print_once(f"going on from {latest_path(hps)}")
        for line in changes(checkpoint.get("hps", {}), hps):
            print_once(f"  changed {line}")
    record = json.dumps({"command": command, "hps": hps}, indent=1)
    logger.text("command", command)
    logger.text("hparams", f"```\n{record}\n```")
    if hps.save and dist.get_rank() == 0:
        with atomic_write(os.path.join(run_folder(hps), "hparams.json"), "w") as file:
            file.write(record + "\n")


def test(model: Any, data: DataProcessor, hps: Hyperparams, device: torch.device) -> int:
    """Evaluates a model on the held-out songs, without training.

    Raises:
        UserError: no songs are held out.
    """
    data.set_epoch(0)
    metrics = evaluate(model, None, data.test_loader, hps, device)
    if not metrics:
        raise UserError("no held-out songs to evaluate on: use more songs or a smaller --train_test_split")
    logger = RunLogger(os.path.join(run_folder(hps), "logs"), hps, model.step, model.step, device)
    logger.evaluation(model.step, metrics)
    logger.close()
    return 0
