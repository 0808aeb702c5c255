"""Checkpoints and interrupted runs of an earlier version load and resume, and end as they did with that version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import old_runs
import pytest
import torch

from jukebox.sample import main as sample
from jukebox.utils.files import load_torch

# Processors add up in other orders. A step moves a weight by 0.001, so one that began with other moments, averages or
# data than it should is further away than this.
TOLERANCE = 2e-5
HALF_TOLERANCE = 2e-3  # an ulp of a half number near 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(old_runs.unpack(tmp_path))
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path


def expected() -> dict[str, Any]:
    return load_torch("expected.pth.tar")


def distance(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    assert one.keys() <= two.keys()  # a sharded checkpoint holds no last weights
    return max(float((one[key] - two[key]).abs().max()) for key in one)


@pytest.mark.parametrize("name", list(old_runs.TRAINING))
def test_an_interrupted_training_run_goes_on(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun, end = old_runs.STEPS.get(name, (2, 6))
    goal = expected()[name]
    tolerance = HALF_TOLERANCE if name == "half" else TOLERANCE
    assert distance(old_runs.weights_of(name), goal) > tolerance
    assert old_runs.train(name, seed=99) == 0  # it keeps the seed that it began with
    said = capsys.readouterr().out
    assert f"steps {begun} to {end}\n" in said and f"resuming from logs/{name}/" in said
    ended = old_runs.weights_of(name)
    assert list(ended) == list(goal) and distance(ended, goal) < tolerance


@pytest.mark.parametrize("name", ["top", "vqvae"])
def test_the_comparison_would_notice_a_fresh_optimizer(name: str, folder: Path) -> None:
    path = f"logs/{name}/checkpoint_latest.pth.tar"
    checkpoint = load_torch(path)
    checkpoint["opt"]["state"] = {}
    torch.save(checkpoint, path)
    old_runs.train(name)
    assert distance(old_runs.weights_of(name), expected()[name]) > 2 * TOLERANCE


def test_an_interrupted_sampling_run_goes_on(folder: Path) -> None:
    assert load_torch("samples/run/state.pth.tar")["done"] == []
    assert sample(**old_runs.SAMPLING, resume=True) == 0
    zs = load_torch("samples/run/level_0/data.pth.tar")["zs"]
    for level, (made, goal) in enumerate(zip(zs, expected()["samples"], strict=True)):
        assert torch.equal(made, goal), f"level {level}"


def test_old_codes_are_gone_on_with(folder: Path) -> None:
    other = dict(name="samples/longer", mode="continue", codes_file="codes.pth.tar", sample_length_in_seconds=3.072)
    assert sample(**{**old_runs.SAMPLING, **other}) == 0
    old, new = (load_torch(path)["zs"][1] for path in ("codes.pth.tar", "samples/longer/level_1/data.pth.tar"))
    assert new.shape[1] > old.shape[1] and torch.equal(new[:, : old.shape[1]], old)
