"""Units and words of the log."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import CPU, read_events, tiny_hps

from jukebox.hparams import pick
from jukebox.training.logger import LogOptions, RunLogger, chart, describe, in_decibels, time_text


def test_names() -> None:
    assert chart("lr") == "optimizer/lr" and chart("usage") == "codebook/usage" and chart("bpd") == "train/bpd"
    assert chart("usage_l2") == "codebook/usage_l2" and chart("recons_loss_l1") == "train/recons_loss_l1"
    assert chart("l1_loss") == "train/l1_loss"


def test_decibels() -> None:
    assert in_decibels({"spectral_convergence": 0.1, "loss": 0.1}) == {
        "spectral_convergence": pytest.approx(-20.0),
        "loss": 0.1,
    }
    assert in_decibels({"spectral_convergence": 0.0}) == {"spectral_convergence": 0.0}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (185, "3m05s"), (7620, "2h07m"), (273600, "3d04h"), (-5, "0s")]
)
def test_times(seconds: float, text: str) -> None:
    assert time_text(seconds) == text


def test_the_line_shows_means_and_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(str(tmp_path), pick(LogOptions, tiny_hps(log_steps=2)), 0, 10, CPU)
    for step, loss in ((1, 2.0), (2, 4.0), (3, 9.0)):
        logger.step(step, 0, {"loss": loss, "lr": loss, "skipped": 0.0})
    said = capsys.readouterr().out
    assert (
        said.startswith("step 2 of 10, epoch 0, loss 3, ") and said.endswith("left\n") and len(said.splitlines()) == 1
    )
    assert "chunks/s" in said
    logger.close()


def scalars(logger: RunLogger) -> dict[str, list[tuple[int, float]]]:
    """What the logger will write from now on, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    logger.writer.add_scalar = lambda name, value, step: found.setdefault(name, []).append((step, value))
    return found


def test_steps_that_overflowed_spoil_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(str(tmp_path), pick(LogOptions, tiny_hps(log_steps=3, fp16=True)), 0, 9, CPU, skipped=5)
    found = scalars(logger)
    good = dict(skipped=0.0, overflow=0.0, loss_scale=8.0)
    bad = dict(loss=math.inf, grad_norm=math.nan, skipped=1.0, overflow=1.0, loss_scale=16.0)
    logger.step(1, 0, dict(good, loss=2.0, grad_norm=1.0))
    logger.step(2, 0, bad)
    logger.step(3, 0, dict(good, loss=4.0, grad_norm=3.0))
    assert found["train/loss"] == [(3, 3.0)] and found["optimizer/grad_norm"] == [(3, 2.0)]
    assert found["optimizer/skipped"] == [(3, pytest.approx(1 / 3))] and found["optimizer/skipped_in_all"] == [(3, 6)]
    assert found["optimizer/loss_scale"] == [(3, 8.0)] and "loss_scale 8, 6 skipped" in capsys.readouterr().out
    for step in (4, 5, 6):
        logger.step(step, 0, bad)
    assert len(found["train/loss"]) == 1 and found["optimizer/overflow"][-1] == (6, 1.0)
    logger.close()


def test_speed_is_that_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the items that were used, and without the time of evaluations."""
    clock = [0.0]
    monkeypatch.setattr("jukebox.training.logger.time.perf_counter", lambda: clock[0])
    logger = RunLogger(str(tmp_path), pick(LogOptions, tiny_hps(log_steps=2, bs=2, iters_before_update=4)), 0, 12, CPU)
    found = scalars(logger)
    for step, items in ((1, 8), (2, 2)):  # the second group was short
        clock[0] += 1.0
        logger.step(step, 0, {"loss": 1.0, "loss_scale": 1.0}, items)
        with logger.paused():
            clock[0] += 100.0
    assert found["speed/chunks_per_s"] == [(2, 5.0)] and found["speed/step_seconds"] == [(2, 1.0)]
    assert found["speed/seconds_left"] == [(2, 10.0)]
    said = capsys.readouterr().out
    assert "5 chunks/s, 10s left" in said and "loss_scale" not in said  # it is always 1 without fp16
    clock[0] += 1.0
    logger.step(3, 1, {"loss": 7.0})
    logger.flush()
    logger.flush()
    assert found["train/loss"] == [(2, 1.0), (3, 7.0)] and found["train/epoch"][-1] == (3, 1)
    assert found["speed/step_seconds"][-1] == (3, 1.0)
    logger.close()


def test_a_terminal_shows_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    logger = RunLogger(str(tmp_path), pick(LogOptions, tiny_hps()), 0, 3, CPU)
    metrics = dict(loss=1.0, entropy=2.5, usage=9.0, spectral_convergence=0.1, grad_norm=0.5, lr=0.001, skipped=0.0)
    for step in (1, 2, 3):
        logger.step(step, 0, metrics)
    logger.close()
    line = screen.getvalue().replace("\r", "\n").strip().splitlines()[-1]
    for words in (
        "3/3",
        "spectral_convergence -20 dB, usage 9, entropy 2.5, grad_norm 0.5, lr 0.001, ",
        "chunks/s, 0s",
    ):
        assert words in line, line


def test_what_an_earlier_life_wrote_of_later_steps_is_taken_back(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import SessionLog

    for step, goes_on in ((0, True), (6, True), (8, False)):
        folder = tmp_path / f"{step}"
        logger = RunLogger(str(folder), pick(LogOptions, tiny_hps()), step, 9, CPU, goes_on=goes_on)
        logger.close()
        starts = [e.step for e in read_events(folder) if e.session_log.status == SessionLog.START]
        assert starts == ([7] if step == 6 else [])


def test_skipped_steps_are_counted() -> None:
    assert describe({"loss": 1.23456}, 3, 0) == "epoch 3, loss 1.235"
    assert describe({"spectral_convergence": -8.0}, 3, 2) == "epoch 3, spectral_convergence -8 dB, 2 skipped"


def test_audio_is_cut_and_counted(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path), pick(LogOptions, tiny_hps(max_log=2, max_len=1, sr=100)), 0, 1, CPU)
    written = []
    logger.writer.add_audio = lambda tag, x, step, sample_rate: written.append((tag, tuple(x.shape), step, sample_rate))
    logger.audio("input", torch.zeros(5, 1000, 1), 7)
    assert written == [("audio_input/0", (100, 1), 7, 100), ("audio_input/1", (100, 1), 7, 100)]
