"""Watching a run: numbers and audio for TensorBoard, and one progress line.

Numbers are means over the steps since the last entry and over all ranks, so every rank has a logger, and rank 0 writes.
A step that overflowed has no numbers worth a mean and only counts as one. Speed is only that of training: what is done
under `paused` is not in it. A new number appears by itself when `train_step` returns it; only names and units are
arranged here.
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from jukebox.reconstruction.spectrogram import mel_decibels, picture
from jukebox.training.metrics_file import MetricsFile
from jukebox.training.usage import Usage
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import average, print_once
from jukebox.utils.errors import UserError
from jukebox.utils.progress import progress_bar

# TensorBoard draws one chart per name and groups them by what is before the slash.
GROUPS = {
    "optimizer": ("grad_norm", "loss_scale", "lr", "skipped", "overflow"),
    "codebook": ("usage", "used_curr", "entropy", "dk", "fit", "pn"),
}
LAST = ("lr", "loss_scale")  # of these the last value is shown, not the mean
OF_ALL_STEPS = ("lr", "loss_scale", "skipped", "overflow")  # the others are of steps that did not overflow
SHOWN = (  # on the progress line
    "loss",
    "bpd",
    "prime_loss",
    "align_loss",
    "recons_loss",
    "multispectral_loss",
    "commit_loss",
    "spectral_convergence",
    "usage",
    "entropy",
    "grad_norm",
    "loss_scale",
    "lr",
)
OPTIONAL = ("prime_loss", "align_loss")  # not shown if they are 0, as without lyrics
SMOOTHING = 0.05  # share of the newest step in the pace that a terminal shows


def chart(name: str) -> str:
    """The full name of a number in TensorBoard; one of a single level, `_l1`, is beside that of all levels."""
    plain = re.sub(r"_l\d+$", "", name)
    return f"{next((group for group, names in GROUPS.items() if plain in names), 'train')}/{name}"


def in_decibels(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics with spectral convergence in dB: 20 log10 of residual over target, lower is better."""
    found = dict(metrics)
    if found.get("spectral_convergence", 0.0) > 0.0:
        found["spectral_convergence"] = 20.0 * math.log10(found["spectral_convergence"])
    return found


@dataclass(frozen=True)
class LogOptions:
    """The hyper-parameters of the same names."""

    log_steps: int
    bs: int
    iters_before_update: int
    sample_length: int
    sr: int
    max_log: int
    max_len: float
    fp16: bool
    prior: bool
    n_ctx: int


class RunLogger:
    """Collects what training steps return and shows it.

    Args:
        folder: where the event files go.
        options: what is logged, and how often.
        step: the step the run is at.
        total_steps: the step it ends at.
        device: where numbers of several ranks meet.
        skipped: steps of the run that were skipped so far.
        goes_on: this is the run itself, and what an earlier life of it wrote of later steps is taken back.
        metrics: path of the run's `metrics.jsonl`; "" writes none.
        finish: called once all is written.
    """

    def __init__(
        self,
        folder: str,
        options: LogOptions,
        step: int,
        total_steps: int,
        device: torch.device,
        skipped: int = 0,
        goes_on: bool = False,
        metrics: str = "",
        finish: Callable[[], None] | None = None,
    ) -> None:
        self.options, self.device, self.finish = options, device, finish
        self.first = dist.get_rank() == 0
        self.writer = _writer(folder, step + 1 if goes_on and step else None) if self.first else None
        self.file = MetricsFile(metrics, step) if self.first and metrics else None
        self.usage = Usage(device)
        self.terminal = sys.stderr.isatty()
        self.bar = _bar(step, total_steps, self.first and self.terminal)
        self.total_steps = total_steps
        self.skipped = skipped
        self.idle = 0.0  # seconds in which no training was to be done
        self.pace: tuple[float, float] | None = None  # seconds of a step and samples in it, as a terminal shows them
        self.before = self._now()  # when the last step ended
        self.at = (step, 0)  # step and epoch
        self._start_window()

    def _start_window(self) -> None:
        self.since = self._now()
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.last: Mapping[str, float] = {}
        self.steps = self.items = 0

    def _now(self) -> float:
        """Seconds of training since some moment."""
        return time.perf_counter() - self.idle

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock while something else than training is done."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.idle += time.perf_counter() - start

    def text(self, name: str, text: str) -> None:
        """Writes a text, such as the command line."""
        if self.writer is not None:
            self.writer.add_text(name, text)

    def step(self, step: int, epoch: int, metrics: Mapping[str, float], items: int | None = None) -> None:
        """Notes one training step; every `log_steps` of them makes an entry. All ranks must call it alike.

        Args:
            items: chunks that this rank used; None: as many as there are in full batches.
        """
        items = self.options.bs * self.options.iters_before_update if items is None else items
        self.at = (step, epoch)
        self.steps += 1
        self.items += items
        self.last = metrics
        for name, value in metrics.items():
            if name in OF_ALL_STEPS or not metrics.get("overflow", 0.0):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
        self.skipped += int(metrics.get("skipped", 0.0))
        if self.bar is not None:
            self._move_bar(step, epoch, metrics, items)
        if step % self.options.log_steps == 0:
            self._entry(step, epoch)

    def _move_bar(self, step: int, epoch: int, metrics: Mapping[str, float], items: int) -> None:
        now, share = self._now(), 1.0 if self.pace is None else SMOOTHING
        old = self.pace or (0.0, 0.0)
        seconds = (1.0 - share) * old[0] + share * (now - self.before)
        chunks = (1.0 - share) * old[1] + share * items * dist.get_world_size()
        self.pace, self.before = (seconds, chunks), now
        left = (self.total_steps - step) * seconds
        self.bar.set_postfix_str(
            self._line(in_decibels(metrics), epoch, chunks / max(seconds, 1e-9), left), refresh=False
        )
        self.bar.update()

    def _line(self, metrics: Mapping[str, float], epoch: int, chunks: float, left: float) -> str:
        """The progress line: numbers, chunks per second and the time that is left."""
        shown = {name: value for name, value in metrics.items() if name != "loss_scale" or self.options.fp16}
        return f"{describe(shown, epoch, self.skipped)}, {chunks:.3g} chunks/s, {time_text(left)} left"

    def flush(self) -> None:
        """Makes an entry of the steps that none has told of yet. All ranks must call it alike."""
        if self.steps:
            self._entry(*self.at)

    def _entry(self, step: int, epoch: int) -> None:
        took = max(self._now() - self.since, 1e-9)
        seconds, chunks = took / self.steps, self.items * dist.get_world_size() / took
        left = (self.total_steps - step) * seconds
        means = average({name: total / self.counts[name] for name, total in self.sums.items()}, self.device)
        means = in_decibels(dict(means, **{name: self.last[name] for name in LAST if name in self.last}))
        options = self.options
        size, unit = (options.n_ctx, "tokens") if options.prior else (options.sample_length, "samples")
        speed = {
            "chunks_per_s": chunks,
            f"{unit}_per_s": chunks * size,
            "audio_seconds_per_s": chunks * options.sample_length / options.sr,
            "step_seconds": seconds,
            "seconds_left": left,
            **self.usage.numbers(),
        }
        numbers = {chart(name): value for name, value in means.items()}
        numbers.update({f"speed/{name}": value for name, value in speed.items()})
        self._write(step, {**numbers, "train/epoch": epoch, "optimizer/skipped_in_all": self.skipped})
        if self.first and not self.terminal:
            print(f"step {step} of {self.total_steps}, {self._line(means, epoch, chunks, left)}", flush=True)
        self._start_window()

    def _write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Puts numbers into the charts and into `metrics.jsonl`."""
        if self.writer is not None:
            for name, value in numbers.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()
        if self.file is not None:
            self.file.write(step, numbers)

    def evaluation(self, step: int, metrics: Mapping[str, float], raw: Mapping[str, float] | None = None) -> None:
        """Writes the held-out metrics, and if an average is kept beside them those of the raw weights."""
        groups = {"test": in_decibels(metrics), "test_raw": in_decibels(raw or {})}
        self._write(step, {f"{group}/{n}": value for group, values in groups.items() for n, value in values.items()})
        for group, what in (("test", "held-out songs"), ("test_raw", "the same with the raw weights")):
            if groups[group]:
                self.say(f"{what}: {', '.join(_numbers(groups[group]))}")

    def audio(self, name: str, x: torch.Tensor, step: int) -> None:
        """Writes audio [N, T, 1] and its spectrograms, at most `max_log` items of at most `max_len` seconds."""
        if self.writer is None:
            return
        x = x[: self.options.max_log, : int(self.options.max_len * self.options.sr)]
        x = x.detach().float().clamp(-1.0, 1.0).cpu()
        for i, item in enumerate(x):
            self.writer.add_audio(f"audio_{name}/{i}", item, step, sample_rate=self.options.sr)
            loudness = mel_decibels(item[:, 0], self.options.sr)
            self.image(f"spectrogram_{name}/{i}", picture(loudness, float(loudness.max())), step)
        self.writer.flush()

    def image(self, name: str, png: bytes, step: int) -> None:
        """Writes a picture, the bytes of a PNG file."""
        if self.writer is None:
            return
        from tensorboardX.proto.summary_pb2 import Summary

        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def say(self, text: str) -> None:
        """Prints a line on rank 0 without breaking the progress line."""
        if self.bar is not None and self.first:
            self.bar.write(text, file=sys.stderr)
        else:
            print_once(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.writer is not None:
            self.writer.close()
        if self.file is not None:
            self.file.close()
        if self.finish is not None:
            self.finish()


def describe(metrics: Mapping[str, float], epoch: int, skipped: int) -> str:
    """The numbers of the progress line."""
    return ", ".join([f"epoch {epoch}", *_numbers(metrics), *([f"{skipped} skipped"] if skipped else [])])


def _numbers(metrics: Mapping[str, float]) -> list[str]:
    unit = {"spectral_convergence": " dB"}
    names = [name for name in SHOWN if name in metrics and (metrics[name] or name not in OPTIONAL)]
    return [f"{name} {metrics[name]:.4g}{unit.get(name, '')}" for name in names]


def time_text(seconds: float) -> str:
    """Seconds as 12s, 3m05s, 2h07m or 3d04h."""
    seconds = int(max(0.0, seconds))
    for unit, size, below, smaller in (("d", 86400, 3600, "h"), ("h", 3600, 60, "m"), ("m", 60, 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // below:02d}{smaller}"
    return f"{seconds}s"


def _writer(folder: str, purge_step: int | None) -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        print_once("tensorboardX is not installed, so no charts are written: pip install tensorboardX")
        return None
    # Files are named by the second; with the step as well, a run resumed at once does not write over the last one.
    suffix = f".from_{purge_step or 0}"
    return SummaryWriter(logdir=folder, flush_secs=30, purge_step=purge_step, filename_suffix=suffix)


def start_wandb(project: str, name: str, folder: str, hps: Mapping[str, Any]) -> Callable[[], None]:
    """Sends all that is written to TensorBoard from now on to Weights & Biases too.

    Args:
        project: where the run is shown there.
        name: of the run; a resumed one continues under it.
        folder: for the files of that service.
        hps: shown beside the run.

    Returns:
        What ends the sending, once the last chart is written.

    Raises:
        UserError: the package is not installed, or refuses.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"--wandb={project} needs a package that is not installed: pip install wandb") from error
    known = re.sub(r"[^\w.-]", "-", name)
    try:
        sent = wandb.init(
            project=project, name=name, id=known, resume="allow", dir=folder, config=dict(hps), sync_tensorboard=True
        )
    except wandb.Error as error:
        raise UserError(f"--wandb={project}: {error}") from error
    return sent.finish


def _bar(step: int, total_steps: int, shown: bool) -> Any:
    if not shown:
        return None
    form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # its own pace would have evaluations in it
    return progress_bar(total=total_steps, initial=step, unit="step", mininterval=0.1, bar_format=form)
