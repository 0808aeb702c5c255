"""NaN, infinite and absurd numbers end a command with their place, wherever they come from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyData, tiny_hps, tiny_prior

from jukebox.features.results import POOLS
from jukebox.make_models import restore_model, save_checkpoint
from jukebox.native.build import find_compiler
from jukebox.prior.engine import generate
from jukebox.prior.logits import SamplingOptions
from jukebox.training import loop, run
from jukebox.training.checks import check_training
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write, load_torch, save_torch


def test_half_precision_of_large_weights(tmp_path: Path) -> None:
    """Weights that only float32 can hold are not silently infinite in half precision."""
    path = tmp_path / "large.pth.tar"
    save_checkpoint(path, {}, {"weight": torch.full((2, 2), 1e5), "bias": torch.zeros(2)})
    restore_model({}, torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="weight holds inf in float16"):
        restore_model({}, torch.nn.Linear(2, 2).half(), path)


def test_a_flipped_bit(tmp_path: Path) -> None:
    """Any flipped bit of an archive is refused, or changes nothing of what is loaded."""
    path, draw = tmp_path / "c.pth.tar", random.Random(0)
    content = {"a": torch.arange(5000.0), "b": [1, "two"]}
    save_torch(content, path)
    whole, refused = path.read_bytes(), 0
    for i in range(60):
        damaged, place = bytearray(whole), draw.randrange(len(whole))
        damaged[place] ^= 1 << draw.randrange(8)
        path = tmp_path / f"{i}.pth.tar"
        path.write_bytes(damaged)
        try:
            found = load_torch(path, mmap=bool(i % 2))
        except UserError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert torch.equal(found["a"], content["a"]) and found["b"] == content["b"]
    assert refused > 50


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("top_k", [0, 1])
def test_logits(engine: str, top_k: int) -> None:
    if engine == "native" and not find_compiler():
        pytest.skip("there is no C++ compiler")
    prior = tiny_prior(tiny_hps(prior=True)).prior.eval().requires_grad_(False)
    prior.pos_emb.pos_emb.data[5] = float("nan")  # so that position 5 is the first one
    with torch.no_grad(), pytest.raises(UserError, match="^the logits at position 5 are not finite"):
        generate(prior, 2, 16, options=SamplingOptions(top_k=top_k), engine=engine)


def test_silence_is_not_written_for_nan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="song.wav: the audio is not finite"):
        write_audio(tmp_path / "song.wav", torch.tensor([0.0, float("nan")]), 8000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pool", POOLS)
def test_features(tmp_path: Path, pool: str) -> None:
    made = POOLS[pool](atomic_write(tmp_path / "a.npy"), (1, 3, 2))
    try:
        made.add(0, 0, torch.tensor([[0.0, float("inf")]]))
        made.finish()
    except UserError as error:
        made.__exit__(type(error), error, None)
        assert "features are not finite" in str(error)
    assert not list(tmp_path.iterdir())


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "DataProcessor", TinyData)
    return tmp_path / "logs/tiny"


def train(**values: Any) -> int:
    return run.run_training(tiny_hps(epochs=1, save_iters=3, sample_iters=-1, **values), "train.py")


def test_training(folder: Path) -> None:
    with pytest.raises(UserError, match="^eps=0: "):
        check_training(tiny_hps(eps=0.0))
    with pytest.raises(UserError, match="all 5 steps were skipped.*ignore_grad_norm=1e-09"):
        train(ignore_grad_norm=1e-9)
    assert train(name="good") == 0
    path = folder.parent / "good/checkpoint_latest.pth.tar"
    content = load_torch(path)
    content["opt"]["state"][0]["exp_avg"].view(-1)[0] = float("nan")
    save_torch(content, path)
    with pytest.raises(UserError, match=r"exp_avg of .* holds NaN"):
        train(name="good")


def test_weights_that_are_not_finite_are_not_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.train_step

    def breaking(training: Any, batches: Any) -> dict[str, float]:
        metrics = real(training, batches)
        if training.step == 4:
            training.parameters[0].data.fill_(float("nan"))
        return metrics

    monkeypatch.setattr(loop, "train_step", breaking)
    monkeypatch.setattr(loop, "check_overflows", lambda *_: None)
    with pytest.raises(UserError, match="not finite .* at step 5 and are not saved"):
        train()
    assert load_torch(folder / "checkpoint_latest.pth.tar")["step"] == 3
