"""Hyper-parameters and models as code outside of the package builds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox.data.artist_genre_processor import ArtistGenreProcessor
from jukebox.data.labels import Labeller
from jukebox.hparams import Hyperparams, HyperparamsError, setup_hparams
from jukebox.loaders import find_model
from jukebox.make_models import make_prior, make_vqvae, save_checkpoint
from jukebox.sample import make_model
from jukebox.utils.dist_utils import setup_dist_from_mpi


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Hyperparams]:
    model = find_model(make_tiny_runs(tmp_path_factory.mktemp("tiny")))
    return [model.vqvae_hps, *(level.hps for level in model.levels if level is not None)]


def test_none_switches_off() -> None:
    hps = setup_hparams("small_prior", dict(labels=None, fp16=None))
    assert hps.labels is False and hps.fp16 is False
    with pytest.raises(HyperparamsError):
        setup_hparams("small_prior", dict(bs=None))


def test_models_on_meta_read_no_weights(sets: list[Hyperparams], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    loaded = make_prior(Hyperparams(sets[3]), make_vqvae(Hyperparams(sets[0], sample_length=1024), "cpu"), "cpu")
    monkeypatch.setattr("jukebox.weights.checkpoints.load_torch", refuse)
    vqvae = make_vqvae(Hyperparams(sets[0], sample_length=1024), "meta")
    prior = make_prior(Hyperparams(sets[3]), vqvae, "meta")
    for model in (vqvae, prior):
        assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    for key, value in loaded.state_dict().items():  # put in one by one, under the names of the checkpoint
        *way, leaf = key.split(".")
        module: Any = prior
        for step in way:
            module = getattr(module, step)
        module._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)
    assert not any(tensor.is_meta for tensor in [*prior.parameters(), *prior.buffers()])
    z = torch.zeros(1, 32, dtype=torch.long)
    y = prior.labeller.get_batch_labels([_meta()], "cpu")["y"]
    assert torch.equal(prior.z_forward(z, y=y)[0], loaded.z_forward(z, y=y)[0])


def _meta() -> dict[str, Any]:
    return dict(artist="unknown", genre="unknown", total_length=2000, offset=0, lyrics="")


@pytest.mark.parametrize("res_scale", [False, True])
def test_fewer_layers_than_the_checkpoint_has(
    sets: list[Hyperparams], res_scale: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vqvae = make_vqvae(Hyperparams(sets[0], sample_length=1024), "cpu")
    hps = Hyperparams(sets[3], res_scale=res_scale, restore_prior="", labels_dir="", use_tokens=False, attn_order=2)
    whole = make_prior(Hyperparams(hps), vqvae, "cpu")
    path = str(tmp_path / "whole.pth.tar")
    save_checkpoint(path, hps, whole)
    first = make_prior(Hyperparams(hps, prior_depth=2, restore_prior=path), vqvae, "cpu")
    assert len(first.prior.transformer._attn_mods) == 2
    assert capsys.readouterr().out.count("layers 1 to 2 of 4 are loaded") == 1
    x = torch.randint(16, (1, 32), generator=torch.Generator().manual_seed(0))
    x_cond, y_cond = torch.randn(1, 32, 16), torch.randn(1, 1, 16)
    (_, expected), *_ = whole.prior.layer_outputs(x, [2], x_cond, y_cond)
    (_, got), *_ = first.prior.layer_outputs(x, [2], x_cond, y_cond)
    assert torch.equal(got, expected)
    make_prior(Hyperparams(hps, restore_prior=path), vqvae, "cpu")
    assert "are loaded" not in capsys.readouterr().out


def test_any_sample_length_where_nothing_is_trained(
    sets: list[Hyperparams], capsys: pytest.CaptureFixture[str]
) -> None:
    vqvae = make_vqvae(Hyperparams(sets[0], sample_length=1030), "cpu")
    assert vqvae.sample_length == 1024
    assert capsys.readouterr().out.count("sample_length=1030 is cut to 1024") == 1


@pytest.mark.parametrize("v3", [False, True])
@pytest.mark.parametrize("name", ["", "unknown", "Unknown"])
def test_unknown_needs_no_label_table(v3: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a table was fetched")

    monkeypatch.setattr("jukebox.data.artist_genre_processor._fetch", refuse)
    monkeypatch.setattr("jukebox.data.artist_genre_processor.LOCAL_TABLES", Path("nowhere"))
    meta = {**_meta(), "artist": name, "genre": name}
    labels = Labeller(1, 4, 1000, v3).get_batch_labels([meta])
    assert labels["y"][0, 3:5].tolist() == [0, 0]


def test_a_table_of_ones_own_decides_itself() -> None:
    names = ArtistGenreProcessor(False, {"unknown": 5}, {"unknown": 7, "": 0})
    assert names.get_artist_id("unknown") == 5 and names.get_genre_ids("unknown") == [7]


def test_arguments_of_old_calls_are_accepted() -> None:
    assert setup_dist_from_mpi(port=29512, verbose=True, n_attempts=5)[:2] == (0, 0)
    assert callable(make_model)
