"""Hyper-parameters of a run once all that was left open is decided; they cannot be changed afterwards.

Two steps, since one choice needs the data and the data need another: `resolve`, then `resolve_for_data`. Change here
what a run chooses by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from jukebox.data.data_processor import DataProcessor
from jukebox.hparams import FrozenHyperparams, Hyperparams
from jukebox.make_models import choose_guided_head
from jukebox.training.planning import RECOMPUTE, choose_recompute
from jukebox.utils import dist_adapter as dist
from jukebox.utils.audio_utils import calculate_bandwidth
from jukebox.utils.dist_utils import any_rank, print_once
from jukebox.utils.memory import free_bytes


def resolve(hps: Hyperparams, device: torch.device, checkpoint: Mapping[str, Any]) -> FrozenHyperparams:
    """Decides what the command left open and what the run's own checkpoint has decided.

    `seed`: a run keeps the one it began with, since the order of its items comes from that. `bf16`: if it is None,
    priors use it on GPUs that have it; a VQ-VAE keeps all digits of audio. `ema_warmup`: only from a run's start.
    `recompute`: what it sets.

    Args:
        hps: checked by `check_training`.
        device: where the model computes.
        checkpoint: of the run; empty for a new one.
    """
    seed = checkpoint.get("hps", {}).get("seed", hps.seed)
    if seed != hps.seed:
        print_once(f"--seed={hps.seed} is for new runs: this one keeps seed {seed}")
    warmup = hps.ema_warmup and (not checkpoint or checkpoint.get("hps", {}).get("ema_warmup", False))
    bf16 = hps.bf16
    if bf16 is None:
        able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        bf16 = bool(able and hps.prior and not hps.fp16)
    hps = hps.frozen(seed=seed, bf16=bf16, ema_warmup=warmup)
    return hps.frozen(**_recompute(hps, device)) if hps.train else hps


def _recompute(hps: Hyperparams, device: torch.device) -> dict[str, int]:
    """What is recomputed, on all ranks the same: sharded layers are gathered again for it."""
    free = free_bytes(device) if hps.recompute == "auto" else 0
    found, line = choose_recompute(hps, free, dist.get_world_size())
    if hps.recompute != "auto":
        return found
    if any_rank(found == RECOMPUTE["all"], device) and found != RECOMPUTE["all"]:
        found, line = RECOMPUTE["all"], "recompute=auto: layers are recomputed, since another rank has less memory free"
    print_once(line)
    return found


def resolve_for_data(hps: Hyperparams, data: DataProcessor, checkpoint: Mapping[str, Any]) -> FrozenHyperparams:
    """Decides what depends on the songs.

    `bandwidth`: how loud they are, by which a VQ-VAE's losses are divided; a run keeps what it measured first.
    `align_loss`: 0 if no song has timed lyrics. `alignment_layer`, `alignment_head`, `alignment_shift`: the head
    that it teaches, and none if it was not taught.
    """
    if not hps.prior:
        return hps.frozen(bandwidth=checkpoint.get("bandwidth") or calculate_bandwidth(data.train_dataset, hps))
    align_loss = hps.align_loss
    if align_loss > 0 and not data.dataset.has_times():
        print_once("no song has timed lyrics, an .lrc file beside it: align_loss has nothing to teach and is left out")
        align_loss = 0.0
    head = choose_guided_head(hps) if align_loss else {}
    if head and hps.alignment_layer is None:
        print_once("align_loss teaches head {alignment_head} of layer {alignment_layer}".format(**head))
    return hps.frozen(align_loss=align_loss, bandwidth={}, **head)
