"""Goes through the data of a run: steps, previews, checkpoints, evaluations, and the end.

`train` is the whole of it. What a run is made of is put together in `run.py`; one step is in `step.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jukebox.data.data_processor import DataProcessor
from jukebox.data.workers import read_batches
from jukebox.training.checkpoint import Saver
from jukebox.training.ema import tell_start
from jukebox.training.interrupt import StopRequest
from jukebox.training.logger import RunLogger
from jukebox.training.previews import PreviewOptions, log_previews
from jukebox.training.step import Batch, Training, batch_items, evaluate, train_step
from jukebox.utils.dist_utils import print_once
from jukebox.utils.errors import UserError

FIRST_PREVIEW = 50  # steps; then at twice as many, and so on
MOST_OVERFLOWS = 100  # that many steps in a row without finite gradients mean that the run is lost


@dataclass(frozen=True)
class LoopOptions:
    """The hyper-parameters of the same names."""

    epochs: int
    iters_before_update: int
    test: bool
    save_iters: int
    sample_iters: int

    def shows(self, step: int) -> bool:
        """Whether a step is followed by previews: by default early ones, then ever fewer, so that none costs much."""
        if self.sample_iters:
            return self.sample_iters > 0 and step % self.sample_iters == 0
        doublings = math.log2(max(step, 1) / FIRST_PREVIEW)
        return step % self.save_iters == 0 or (doublings >= 0 and doublings.is_integer())

    def steps_left(self, batches: int, epoch: int, done: int) -> int:
        """Steps to the end of the last epoch, after some batches of an epoch are done.

        Args:
            batches: of a whole epoch.
            epoch: that the run is in.
            done: batches of that epoch.

        Raises:
            UserError: the data make not one batch.
        """
        if not batches:
            raise UserError(
                "the songs make not one full batch: use more of them, a smaller --bs, or a shorter --sample_length"
            )
        per_epoch = math.ceil(batches / self.iters_before_update)
        return max(0, (self.epochs - epoch) * per_epoch - math.ceil(done / self.iters_before_update))


@dataclass
class Loop:
    """A run that is ready to train, and its position."""

    training: Training
    data: DataProcessor
    options: LoopOptions
    previews: PreviewOptions
    logger: RunLogger
    saver: Saver
    last_step: int
    epoch: int
    batches: int  # of this epoch that are done, on each rank
    overflows: int = 0  # in a row


def train(loop: Loop) -> int:
    """Goes through epochs until the last step or a request to stop, and saves.

    Returns:
        The exit status: 0, or 128 plus the signal that asked for the end.
    """
    with StopRequest() as stop:
        try:
            while not stop.asked and not finished(loop):
                train_epoch(loop, stop)
            loop.logger.flush()
        finally:
            loop.logger.close()
        if not stop.asked:
            check_skipped(loop)
        save(loop)
    if line := tell_start(loop.training.average):
        print_once(line)
    end = "stopped: the same command resumes from there" if stop.asked else "done"
    where = f", {loop.saver.files.latest}" if loop.saver.options.save else ""
    print_once(f"step {loop.training.step}{where}: {end}")
    return 128 + stop.asked if stop.asked else 0


def finished(loop: Loop) -> bool:
    """Whether the last step is done, and an epoch that ended with it has had its evaluation."""
    between = loop.batches < len(loop.data.train_loader)
    return loop.epoch >= loop.options.epochs or (loop.training.step >= loop.last_step and between)


def save(loop: Loop) -> None:
    """Writes a checkpoint, unless the state as it is now is written already."""
    loop.saver.save(loop.data.state_dict(loop.batches))


def train_epoch(loop: Loop, stop: StopRequest) -> None:
    """The rest of an epoch from the position in the data, and the evaluation after it.

    The epoch ends with the evaluation: a run that is stopped in it, or killed, evaluates when it is resumed.
    """
    training, options = loop.training, loop.options
    loop.data.set_epoch(loop.epoch, loop.batches)
    for batches in groups(read_batches(loop.data.train_loader), options.iters_before_update):
        metrics = train_step(training, batches)
        loop.batches += len(batches)
        loop.logger.step(training.step, loop.epoch, metrics, sum(map(batch_items, batches)))
        check_overflows(loop, metrics)
        with loop.logger.paused():
            if options.shows(training.step):
                log_previews(training, batches[-1], loop.previews, loop.logger)
            loop.saver.after_step(loop.data.state_dict(loop.batches))
        if stop.agree(training.device):
            return
        if training.step >= loop.last_step:
            break
    if options.test and len(loop.data.test_loader) and not evaluate_epoch(loop, stop):
        return
    if loop.batches >= len(loop.data.train_loader):
        loop.epoch, loop.batches = loop.epoch + 1, 0
        loop.data.set_epoch(loop.epoch, 0)
    stop.agree(training.device)


def evaluate_epoch(loop: Loop, stop: StopRequest) -> bool:
    """Logs the held-out metrics, of the raw weights too if an average is kept; False if it was stopped."""
    training, found = loop.training, list[dict[str, float]]()
    with loop.logger.paused():
        loop.saver.before_evaluation(loop.data.state_dict(loop.batches))
        for average in dict.fromkeys((training.average, None)):
            found.append(
                evaluate(
                    training.model,
                    average,
                    read_batches(loop.data.test_loader),
                    training.options,
                    training.device,
                    loop.data.test_sampler.counts(),
                    stop=lambda: stop.agree(training.device),
                )
            )
            if stop.asked:
                return False
    loop.logger.evaluation(training.step, *found)
    if line := tell_start(training.average):
        loop.logger.say(line)
    loop.saver.keep_best(found[0]["loss"], loop.data.state_dict(loop.batches))
    return True


def check_overflows(loop: Loop, metrics: dict[str, float]) -> None:
    """Gives up if no step has had finite gradients for long; the weights are still those of the last good step."""
    loop.overflows = loop.overflows + 1 if metrics["overflow"] else 0
    if loop.overflows >= MOST_OVERFLOWS:
        raise UserError(
            f"loss or gradients were not finite in {loop.overflows} steps in a row, up to step {loop.training.step}: "
            "resume from the last checkpoint with a smaller --lr, or without fp16"
        )


def check_skipped(loop: Loop) -> None:
    """Refuses to call a run done that has changed nothing.

    Raises:
        UserError: every step of the run was skipped.
    """
    training = loop.training
    if 0 < training.step == training.skipped:
        raise UserError(
            f"all {training.step} steps were skipped, for their gradients were not finite or above "
            f"--ignore_grad_norm={training.options.ignore_grad_norm:g}: nothing was learned"
        )


def groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last one has what is left."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
