"""How long prompt, song and hops are: seconds to samples, checked against what the model works on.

Lengths are in raw samples, whole tokens of the top level. Change here which lengths are refused and what is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jukebox.sampling.models import Model
from jukebox.sampling.values import number, per_level, seconds_of
from jukebox.utils.errors import UserError

SECONDS = 24.0
HOP_FRACTION = (0.5, 0.5, 0.125)


def read_prompt_length(flags: Mapping[str, Any], mode: str, model: Model, codes_shape: Any) -> int | None:
    """Samples of the prompts or saved codes to keep; None keeps all that is saved."""
    flag = "prompt_length_in_seconds"
    seconds = seconds_of(flags, flag)
    top_hop = model.hops[-1]
    if seconds is None:
        if mode == "primed":
            raise UserError(f"--mode=primed needs --{flag}, how much of the audio to begin with, such as --{flag}=12")
        return None
    if mode == "ancestral":
        raise UserError(f"--{flag} is for the other modes; leave it out, or use --mode=primed with --audio_file")
    length = int(seconds * model.sr) // top_hop * top_hop
    if length == 0:
        raise UserError(
            f"--{flag}={seconds:g} is shorter than one token of the top level: use {top_hop / model.sr:.4f} or more"
        )
    if codes_shape is not None and length > codes_shape[1] * top_hop:
        have = codes_shape[1] * top_hop / model.sr
        raise UserError(
            f"--{flag}={seconds:g}: the saved codes hold {have:.2f} s; use that or less, or leave it out for all"
        )
    return length


def read_sample_length(
    flags: Mapping[str, Any], mode: str, model: Model, codes_shape: Any, prompt_length: int | None, notices: list[str]
) -> int:
    """Samples of a finished song."""
    flag = "sample_length_in_seconds"
    seconds, top_hop, sr = seconds_of(flags, flag), model.hops[-1], model.sr
    saved = 0 if codes_shape is None else codes_shape[1] * top_hop
    given = saved if prompt_length is None else prompt_length
    if mode == "upsample":
        if seconds is None:
            return given
        if int(seconds * sr) > given + top_hop:
            raise UserError(f"--{flag}={seconds:g}: --mode=upsample has {given / sr:.2f} s of codes; use that or less")
    asked = SECONDS if seconds is None else seconds
    length = int(asked * sr) // top_hop * top_hop
    if mode == "upsample":
        length = min(length, given)
    if length == 0:
        raise UserError(
            f"--{flag}={asked:g} is shorter than one token of the top level: use {top_hop / sr:.4f} or more"
        )
    if mode in ("primed", "continue") and given >= length:
        what = "prompt" if mode == "primed" else "saved codes"
        shorten = "a shorter --prompt_length_in_seconds" if length > top_hop else "a longer --sample_length_in_seconds"
        raise UserError(
            f"--{flag}={asked:g} leaves nothing to make after {given / sr:.2f} s of {what}: "
            f"use more than {given / sr:.2f}, or {shorten}"
        )
    if abs(length / sr - asked) > 1e-9 and mode != "upsample":
        notices.append(f"{asked:g} s are cut to {length / sr:.4f} s, whole tokens of {top_hop} samples")
    return length


def check_something_to_do(
    flags: Mapping[str, Any], model: Model, sample_levels: list[int], zs: Sequence[Any], sample_length: int
) -> None:
    """Refuses saved codes that leave nothing to make."""
    if all(zs[level].shape[1] >= sample_length // model.hops[level] for level in sample_levels):
        top = len(model.levels) - 1
        raise UserError(
            f"--codes_file={flags['codes_file']} holds {sample_length / model.sr:.2f} s of all levels that "
            f"--mode={flags['mode']} "
            f"makes: give the file of level_{top} to make the lower ones anew, or ask for more with --mode=continue"
        )


def check_context(model: Model, level: int, sample_length: int) -> None:
    """An upsampler reads the codes above of a whole context, so the song must be as long as one."""
    found = model.levels[level]
    assert found is not None
    if level < len(model.levels) - 1 and sample_length < found.sample_length:
        least = math.ceil(found.sample_length / model.hops[-1]) * model.hops[-1] / model.sr
        raise UserError(
            f"{sample_length / model.sr:.2f} s are too short: the upsampler of level {level} works on {least:.3f} "
            "s at a time; "
            f"use --sample_length_in_seconds={math.ceil(least * 1000) / 1000:.3f} or more"
        )


def read_hop_fraction(flags: Mapping[str, Any], model: Model, sample_levels: list[int]) -> list[float]:
    """New tokens per window as a fraction of the context, per level; every hop must fit the level above."""
    levels = len(model.levels)
    default = (list(HOP_FRACTION) + [HOP_FRACTION[-1]] * levels)[:levels]
    fractions = [
        number("hop_fraction", fraction, above=0.0)
        for fraction in per_level("hop_fraction", flags.get("hop_fraction", default), levels)
    ]
    for level in sample_levels:
        found = model.levels[level]
        assert found is not None
        fraction, n_ctx = fractions[level], found.n_ctx
        if fraction > 1:
            raise UserError(f"--hop_fraction={fraction:g} of level {level}: windows would leave gaps; use 1 or less")
        ratio = 1 if level == levels - 1 else model.hops[level + 1] // model.hops[level]
        hop = int(fraction * n_ctx)
        if hop < ratio or hop % ratio:
            good = max(1, round(fraction * n_ctx / ratio)) * ratio
            raise UserError(
                f"--hop_fraction={fraction:g} of level {level} is {hop} of {n_ctx} tokens, and must be a multiple "
                f"of {ratio} "
                f"from {ratio} up: use {_fraction(good, n_ctx)}"
            )
    return fractions


def _fraction(hop: int, n_ctx: int) -> str:
    """The shortest decimal that gives the hop."""
    for digits in range(1, 17):
        for value in (round(hop / n_ctx, digits), math.ceil(hop / n_ctx * 10**digits) / 10**digits):
            if int(value * n_ctx) == hop:
                return repr(value)
    return repr(hop / n_ctx)
