"""The walk along one level: which window makes which tokens, and the calls of the prior that make them.

A prior sees one context of `n_ctx` tokens at a time. A longer song is made window by window. Each window begins at a
multiple of the hop, takes what is already there as its prefix and adds the rest. The last one is moved back so that it
ends exactly at the end of the song. For 20 tokens, a context of 8 and a hop of 5 (p known before, # new):

    position      0         1
                  01234567890123456789
    window 0      ########                  start  0, known 0, new 8
    window 1           ppp#####             start  5, known 3, new 5
    window 2                ppp#####        start 10, known 3, new 5
    window 3                  pppppp##      start 12, known 6, new 2

A song shorter than one context is made by a single partial window that starts at 0. A prompt shortens or skips the
windows that it fills. Codes of the level above are read for the whole context of a window, also of a partial one.

`schedule` of `utils/sample_utils.py`, which places the windows, is the plan that the command line follows.
`sample_level`, `sample_single_window` and `sample_partial_window` are the importable steps, with the outcome that
notebooks of this model family are used to. What a run keeps and writes is in `levels.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jukebox.prior.engine import engine_used
from jukebox.prior.prior import SimplePrior
from jukebox.sampling.options import LevelOptions, SamplingKwargs
from jukebox.sampling.streams import window_noise
from jukebox.utils.errors import UserError
from jukebox.utils.float32 import keep_float32
from jukebox.utils.memory import in_parts
from jukebox.utils.outside import current
from jukebox.utils.precision import half_dtype
from jukebox.utils.sample_utils import get_starts, schedule

Labels = Mapping[str, Any]
Progress = Callable[[int], None]


def sample_window(
    zs: Sequence[Tensor],
    labels: Labels,
    options: LevelOptions,
    level: int,
    prior: SimplePrior,
    start: int,
    end: int,
    progress: Progress | None = None,
) -> list[Tensor]:
    """Makes the tokens of a level that are missing up to `end`, from one window that begins at `start`.

    If memory runs out, the batch is halved (then the chunk), and `options` keep what fitted.

    Args:
        zs: codes per level, low to high, [N, T_level]; those of the level above must reach over the whole context.
        labels: `{y, info}` of this level for N songs.
        options: how to sample, for N songs.
        level: level of the prior.
        prior: the model of that level.
        start, end: tokens; the window is at most one context long.
        progress: called with the number of tokens that were made, summed over songs.

    Returns:
        zs with this level [N, max(T_level, end)].

    Raises:
        UserError: not even one song at a time fits the memory.
    """
    z = zs[level]
    z = z.to(getattr(prior, "device", z.device))
    n, have = z.shape
    known = have - start
    if known < 0:
        raise ValueError(f"a window at {start} cannot be made: level {level} has only {have} tokens")
    if have >= end:
        return list(zs)
    y = prior.get_y(labels, start)
    z_conds = prior.get_z_conds(list(zs), start, start + prior.n_ctx)
    noise = None
    if options.seed is not None:
        noise = window_noise(options.seed, options.songs or range(n), level, start, end - start, known)

    def run(first: int, last: int) -> Tensor:
        part = slice(first, last)
        chosen: dict[str, Any] = {} if options.engine == "auto" else {"engine": options.engine}
        codes = prior.sample(
            n_samples=last - first,
            z=z[part, start:],
            z_conds=None if z_conds is None else [cond[part] for cond in z_conds],
            y=None if y is None else y[part],
            sample_tokens=end - start,
            options=options.drawing,
            dtype=options.dtype,
            chunk_size=options.chunk_size,
            noise=None if noise is None else noise[part].to(z.device),
            progress=progress,
            **chosen,
        )
        options.drew(engine_used(options.engine))
        return codes[:, known:]

    def smaller(batch: int) -> int:
        return _lower(options, batch, known, z.device)

    made = [codes for _, _, codes in in_parts(n, options.max_batch_size or n, run, smaller)]
    zs = list(zs)
    zs[level] = torch.cat([z, torch.cat(made).to(z.device)], dim=1)
    return zs


def _lower(options: LevelOptions, batch: int, known: int, device: torch.device) -> int:
    """Takes a smaller batch, or if it is 1 a smaller chunk, after memory ran out; returns the batch."""
    chunk = options.chunk_size or known
    if batch > 1:
        options.max_batch_size = -(-batch // 2)
        return options.max_batch_size
    if chunk <= 16:
        ways = [] if options.dtype != torch.float32 else [f"--dtype={half_dtype(device)}"]
        ways += ["a machine with more of it"] if device.type == "cpu" else ["a larger device", "--device=cpu"]
        raise UserError(f"out of memory with one song at a time: use {' or '.join(ways)}")
    options.chunk_size = chunk // 2
    return batch


def keep_sizes(sampling_kwargs: SamplingKwargs, options: LevelOptions) -> None:
    """Puts the batch and the chunk that fitted the memory into the options of a notebook."""
    for key in ("max_batch_size", "chunk_size"):
        if getattr(options, key) != sampling_kwargs.get(key):
            sampling_kwargs[key] = getattr(options, key)


def walk_level(
    zs: Sequence[Tensor],
    labels: Labels,
    options: LevelOptions,
    level: int,
    prior: SimplePrior,
    total_length: int,
    hop_length: int,
    after_window: Callable[[list[Tensor]], None] | None = None,
    progress: Progress | None = None,
    hps: object = None,
) -> list[Tensor]:
    """Makes a level up to exactly `total_length` tokens; arguments as in `sample_window`.

    A function that was put in the place of `jukebox.sample.sample_single_window` makes the windows instead.

    Args:
        after_window: called with zs after each window, so that nothing is lost.
        progress: called with the number of tokens that were made.
    """
    result = list(zs)
    replaced = current("jukebox.sample", sample_single_window)
    for window in schedule(total_length, prior.n_ctx, hop_length, result[level].shape[1]):
        if replaced is sample_single_window:
            result = sample_window(result, labels, options, level, prior, window.start, window.end, progress=progress)
        else:
            kwargs = options.kwargs()
            if window.end - window.start < prior.n_ctx:
                kwargs["sample_tokens"] = window.end - window.start
            result = replaced(result, labels, kwargs, level, prior, window.start, hps)
            options.take_sizes(kwargs)
            if progress is not None:
                progress(window.new * result[level].shape[0])
        if after_window is not None:
            after_window(result)
    return result


@keep_float32()
def sample_single_window(
    zs: Sequence[Tensor],
    labels: Labels,
    sampling_kwargs: SamplingKwargs,
    level: int,
    prior: SimplePrior,
    start: int,
    hps: object,
) -> list[Tensor]:
    """Makes what is missing in the window that begins at `start`.

    Args:
        zs, labels, level, prior: as in `sample_window`.
        sampling_kwargs: temp, fp16, chunk_size, max_batch_size, and optionally top_k, top_p, dtype (its name), seed,
            songs, engine; it keeps the sizes that fitted the memory. `sample_tokens` is the length of the window, else
            it is the whole context.
        start: first token of the window.
        hps: not needed; part of the signature that notebooks use.

    Returns:
        zs with the new codes appended to this level.
    """
    length = sampling_kwargs.get("sample_tokens") or prior.n_ctx
    options = LevelOptions.from_kwargs(sampling_kwargs)
    try:
        return sample_window(zs, labels, options, level, prior, start, start + length)
    finally:
        keep_sizes(sampling_kwargs, options)


def sample_partial_window(
    zs: Sequence[Tensor],
    labels: Labels,
    sampling_kwargs: SamplingKwargs,
    level: int,
    prior: SimplePrior,
    tokens_to_sample: int,
    hps: object,
) -> list[Tensor]:
    """Adds `tokens_to_sample` codes to what exists; the window is as far back as possible.

    Leaves the length of its window as `sample_tokens` in sampling_kwargs, as notebooks expect; `sample_single_window`
    would go by it.

    Returns:
        zs with tokens_to_sample more codes at this level.
    """
    end = zs[level].shape[1] + tokens_to_sample
    start = max(0, end - prior.n_ctx)
    sampling_kwargs["sample_tokens"] = end - start
    return current("jukebox.sample", sample_single_window)(zs, labels, sampling_kwargs, level, prior, start, hps)


def sample_level(
    zs: Sequence[Tensor],
    labels: Labels,
    sampling_kwargs: SamplingKwargs,
    level: int,
    prior: SimplePrior,
    total_length: int,
    hop_length: int,
    hps: object,
) -> list[Tensor]:
    """Makes a level by windows.

    If `total_length` is below the context it adds that many codes to those already there, so a prompt makes the result
    longer. `walk_level`, which the command line uses, stops at `total_length` instead.

    Args:
        zs, labels, sampling_kwargs, level, prior: as in `sample_single_window`.
        total_length: tokens that the level will have.
        hop_length: new tokens of a usual window.
        hps: not needed; part of the signature that notebooks use.

    Returns:
        zs with the new codes appended to this level.
    """
    if total_length < prior.n_ctx:
        return sample_partial_window(zs, labels, sampling_kwargs, level, prior, total_length, hps)
    result = list(zs)
    for start in get_starts(total_length, prior.n_ctx, hop_length):
        single = current("jukebox.sample", sample_single_window)
        result = single(result, labels, sampling_kwargs, level, prior, start, hps)
    return result
