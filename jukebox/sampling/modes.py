"""The four ways to begin, as notebooks of this model family call them.

    ancestral_sample   from nothing               continue_sample   from codes, continue every level
    primed_sample      from audio                 upsample          from codes of the top level, make the others

All end in `_sample`, which makes levels from the top down and writes each to `hps.name/level_L`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jukebox.hparams import Hyperparams
from jukebox.loaders import Prior
from jukebox.sampling.levels import run_levels
from jukebox.sampling.prompts import device_of, encode_prompts
from jukebox.utils.float32 import keep_float32

Labels = dict[str, Any]
SamplingKwargs = dict[str, Any]


@keep_float32()
def _sample(
    zs: Sequence[Tensor | None],
    labels: Sequence[Labels | None],
    sampling_kwargs: Sequence[SamplingKwargs],
    priors: Sequence[Prior | None],
    sample_levels: Sequence[int],
    hps: Hyperparams,
    **more: Any,
) -> list[Tensor]:
    """Makes levels from the highest down.

    Args:
        zs: codes per level, low to high, int64 [N, T_level]; empty, or what is given. None is empty.
        labels: per level `{y, info}`; None for levels that are not made.
        sampling_kwargs: per level temp, fp16, chunk_size, max_batch_size, and optionally top_k, top_p, seed, songs,
            dtype.
        priors: per level; None for levels that are not made.
        sample_levels: levels to make.
        hps: `name` (folder to write to), `sample_length` (samples), `hop_fraction` per level, `levels`, `sr`.
        more: see `levels.run_levels`.

    Returns:
        zs with those levels made, each sample_length // raw_to_tokens codes long, where labels and weights are.
    """
    device = device_of(priors, labels)
    songs = next(len(z) for z in zs if z is not None)
    own = [torch.zeros(songs, 0, dtype=torch.long, device=device) if z is None else z.to(device) for z in zs]
    return run_levels(own, labels, sampling_kwargs, priors, sample_levels, hps, **more)


def ancestral_sample(*given: Any, **more: Any) -> list[Tensor]:
    """Makes songs from nothing: `ancestral_sample(labels, sampling_kwargs, priors, hps)`.

    A list of codes in front of these four, as the other modes have it, is begun with.

    Args: as `_sample`; all levels that have a prior are made.

    Returns:
        Codes per level, low to high.
    """
    names = ["labels", "sampling_kwargs", "priors", "hps"]
    if len(given) + sum(name in more for name in ["zs", *names]) == 5:
        names = ["zs", *names]
    values = dict(zip([name for name in names if name not in more], given, strict=True))
    values.update({name: more.pop(name) for name in names if name in more})
    zs, labels, priors, hps = values.get("zs"), values["labels"], values["priors"], values["hps"]
    if zs is None:
        device = device_of(priors, labels)
        zs = [torch.zeros(hps.n_samples, 0, dtype=torch.long, device=device) for _ in priors]
    return _sample(zs, labels, values["sampling_kwargs"], priors, _levels(priors), hps, **more)


@keep_float32()
def primed_sample(
    x: Tensor,
    labels: Sequence[Labels | None],
    sampling_kwargs: Sequence[SamplingKwargs],
    priors: Sequence[Prior | None],
    hps: Hyperparams,
    **more: Any,
) -> list[Tensor]:
    """Continues audio.

    Args:
        x: prompts [N, T, 1], see `load_prompts`; T is cut to whole tokens of the top level.
        The rest as in `_sample`; all levels that have a prior are made.

    Returns:
        Codes per level, low to high, that begin with those of the prompts.
    """
    return _sample(encode_prompts(x, priors, labels), labels, sampling_kwargs, priors, _levels(priors), hps, **more)


def continue_sample(
    zs: Sequence[Tensor | None],
    labels: Sequence[Labels | None],
    sampling_kwargs: Sequence[SamplingKwargs],
    priors: Sequence[Prior | None],
    hps: Hyperparams,
    **more: Any,
) -> list[Tensor]:
    """Continues codes, see `load_codes`, at every level that has a prior. Arguments and result as in `_sample`."""
    return _sample(zs, labels, sampling_kwargs, priors, _levels(priors), hps, **more)


def upsample(
    zs: Sequence[Tensor | None],
    labels: Sequence[Labels | None],
    sampling_kwargs: Sequence[SamplingKwargs],
    priors: Sequence[Prior | None],
    hps: Hyperparams,
    **more: Any,
) -> list[Tensor]:
    """Makes the levels below the top from codes of the top. Arguments and result as in `_sample`."""
    return _sample(zs, labels, sampling_kwargs, priors, _levels(priors[:-1]), hps, **more)


def _levels(priors: Sequence[Prior | None]) -> list[int]:
    return [level for level, prior in enumerate(priors) if prior is not None]


__all__ = [
    "_sample",
    "ancestral_sample",
    "continue_sample",
    "primed_sample",
    "upsample",
]
