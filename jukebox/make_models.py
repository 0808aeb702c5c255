"""Hyper-parameters in, modules out; and checkpoints in and out. The only place that knows both.

    vqvae, *priors = MODELS["1b_lyrics"]
    vqvae = make_vqvae(setup_hparams(vqvae, dict(sample_length=1048576)), device)
    top_prior = make_prior(setup_hparams(priors[-1], dict()), vqvae, device)

A model of your own: register its sets in `hparams.py` and name them here, VQ-VAE first, then priors from level 0 up.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jukebox.data.labels import EmptyLabeller, Labeller
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams, nearest, setup_hparams
from jukebox.prior.lyrics import READABLE_FROM
from jukebox.prior.prior import SimplePrior
from jukebox.transformer.ops import Conv1D
from jukebox.transformer.patterns import LYRIC_KINDS
from jukebox.utils.dist_adapter import get_world_size
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, save_torch
from jukebox.utils.huggingface import load_part, split_part
from jukebox.utils.remote_utils import fetch, is_remote
from jukebox.utils.torch_utils import freeze_model
from jukebox.vqvae.bottleneck import Bottleneck
from jukebox.vqvae.vqvae import VQVAE

MODELS: dict[str, tuple[str, ...]] = {
    "5b": ("vqvae", "upsampler_level_0", "upsampler_level_1", "prior_5b"),
    "5b_lyrics": ("vqvae", "upsampler_level_0", "upsampler_level_1", "prior_5b_lyrics"),
    "1b_lyrics": ("vqvae", "upsampler_level_0", "upsampler_level_1", "prior_1b_lyrics"),
    "demo": ("demo_vqvae", "demo_upsampler_0", "demo_upsampler_1", "demo_prior"),  # small, its weights are shipped
}


# ------------------------------------------------------------------------------------------------- checkpoints


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint; one that is named by URL is downloaded into the cache first.

    A part of a folder in the Hugging Face layout, `FOLDER#vqvae` or `FOLDER#level_2`, is read as a checkpoint, too
    (`jukebox/utils/huggingface.py`). Tensors stay on the disk until they are read.

    Returns:
        {hps, model, opt, step, ...}; a file that holds a bare state dict comes back as {model: it}.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint.
    """
    path = os.fspath(path)
    if part := split_part(path):
        return {"model": load_part(*part)}
    local = fetch(path) if is_remote(path) else path
    try:
        checkpoint = load_torch(local, mmap=True)
    except UserError:
        if not is_remote(path):
            raise
        checkpoint = load_torch(fetch(path, anew=True), mmap=True)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{local} holds no checkpoint: expected a dict with the weights under 'model'")
    if "model" not in checkpoint and checkpoint and all(isinstance(v, Tensor) for v in checkpoint.values()):
        checkpoint = {"model": checkpoint}
    if not isinstance(checkpoint.get("model"), dict):
        found = ", ".join(map(str, list(checkpoint)[:8])) or "nothing"
        raise UserError(f"{local} holds no checkpoint: expected the weights under 'model', found {found}")
    return checkpoint


def save_checkpoint(
    path: str | os.PathLike[str],
    hps: Mapping[str, Any],
    model: nn.Module | Mapping[str, Tensor],
    opt: Any = None,
    step: int = 0,
    **extra: Any,
) -> None:
    """Writes a checkpoint, whole or not at all.

    Args:
        path: the file; an earlier one of that name is replaced only when the new one is complete.
        hps: all hyper-parameters; the labeller's tables should travel under `labels`, see `Labeller.state`.
        model: a module or its state dict; a leading `module.` is dropped.
        opt: an optimizer, its state dict, or None.
        step: steps trained.
        extra: whatever a resumed run needs: plain types and tensors.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    opt_state = opt.state_dict() if hasattr(opt, "state_dict") else opt
    checkpoint = {
        "hps": dict(hps),
        "model": {_bare(key): value.detach() for key, value in state.items()},
        "opt": opt_state,
        "step": int(step),
        **extra,
    }
    save_torch(checkpoint, path)


def _bare(key: str) -> str:
    return key.removeprefix("module.")


def _difference(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """A short table of the keys that do not fit, or ""."""
    own = model.state_dict()
    rows = {
        "missing in the file": [f"{key} {list(own[key].shape)}" for key in own if key not in state],
        "unexpected in the file": [f"{key} {list(state[key].shape)}" for key in state if key not in own],
        "of another shape": [
            f"{key} {list(state[key].shape)}, the model has {list(own[key].shape)}"
            for key in own
            if key in state and own[key].shape != state[key].shape
        ],
    }
    lines = []
    for kind, keys in rows.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            lines.append(f"  {len(keys)} {kind}: {'; '.join(keys[:3])}{more}")
    return "\n".join(lines)


def _share_heads(model: nn.Module, state: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Where embedding and output head are one matrix, gives a file that holds it under one name the other, in place.

    Raises:
        UserError: the file holds two different matrices.
    """
    for name, module in model.named_modules():
        if not (getattr(module, "share_x_emb_x_out", False) and hasattr(module, "x_out")):
            continue
        prefix = f"{name}." if name else ""
        names = [f"{prefix}x_emb.weight", f"{prefix}x_out.weight"]
        found = [state[key] for key in names if key in state]
        if len(found) == 1:
            state.update(dict.fromkeys(names, found[0]))
        elif len(found) == 2 and found[0].shape == found[1].shape and not torch.equal(*found):
            raise UserError(
                f"{os.fspath(path)}: {names[0]} and {names[1]} differ, the model built from the hyper-parameters has "
                "one matrix for both; merged_decoder=True has two"
            )


def restore_model(hps: Mapping[str, Any], model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Loads the weights of a checkpoint into a model, each tensor once, in the model's own types.

    A model built on the meta device gets its tensors here, so that the weights are never held twice.

    Args:
        hps: hyper-parameters of the model, for the message when they do not fit.
        path: file or URL; an empty one leaves the model as it is, at step 0.

    Returns:
        The model, with `model.step` set to the steps it was trained.

    Raises:
        UserError: keys or shapes differ; the message lists them.
    """
    model.step = 0  # type: ignore[assignment]
    if not os.fspath(path):
        return model
    return load_weights(model, load_checkpoint(path), path)


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: str | os.PathLike[str]) -> nn.Module:
    """Loads the weights of a checkpoint that was read already; see `restore_model`.

    Args:
        path: where it came from, for messages.
    """
    state = {_bare(key): value for key, value in checkpoint["model"].items()}
    own = model.state_dict()
    if isinstance(model, SimplePrior):
        for name, module in model.named_modules():
            if hasattr(module, "cond") and hasattr(module, "x_emb"):
                from jukebox.prior.conditioners import rename_residual_blocks

                rename_residual_blocks(state, f"{name}.")
    _share_heads(model, state, path)
    difference = _difference(model, state)
    if difference:
        raise UserError(
            f"{os.fspath(path)} does not fit the model built from the hyper-parameters:\n{difference}\n"
            "  use the sets it was trained with, or --model=RUN_FOLDER, which takes them from the checkpoint"
        )
    on_meta = any(tensor.is_meta for tensor in own.values())
    for key in state:
        wanted = own[key]
        tensor = state[key] if state[key].dtype == wanted.dtype else state[key].to(wanted.dtype)
        state[key] = tensor if on_meta or wanted.device == tensor.device else tensor.to(wanted.device)
    if on_meta:
        model.load_state_dict(state, assign=True)
        for module in model.modules():
            if getattr(module, "share_x_emb_x_out", False) and hasattr(module, "x_out"):
                module.x_out.weight = module.x_emb.weight  # type: ignore[union-attr]
    else:
        model.load_state_dict(state)
    model.step = int(checkpoint.get("step", 0))  # type: ignore[assignment]
    return model


def restore_opt(opt: Any, shd: Any, path: str | os.PathLike[str]) -> None:
    """Loads optimizer state and learning-rate schedule of a checkpoint;
    an empty path or one without them does nothing.
    """
    if not os.fspath(path):
        return
    checkpoint = load_checkpoint(path)
    if checkpoint.get("opt") is not None:
        opt.load_state_dict(checkpoint["opt"])
    if shd is not None and "step" in checkpoint:
        shd.step(checkpoint["step"])


# ------------------------------------------------------------------------------------------------- modules


def make_vqvae(hps: Hyperparams, device: torch.device | str = "cuda") -> VQVAE:
    """Builds the VQ-VAE and loads `restore_vqvae`, if set.

    With `hps.train` and without `hps.prior` it is ready to train, else frozen and in eval mode.
    Where `sample_length` is 0 it follows from `sample_length_in_seconds`.
    """
    top = 1
    for down, stride in zip(hps.downs_t, hps.strides_t, strict=False):
        top *= stride**down
    if not hps.sample_length:
        hps.sample_length = int(hps.sample_length_in_seconds * hps.sr) // top * top
    if hps.sample_length % top:
        lower = hps.sample_length // top * top
        raise UserError(
            f"sample_length={hps.sample_length} is no multiple of {top}, the samples per code of the top level: "
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
        revival_threshold=hps.revival_threshold,
        width=hps.width,
        depth=hps.depth,
        m_conv=hps.m_conv,
        dilation_growth_rate=hps.dilation_growth_rate,
        dilation_cycle=hps.dilation_cycle,
        reverse_decoder_dilation=hps.vqvae_reverse_decoder_dilation,
    ).to(device)
    restore_model(hps, vqvae, hps.restore_vqvae)
    if hps.train and not hps.prior:
        if hps.restore_vqvae and isinstance(vqvae.bottleneck, Bottleneck):
            for level, hop in enumerate(vqvae.hop_lengths):
                tokens = hps.sample_length // hop * hps.bs * get_world_size()
                vqvae.bottleneck.level_blocks[level].restore_k(tokens, hps.revival_threshold)  # type: ignore[operator]
        vqvae.train()
    else:
        freeze_model(vqvae)
    return vqvae


def attention_kwargs(hps: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Arguments of `ConditionalAutoregressive2D`: the prior's, or with "prime_" those of the lyric encoder."""
    name = prefix or "prior_"
    return dict(
        width=hps[f"{name}width"],
        depth=hps[f"{name}depth"],
        **{
            key: hps[prefix + key]
            for key in (
                "heads attn_order blocks spread attn_dropout resid_dropout emb_dropout zero_out res_scale pos_init "
                "init_scale m_attn m_mlp"
            ).split()
        },
        checkpoint_res=hps[f"{prefix}c_res"] if hps["train"] else 0,
        checkpoint_attn=hps[f"{prefix}c_attn"] if hps["train"] else 0,
        checkpoint_mlp=hps[f"{prefix}c_mlp"] if hps["train"] else 0,
    )


def build_prior(hps: Hyperparams, vqvae: VQVAE) -> SimplePrior:
    """The module alone, with fresh weights on the current default device (`with torch.device("meta")` for none)."""
    if not 0 <= hps.level < vqvae.levels:
        raise UserError(f"level={hps.level}: the VQ-VAE has levels 0 to {vqvae.levels - 1}")
    if hps.labels and not (isinstance(hps.y_bins, (list, tuple)) and len(hps.y_bins) == 2):
        raise UserError(
            f"y_bins={hps.y_bins}: training with labels needs the number of genres and of artists, such as "
            "--y_bins=10,100 (python -m jukebox.data.labels build prints yours); or --labels=False"
        )
    codes = vqvae.z_shapes[hps.level][0]
    z_shapes = [(shape[0] * hps.n_ctx // codes,) for shape in vqvae.z_shapes]  # so that this level has n_ctx codes
    prior_kwargs = dict(input_shape=(hps.n_ctx,), bins=vqvae.l_bins, **attention_kwargs(hps))
    lyrics = dict(use_tokens=hps.use_tokens, prime_loss_fraction=hps.prime_loss_fraction, n_tokens=hps.n_tokens)
    prime_kwargs: dict[str, Any] = dict(lyrics, bins=hps.n_vocab)
    if hps.use_tokens and not hps.single_enc_dec:
        prime_kwargs.update(attention_kwargs(hps, "prime_"))
    prior = SimplePrior(
        z_shapes,
        vqvae.l_bins,
        hps.level,
        vqvae.downs_t,
        vqvae.strides_t,
        hps.labels,
        prior_kwargs,
        x_cond_kwargs=dict(
            out_width=hps.prior_width,
            init_scale=hps.init_scale,
            width=hps.cond_width,
            depth=hps.cond_depth,
            m_conv=hps.cond_m_conv,
            dilation_growth_rate=hps.cond_dilation_growth_rate,
            dilation_cycle=hps.cond_dilation_cycle,
            zero_out=hps.cond_zero_out,
            res_scale=hps.cond_res_scale,
            checkpoint_res=hps.cond_c_res if hps.train else 0,
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
        ),
        prime_kwargs=prime_kwargs,
        copy_input=hps.copy_input,
        labels_v3=hps.labels_v3,
        merged_decoder=hps.merged_decoder,
        single_enc_dec=hps.single_enc_dec,
        encoder=vqvae.encode,
        decoder=vqvae.decode,
    )
    prior.labeller = make_labeller(hps, prior.sample_length)
    if hps.align_loss:
        choose_guided_head(hps, prior)
    prior.alignment_layer, prior.alignment_head = hps.alignment_layer, hps.alignment_head
    prior.align_loss = hps.align_loss
    if hps.fp16_params:
        half_matrices(prior)
    return prior


def choose_guided_head(hps: Hyperparams, prior: SimplePrior) -> None:
    """Notes in the hyper-parameters which head `align_loss` teaches: where none is named, the first lyric one.

    Raises:
        UserError: the model has no layer that attends to lyrics, or the named one does not.
    """
    layers = [i for i, layer in enumerate(prior.prior.transformer.layers) if layer.attn_func in LYRIC_KINDS]
    if not layers:
        raise UserError(f"align_loss={hps.align_loss} needs a layer that attends to lyrics: set --use_tokens=True")
    if hps.alignment_layer is None:
        hps.alignment_layer = layers[0]
    if hps.alignment_head is None:
        hps.alignment_head = 0
    if hps.alignment_layer not in layers or not 0 <= hps.alignment_head < hps.heads:
        raise UserError(
            f"alignment_layer={hps.alignment_layer}, alignment_head={hps.alignment_head}: layers that attend to lyrics "
            f"are {', '.join(map(str, layers))}, heads 0 to {hps.heads - 1}"
        )
    hps.alignment_shift = READABLE_FROM


def half_matrices(model: nn.Module, dtype: torch.dtype = torch.half) -> None:
    """Keeps the matrices of all dense layers in another type; biases, embeddings and norms stay in float32."""
    for module in model.modules():
        if isinstance(module, Conv1D):
            module.w.data = module.w.data.to(dtype)


def make_labeller(hps: Hyperparams, sample_length: int) -> Labeller | EmptyLabeller:
    """The labeller of a prior; building one needs no label table, looking a name up does."""
    if not hps.labels:
        return EmptyLabeller()
    return Labeller.from_folder(
        hps.labels_dir, hps.max_bow_genre_size, hps.n_tokens if hps.use_tokens else 0, sample_length, hps.labels_v3
    )


def make_prior(hps: Hyperparams, vqvae: VQVAE, device: torch.device | str = "cuda") -> SimplePrior:
    """Builds the prior of `hps.level` and loads `restore_prior`, if set.

    With a checkpoint the module is built without memory and takes the file's tensors, so the weights exist once; label
    tables of its own that it holds are used, unless `labels_dir` names others.
    With `hps.train` it is ready to train, else frozen and in eval mode.
    """
    if hps.restore_prior:
        checkpoint = load_checkpoint(hps.restore_prior)
        with torch.device("meta"):
            prior = build_prior(hps, vqvae)
        load_weights(prior, checkpoint, hps.restore_prior)
        if hps.labels and not hps.labels_dir and checkpoint.get("labels"):
            prior.labeller = Labeller.from_state({**checkpoint["labels"], "sample_length": prior.sample_length})
    else:
        prior = build_prior(hps, vqvae)
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
        raise UserError(f"unknown model {model!r}{nearest(model, MODELS)} Known: {', '.join(MODELS)}")
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
    "make_model",
    "make_prior",
    "make_vqvae",
    "restore_model",
    "restore_opt",
    "save_checkpoint",
]
