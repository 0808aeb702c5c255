"""How names of the Hugging Face layout correspond to ours. Change here a rule; files are `huggingface.py`'s business.

    theirs                                         ours
    vqvae.bottleneck.level_blocks.0.codebook       bottleneck.level_blocks.0.k
    priors.0, priors.1, ...                        the top level, the level below it, ...
    metadata_embedding.artist_emb.weight           y_emb.artist_emb.emb.weight
    conditioner_blocks.upsampler.upsample_block.0  conditioner_blocks.0.cond.model.1.0
    encoder.proj_in.weight                         prime_state_proj.w
    prior.embed_tokens.weight                      prior.x_emb.weight
    ....attn.c_attn.weight                         ....attn.c_attn.w

Rules match whole names, so that a name of another model has no counterpart and shows up where weights are restored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_AFFINE = {"weight": "w", "bias": "b"}
_RESIDUAL = r"resnet_block\.(\d+)\.conv1d_([12])\.(weight|bias)"


def _encoder_stage(rest: str, downs: int) -> str | None:
    """Names inside one stage of an encoder with `downs` strided convolutions.

    Theirs is one list in which convolutions and residual stacks take turns, and `proj_out`. Ours has pairs of the two
    in a list that ends with that last convolution.
    """
    if found := re.fullmatch(r"proj_out\.(weight|bias)", rest):
        return f"model.{downs}.{found[1]}"
    if found := re.fullmatch(r"downsample_block\.(\d*[02468])\.(weight|bias)", rest):
        return f"model.{int(found[1]) // 2}.0.{found[2]}"
    if found := re.fullmatch(r"downsample_block\.(\d*[13579])\." + _RESIDUAL, rest):
        return f"model.{int(found[1]) // 2}.1.model.{_residual(found)}"
    return None


def _decoder_stage(rest: str, blocks: str) -> str | None:
    """Names inside one stage of a decoder or a conditioner; `blocks` is our name of its residual blocks.

    As `_encoder_stage`, but `proj_in` is in front of all, and each residual stack in front of its convolution.
    """
    if found := re.fullmatch(r"proj_in\.(weight|bias)", rest):
        return f"model.0.{found[1]}"
    if found := re.fullmatch(r"upsample_block\.(\d*[13579])\.(weight|bias)", rest):
        return f"model.{int(found[1]) // 2 + 1}.1.{found[2]}"
    if found := re.fullmatch(r"upsample_block\.(\d*[02468])\." + _RESIDUAL, rest):
        return f"model.{int(found[1]) // 2 + 1}.0.{blocks}.{_residual(found)}"
    return None


def _residual(found: re.Match[str]) -> str:
    return f"{found[2]}.model.{1 if found[3] == '1' else 3}.{found[4]}"


def _autoregressive(rest: str) -> str | None:
    """Names inside an autoregressive model: the prior's own or the lyric encoder's."""
    if rest in ("start_token", "pos_emb.pos_emb"):
        return rest
    if rest in ("embed_tokens.weight", "fc_proj_out.weight"):
        return {"embed_tokens.weight": "x_emb.weight", "fc_proj_out.weight": "x_out.weight"}[rest]
    layer = r"(transformer\._attn_mods\.\d+)"
    if found := re.fullmatch(layer + r"\.layer_norm_([01])\.(weight|bias)", rest):
        return f"{found[1]}.ln_{found[2]}.{found[3]}"
    if found := re.fullmatch(layer + r"\.(attn\.c_(?:attn|enc_kv|proj)|mlp\.c_(?:fc|proj))\.(weight|bias)", rest):
        return f"{found[1]}.{found[2]}.{_AFFINE[found[3]]}"
    return None


_OF_LYRIC_ENCODER = {
    "proj_in.weight": "prime_state_proj.w",
    "proj_in.bias": "prime_state_proj.b",
    "final_layer_norm.weight": "prime_state_ln.weight",
    "final_layer_norm.bias": "prime_state_ln.bias",
    "lm_head.weight": "prime_x_out.weight",
}


def prior_name(key: str) -> str | None:
    """Our name of a prior's tensor; None if no rule knows it. Both without the prefix of the prior."""
    first, _, rest = key.partition(".")
    if first == "prior":
        name = _autoregressive(rest)
        return name and f"prior.{name}"
    if first == "encoder":
        name = _autoregressive(rest)
        return _OF_LYRIC_ENCODER.get(rest) or (name and f"prime_prior.{name}")
    if first == "conditioner_blocks":
        block = "conditioner_blocks.0"
        if rest == "embed_tokens.weight":
            return f"{block}.x_emb.weight"
        if found := re.fullmatch(r"layer_norm\.(weight|bias)", rest):
            return f"{block}.ln.{found[1]}"
        name = _decoder_stage(rest.removeprefix("upsampler."), "blocks") if rest.startswith("upsampler.") else None
        return name and f"{block}.cond.{name}"
    if found := re.fullmatch(r"metadata_embedding\.(bow_genre|artist)_emb\.weight", key):
        return f"y_emb.{found[1]}_emb.emb.weight"
    if found := re.fullmatch(r"metadata_embedding\.((?:total_length|absolute_pos|relative_pos)_emb\.emb\.weight)", key):
        return f"y_emb.{found[1]}"
    return None


def vqvae_name(key: str, downs: Mapping[str, int]) -> str | None:
    """Our name of a VQ-VAE's tensor, as `prior_name`.

    Args:
        downs: strided convolutions of each encoder stage, by its name such as "encoders.0.level_blocks.0".
    """
    if found := re.fullmatch(r"bottleneck\.level_blocks\.(\d+)\.codebook", key):
        return f"bottleneck.level_blocks.{found[1]}.k"
    if re.fullmatch(r"decoders\.\d+\.out\.(weight|bias)", key):
        return key
    if found := re.fullmatch(r"((en|de)coders\.\d+\.level_blocks\.\d+)\.(.+)", key):
        stage, kind, rest = found.groups()
        name = _encoder_stage(rest, downs.get(stage, 0)) if kind == "en" else _decoder_stage(rest, "model")
        return name and f"{stage}.{name}"
    return None


def count_downs(keys: Iterable[str]) -> dict[str, int]:
    """Strided convolutions of each encoder stage, counted by the names of their weights."""
    counts: dict[str, int] = {}
    for key in keys:
        if found := re.fullmatch(r"(encoders\.\d+\.level_blocks\.\d+)\.downsample_block\.\d+\.weight", key):
            counts[found[1]] = counts.get(found[1], 0) + 1
    return counts
