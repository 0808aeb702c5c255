"""Checkpoints in and out, and what happens when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jukebox import make_models
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams, setup_hparams
from jukebox.make_models import (
    MODELS,
    load_checkpoint,
    make_model,
    make_prior,
    make_vqvae,
    restore_model,
    restore_opt,
    save_checkpoint,
)
from jukebox.utils.errors import UserError

VQVAE = dict(levels=2, downs_t=[1, 1], strides_t=[2, 2], l_bins=16, emb_width=4, width=4, depth=1, sample_length=64)
PRIOR = dict(VQVAE, n_ctx=16, prior_width=16, prior_depth=2, labels=False, level=1, sr=100)
UPSAMPLER = dict(PRIOR, level=0, cond_width=4, cond_depth=2)


def hparams(values: dict[str, Any], **more: Any) -> Hyperparams:
    return setup_hparams("", {**values, **more})


def saved_prior(path: Path, **more: Any) -> Any:
    hps = hparams(PRIOR, **more)
    prior = make_prior(hps, make_vqvae(hps, "cpu"), "cpu")
    save_checkpoint(path, hps, prior, step=7)
    return prior


def test_a_checkpoint_holds_plain_types_alone(tmp_path: Path) -> None:
    saved_prior(tmp_path / "p.pth.tar")
    checkpoint = torch.load(tmp_path / "p.pth.tar", weights_only=True)
    assert checkpoint["step"] == 7
    assert checkpoint["opt"] is None
    assert type(checkpoint["hps"]) is dict
    assert checkpoint["hps"]["n_ctx"] == 16
    assert not [p.name for p in tmp_path.iterdir() if p.name != "p.pth.tar"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_was_saved_is_restored(tmp_path: Path, prefix: str) -> None:
    prior = saved_prior(tmp_path / "p.pth.tar")
    checkpoint = torch.load(tmp_path / "p.pth.tar", weights_only=True)
    checkpoint["model"] = {prefix + key: value for key, value in checkpoint["model"].items()}
    torch.save(checkpoint, tmp_path / "p.pth.tar")
    hps = hparams(PRIOR, restore_prior=str(tmp_path / "p.pth.tar"))
    again = make_prior(hps, make_vqvae(hps, "cpu"), "cpu")
    assert again.step == 7
    for (name, a), (_, b) in zip(prior.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert again.prior.x_out.weight is again.prior.x_emb.weight  # still one tensor
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())


def test_weights_come_in_the_models_own_type(tmp_path: Path) -> None:
    saved_prior(tmp_path / "p.pth.tar")
    hps = hparams(PRIOR, restore_prior=str(tmp_path / "p.pth.tar"), fp16_params=True)
    prior = make_prior(hps, make_vqvae(hps, "cpu"), "cpu")
    types = {name: p.dtype for name, p in prior.named_parameters()}
    assert {d for n, d in types.items() if n.endswith(".w")} == {torch.float16}
    assert {d for n, d in types.items() if not n.endswith(".w")} == {torch.float32}


def test_residual_blocks_of_a_conditioner_load_under_either_name(tmp_path: Path) -> None:
    hps = hparams(UPSAMPLER)
    prior = make_prior(hps, make_vqvae(hps, "cpu"), "cpu")
    state = {key.replace(".blocks.", ".model."): value for key, value in prior.state_dict().items()}
    assert set(state) != set(prior.state_dict())
    save_checkpoint(tmp_path / "u.pth.tar", hps, state)
    for train in (False, True):
        again_hps = hparams(UPSAMPLER, restore_prior=str(tmp_path / "u.pth.tar"), train=train)
        again = make_prior(again_hps, make_vqvae(again_hps, "cpu"), "cpu")
        for (name, a), (_, b) in zip(prior.state_dict().items(), again.state_dict().items(), strict=True):
            assert torch.equal(a, b), name


def test_a_mismatch_is_shown_as_a_table(tmp_path: Path) -> None:
    saved_prior(tmp_path / "p.pth.tar")
    hps = hparams(PRIOR, restore_prior=str(tmp_path / "p.pth.tar"), prior_depth=3, l_bins=12)
    with pytest.raises(UserError) as error:
        make_prior(hps, make_vqvae(hps, "cpu"), "cpu")
    text = str(error.value)
    assert "12 missing in the file: prior.transformer._attn_mods.2.attn.c_attn.w [16, 12]" in text
    assert "2 of another shape: prior.x_emb.weight [16, 16], the model has [12, 16]" in text
    assert "--model=RUN_FOLDER" in text
    assert len(text.splitlines()) == 4


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pth.tar")
    (tmp_path / "text.pth.tar").write_text("not found")
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / "text.pth.tar")
    torch.save({"a": 1}, tmp_path / "other.pth.tar")
    with pytest.raises(UserError, match="under 'model', found a"):
        load_checkpoint(tmp_path / "other.pth.tar")


def test_optimizer_state_is_restored(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    opt = torch.optim.Adam(model.parameters(), lr=0.5)
    model(torch.randn(1, 2)).sum().backward()
    opt.step()
    save_checkpoint(tmp_path / "o.pth.tar", {}, model, opt, step=1)
    fresh = torch.optim.Adam(model.parameters(), lr=0.1)
    restore_opt(fresh, None, tmp_path / "o.pth.tar")
    assert fresh.state_dict()["state"][0]["exp_avg"].equal(opt.state_dict()["state"][0]["exp_avg"])
    restore_opt(fresh, None, "")


def test_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets and models are registered as users of the registry are used to."""
    for name, values in {"my_vqvae": VQVAE, "my_upsampler": UPSAMPLER, "my_prior": PRIOR}.items():
        own = Hyperparams(values)
        own.update(restore_prior="")
        monkeypatch.setitem(HPARAMS_REGISTRY, name, own)
    monkeypatch.setitem(MODELS, "mine", ("my_vqvae", "my_upsampler", "my_prior"))
    vqvae, priors = make_model("mine", "cpu", Hyperparams(), levels=[1])
    assert priors[0] is None
    assert priors[1] is not None and priors[1].level == 1
    assert vqvae.levels == 2
    with pytest.raises(UserError, match="did you mean mine"):
        make_model("mien", "cpu", {})


def test_sample_length_follows_from_seconds_and_must_fit() -> None:
    hps = hparams(VQVAE, sample_length=0, sample_length_in_seconds=3, sr=101)
    assert make_vqvae(hps, "cpu").sample_length == 300
    with pytest.raises(UserError, match="use 64 or 68"):
        make_vqvae(hparams(VQVAE, sample_length=66, train=True), "cpu")


def test_building_a_labelled_prior_needs_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr("jukebox.weights.checkpoints.fetch", refuse)
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    hps = setup_hparams("vqvae,prior_5b_lyrics", dict(restore_vqvae="", restore_prior="", sample_length=1048576))
    vqvae = make_vqvae(hps, "cpu")
    with torch.device("meta"):
        prior = make_models.build_prior(hps, vqvae)
    assert prior.labeller.label_shape == (521,)


def test_restoring_a_meta_model_holds_the_weights_once(tmp_path: Path) -> None:
    """The parameters are the file's own pages: no second copy is made."""
    saved_prior(tmp_path / "p.pth.tar")
    hps = hparams(PRIOR)
    vqvae = make_vqvae(hps, "cpu")
    with torch.device("meta"):
        prior = make_models.build_prior(hps, vqvae)
    restore_model(hps, prior, tmp_path / "p.pth.tar")
    assert not any(p.is_meta for p in prior.parameters())
    maps = Path("/proc/self/maps")
    if maps.exists():  # where the system tells: every tensor is in the mapped file
        ranges = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith("p.pth.tar")]
        for name, p in prior.named_parameters():
            assert any(int(start, 16) <= p.data_ptr() < int(end, 16) for start, end in ranges), name
