"""Checkpoints that hold something else than training writes: one line with file and place, and no traceback."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VQVAE, make_tiny_runs
from tiny_training import CPU, TinyData, tiny_hps, tiny_model

from jukebox.data.data_processor import EpochBatches
from jukebox.hparams import HPARAMS_REGISTRY, HyperparamsError, all_defaults, read_saved, setup_hparams
from jukebox.loaders import find_model, find_vqvae, load_vqvae
from jukebox.training.checkpoint import restore_training, save_training
from jukebox.training.step import Training, make_training, train_step
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch
from jukebox.utils.run_files import RunFiles

ODD = [None, "x", "", -1, 0, 2.5, 10**9, 10**18, -(10**9), float("nan"), float("inf"), [], [0, 0], [10**9] * 2, ["a"]]
ODD += [{}, {"a": 1}, True, (1, 2), 1e300, int("9" * 400), [1] * 100, object]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_runs(tmp_path_factory.mktemp("tiny"))


def test_every_set_is_read() -> None:
    for name in HPARAMS_REGISTRY:
        hps = setup_hparams(name, {})
        assert read_saved(hps, "file") == hps
    assert read_saved({"lr": 1, "of_another_program": [3]}, "file")["of_another_program"] == [3]


def test_hyper_parameters_are_right_or_refused_by_name() -> None:
    for key in all_defaults():
        for value in ODD:
            try:
                hps = read_saved({**setup_hparams("", VQVAE), key: value}, "run.pth.tar")
            except HyperparamsError as error:
                assert "run.pth.tar: " in str(error) and "\n" not in str(error) and len(str(error)) < 500
            else:
                assert hps[key] is None or isinstance(hps[key], (bool, int, float, str, list, tuple))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 10**9}, "width=1000000000: no model has such a size"),
        ({"levels": 10**9}, "levels=1000000000"),
        ({"levels": 5}, "downs_t=.* does not fit levels=5"),
        ({"strides_t": [16] * 3, "downs_t": [16] * 3}, "no model has such a code"),
        ({"l_bins": float("nan")}, "l_bins=nan"),
        ({"depth": -1}, "depth=-1"),
        ({"emb_width": "8"}, "emb_width='8' is a str"),
        ({"sr": 0}, "sr=0"),
    ],
)
def test_sizes_are_checked_before_anything_is_built(model: str, tmp_path: Path, change: Any, named: str) -> None:
    path = f"{Path(model.split(',')[0]).parent}/vq/checkpoint_latest.pth.tar"
    checkpoint = load_torch(path)
    checkpoint["hps"] = {**checkpoint["hps"], **change}
    torch.save(checkpoint, tmp_path / "odd.pth.tar")
    with pytest.raises((UserError, HyperparamsError), match=f"odd.pth.tar: .*{named}"):
        find_vqvae(str(tmp_path / "odd.pth.tar"))


def mutate(checkpoint: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    hps, weights = dict(checkpoint["hps"]), dict(checkpoint["model"])
    changed = {**checkpoint, "hps": hps, "model": weights}
    key = rng.choice(list(weights))
    where = rng.randrange(4)
    if where == 0:
        hps[rng.choice([*VQVAE, "n_ctx", "prior_width", "heads", "n_tokens"])] = rng.choice(ODD[:-1])
    elif where == 1:
        weights[key] = rng.choice([weights[key][None], weights[key].int(), weights[key] * float("nan"), torch.ones(1)])
    elif where == 2:
        del weights[key]
    else:
        changed[rng.choice(["hps", "model", "labels", "step"])] = rng.choice(ODD[:-1])
    return changed


@pytest.mark.parametrize("part", ["vq", "top"])
def test_mutants_end_in_one_line(model: str, tmp_path: Path, part: str) -> None:
    folder = Path(model.split(",")[0]).parent
    whole, rng, refused = load_torch(folder / part / "checkpoint_latest.pth.tar"), random.Random(7), 0
    path = str(tmp_path / "odd.pth.tar")
    for _ in range(30):
        torch.save(mutate(whole, rng), path)
        try:
            if part == "vq":
                load_vqvae(find_vqvae(path), torch.device("cpu"))
            else:
                found = find_model(path)
                lazy = found.prior(len(found.levels) - 1, found.vqvae(64, "cpu"), torch.device("cpu"))
                assert lazy is not None
                lazy.load()
                assert found.top is not None and found.top.labeller is not None
        except (UserError, HyperparamsError):
            refused += 1
    assert 10 < refused <= 30


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_weights_that_are_not_numbers_are_named(model: str, tmp_path: Path, number: float) -> None:
    checkpoint = load_torch(Path(model.split(",")[0]).parent / "vq" / "checkpoint_latest.pth.tar")
    key = list(checkpoint["model"])[3]
    checkpoint["model"][key] = checkpoint["model"][key].clone()
    checkpoint["model"][key].view(-1)[-1] = number
    torch.save(checkpoint, tmp_path / "odd.pth.tar")
    with pytest.raises(UserError, match=rf"odd.pth.tar: {key} holds (NaN|-?inf|1e\+38): the weights are damaged"):
        load_vqvae(find_vqvae(str(tmp_path / "odd.pth.tar")), torch.device("cpu"))


def test_damaged_states_of_training_end_in_one_line(tmp_path: Path) -> None:
    hps = tiny_hps(prior=True, bs=2, mu=0.9, ema_fused=False)
    torch.manual_seed(0)

    def make() -> Training:
        return make_training(tiny_model(hps), hps, CPU)

    training = make()
    for batch in TinyData(hps, batches=2).train_loader:
        train_step(training, [batch])
    files = RunFiles(str(tmp_path))
    save_training(training, files, {"hps": dict(hps), "command": ""}, {})
    whole, rng, refused = load_torch(files.latest), random.Random(3), 0
    restore_training(make(), whole, str(tmp_path))
    other, odd = make(), [value for value in ODD[:-1] if not isinstance(value, bool)]
    for _ in range(120):
        changed = copy.deepcopy(whole)
        where = rng.randrange(5)
        state = changed["opt"]["state"][rng.randrange(3)]
        if where == 0:
            state[rng.choice(list(state))] = rng.choice([*odd, torch.ones(7), torch.tensor(float("nan"))])
        elif where == 1:
            del changed["opt"][rng.choice(["state", "param_groups"])]
        elif where == 2:
            part = rng.choice(["scaler", "average", "raw_model"])
            changed[part][rng.choice(list(changed[part]))] = rng.choice(odd)
        elif where == 3:
            changed[rng.choice(["opt", "scaler", "average", "raw_model"])] = rng.choice(odd[1:])
        else:
            changed["opt"]["state"][rng.choice([0, 10**6, "x"])] = rng.choice(odd)
        try:
            restore_training(other, changed, str(tmp_path))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 60


@pytest.mark.parametrize("key", ["epoch", "seen", "seed", "n_items"])
@pytest.mark.parametrize("value", [None, "x", 1.5, -1, 2**80])
def test_a_damaged_place_in_the_data(key: str, value: Any) -> None:
    batches = EpochBatches(10, 2)
    state = batches.state_dict(3)
    assert batches.load_state_dict(state) == 3
    if key in ("epoch", "seen") or not isinstance(value, int):
        with pytest.raises(UserError, match="place in the data is damaged"):
            batches.load_state_dict({**state, key: value})
