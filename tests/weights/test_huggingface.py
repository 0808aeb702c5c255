"""Folders in the Hugging Face layout: what is read, what stays on the disk, and what is said of folders that are not
right. That the weights mean the same is shown in `tests/parity/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jukebox.hparams import setup_hparams
from jukebox.make_models import load_checkpoint, make_prior, make_vqvae
from jukebox.utils.errors import UserError
from jukebox.weights.huggingface import is_folder, load_huggingface, load_part, part_path, read_config, split_part
from jukebox.weights.huggingface_config import config_hparams, differences

RECORDED = Path(__file__).parents[1] / "parity" / "recorded" / "separate_lyrics"
TOP = "priors.0.prior."


@pytest.fixture()
def weights() -> dict[str, Tensor]:
    return load_file(RECORDED / "model.safetensors")


def write(folder: Path, weights: dict[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text((RECORDED / "config.json").read_text())
    return folder


def write_shards(folder: Path, weights: dict[str, Tensor], count: int = 3) -> Path:
    names = sorted(weights)
    weight_map = {}
    for i in range(count):
        name = f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        save_file({key: weights[key].contiguous() for key in names[i::count]}, folder / name)
        weight_map.update(dict.fromkeys(names[i::count], name))
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def top_prior(folder: Path) -> Any:
    """The top prior, built and restored as the package does it."""
    config = config_hparams(read_config(RECORDED))
    hps = setup_hparams("", {**config["vqvae"], **config[2], "sample_length": 512})
    hps.restore_prior = part_path(folder, 2)
    return make_prior(hps, make_vqvae(hps, "cpu"), "cpu")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


# ------------------------------------------------------------------------------------------------------- reading


def test_parts_are_read_one_by_one() -> None:
    found = load_huggingface(RECORDED)
    assert list(found) == ["vqvae", 0, 1, 2] and len(found) == 4
    assert found["vqvae"]["bottleneck.level_blocks.2.k"].shape == (12, 6)
    assert "conditioner_blocks.0.cond.model.1.0.blocks.2.model.3.weight" in found[0]
    assert "prime_prior.transformer._attn_mods.2.ln_1.bias" in found[2]
    with pytest.raises(KeyError):
        found[3]


def test_shards_and_pytorch_files_hold_the_same(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    (tmp_path / "shards").mkdir(), (tmp_path / "bin").mkdir()
    write_shards(tmp_path / "shards", weights)
    torch.save(weights, tmp_path / "bin" / "pytorch_model.bin")
    for part in ("vqvae", 0, 1, 2):
        wanted = load_part(RECORDED, part)
        assert same(load_part(tmp_path / "shards", part), wanted)
        assert same(load_part(tmp_path / "bin", part), wanted)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_stay_in_the_file(tmp_path: Path, weights: dict[str, Tensor], kind: str) -> None:
    """Parameters of the file's own type are its pages: nothing is copied."""
    floats = {key: value.float() for key, value in weights.items()}
    if kind == "bin":
        torch.save(floats, tmp_path / "pytorch_model.bin")
    else:
        write(tmp_path, floats)
    prior = top_prior(tmp_path)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is mapped where")
    lines = [line.split()[0].split("-") for line in maps.read_text().splitlines() if str(tmp_path) in line]
    for name, p in prior.named_parameters():
        assert any(int(start, 16) <= p.data_ptr() < int(end, 16) for start, end in lines), name


def test_a_part_can_be_named_wherever_a_checkpoint_can() -> None:
    assert part_path("folder", "vqvae") == "folder#vqvae"
    assert split_part("a/b#c#level_12") == ("a/b#c", 12)
    assert split_part(r"C:\models\1b#vqvae") == (r"C:\models\1b", "vqvae")
    for path in ("logs/run/checkpoint_latest.pth.tar", "folder#level_x", "folder#", "#vqvae"):
        assert split_part(path) is None
    assert same(load_checkpoint(part_path(RECORDED, 1))["model"], load_huggingface(RECORDED)[1])
    assert is_folder(RECORDED) and not is_folder(RECORDED.parent)


def test_a_file_may_have_a_name_like_a_part(tmp_path: Path) -> None:
    torch.save({"model": {}, "step": 3}, tmp_path / "odd#vqvae")
    assert split_part(tmp_path / "odd#vqvae") is None
    assert load_checkpoint(tmp_path / "odd#vqvae")["step"] == 3


# ------------------------------------------------------------------------------------------ names that do not match


def test_every_name_has_a_counterpart() -> None:
    for folder in RECORDED.parent.iterdir():
        names = [name for part in load_huggingface(folder).values() for name in part]
        assert len(names) == len(load_file(folder / "model.safetensors"))
        assert not [name for name in names if name.startswith(("vqvae.", "priors."))]


def change(weights: dict[str, Tensor], key: str, value: Tensor | None) -> None:
    assert (key in weights) or value is not None
    weights.pop(key, None)
    if value is not None:
        weights[key] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (f"{TOP}pos_emb.pos_emb", None, "1 missing in the file: prior.pos_emb.pos_emb [32, 8]"),
        (f"{TOP}other.weight", torch.zeros(3), "1 unexpected in the file: priors.0.prior.other.weight [3]"),
        (
            f"{TOP}transformer._attn_mods.19.layer_norm_0.bias",
            torch.zeros(8),
            "1 unexpected in the file: prior.transformer._attn_mods.19.ln_0.bias [8]",
        ),
        (
            f"{TOP}transformer._attn_mods.2.attn.c_proj.bias",
            torch.zeros(9),
            "1 of another shape: prior.transformer._attn_mods.2.attn.c_proj.b [9], the model has [8]",
        ),
        ("priors.0.encoder.lm_head.weight", None, "1 missing in the file: prime_x_out.weight [10, 8]"),
        # This model's output head is its own, so it must be there.
        (f"{TOP}fc_proj_out.weight", None, "1 missing in the file: prior.x_out.weight [12, 8]"),
    ],
)
def test_a_name_without_counterpart_is_fatal(
    tmp_path: Path, weights: dict[str, Tensor], key: str, value: Tensor | None, message: str
) -> None:
    change(weights, key, value)
    with pytest.raises(UserError, match=re.escape(message)):
        top_prior(write(tmp_path, weights))


@pytest.mark.parametrize("key", ["lm_head.weight", "priors.x.prior.start_token", "priors.3.prior.start_token"])
def test_a_name_that_belongs_to_no_part_is_fatal(tmp_path: Path, weights: dict[str, Tensor], key: str) -> None:
    change(weights, key, torch.zeros(2))
    with pytest.raises(UserError, match=r"1 names belong to no part of the model: (lm_head|priors\.[x3])"):
        load_huggingface(write(tmp_path, weights))


@pytest.mark.parametrize(
    ("theirs", "part"),
    [
        ("encoders.0.level_blocks.0.upsample_block.1.weight", "vqvae"),
        ("decoders.0.level_blocks.0.downsample_block.0.weight", "vqvae"),
        ("encoders.0.level_blocks.0.downsample_block.0.resnet_block.0.conv1d_1.weight", "vqvae"),
        ("encoders.0.level_blocks.0.downsample_block.1.resnet_block.0.conv1d_3.weight", "vqvae"),
        ("encoders.0.level_blocks.0.downsample_block.1.weight", "vqvae"),
        ("prior.transformer._attn_mods.0.attn.c_fc.weight", 2),
        ("prior.transformer._attn_mods.0.layer_norm_2.weight", 2),
        ("prior.proj_in.weight", 2),
        ("metadata_embedding.artist_emb.emb.weight", 2),
        ("conditioner_blocks.embed_tokens.bias", 1),
        ("conditioner_blocks.proj_in.weight", 1),
    ],
)
def test_no_rule_takes_a_name_that_is_not_quite_right(
    tmp_path: Path, weights: dict[str, Tensor], theirs: str, part: Any
) -> None:
    prefix = "vqvae." if part == "vqvae" else f"priors.{2 - part}."
    change(weights, prefix + theirs, torch.zeros(2))
    assert prefix + theirs in load_part(write(tmp_path, weights), part)


@pytest.mark.parametrize("gone", ["embed_tokens", "fc_proj_out"])
def test_a_matrix_that_two_modules_share_may_be_saved_once(
    tmp_path: Path, weights: dict[str, Tensor], gone: str
) -> None:
    config = config_hparams(read_config(RECORDED))
    hps = setup_hparams("", {**config["vqvae"], **config[1], "sample_length": 512})
    assert not hps.merged_decoder
    change(weights, f"priors.1.prior.{gone}.weight", None)
    hps.restore_prior = part_path(write(tmp_path, weights), 1)
    prior = make_prior(hps, make_vqvae(hps, "cpu"), "cpu")
    assert prior.prior.x_out.weight is prior.prior.x_emb.weight
    assert torch.equal(prior.prior.x_emb.weight, load_part(RECORDED, 1)["prior.x_emb.weight"].float())


def test_two_matrices_for_one_are_refused(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    config = config_hparams(read_config(RECORDED))
    hps = setup_hparams("", {**config["vqvae"], **config[1], "sample_length": 512})
    weights["priors.1.prior.fc_proj_out.weight"] += 1
    hps.restore_prior = part_path(write(tmp_path, weights), 1)
    with pytest.raises(UserError, match=r"x_emb\.weight and prior\.x_out\.weight differ"):
        make_prior(hps, make_vqvae(hps, "cpu"), "cpu")


# ------------------------------------------------------------------------------------------------- damaged folders


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_folders_that_are_not_right(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        load_huggingface(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no weights: expected model\.safetensors or pytorch_model\.bin"):
        load_huggingface(tmp_path)
    (tmp_path / "other").mkdir()
    save_file({"encoder.layer.0.weight": torch.zeros(2)}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(UserError, match=r"holds no model of this family.*found encoder\.layer\.0\.weight"):
        load_huggingface(tmp_path / "other")
    with pytest.raises(UserError, match="holds no prior of level 5: it holds the VQ-VAE, level 0, level 1, level 2"):
        load_part(RECORDED, 5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model-00002-of-00003.safetensors").unlink(), "1 of 3 shards are missing: model-00002"),
        (lambda d: cut(d / "model-00003-of-00003.safetensors"), r"model-00003-of-00003\.safetensors is damaged"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{"), "cannot be read as JSON"),
        (lambda d: (d / "model.safetensors.index.json").write_text("[]"), "is not a JSON object"),
        (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "is not an index of shards"),
        (lambda d: (d / "config.json").write_text("x"), r"config\.json cannot be read as JSON"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, weights: dict[str, Tensor], damage: Callable[[Path], Any], message: str
) -> None:
    write_shards(tmp_path, weights)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        load_huggingface(tmp_path)
        read_config(tmp_path)


def test_an_index_names_no_file_elsewhere(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_shards(folder, weights)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    (folder / "model-00001-of-00003.safetensors").rename(tmp_path / "other.safetensors")
    for name in ("../other.safetensors", str(tmp_path / "other.safetensors")):
        places = {
            key: name if place == "model-00001-of-00003.safetensors" else place
            for key, place in content["weight_map"].items()
        }
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(UserError, match="is not a name in the folder"):
            load_huggingface(folder)


def test_what_an_index_lists_must_be_in_its_shards(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    write_shards(tmp_path, weights)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["priors.0.prior.start_token"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lists 1 tensors that its shards do not hold, such as priors\.0"):
        load_huggingface(tmp_path)


def test_a_pytorch_file_that_is_cut_or_holds_something_else(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    torch.save(weights, tmp_path / "pytorch_model.bin")
    cut(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="damaged"):
        load_huggingface(tmp_path)
    torch.save({"a": 1}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="is not a dict of tensors"):
        load_huggingface(tmp_path)


# ------------------------------------------------------------------------------------------------------ config.json


def test_settings_become_hyper_parameters() -> None:
    config = config_hparams(read_config(RECORDED))
    assert config["vqvae"]["downs_t"] == [2, 1, 1] and config["vqvae"]["sr"] == 100
    top = config[2]
    assert (top["prior_depth"], top["attn_order"], top["n_tokens"], top["prime_width"]) == (19, 10, 16, 8)
    assert top["use_tokens"] and not top["single_enc_dec"] and top["merged_decoder"] and not top["labels_v3"]
    assert config[1]["level"] == 1 and config[1]["cond_dilation_cycle"] == 2
    assert config[0]["cond_dilation_cycle"] is None and not config[0]["use_tokens"]
    merged = config_hparams(read_config(RECORDED.parent / "merged_lyrics"))
    assert merged[2]["single_enc_dec"] and merged[2]["attn_order"] == 12
    assert merged[1]["cond_res_scale"] is True and merged[0]["cond_res_scale"] is False


def test_settings_without_counterpart_are_refused() -> None:
    config = read_config(RECORDED)
    config["prior_config_list"][0]["attention_pattern"] = "spiral"
    with pytest.raises(UserError, match="attention_pattern 'spiral' is not known; known: full_dense"):
        config_hparams(config)
    with pytest.raises(UserError, match="another kind of model"):
        config_hparams({"model_type": "bert"})
    config = read_config(RECORDED)
    config["vqvae_config"]["conv_res_scale"] = True
    with pytest.raises(UserError, match="no counterpart"):
        config_hparams(config)
    config = read_config(RECORDED)
    config["prior_config_list"][0]["encoder_config"] = None
    with pytest.raises(UserError, match="no encoder_config"):
        config_hparams(config)


def test_differences_that_shapes_do_not_show_are_listed() -> None:
    config = config_hparams(read_config(RECORDED))
    hps = setup_hparams("", {**config["vqvae"], **config[2]})
    assert differences(2, hps, config) == []
    hps.update(heads=1, prior_depth=3)
    assert differences(2, hps, config) == ["heads is 2 there and 1 here"]
