"""What --model may name, and what is said where parts are missing or do not belong together."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SAMPLES_PER_CODE, make_tiny_runs

from jukebox import loaders
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams
from jukebox.loaders import LazyPrior, _vqvae_of, bare_prior, find_model, use_prior
from jukebox.make_models import MODELS, load_checkpoint, make_prior, make_vqvae
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch

DEMO = Path(loaders.__file__).parent / "demo"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_runs(folder)
    return folder / "logs"


def test_released_models_are_known_without_a_file() -> None:
    for name in ("5b", "5b_lyrics", "1b_lyrics"):
        model = find_model(name)
        assert model.samples_per_code == [8, 32, 128] and model.sr == 44100 and None not in model.levels
    lyrics = find_model("5b_lyrics").levels
    assert [level.n_tokens for level in lyrics if level] == [0, 0, 512]
    assert [level.sample_length for level in lyrics if level] == [8192 * hop for hop in (8, 32, 128)]


def test_parameter_counts_of_released_models() -> None:
    """As the manifests count them: elements of all parameters, shared ones once."""
    model = find_model("1b_lyrics")
    vqvae = model.vqvae(1 << 20, "meta")
    assert model.levels[2] is not None
    top = bare_prior(model.levels[2], vqvae)
    assert all(p.is_meta for p in top.parameters()) and sum(p.numel() for p in top.parameters()) == 942_643_200


def test_runs_in_any_order(runs: Path) -> None:
    by_folder = find_model(f"{runs}/up1,{runs}/top,{runs}/up0")
    by_file = find_model(f"{runs}/vq/checkpoint_latest.pth.tar,{runs}/up0,{runs}/up1,{runs}/top")
    for model in (by_folder, by_file):
        assert model.samples_per_code == SAMPLES_PER_CODE and [level.level for level in model.levels if level] == [
            0,
            1,
            2,
        ]
        assert model.vqvae_hps.restore_vqvae == f"{runs}/vq/checkpoint_latest.pth.tar"
        assert not any(level.hps.train for level in model.levels if level)
        top = model.top
        assert top is not None and top.labeller.ag_processor.list_artists() == ["somebody", "the examples"]  # type: ignore


def test_the_vqvae_is_found_from_another_folder(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = runs / "top" / "checkpoint_latest.pth.tar"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hps"]["restore_vqvae"] = "logs/vq/checkpoint_latest.pth.tar"  # as from the folder of training
    (runs / "relative").mkdir()
    torch.save(checkpoint, runs / "relative" / "checkpoint_latest.pth.tar")
    monkeypatch.chdir(tmp_path)
    assert Path(find_model(f"{runs}/relative").vqvae_hps.restore_vqvae).resolve() == (runs / "vq" / path.name).resolve()
    checkpoint["hps"]["restore_vqvae"] = "logs/gone.pth.tar"
    torch.save(checkpoint, runs / "relative" / "checkpoint_latest.pth.tar")
    with pytest.raises(UserError, match="logs/gone.pth.tar, is not there: add its run to --model"):
        find_model(f"{runs}/relative")


def test_a_models_entry_of_ones_own(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vq", "up0", "top"):
        path = f"{runs}/{name}/checkpoint_latest.pth.tar"
        hps = Hyperparams(load_checkpoint(path)["hps"], train=False)
        hps["restore_vqvae" if name == "vq" else "restore_prior"] = path
        monkeypatch.setitem(HPARAMS_REGISTRY, f"my_{name}", hps)
    monkeypatch.setitem(MODELS, "mine", ("my_vq", "my_up0", "my_top"))
    model = find_model("mine")
    assert [level is not None for level in model.levels] == [True, False, True]
    monkeypatch.setitem(HPARAMS_REGISTRY, "my_top", Hyperparams(HPARAMS_REGISTRY["my_top"], restore_prior=""))
    with pytest.raises(UserError, match="my_top of model mine names no weights: set restore_prior"):
        find_model("mine")
    monkeypatch.setitem(HPARAMS_REGISTRY, "my_top", Hyperparams(HPARAMS_REGISTRY["my_top"], restore_prior="gone"))
    with pytest.raises(UserError, match="restore_prior=gone is not a file"):
        find_model("mine")


def test_what_is_said_about_wrong_names(runs: Path, tmp_path: Path) -> None:
    torch.save({"zs": [], "labels": []}, tmp_path / "data.pth.tar")
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    for name, message in [
        ("5b_lyric", "unknown model '5b_lyric'; did you mean 5b_lyrics"),
        ("logs/nothing", "unknown model .* or the folder of a training run, such as logs/RUN"),
        (f"{runs}/vq", "is a VQ-VAE without a prior: add the run of a prior"),
        (f"{runs}/vq,{runs}/vq,{runs}/top", "are both a VQ-VAE"),
        (f"{runs}/top,{runs}/top", "gives two priors of level 2"),
        (f"{runs}/top,{runs}/nothing", "there is no run or checkpoint .*nothing"),
        (f"{runs}", "holds no checkpoint_latest.pth.tar"),
        (f"{tmp_path}/data.pth.tar", "^--model: .*data.pth.tar holds no checkpoint: .* found zs, labels"),
        (f"{tmp_path}/song.wav", "^--model: .*song.wav is damaged or not a PyTorch file"),
    ]:
        with pytest.raises(UserError, match=message):
            find_model(name)


def test_a_prior_that_does_not_fit_its_vqvae(runs: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(runs / "top" / "checkpoint_latest.pth.tar", weights_only=True)
    for key, value, message in [
        ("level", 3, "is of level 3, the VQ-VAE has levels 0 to 2"),
        ("sr", 8000, "is for 8000 Hz"),
    ]:
        torch.save({**checkpoint, "hps": {**checkpoint["hps"], key: value}}, tmp_path / "odd.pth.tar")
        with pytest.raises(UserError, match=message):
            find_model(str(tmp_path / "odd.pth.tar"))


@pytest.mark.parametrize("dtype, wanted", [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_lazy_prior_is_loaded_in_its_final_type(runs: Path, dtype: str, wanted: torch.dtype) -> None:
    model = find_model(f"{runs}/up0,{runs}/up1,{runs}/top")
    lazy = model.prior(2, model.vqvae(576, "cpu"), torch.device("cpu"), dtype)
    assert isinstance(lazy, LazyPrior) and (lazy.n_ctx, lazy.raw_to_tokens, lazy.n_tokens) == (32, 16, 8)
    prior = lazy.load()
    for name in ("n_ctx", "raw_to_tokens", "sample_length", "n_tokens", "level", "levels", "alignment_layer"):
        assert getattr(prior, name) == getattr(lazy, name)
    saved = load_checkpoint(f"{runs}/top/checkpoint_latest.pth.tar")["model"]
    state = prior.state_dict()
    assert list(state) == list(saved) and not any(tensor.is_meta for tensor in state.values())
    for key, tensor in state.items():
        assert torch.equal(tensor, saved[key].to(tensor.dtype))
    layer = prior.prior.transformer._attn_mods[0]
    assert layer.attn.c_attn.w.dtype == wanted and layer.attn.c_attn.b.dtype == torch.float32
    made = prior.sample(1, y=torch.tensor([[5000, 0, 512, 1, 1, *[0] * 8]]), sample_tokens=3, fp16=dtype == "fp16")
    assert made.shape == (1, 3)


def test_modules_go_back_to_where_they_were() -> None:
    class Thing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2, device="meta"))
            self.moves: list[Any] = []

        def to(self, device: Any) -> Thing:  # type: ignore[override]
            self.moves.append(torch.device(device))
            return self

    thing = Thing()
    with pytest.raises(KeyError):
        use_prior(thing, torch.device("cpu"), lambda prior: {}[prior])
    assert thing.moves == [torch.device("cpu"), torch.device("meta")]


def test_a_prior_given_as_a_vqvae_is_named_as_that(tmp_path: Path) -> None:
    make_tiny_runs(tmp_path)
    vqvae, prior = (str(tmp_path / "logs" / name / "checkpoint_latest.pth.tar") for name in ("vq", "top"))
    hps = Hyperparams(load_checkpoint(vqvae)["hps"], restore_vqvae=prior, train=False)
    with pytest.raises(UserError, match="top/.* is the checkpoint of a prior, and a VQ-VAE is wanted; this .*/vq/"):
        make_vqvae(hps, "cpu")
    other = dict(restore_prior=vqvae, train=False, labels=False, use_tokens=False, attn_order=2)
    hps = Hyperparams(load_checkpoint(prior)["hps"], **other)
    with pytest.raises(UserError, match="vq/.* is the checkpoint of a VQ-VAE, and a prior is wanted$"):
        make_prior(hps, make_vqvae(Hyperparams(load_checkpoint(vqvae)["hps"], train=False), "cpu"), "cpu")


def test_a_checkpoint_does_not_decide_what_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_tiny_runs(tmp_path)
    path = tmp_path / "logs" / "top" / "checkpoint_latest.pth.tar"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["hps"]["restore_vqvae"] = "http://127.0.0.1:9/evil.pth.tar"
    torch.save(checkpoint, path)
    with pytest.raises(
        UserError, match="names its VQ-VAE by an address, http://127.0.0.1:9/evil.pth.tar: if you trust"
    ):
        find_model(model.split(",")[-1])


def test_a_vqvae_outside_of_the_folder_of_runs_is_told(tmp_path: Path) -> None:
    make_tiny_runs(tmp_path)
    top = tmp_path / "logs/top/checkpoint_latest.pth.tar"
    checkpoint = load_torch(top)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_model(str(top))
        tuned = tmp_path / "logs/tuned/checkpoint_latest.pth.tar"  # the demo model, trained further
        tuned.parent.mkdir()
        torch.save({**checkpoint, "hps": {**checkpoint["hps"], "restore_vqvae": str(DEMO / "vqvae.pth.tar")}}, tuned)
        assert _vqvae_of(Hyperparams(load_torch(tuned)["hps"], restore_prior=str(tuned))) == str(DEMO / "vqvae.pth.tar")
    elsewhere = tmp_path / "vq.pth.tar"
    (tmp_path / "logs/vq/checkpoint_latest.pth.tar").rename(elsewhere)
    torch.save({**checkpoint, "hps": {**checkpoint["hps"], "restore_vqvae": str(elsewhere)}}, top)
    with pytest.warns(UserWarning, match=r"top/.* takes its VQ-VAE from elsewhere: .*vq\.pth\.tar"):
        assert find_model(str(top)).vqvae_hps.restore_vqvae == str(elsewhere)
    secret = tmp_path / "secret.txt"
    secret.write_text("hunter2\n")
    torch.save({**checkpoint, "hps": {**checkpoint["hps"], "restore_vqvae": str(secret)}}, top)
    with pytest.warns(UserWarning), pytest.raises(UserError, match="is damaged or not a PyTorch file") as refused:
        find_model(str(top))
    assert "hunter2" not in str(refused.value)
