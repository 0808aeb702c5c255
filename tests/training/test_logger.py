"""Units and words of the log."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import CPU, tiny_hps

from jukebox.training.logger import RunLogger, chart, describe, in_decibels, time_text


def test_names() -> None:
    assert chart("lr") == "optimizer/lr" and chart("usage") == "codebook/usage" and chart("bpd") == "train/bpd"


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
    logger = RunLogger(str(tmp_path), tiny_hps(log_steps=2), 0, 10, CPU)
    for step, loss in ((1, 2.0), (2, 4.0), (3, 9.0)):
        logger.step(step, 0, {"loss": loss, "lr": loss, "skipped": 0.0})
    said = capsys.readouterr().out
    assert (
        said.startswith("step 2 of 10, epoch 0, loss 3, ") and said.endswith("left\n") and len(said.splitlines()) == 1
    )
    assert "samples/s" in said
    logger.close()


def test_skipped_steps_are_counted() -> None:
    assert describe({"loss": 1.23456}, 3, 0) == "epoch 3, loss 1.235"
    assert describe({"spectral_convergence": -8.0}, 3, 2) == "epoch 3, spectral_convergence -8 dB, 2 skipped"


def test_audio_is_cut_and_counted(tmp_path: Path) -> None:
    logger = RunLogger(str(tmp_path), tiny_hps(max_log=2, max_len=1, sr=100), 0, 1, CPU)
    written = []
    logger.writer.add_audio = lambda tag, x, step, sample_rate: written.append((tag, tuple(x.shape), step, sample_rate))
    logger.audio("audio_input", torch.zeros(5, 1000, 1), 7)
    assert written == [("audio_input/0", (100, 1), 7, 100), ("audio_input/1", (100, 1), 7, 100)]
