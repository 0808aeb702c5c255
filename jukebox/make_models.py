"""Hyper-parameters in, modules out: the only place that knows both. Checkpoints are in `checkpoints.py`.

    vqvae, *priors = MODELS["1b_lyrics"]
    vqvae = make_vqvae(setup_hparams(vqvae, dict(sample_length=1048576)), device)
    top_prior = make_prior(setup_hparams(priors[-1], dict()), vqvae, device)

A model of your own: register its sets in `hparams.py` and name them here, VQ-VAE first, then priors from level 0 up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jukebox.data.labels import EmptyLabeller, Labeller
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams, setup_hparams
from jukebox.prior.lyrics import READABLE_FROM
from jukebox.prior.prior import SimplePrior
from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.ops import Conv1D
from jukebox.transformer.patterns import LYRIC_KINDS, layer_kinds
from jukebox.utils.dist_adapter import get_world_size
from jukebox.utils.dist_utils import print_once
from jukebox.utils.errors import UserError, did_you_mean
from jukebox.utils.levels import samples_per_code
from jukebox.utils.torch_utils import freeze_model
from jukebox.vqvae.config import ConvConfig
from jukebox.vqvae.vqvae import VQVAE
from jukebox.weights.checkpoints import load_checkpoint, load_weights, restore_model, restore_opt, save_checkpoint

MODELS: dict[str, tuple[str, ...]] = {
    "5b": ("vqvae", "upsampler_level_0", "upsampler_level_1", "prior_5b"),
    "5b_lyrics": ("vqvae", "upsampler_level_0", "upsampler_level_1", "prior_5b_lyrics"),
    "1b_lyrics": ("vqvae", "upsampler_level_0", "upsampler_level_1", "prior_1b_lyrics"),
    "demo": ("demo_vqvae", "demo_upsampler_0", "demo_upsampler_1", "demo_prior"),  # small, its weights are shipped
}


# ------------------------------------------------------------------------------------------------- modules


def make_vqvae(hps: Hyperparams, device: torch.device | str = "cuda") -> VQVAE:
    """Builds the VQ-VAE and loads `restore_vqvae`, if set.

    With `hps.train` and without `hps.prior` it is ready to train, else frozen and in eval mode.
    If `sample_length` is 0 it follows from `sample_length_in_seconds`. One that is not a multiple of the top level's
    codes is cut down, except in training. On the meta device no weights are read.
    """
    top = samples_per_code(hps.strides_t, hps.downs_t)[-1]
    if not hps.sample_length:  # noted in the caller's, where notebooks look for it
        hps.sample_length = int(hps.sample_length_in_seconds * hps.sr) // top * top
    lower = hps.sample_length // top * top
    if hps.sample_length != lower and lower and not hps.train:
        print_once(f"sample_length={hps.sample_length} is cut to {lower}, a multiple of {top}")
        hps.sample_length = lower
    if hps.sample_length % top:
        raise UserError(
            f"sample_length={hps.sample_length} is not a multiple of {top}, the samples per code of the top level: "
            f"use {lower or top} or {lower + top}"
        )
    vqvae = VQVAE(
        (hps.sample_length, 1),
        hps.levels,
        hps.downs_t,
        hps.strides_t,
        hps.emb_width,
        hps.l_bins,
        hps.l_mu,
        hps.commit,
        hps.spectral,
        hps.multispectral,
        multipliers=hps.hvqvae_multipliers,
        use_bottleneck=hps.use_bottleneck,
        quantizer=hps.quantizer,
        revival_threshold=hps.revival_threshold,
        config=conv_config(hps, reverse_decoder_dilation=hps.vqvae_reverse_decoder_dilation),
    ).to(device)
    restore_model(hps, vqvae, "" if torch.device(device).type == "meta" else hps.restore_vqvae)
    if hps.train and not hps.prior:
        if hps.restore_vqvae:
            for block, per_code in zip(vqvae.bottleneck.blocks, vqvae.hop_lengths, strict=True):
                tokens = hps.sample_length // per_code * hps.bs * get_world_size()
                block.restore_k(tokens, hps.revival_threshold)
        vqvae.train()
    else:
        freeze_model(vqvae)
    return vqvae


def conv_config(hps: Mapping[str, Any], prefix: str = "", **values: Any) -> ConvConfig:
    """The residual stacks of the VQ-VAE, or with "cond_" of a prior's conditioner; and more values."""
    same = "width depth m_conv dilation_growth_rate dilation_cycle"
    return ConvConfig(**{key: hps[prefix + key] for key in same.split()}, **values)


def transformer_config(hps: Mapping[str, Any], n_ctx: int, prefix: str = "") -> TransformerConfig:
    """The shape of the prior's transformer over n_ctx tokens, or with "prime_" of that of its lyric encoder."""
    name, again = prefix or "prior_", bool(hps["train"])
    same = (
        "heads attn_order blocks spread attn_dropout resid_dropout emb_dropout zero_out res_scale pos_init init_scale "
        "m_attn m_mlp"
    )
    return TransformerConfig(
        n_ctx,
        width=hps[f"{name}width"],
        depth=hps[f"{name}depth"],
        checkpoint_res=again and hps[f"{prefix}c_res"],
        checkpoint_attn=again and hps[f"{prefix}c_attn"],
        checkpoint_mlp=again and hps[f"{prefix}c_mlp"],
        **{key: hps[prefix + key] for key in same.split()},
    )


def build_prior(hps: Hyperparams, vqvae: VQVAE, labeller: Labeller | EmptyLabeller | None = None) -> SimplePrior:
    """The module only, with fresh weights on the current default device (`with torch.device("meta")` for none).

    Args:
        labeller: one that is there already; None makes the one that the hyper-parameters name.
    """
    if not 0 <= hps.level < vqvae.levels:
        raise UserError(f"level={hps.level}: the VQ-VAE has levels 0 to {vqvae.levels - 1}")
    if hps.labels and not (isinstance(hps.y_bins, (list, tuple)) and len(hps.y_bins) == 2):
        raise UserError(
            f"y_bins={hps.y_bins}: training with labels needs the number of genres and of artists, such as "
            "--y_bins=10,100 (python -m jukebox.data.labels build prints yours); or --labels=False"
        )
    codes = vqvae.z_shapes[hps.level][0]
    z_shapes = [(shape[0] * hps.n_ctx // codes,) for shape in vqvae.z_shapes]  # so that this level has n_ctx codes
    lyrics = dict(use_tokens=hps.use_tokens, prime_loss_fraction=hps.prime_loss_fraction, n_tokens=hps.n_tokens)
    prime_kwargs: dict[str, Any] = dict(lyrics, bins=hps.n_vocab)
    if hps.use_tokens and not hps.single_enc_dec:
        prime_kwargs["config"] = transformer_config(hps, hps.n_tokens, "prime_")
    head = choose_guided_head(hps) if hps.align_loss else hps
    prior = SimplePrior(
        z_shapes,
        vqvae.l_bins,
        hps.level,
        vqvae.downs_t,
        vqvae.strides_t,
        hps.labels,
        dict(config=transformer_config(hps, hps.n_ctx)),
        x_cond_kwargs=dict(
            out_width=hps.prior_width,
            init_scale=hps.init_scale,
            config=conv_config(
                hps,
                "cond_",
                zero_out=hps.cond_zero_out,
                res_scale=hps.cond_res_scale,
                checkpoint_res=hps.train and hps.cond_c_res,
            ),
        ),
        y_cond_kwargs=dict(
            out_width=hps.prior_width,
            init_scale=hps.init_scale,
            y_bins=hps.y_bins,
            t_bins=hps.t_bins,
            sr=hps.sr,
            min_duration=hps.min_duration,
            max_duration=hps.max_duration,
            max_bow_genre_size=hps.max_bow_genre_size,
            signals=hps.get("signals", ""),
        ),
        prime_kwargs=prime_kwargs,
        copy_input=hps.copy_input,
        labels_v3=hps.labels_v3,
        merged_decoder=hps.merged_decoder,
        single_enc_dec=hps.single_enc_dec,
        labeller=labeller or make_labeller(hps, hps.n_ctx * vqvae.hop_lengths[hps.level]),
        encoder=vqvae.encode,
        decoder=vqvae.decode,
        alignment_layer=head["alignment_layer"],
        alignment_head=head["alignment_head"],
        align_loss=hps.align_loss,
    )
    if hps.fp16_params:
        half_matrices(prior)
    return prior


def choose_guided_head(hps: Hyperparams) -> dict[str, int]:
    """The head that `align_loss` teaches, as hyper-parameters; if none is named, the first one that reads lyrics.

    Raises:
        UserError: the model has no layer that attends to lyrics, or the named one does not.
    """
    kinds = layer_kinds(hps.attn_order, hps.prior_depth) if hps.use_tokens else []
    layers = [i for i, kind in enumerate(kinds) if kind in LYRIC_KINDS]
    if not layers:
        raise UserError(f"align_loss={hps.align_loss} needs a layer that attends to lyrics: set --use_tokens=True")
    layer = layers[0] if hps.alignment_layer is None else hps.alignment_layer
    head = 0 if hps.alignment_head is None else hps.alignment_head
    if layer not in layers or not 0 <= head < hps.heads:
        raise UserError(
            f"alignment_layer={layer}, alignment_head={head}: layers that attend to lyrics "
            f"are {', '.join(map(str, layers))}, heads 0 to {hps.heads - 1}"
        )
    return dict(alignment_layer=layer, alignment_head=head, alignment_shift=READABLE_FROM)


def half_matrices(model: torch.nn.Module, dtype: torch.dtype = torch.half) -> None:
    """Keeps the matrices of all dense layers in another type; biases, embeddings and norms stay in float32.

    With torch.int8 they are frozen.
    """
    for module in model.modules():
        if isinstance(module, Conv1D):
            if dtype == torch.int8:
                module.to_int8()
            else:
                module.w.data = module.w.data.to(dtype)


def make_labeller(hps: Hyperparams, sample_length: int) -> Labeller | EmptyLabeller:
    """The labeller of a prior; building one needs no label table, looking a name up does."""
    if not hps.labels:
        return EmptyLabeller()
    return Labeller.from_folder(
        hps.labels_dir,
        hps.max_bow_genre_size,
        hps.n_tokens if hps.use_tokens else 0,
        sample_length,
        hps.labels_v3,
        hps.get("signals", ""),
    )


def make_prior(
    hps: Hyperparams,
    vqvae: VQVAE,
    device: torch.device | str = "cuda",
    labeller: Labeller | EmptyLabeller | None = None,
) -> SimplePrior:
    """Builds the prior of `hps.level` and loads `restore_prior`, if set.

    With a checkpoint the module is built without memory and takes the file's tensors, so the weights exist once. Label
    tables in the checkpoint are used, unless `labels_dir` names a folder that is there. With `hps.train` it is ready to
    train, else frozen and in eval mode. A `labeller` that is given wins over both. On the meta device no weights are
    read.
    """
    on_meta = torch.device(device).type == "meta"
    if hps.restore_prior and not on_meta:
        checkpoint = load_checkpoint(hps.restore_prior)
        named = bool(hps.labels_dir) and os.path.isdir(hps.labels_dir)  # it may be relative to another folder than ours
        if labeller is None and hps.labels and not named and checkpoint.get("labels"):
            sample_length = hps.n_ctx * vqvae.hop_lengths[hps.level]
            labeller = Labeller.from_state(
                {**checkpoint["labels"], "sample_length": sample_length, "signals": hps.get("signals", "")}
            )
        with torch.device("meta"):
            prior = build_prior(hps, vqvae, labeller)
        load_weights(prior, checkpoint, hps.restore_prior)
    else:
        with torch.device("meta") if on_meta else contextlib.nullcontext():
            prior = build_prior(hps, vqvae, labeller)
        restore_model(hps, prior, "")
    prior.to(device)
    if hps.train:
        prior.train()
    else:
        freeze_model(prior)
    return prior


def make_model(
    model: str, device: torch.device | str, hps: Mapping[str, Any], levels: Sequence[int] | None = None
) -> tuple[VQVAE, list[SimplePrior | None]]:
    """Builds a VQ-VAE and its priors by the name in MODELS.

    Args:
        hps: settings of the run; `sample_length` or `sample_length_in_seconds` are used, if they are there.
        levels: levels whose priors are wanted; None is all. The others are None in the result.

    Returns:
        (vqvae, priors from level 0 up).
    """
    if model not in MODELS:
        raise UserError(f"unknown model {model!r}{did_you_mean(model, MODELS)} Known: {', '.join(MODELS)}")
    vqvae_set, *prior_sets = MODELS[model]
    wanted = range(len(prior_sets)) if levels is None else levels
    settings = {key: hps[key] for key in ("sample_length", "sample_length_in_seconds") if key in hps}
    vqvae_hps = setup_hparams(vqvae_set, settings)
    vqvae = make_vqvae(vqvae_hps, device)
    priors: list[SimplePrior | None] = [None] * len(prior_sets)
    for level in wanted:
        priors[level] = make_prior(setup_hparams(prior_sets[level], {"sr": vqvae_hps.sr}), vqvae, device)
    return vqvae, priors


__all__ = [
    "HPARAMS_REGISTRY",
    "MODELS",
    "load_checkpoint",
    "load_weights",
    "make_model",
    "make_prior",
    "make_vqvae",
    "restore_model",
    "restore_opt",
    "save_checkpoint",
]
