"""What can be refused before anything is loaded: hyper-parameters that cannot work together.

No torch here, so that a typing mistake costs no waiting. Every message says what was given and what to type instead.
"""

from __future__ import annotations

import math
import os
import re

from jukebox.hparams import Hyperparams
from jukebox.transformer.orders import known_orders
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import DAMAGED, choice
from jukebox.utils.levels import samples_per_code
from jukebox.vqvae.loss_kinds import check_loss


def check_training(hps: Hyperparams) -> None:
    """Refuses a training run that cannot work.

    Raises:
        UserError: the first thing that is wrong.
    """
    _check_run(hps)
    _check_data(hps)
    _check_levels(hps)
    if hps.prior:
        _check_prior(hps)
    else:
        _check_vqvae(hps)
    _check_precision(hps)
    _check_scale(hps)


def _check_run(hps: Hyperparams) -> None:
    if not hps.name and not hps.dry_run:
        raise UserError("--name is missing: choose a name for the run, such as --name=small_vqvae")
    if not (hps.train or hps.test or hps.dry_run):
        raise UserError("nothing to do: give --train to train, --test to evaluate on the held-out songs, or both")
    if hps.recompute:
        choice("recompute", hps.recompute, ["auto", "all", "none"])
        if not hps.prior:
            raise UserError(f"recompute={hps.recompute}: it is for a prior; leave it out for a VQ-VAE")
    for key in (
        "bs",
        "bs_sample",
        "epochs",
        "iters_before_update",
        "save_iters",
        "log_steps",
        "cpu_ema_freq",
        "sr",
        "n_segment",
    ):
        if hps[key] < 1:
            raise UserError(f"{key}={hps[key]}: must be at least 1")
    if hps.eps == 0:
        raise UserError("eps=0: gradients of zero would be divided by zero; use the default --eps=1e-8, or another")
    for key in ("lr", "clip", "eps", "save_minutes", "weight_decay", "ignore_grad_norm", "nworkers"):
        if hps[key] < 0:
            raise UserError(f"{key}={hps[key]}: must not be negative")
    for key in ("beta1", "beta2", *(key for key in hps if key.endswith("_dropout"))):
        if not 0.0 <= hps[key] < 1.0:
            raise UserError(f"{key}={hps[key]}: must be in [0, 1)")
    if hps.mu is not None and not 0.0 <= hps.mu < 1.0:
        raise UserError(
            f"mu={hps.mu}: must be in [0, 1), since 1 would keep the average at the first weights; "
            "leave it out for 1 - (bs * processes / 8) / 1000"
        )
    if hps.lr_use_linear_decay and hps.lr_use_cosine_decay:
        raise UserError("lr_use_linear_decay and lr_use_cosine_decay exclude each other: give one of them")
    if hps.lr_decay <= 0 or hps.lr_warmup < 0:
        raise UserError(
            f"lr_decay={hps.lr_decay:g}, lr_warmup={hps.lr_warmup:g}: lr_decay must be above 0, lr_warmup not below"
        )


def _check_data(hps: Hyperparams) -> None:
    if not 0.0 < hps.train_test_split <= 1.0:
        raise UserError(
            f"train_test_split={hps.train_test_split}: the share of songs to train on must be above 0 and at most 1, "
            "such as --train_test_split=0.9"
        )
    if hps.channels not in (1, 2):
        raise UserError(f"channels={hps.channels}: use 1 or 2; files of more channels are mixed to them")
    choice("damaged", hps.damaged, DAMAGED)
    if hps.dry_run:
        return  # a plan needs no songs
    if not hps.audio_files_dir:
        raise UserError("--audio_files_dir is missing: give the folder of audio files to train on")
    if not os.path.isdir(hps.audio_files_dir):
        kind = "is a file" if os.path.exists(hps.audio_files_dir) else "does not exist"
        raise UserError(f"audio_files_dir={hps.audio_files_dir} {kind}: give the folder of audio files to train on")


def _check_levels(hps: Hyperparams) -> None:
    if hps.levels < 1:
        raise UserError(f"levels={hps.levels}: must be at least 1")
    for key in ("downs_t", "strides_t", "hvqvae_multipliers"):
        if hps[key] is not None and len(hps[key]) != hps.levels:
            given = ",".join(map(str, hps[key]))
            raise UserError(
                f"levels={hps.levels}, but {key}={given} has {len(hps[key])} entries: use --levels={len(hps[key])}, "
                "or one entry per level"
            )
        if hps[key] is not None and any(not isinstance(n, int) or n < 1 for n in hps[key]):
            raise UserError(f"{key}={','.join(map(str, hps[key]))}: must be whole numbers from 1 on")
    for key in ("l_bins", "emb_width", "width", "depth", "linf_k"):
        if hps[key] < 1:
            raise UserError(f"{key}={hps[key]}: must be at least 1")
    if not 0.0 <= hps.l_mu < 1.0:
        raise UserError(
            f"l_mu={hps.l_mu}: must be in [0, 1), since 1 would keep the codebook as it began; the default is 0.99"
        )


def _check_vqvae(hps: Hyperparams) -> None:
    check_loss(hps.loss_fn, hps)
    if hps.quantizer != "codebook":  # which needs no torch
        from jukebox.vqvae.bottleneck import find_quantizer

        find_quantizer(hps.quantizer)
    per_code = samples_per_code(hps.strides_t, hps.downs_t)[-1]
    if hps.sample_length < per_code or hps.sample_length % per_code:
        below, near = hps.sample_length // per_code * per_code, max(1, round(hps.sample_length / per_code)) * per_code
        advice = (
            f"{near}"
            if hps.sample_length
            else f"a multiple of {per_code}, such as {max(1, 262144 // per_code) * per_code}"
        )
        raise UserError(
            f"sample_length={hps.sample_length}: the top level makes one code of {per_code} samples, so it must be "
            f"a multiple of that; use --sample_length={advice}" + (f" or {below}" if 0 < below != near else "")
        )


def _check_prior(hps: Hyperparams) -> None:
    if not 0 <= hps.level < hps.levels:
        raise UserError(
            f"level={hps.level}: levels={hps.levels} means that level goes from 0 (finest) to {hps.levels - 1} (top)"
        )
    if not hps.restore_vqvae and not hps.dry_run:
        raise UserError(
            "a prior needs a trained VQ-VAE: give --restore_vqvae=logs/RUN/checkpoint_latest.pth.tar, "
            "or --hps=vqvae,... for the released one"
        )
    for key in ("restore_vqvae", "restore_prior"):
        folder = re.sub(r"#(vqvae|level_\d+)$", "", hps[key])  # a part of a folder in the Hugging Face layout
        is_there = os.path.isfile(hps[key]) or (folder != hps[key] and os.path.isdir(folder))
        if hps[key] and "://" not in hps[key] and not hps.dry_run and not is_there:
            raise UserError(f"{key}={hps[key]} does not exist: give the path of a checkpoint file")
    if not hps.use_bottleneck:
        raise UserError("use_bottleneck=False: a VQ-VAE without codes gives a prior nothing to model")
    right = hps.n_ctx * samples_per_code(hps.strides_t, hps.downs_t)[hps.level]
    if hps.sample_length != right:
        raise UserError(
            f"sample_length={hps.sample_length}, but n_ctx={hps.n_ctx} tokens of level {hps.level} are {right} samples "
            f"({right / hps.sr:.2f} s): use --sample_length={right}"
        )
    if hps.labels and not isinstance(hps.y_bins, (list, tuple)):
        raise UserError(
            "labels=True needs y_bins=GENRES,ARTISTS (the sizes of your label tables plus one), as in the set "
            "small_labelled_prior; to train without labels give --labels=False"
        )
    _check_attention(hps, "")
    if hps.use_tokens and not hps.single_enc_dec:
        _check_attention(hps, "prime_")
    if hps.use_tokens and not hps.labels:
        raise UserError("use_tokens=True conditions on lyrics, which come with the labels: give --labels=True")
    if hps.use_tokens and hps.n_tokens < 1:
        raise UserError(
            f"use_tokens=True with n_tokens={hps.n_tokens}: give the lyric characters of a window, such as 384"
        )
    if hps.use_tokens and hps.n_tokens % 2:
        raise UserError(
            f"n_tokens={hps.n_tokens}: a window of lyrics has as many characters before its middle as after it; "
            f"use --n_tokens={hps.n_tokens + 1}"
        )


def _check_attention(hps: Hyperparams, prefix: str) -> None:
    """The transformer of a prior, or with "prime_" that of its lyric encoder."""
    width, depth = (f"{prefix or 'prior_'}{key}" for key in ("width", "depth"))
    heads, order, factor, blocks = (f"{prefix}{key}" for key in ("heads", "attn_order", "m_attn", "blocks"))
    for key in (width, depth, heads, "n_ctx", *([blocks] if hps[blocks] is not None else [])):
        if hps[key] < 1:
            raise UserError(f"{key}={hps[key]}: must be at least 1")
    state = int(hps[factor] * hps[width])
    if state < 1 or state % hps[heads]:
        raise UserError(
            f"{heads}={hps[heads]}: attention is {factor} * {width} = {state} wide, and heads must divide that; "
            f"use --{heads}={math.gcd(max(1, state), hps[heads])}, or another {width}"
        )
    if hps[order] not in known_orders():
        raise UserError(f"{order}={hps[order]}: choose one of {', '.join(map(str, known_orders()))}")


def _check_precision(hps: Hyperparams) -> None:
    if hps.fp16 and hps.bf16:
        raise UserError("fp16 and bf16 exclude each other: give one of them")
    if not hps.prior and (hps.fp16 or hps.fp16_params or hps.fp16_opt):
        raise UserError("fp16 is a recipe for priors: leave all_fp16 out to train a VQ-VAE, or use --bf16")
    if hps.prior and hps.fp16_params and not hps.fp16:
        raise UserError(
            "fp16_params=True keeps matrices in half precision, which needs fp16=True: use --hps=...,all_fp16"
        )
    if hps.fp16_scale_window <= 0:
        raise UserError(f"fp16_scale_window={hps.fp16_scale_window}: must be above 0")
    if hps.fp16_loss_scale is not None and not 0.0 < hps.fp16_loss_scale < math.inf:
        raise UserError(
            f"fp16_loss_scale={hps.fp16_loss_scale}: must be above 0, such as 65536; leave it out to have it adapt"
        )


def _check_scale(hps: Hyperparams) -> None:
    top = samples_per_code(hps.strides_t, hps.downs_t)[-1]
    if hps.sample_length // top % hps.n_segment:
        raise UserError(
            f"n_segment={hps.n_segment}: a chunk has {hps.sample_length // top} codes of the top level, "
            "and every part must have the same number: use a divisor of that"
        )
    if not hps.prior:
        if hps.codes_dir:
            raise UserError(
                f"codes_dir={hps.codes_dir} is for priors, a VQ-VAE learns from audio: leave it out, or add --prior"
            )
        if hps.finetune_layers and (hps.finetune_layers != "decoders" or not hps.restore_vqvae):
            raise UserError(
                f"finetune_layers={hps.finetune_layers}: of a VQ-VAE only its decoders can be trained further, with "
                "--finetune_layers=decoders --restore_vqvae=CHECKPOINT; numbers of layers go with --prior"
            )
    if hps.codes_dir and hps.aug_blend:
        raise UserError("codes_dir: codes are of one mix of the channels, so leave aug_blend out (--aug_blend=False)")
    if not all(n.strip().isdigit() and int(n) for n in hps.plan_ranks.split(",") if hps.plan_ranks) or hps.plan_gb < 0:
        raise UserError(
            f"plan_ranks={hps.plan_ranks}, plan_gb={hps.plan_gb}: numbers of processes from 1 on and a size in GiB, "
            "such as --plan_ranks=8,64 --plan_gb=80"
        )
