"""A training run is put together here, from its command to the loop that trains it.

Read `run_training` first. What differs between models is in `setup`, `step.forward` and `previews`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from jukebox.data.data_processor import DataProcessor, one_after_another
from jukebox.data.workers import read_batches
from jukebox.hparams import Hyperparams, pick
from jukebox.make_models import load_checkpoint
from jukebox.prior.prior import SimplePrior
from jukebox.training.checkpoint import (
    SaveOptions,
    Saver,
    best_loss,
    changes,
    check_same_run,
    check_same_vqvae,
    restore_training,
    run_files,
)
from jukebox.training.codes import CodesDataset, vqvae_digest
from jukebox.training.finetune import needs_matching
from jukebox.training.logger import LogOptions, RunLogger, start_wandb
from jukebox.training.loop import Loop, LoopOptions, train
from jukebox.training.previews import PreviewOptions
from jukebox.training.resolve import resolve, resolve_for_data
from jukebox.training.schedule import ScheduleOptions
from jukebox.training.setup import build_trained, use_codes
from jukebox.training.step import StepOptions, TrainedModel, Training, evaluate, make_training, step_options
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import any_rank, failing_together, only_job, print_once, setup_dist_from_mpi, shutdown
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write, try_folder
from jukebox.utils.float32 import keep_float32
from jukebox.utils.run_files import RunFiles
from jukebox.utils.torch_utils import count_parameters
from jukebox.utils.versions import versions


def open_data(hps: Hyperparams) -> DataProcessor:
    """The data of a run: chunks of audio, or with `codes_dir` the codes of such chunks."""
    with_times = bool(hps.prior and hps.align_loss > 0)  # when lyrics are sung
    if hps.codes_dir:
        return DataProcessor(hps, dataset=one_after_another(lambda: CodesDataset(hps, with_times)))
    return DataProcessor(hps, with_times=with_times)


def run_training(hps: Hyperparams, command: str, open_data: Callable[[Hyperparams], DataProcessor] = open_data) -> int:
    """Trains, or only evaluates with `test`; resumes where an earlier run of the same name stopped.

    Args:
        hps: checked by `check_training`.
        command: the command line, for the record.
        open_data: gives the data, for a data set of your own.

    Returns:
        The exit status: 0, 1 if files were left out or cut, or 128 plus the signal that asked for the end.
    """
    _, _, device = setup_dist_from_mpi(master_addr=hps.master_addr or None, port=hps.port, device=hps.device)
    with failing_together(), keep_float32(hps.tf32):
        files = run_files(hps)
        if dist.get_rank() == 0:
            try_folder(files.folder, "local_logdir")
        with only_job(files.folder, "name") if hps.train else contextlib.nullcontext():
            status = run_in_folder(hps, files, command, open_data, device)
        shutdown()
    return status


def run_in_folder(
    hps: Hyperparams,
    files: RunFiles,
    command: str,
    open_data: Callable[[Hyperparams], DataProcessor],
    device: torch.device,
) -> int:
    """The same, by the only job that trains in the folder of the run."""
    if hps.train and dist.get_rank() == 0:
        files.remove_unfinished()
    path = files.newest()
    checkpoint = load_checkpoint(path) if path else {}
    check_same_run(checkpoint, hps)
    if not hps.train:
        key = "restore_prior" if hps.prior else "restore_vqvae"
        check_trained(path or hps[key], key, files.latest)
    hps = resolve(hps, device, checkpoint)
    data = open_data(hps)
    hps = resolve_for_data(hps, data, checkpoint)
    extra: dict[str, Any] = {"bandwidth": hps.bandwidth}
    model, vqvae = build_trained(hps, path, device)
    if isinstance(model, SimplePrior):
        extra["vqvae"] = vqvae_digest(vqvae)
        check_same_vqvae(checkpoint, extra["vqvae"], files.latest, hps.restore_vqvae)
        if isinstance(data.dataset, CodesDataset):
            use_codes(data.dataset, model, vqvae)
    if hps.train:
        loop = make_loop(model, data, hps, extra, checkpoint, command, device)
        checkpoint.clear()
        status = train(loop)
    else:
        status = evaluate_only(
            model,
            data,
            step_options(hps),
            RunLogger(files.charts, pick(LogOptions, hps), model.step, model.step, device),
        )
    # A data set of a user's own kind may know nothing of files.
    if any_rank(getattr(data.dataset, "is_incomplete", bool)()) and not status:
        print_once(f"some files of {hps.audio_files_dir} were left out or cut, see above: exit status 1")
        status = 1
    return status


def check_trained(path: str, key: str, latest: str) -> None:
    """Refuses to evaluate random weights.

    Args:
        path: where the weights come from.
        key: the hyper-parameter that names a checkpoint to start from.
        latest: the run's own checkpoint.

    Raises:
        UserError: from nowhere.
    """
    if not path:
        raise UserError(
            f"--test without --train: {latest} does not exist; "
            f"give the --name of a run that was trained, or --{key}=CHECKPOINT"
        )


def make_loop(
    model: TrainedModel,
    data: DataProcessor,
    hps: Hyperparams,
    extra: dict[str, Any],
    checkpoint: dict[str, Any],
    command: str,
    device: torch.device,
) -> Loop:
    """Puts a run together, at the state of its own checkpoint, of `restore_prior`, or at the beginning.

    Args:
        hps: resolved.
        extra: what goes into checkpoints besides: `bandwidth`, and a prior's `vqvae`.
        checkpoint: of the run; empty for a new one.

    Raises:
        UserError: there is nothing left to train.
    """
    files, schedule, options = run_files(hps), pick(ScheduleOptions, hps), pick(LoopOptions, hps)
    training = make_training(model, hps, device)
    epoch, batches, best = max(0, hps.curr_epoch), 0, best_loss(checkpoint)
    if checkpoint:
        restore_training(training, checkpoint, files.folder)
        if "data" in checkpoint:
            epoch, batches = data.load_state_dict(checkpoint["data"])
    elif isinstance(model, SimplePrior) and hps.restore_prior:
        start_from(training, model, load_checkpoint(hps.restore_prior), hps, extra["vqvae"])
    check_work_left(training.step, epoch, bool(checkpoint), schedule, options.epochs)
    last_step = training.step + options.steps_left(len(data.train_loader), epoch, batches)
    last_step = int(min(last_step, schedule.end))
    wandb = hps.wandb if dist.get_rank() == 0 else ""
    finish = start_wandb(wandb, hps.name, files.folder, hps) if wandb else None  # before the first chart is written
    logger = RunLogger(
        files.charts,
        pick(LogOptions, hps),
        training.step,
        last_step,
        device,
        training.skipped,
        goes_on=True,
        metrics=files.metrics if hps.save else "",
        finish=finish,
    )
    own = {key: value for key, value in hps.items() if key != "bandwidth"}  # which is in `extra`
    record: dict[str, Any] = {"command": command, "hps": own, "versions": versions()}
    what = f"prior of level {hps.level}" if hps.prior else "VQ-VAE"
    introduce(what, training, len(data.train_loader), hps.bs, last_step)
    if checkpoint:
        print_once(f"resuming from {files.latest}")
        for line in changes(checkpoint.get("hps", {}), own):
            print_once(f"  changed {line}")
    leave_record(record, logger, files if hps.save else None)
    if options.test and not len(data.test_loader):
        print_once(
            "no songs are held out, so --test has nothing to evaluate: use more songs or a smaller --train_test_split"
        )
    saver = Saver(training, files, {**record, **extra}, pick(SaveOptions, hps))
    saver.best = best
    return Loop(training, data, options, pick(PreviewOptions, hps), logger, saver, last_step, epoch, batches)


def start_from(training: Training, prior: SimplePrior, start: dict[str, Any], hps: Hyperparams, vqvae: str) -> None:
    """Begins at another run's checkpoint, `restore_prior`, as an anneal does; the model has its weights.

    Other layers in training, other label tables or numbers of another precision take only the weights.
    """
    if start.get("vqvae", vqvae) != vqvae:
        print_once(
            f"{hps.restore_prior} was trained on the codes of another VQ-VAE: "
            "this prior learns the new codes from the start"
        )
    saved = start.get("hps", {})
    if saved.get("finetune_layers", "") != hps.finetune_layers or needs_matching(start, prior):
        return
    other = [f"{key}={saved[key]}" for key in ("fp16_params", "fp16_opt") if saved.get(key, hps[key]) != hps[key]]
    if other and (start.get("opt") or start.get("shards")):
        print_once(
            f"{hps.restore_prior} was trained with {', '.join(other)}: "
            "its weights are taken, the optimizer starts again at step 0"
        )
        return
    check_same_run(start, hps)
    restore_training(training, start, os.path.dirname(hps.restore_prior))


def check_work_left(step: int, epoch: int, own: bool, schedule: ScheduleOptions, epochs: int) -> None:
    """Refuses a run that would train nothing and say that it is done.

    Args:
        step, epoch: where it begins.
        own: at the run's own checkpoint, so that it may rightly be finished.
        epochs: to train.

    Raises:
        UserError: the learning rate ends, or the epochs do, before the run begins.
    """
    end = schedule.end
    if step > end or (step == end and not own):
        raise UserError(
            f"the learning rate reaches zero at step {end:.0f} (lr_start_linear_decay="
            f"{schedule.lr_start_linear_decay} + lr_decay={schedule.lr_decay:.0f}), "
            f"and the checkpoint is at step {step}: use --lr_start_linear_decay={step}"
        )
    if epoch >= epochs and not own:
        raise UserError(f"curr_epoch={epoch}, epochs={epochs}: nothing is left to train; use --epochs={epoch + 1}")


def introduce(what: str, training: Training, batches: int, bs: int, last_step: int) -> None:
    """Says what is about to be trained."""
    kind = "fp16" if training.options.fp16 else "bf16" if training.options.bf16 else "fp32"
    ranks = dist.get_world_size()
    print_once(
        f"{what}: {count_parameters(training.model):,} parameters, {kind} on {training.device}, "
        f"{ranks} process{'es' if ranks > 1 else ''}, {training.optimizer_name}; "
        f"{batches} batches of {bs} in an epoch of each process; steps {training.step} to {last_step}"
    )


def leave_record(record: Mapping[str, Any], logger: RunLogger, files: RunFiles | None) -> None:
    """Leaves hyper-parameters and command line in the charts, and in the run's folder if there are `files`."""
    text = json.dumps(record, indent=1)
    logger.text("command", record["command"])
    logger.text("hparams", f"```\n{text}\n```")
    if files is not None and dist.get_rank() == 0:
        with atomic_write(files.record, "w") as file:
            file.write(text + "\n")


def evaluate_only(model: TrainedModel, data: DataProcessor, options: StepOptions, logger: RunLogger) -> int:
    """Evaluates a model on the held-out songs, without training.

    Raises:
        UserError: no songs are held out.
    """
    data.set_epoch(0)
    metrics = evaluate(model, None, read_batches(data.test_loader), options, logger.device, data.test_sampler.counts())
    if not metrics:
        raise UserError("no held-out songs to evaluate on: use more songs or a smaller --train_test_split")
    logger.evaluation(model.step, metrics)
    logger.close()
    return 0
