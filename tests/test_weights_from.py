"""`--weights_from=FOLDER`: songs from weights in the Hugging Face layout, and what is said where folder and model do
not belong together.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from jukebox import loaders, make_models
from jukebox.data.labels import Labeller
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams
from jukebox.loaders import find_model
from jukebox.make_models import MODELS
from jukebox.sampling.command import run
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch

FOLDER = Path(__file__).parent / "parity" / "recorded" / "merged_lyrics"
SECONDS = 5.12  # one window at the top


@pytest.fixture()
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder's model as a key of MODELS, its sets without weights of their own."""
    found = find_model("", str(FOLDER))
    sets = {"hf_vqvae": found.vqvae_hps, **{f"hf_{level.level}": level.hps for level in found.levels}}  # type: ignore[union-attr]
    for name, hps in sets.items():
        own = Hyperparams(hps, restore_vqvae="", restore_prior="")
        monkeypatch.setitem(HPARAMS_REGISTRY, name, own)
    monkeypatch.setitem(MODELS, "hf", ("hf_vqvae", "hf_0", "hf_1", "hf_2"))
    return "hf"


@pytest.fixture()
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels by tables of our own: the released ones are elsewhere."""

    def labeller(hps: Any, sample_length: int) -> Labeller:
        n_tokens = hps.n_tokens if hps.use_tokens else 0
        return Labeller(
            2, n_tokens, sample_length, False, {"unknown": 0, "a": 1}, {"unknown": 0, "g": 1}, vocab="abcdefghi"
        )

    monkeypatch.setattr(loaders, "make_labeller", labeller)
    monkeypatch.setattr(make_models, "make_labeller", labeller)


def flags(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return dict(
        name=str(tmp_path / "out"),
        sample_length_in_seconds=SECONDS,
        total_sample_length_in_seconds=20,
        device="cpu",
        artist="a",
        genre="g",
        lyrics="abba",
        **more,
    )


def test_songs_are_made_with_the_folders_weights(
    tmp_path: Path, registered: str, no_tables: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its own config.json, or as a key of MODELS: the same tokens at every level."""
    made = {}
    for model in ("", registered):
        name = f"made_{model}"
        assert run(dict(flags(tmp_path, model=model, weights_from=str(FOLDER)), name=str(tmp_path / name))) == 0
        made[model] = load_torch(tmp_path / name / "level_0" / "data.pth.tar")
    assert [z.shape[1] for z in made[""]["zs"]] == [128, 64, 32]
    assert all(torch.equal(a, b) for a, b in zip(made[""]["zs"], made[registered]["zs"], strict=True))
    assert "differs from model" not in capsys.readouterr().out


def test_a_plan_needs_no_weights(tmp_path: Path, no_tables: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(flags(tmp_path, weights_from=str(FOLDER), dry_run=True)) == 0
    assert "level" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_differences_between_set_and_folder_are_told(
    tmp_path: Path, registered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HPARAMS_REGISTRY, "hf_1", Hyperparams(HPARAMS_REGISTRY["hf_1"], heads=2))
    (notice,) = find_model(registered, str(FOLDER)).notices
    assert notice.endswith("config.json differs from model hf, level 1: heads is 1 there and 2 here")


def test_folders_and_models_that_do_not_belong_together(tmp_path: Path, registered: str) -> None:
    with pytest.raises(UserError, match=r"goes with a key of MODELS, not with --model=logs/mine"):
        find_model("logs/mine", str(FOLDER))
    with pytest.raises(UserError, match="there is no such folder"):
        find_model("1b_lyrics", str(tmp_path / "none"))
    MODELS["hf_half"] = ("hf_vqvae", "hf_2")
    try:
        with pytest.raises(UserError, match=r"holds priors of levels 0, 1, 2, model hf_half has 2"):
            find_model("hf_half", str(FOLDER))
    finally:
        del MODELS["hf_half"]
    bare = tmp_path / "bare"
    shutil.copytree(FOLDER, bare, ignore=shutil.ignore_patterns("config.json"))
    with pytest.raises(UserError, match=r"has no config.json: say which model it holds, such as --model=1b_lyrics"):
        find_model("", str(bare))
    assert find_model(registered, str(bare)).notices == []


def test_another_models_weights_are_refused_by_their_names(tmp_path: Path) -> None:
    model = find_model("5b_lyrics", str(FOLDER))
    assert any("attn_order is 12 there and 10 here" in line for line in model.notices)
    with pytest.raises(UserError, match=r"missing in the file(.|\n)*unexpected in the file(.|\n)*of another shape"):
        model.vqvae(1048576, "cpu")


def test_neither_model_nor_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--model is missing"):
        run(dict(name=str(tmp_path)))


def test_a_run_that_was_trained_on_the_folders_vqvae(tmp_path: Path) -> None:
    """A custom prior that names `FOLDER#vqvae` is found with its VQ-VAE."""
    found = find_model("", str(FOLDER))
    vqvae = found.vqvae(512, "cpu")
    level = found.levels[2]
    assert level is not None
    hps = Hyperparams(level.hps, restore_prior="", prior=True, restore_vqvae=f"{FOLDER}#vqvae")
    prior = make_models.make_prior(hps, vqvae, "cpu")
    path = tmp_path / "checkpoint_latest.pth.tar"
    make_models.save_checkpoint(path, hps, prior)
    again = find_model(str(tmp_path))
    assert again.samples_per_code == found.samples_per_code
    assert again.vqvae_hps.restore_vqvae == f"{FOLDER}#vqvae"
    state = again.vqvae(512, "cpu").state_dict()
    assert all(torch.equal(state[key], value) for key, value in vqvae.state_dict().items())


def test_the_recorded_config_names_this_model() -> None:
    assert json.loads((FOLDER / "config.json").read_text())["model_type"] == "jukebox"
