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
    check_same_vqvae,
    latest_path,
    newest_checkpoint,
    restore_training,
    run_folder,
)
from jukebox.training.codes import CodesDataset, vqvae_digest
from jukebox.training.finetune import needs_matching
from jukebox.training.interrupt import StopRequest
from jukebox.training.logger import RunLogger
from jukebox.training.previews import log_previews
from jukebox.training.schedule import ScheduleOptions
from jukebox.training.setup import choose_precision, make_model, use_codes
from jukebox.training.step import Batch, Training, batch_items, evaluate, make_training, train_step
from jukebox.utils import dist_adapter as dist
from jukebox.utils.audio_utils import calculate_bandwidth
from jukebox.utils.dist_utils import failing_together, print_once, setup_dist_from_mpi, shutdown
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write, try_folder
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
        if dist.get_rank() == 0:
            try_folder(run_folder(hps), "local_logdir")
        path = newest_checkpoint(hps)
        checkpoint = load_checkpoint(path) if path else {}
        check_same_run(checkpoint, hps)
        check_trained(path, hps)
        keep_seed(checkpoint, hps)
        data = make_data(hps)
        extra: dict[str, Any] = {"bandwidth": measure_bandwidth(checkpoint, data, hps)}
        model, vqvae = make_model(hps, path, device)
        if hps.prior:
            extra["vqvae"] = vqvae_digest(vqvae)
            check_same_vqvae(checkpoint, extra["vqvae"], hps)
        dataset = getattr(data, "dataset", None)
        if isinstance(dataset, CodesDataset):
            use_codes(dataset, model, vqvae, hps)
        if hps.train:
            this = make_run(model, data, hps, extra, checkpoint, command, device)
            checkpoint.clear()
            status = train(this)
        else:
            status = test(model, data, Hyperparams(hps, bandwidth=extra["bandwidth"]), device)
        shutdown()
    return status


def check_trained(path: str, hps: Hyperparams) -> None:
    """Refuses to evaluate random weights.

    Raises:
        UserError: without training, neither the run's own checkpoint `path` nor one to start from.
    """
    key = "restore_prior" if hps.prior else "restore_vqvae"
    if not hps.train and not path and not hps[key]:
        raise UserError(
            f"--test without --train: {latest_path(hps)} does not exist; give the --name of a run that was trained, "
            f"or --{key}=CHECKPOINT"
        )


def keep_seed(checkpoint: dict[str, Any], hps: Hyperparams) -> None:
    """A run keeps the seed it began with: the order of its items comes from that."""
    seed = checkpoint.get("hps", {}).get("seed", hps.seed)
    if seed != hps.seed:
        print_once(f"--seed={hps.seed} is for new runs: this one goes on with seed {seed}")
        hps.seed = seed


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
    extra: dict[str, Any],
    checkpoint: dict[str, Any],
    command: str,
    device: torch.device,
) -> Run:
    """Puts a run together, at the state of its own checkpoint, of `restore_prior`, or at the beginning.

    Args:
        extra: what goes into checkpoints besides: `bandwidth`, and a prior's `vqvae`.

    Raises:
        UserError: there is nothing left to train.
    """
    full = Hyperparams(hps, bandwidth=extra["bandwidth"])
    training = make_training(model, full, device)
    epoch, batches = max(0, hps.curr_epoch), 0
    if checkpoint:
        restore_training(training, checkpoint, hps, run_folder(hps))
        if "data" in checkpoint:
            epoch, batches = data.load_state_dict(checkpoint["data"])
    elif hps.prior and hps.restore_prior:
        start_from(training, load_checkpoint(hps.restore_prior), hps, extra["vqvae"])
    check_work_left(training.step, epoch, bool(checkpoint), hps)
    last_step = training.step + steps_left(len(data.train_loader), hps, epoch, batches)
    last_step = int(min(last_step, ScheduleOptions.from_hps(hps).end))
    folder = os.path.join(run_folder(hps), "logs")
    logger = RunLogger(folder, full, training.step, last_step, device, training.skipped, goes_on=True)
    introduce(training, len(data.train_loader), hps, command, checkpoint, last_step, logger)
    run = Run(training, data, full, epoch, batches, last_step, logger)
    run.saver = Saver(training, hps, command, lambda: data.state_dict(run.batches), extra)
    if hps.test and not len(data.test_loader):
        print_once(
            "no songs are held out, so --test has nothing to evaluate: use more songs or a smaller --train_test_split"
        )
    return run


def start_from(training: Training, start: dict[str, Any], hps: Hyperparams, vqvae: str) -> None:
    """Begins where another run's checkpoint, `restore_prior`, stands, as an anneal does; the model has its weights.

    Other layers in training, other label tables or numbers of another precision take the weights alone.
    """
    if start.get("vqvae", vqvae) != vqvae:
        print_once(f"{hps.restore_prior} was trained on the codes of another VQ-VAE: this prior has them to learn anew")
    saved = start.get("hps", {})
    if saved.get("finetune_layers", "") != hps.finetune_layers or needs_matching(start, training.model):
        return
    other = [f"{key}={saved[key]}" for key in ("fp16_params", "fp16_opt") if saved.get(key, hps[key]) != hps[key]]
    if other and (start.get("opt") or start.get("shards")):
        print_once(
            f"{hps.restore_prior} was trained with {', '.join(other)}: "
            "its weights are taken, the optimizer begins anew at step 0"
        )
        return
    restore_training(training, start, hps, os.path.dirname(hps.restore_prior))


def check_work_left(step: int, epoch: int, own: bool, hps: Hyperparams) -> None:
    """Refuses a run that would train nothing and say that it is done.

    Args:
        step, epoch: where it begins.
        own: at the run's own checkpoint, so that it may rightly be finished.

    Raises:
        UserError: the learning rate ends, or the epochs do, before the run begins.
    """
    end = ScheduleOptions.from_hps(hps).end
    if step > end or (step == end and not own):
        raise UserError(
            f"the learning rate reaches zero at step {end:.0f} (lr_start_linear_decay={hps.lr_start_linear_decay} + "
            f"lr_decay={hps.lr_decay:.0f}), and the checkpoint is at step {step}: use --lr_start_linear_decay={step}"
        )
    if epoch >= hps.epochs and not own:
        raise UserError(f"curr_epoch={epoch}, epochs={hps.epochs}: nothing is left to train; use --epochs={epoch + 1}")


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
    return max(0, (hps.epochs - epoch) * per_epoch - math.ceil(done / hps.iters_before_update))


def train(run: Run) -> int:
    """Goes through epochs until the last step or a request to stop, and saves."""
    with StopRequest() as stop:
        try:
            while not stop.asked and not finished(run):
                train_epoch(run, stop)
            run.logger.flush()
        finally:
            run.logger.close()
        run.saver.save()
    end = "stopped: the same command goes on from there" if stop.asked else "done"
    where = f", {latest_path(run.hps)}" if run.hps.save else ""
    print_once(f"step {run.training.step}{where}: {end}")
    return 128 + stop.asked if stop.asked else 0


def finished(run: Run) -> bool:
    """Whether the last step is done, and an epoch that ended with it has had its evaluation."""
    between = run.batches < len(run.data.train_loader)
    return run.epoch >= run.hps.epochs or (run.training.step >= run.last_step and between)


def train_epoch(run: Run, stop: StopRequest) -> None:
    """The rest of an epoch from where the data stand, and the evaluation after it.

    The epoch ends with the evaluation: a run that is stopped in it, or killed, evaluates when it goes on.
    """
    training, hps = run.training, run.hps
    run.data.set_epoch(run.epoch, run.batches)
    for batches in groups(run.data.train_loader, hps.iters_before_update):
        metrics = train_step(training, batches, hps)
        run.batches += len(batches)
        run.logger.step(training.step, run.epoch, metrics, sum(map(batch_items, batches)))
        check_overflows(run, metrics)
        every = hps.sample_iters or hps.save_iters
        with run.logger.paused():
            if every > 0 and training.step % every == 0:
                log_previews(training, batches[-1], hps, run.logger)
            run.saver.after_step()
        if stop.agree(training.device):
            return
        if training.step >= run.last_step:
            break
    if hps.test and len(run.data.test_loader):
        with run.logger.paused():
            run.saver.before_evaluation()
            metrics = evaluate(
                training.model,
                training.average,
                run.data.test_loader,
                hps,
                training.device,
                run.data.test_sampler.counts(),
                stop=lambda: stop.agree(training.device),
            )
        if stop.asked:
            return
        run.logger.evaluation(training.step, metrics)
    if run.batches >= len(run.data.train_loader):
        run.epoch, run.batches = run.epoch + 1, 0
        run.data.set_epoch(run.epoch, 0)
    stop.agree(training.device)


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
    metrics = evaluate(model, None, data.test_loader, hps, device, data.test_sampler.counts())
    if not metrics:
        raise UserError("no held-out songs to evaluate on: use more songs or a smaller --train_test_split")
    logger = RunLogger(os.path.join(run_folder(hps), "logs"), hps, model.step, model.step, device)
    logger.evaluation(model.step, metrics)
    logger.close()
    return 0
