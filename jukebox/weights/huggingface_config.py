"""What config.json of the Hugging Face layout says, as our hyper-parameters.

Weights come by `huggingface.py`. Change here how settings correspond; a setting that this file does not know changes
nothing about a model that is sampled from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jukebox.utils.errors import UserError

# Their name -> ours.
_VQVAE = {
    "levels": "levels",
    "embed_dim": "emb_width",
    "nb_discrete_codes": "l_bins",
    "res_conv_width": "width",
    "res_conv_depth": "depth",
    "res_convolution_multiplier": "m_conv",
    "res_dilation_growth_rate": "dilation_growth_rate",
    "res_dilation_cycle": "dilation_cycle",
    "multipliers": "hvqvae_multipliers",
    "res_downs_t": "downs_t",
    "res_strides_t": "strides_t",
    "lmu": "l_mu",
    "commit": "commit",
}
_ATTENTION = {  # the prior's; the lyric encoder's have "prime_" in front
    "num_layers": "depth",
    "hidden_size": "width",
    "n_heads": "heads",
    "blocks": "blocks",
    "spread": "spread",
    "attention_multiplier": "m_attn",
    "mlp_multiplier": "m_mlp",
    "attn_res_scale": "res_scale",
    "init_scale": "init_scale",
    "zero_out": "zero_out",
}
_PRIOR = {
    "n_ctx": "n_ctx",
    "nb_relevant_lyric_tokens": "n_tokens",
    "lyric_vocab_size": "n_vocab",
    "metadata_conditioning": "labels",
    "metadata_dims": "y_bins",
    "timing_dims": "t_bins",
    "max_nb_genres": "max_bow_genre_size",
    "min_duration": "min_duration",
    "max_duration": "max_duration",
    "sampling_rate": "sr",
    "alignment_layer": "alignment_layer",
    "alignment_head": "alignment_head",
    "encoder_loss_fraction": "prime_loss_fraction",
    "res_conv_width": "cond_width",
    "res_conv_depth": "cond_depth",
    "res_convolution_multiplier": "cond_m_conv",
    "res_dilation_growth_rate": "cond_dilation_growth_rate",
    "res_dilation_cycle": "cond_dilation_cycle",
    "conv_res_scale": "cond_res_scale",
}
MOST_LEVELS = 16
# Named patterns of attention -> attn_order (jukebox/transformer/patterns.py).
ATTENTION_ORDERS = {
    "full_dense_attention": 0,
    "raw_column_previous_row_attention": 2,
    "large_separated_enc_dec_w_lyrics": 10,
    "enc_dec_with_lyrics": 12,
}
# Settings that change the numbers and not the shapes of the weights, or the windows that a model is asked for.
SILENT = (
    "heads attn_order blocks spread res_scale single_enc_dec merged_decoder prime_heads prime_attn_order prime_blocks "
    "prime_res_scale cond_dilation_growth_rate cond_dilation_cycle cond_res_scale dilation_growth_rate dilation_cycle "
    "strides_t min_duration max_duration max_bow_genre_size sr"
).split()


def config_hparams(config: Mapping[str, Any]) -> dict[str | int, dict[str, Any]]:
    """Hyper-parameters of each part of a model.

    Args:
        config: content of config.json.

    Returns:
        {"vqvae": {...}, 0: {...}, ...}, priors by level; only the keys that config.json decides.

    Raises:
        UserError: parts that are missing, or an attention pattern or a setting that has no counterpart here.
    """
    vqvae, priors = config.get("vqvae_config"), config.get("prior_config_list")
    if not isinstance(vqvae, Mapping) or not isinstance(priors, list):
        raise UserError("config.json has no vqvae_config and prior_config_list: it belongs to another kind of model")
    if vqvae.get("conv_res_scale"):
        raise UserError("config.json: conv_res_scale of the VQ-VAE has no counterpart here")
    parts: dict[str | int, dict[str, Any]] = {"vqvae": _renamed(vqvae, _VQVAE)}
    if config.get("sampling_rate"):
        parts["vqvae"]["sr"] = config["sampling_rate"]
    levels = vqvae.get("levels", 3)
    if type(levels) is not int or not len(priors) <= levels <= MOST_LEVELS:
        raise UserError(f"config.json: levels of vqvae_config is {str(levels)[:40]}, with {len(priors)} priors")
    for number, prior in enumerate(priors):
        level = levels - 1 - number
        if not isinstance(prior, Mapping):
            raise UserError(f"config.json: entry {number} of prior_config_list is {str(prior)[:40]}, not an object")
        parts[level] = {"level": level, "levels": levels, **_prior(prior)}
    return parts


def _renamed(theirs: Mapping[str, Any], names: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    return {prefix + ours: theirs[name] for name, ours in names.items() if name in theirs}


def _attention(theirs: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    found = _renamed(theirs, _ATTENTION, prefix)
    for key in ("depth", "width"):
        if prefix == "" and key in found:
            found[f"prior_{key}"] = found.pop(key)
    pattern = theirs.get("attention_pattern")
    if pattern is not None:
        if not isinstance(pattern, str) or pattern not in ATTENTION_ORDERS:
            raise UserError(
                f"config.json: attention_pattern {str(pattern)[:40]!r} is not known; "
                f"known: {', '.join(ATTENTION_ORDERS)}"
            )
        found[f"{prefix}attn_order"] = ATTENTION_ORDERS[pattern]
    return found


def _prior(theirs: Mapping[str, Any]) -> dict[str, Any]:
    hps = {**_renamed(theirs, _PRIOR), **_attention(theirs, "")}
    hps["cond_res_scale"] = bool(hps.get("cond_res_scale"))
    lyrics = bool(theirs.get("nb_relevant_lyric_tokens"))
    hps["use_tokens"] = lyrics
    hps["single_enc_dec"] = lyrics and bool(theirs.get("is_encoder_decoder"))
    hps["merged_decoder"] = bool(theirs.get("merged_decoder")) and not hps["single_enc_dec"]
    hps["labels_v3"] = theirs.get("max_nb_genres") == 1
    encoder = theirs.get("encoder_config")
    if lyrics and not hps["single_enc_dec"]:
        if not isinstance(encoder, Mapping):
            raise UserError("config.json: a prior with a separate lyric encoder has no encoder_config")
        hps.update(_attention(encoder, "prime_"))
    return hps


def differences(part: str | int, hps: Mapping[str, Any], config: Mapping[str | int, Mapping[str, Any]]) -> list[str]:
    """What config.json says otherwise than the hyper-parameters in use, of what the shapes of weights do not show.

    Args:
        part: "vqvae" or a level.
        hps: in use.
        config: what `config_hparams` gave.
    """
    theirs = config.get(part, {})
    found = []
    for key in SILENT:
        if key in theirs and key in hps and theirs[key] != hps[key]:
            found.append(f"{key} is {theirs[key]} there and {hps[key]} here")
    return found
