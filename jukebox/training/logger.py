"""Watching a run: numbers and audio for TensorBoard, and one progress line.

Numbers are means over the steps since the last entry and over all ranks, so every rank has a logger, and rank 0 writes.
A new number appears by itself when `train_step` returns it; only names and units are arranged here.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from jukebox.hparams import Hyperparams
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import average, print_once

# TensorBoard draws one chart per name and groups them by what stands before the slash.
GROUPS = {
    "optimizer": ("grad_norm", "loss_scale", "lr", "skipped", "overflow"),
    "codebook": ("usage", "used_curr", "entropy", "dk", "fit", "pn"),
}
LAST = ("lr", "loss_scale")  # of these the last value is shown, not the mean
SHOWN = ("loss", "bpd", "recons_loss", "spectral_convergence", "usage", "grad_norm")  # on the progress line


def chart(name: str, prefix: str = "train") -> str:
    """The full name of a number in TensorBoard."""
    return f"{next((group for group, names in GROUPS.items() if name in names), prefix)}/{name}"


def in_decibels(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics with spectral convergence in dB: 20 log10 of residual over target, lower is better."""
    found = dict(metrics)
    if found.get("spectral_convergence", 0.0) > 0.0:
        found["spectral_convergence"] = 20.0 * math.log10(found["spectral_convergence"])
    return found


class RunLogger:
    """Collects what training steps return and shows it.

    Args:
        folder: where the event files go.
        hps: log_steps, bs, iters_before_update, sample_length, sr, max_log, max_len.
        step: the step the run is at.
        total_steps: the step it ends at.
        device: where numbers of several ranks meet.
    """

    def __init__(self, folder: str, hps: Hyperparams, step: int, total_steps: int, device: torch.device) -> None:
        self.hps, self.device = hps, device
        self.first = dist.get_rank() == 0
        self.writer = _writer(folder) if self.first else None
        self.terminal = sys.stderr.isatty()
        self.bar = _bar(step, total_steps, self.first and self.terminal)
        self.total_steps = total_steps
        self.skipped = 0
        self._start_window()

    def _start_window(self) -> None:
        self.since = time.perf_counter()
        self.sums: dict[str, float] = {}
        self.last: Mapping[str, float] = {}
        self.steps = 0

    def text(self, name: str, text: str) -> None:
        """Writes a text, such as the command line."""
        if self.writer is not None:
            self.writer.add_text(name, text)

    def step(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Notes one training step; every `log_steps` of them makes an entry. All ranks must call it alike."""
        self.steps += 1
        self.last = metrics
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.skipped += int(metrics.get("skipped", 0.0))
        if self.bar is not None:
            self.bar.set_postfix_str(describe(in_decibels(metrics), epoch, self.skipped), refresh=False)
            self.bar.update()
        if step % self.hps.log_steps == 0:
            self._entry(step, epoch)

    def _entry(self, step: int, epoch: int) -> None:
        seconds = (time.perf_counter() - self.since) / self.steps
        means = average({name: total / self.steps for name, total in self.sums.items()}, self.device)
        means = in_decibels(dict(means, **{name: self.last[name] for name in LAST if name in self.last}))
        chunks = self.hps.bs * self.hps.iters_before_update * dist.get_world_size() / seconds
        if self.writer is not None:
            for name, value in means.items():
                self.writer.add_scalar(chart(name), value, step)
            self.writer.add_scalar("speed/samples_per_s", chunks, step)
            self.writer.add_scalar("speed/audio_seconds_per_s", chunks * self.hps.sample_length / self.hps.sr, step)
            self.writer.add_scalar("speed/step_seconds", seconds, step)
            self.writer.add_scalar("train/epoch", epoch, step)
            self.writer.add_scalar("optimizer/skipped_in_all", self.skipped, step)
            self.writer.flush()
        if self.first and not self.terminal:
            left = time_text((self.total_steps - step) * seconds)
            print(
                f"step {step} of {self.total_steps}, {describe(means, epoch, self.skipped)}, "
                f"{chunks:.3g} samples/s, {left} left",
                flush=True,
            )
        self._start_window()

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the held-out metrics."""
        metrics = in_decibels(metrics)
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(f"test/{name}", value, step)
            self.writer.flush()
        if metrics:
            self.say("held-out songs: " + ", ".join(_numbers(metrics)))

    def audio(self, name: str, x: torch.Tensor, step: int) -> None:
        """Writes audio [N, T, 1], at most `max_log` items of at most `max_len` seconds."""
        if self.writer is None:
            return
        x = x[: self.hps.max_log, : int(self.hps.max_len * self.hps.sr)].detach().float().clamp(-1.0, 1.0).cpu()
        for i, item in enumerate(x):
            self.writer.add_audio(f"{name}/{i}", item, step, sample_rate=self.hps.sr)
        self.writer.flush()

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


def describe(metrics: Mapping[str, float], epoch: int, skipped: int) -> str:
    """The numbers of the progress line."""
    return ", ".join([f"epoch {epoch}", *_numbers(metrics), *([f"{skipped} skipped"] if skipped else [])])


def _numbers(metrics: Mapping[str, float]) -> list[str]:
    unit = {"spectral_convergence": " dB"}
    return [f"{name} {metrics[name]:.4g}{unit.get(name, '')}" for name in SHOWN if name in metrics]


def time_text(seconds: float) -> str:
    """Seconds as 12s, 3m05s, 2h07m or 3d04h."""
    seconds = int(max(0.0, seconds))
    for unit, size, below, smaller in (("d", 86400, 3600, "h"), ("h", 3600, 60, "m"), ("m", 60, 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit}{seconds % size // below:02d}{smaller}"
    return f"{seconds}s"


def _writer(folder: str) -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        print_once("tensorboardX is not installed, so no charts are written: pip install tensorboardX")
        return None
    return SummaryWriter(logdir=folder, flush_secs=30)


def _bar(step: int, total_steps: int, shown: bool) -> Any:
    if not shown:
        return None
    from tqdm import tqdm

    return tqdm(total=total_steps, initial=step, unit="step", dynamic_ncols=True, smoothing=0.05)
