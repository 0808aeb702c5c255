"""How long prompt, song and hops of windows are: seconds to samples, checked against what the model works on.

Lengths are in raw samples, whole tokens of the top level. Change here which lengths are refused and what is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jukebox.loaders import Model
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import at_most, enough, number, per_level, seconds_of

SECONDS = 24.0
HOP_FRACTION = (0.5, 0.5, 0.125)


def read_prompt_length(
    flags: Mapping[str, Any], mode: str, model: Model, codes_shape: Any, remarks: list[str]
) -> int | None:
    """Samples of the prompts or saved codes to keep; None keeps all that is saved."""
    flag = "prompt_length_in_seconds"
    seconds = seconds_of(flags, flag)
    per_code = model.samples_per_code[-1]
    if seconds is None:
        if mode == "primed":
            raise UserError(f"--mode=primed needs --{flag}, how much of the audio to begin with, such as --{flag}=12")
        return None
    if mode == "ancestral":
        raise UserError(f"--{flag} is for the other modes; leave it out, or use --mode=primed with --audio_file")
    length = int(seconds * model.sr) // per_code * per_code
    if length == 0:
        raise UserError(
            f"--{flag}={seconds:g} is shorter than one token of the top level: use {enough(per_code, model.sr)} or more"
        )
    if codes_shape is not None and length > codes_shape[1] * per_code:
        have = at_most(codes_shape[1] * per_code, model.sr)
        raise UserError(f"--{flag}={seconds:g}: the saved codes end there, use {have} or less, or leave it out for all")
    _tell_cut(remarks, f"--{flag}={seconds:g}", seconds, length, model)
    return length


def _tell_cut(remarks: list[str], asked: str, seconds: float, length: int, model: Model) -> None:
    """Remarks that a time was cut down to samples of whole tokens."""
    if abs(length / model.sr - seconds) > 1e-9:
        remarks.append(
            f"{asked} is cut to {length / model.sr:.4f} s, whole tokens of {model.samples_per_code[-1]} samples"
        )


def shortest_song(model: Model, sample_levels: Sequence[int]) -> int:
    """The least samples of a song: an upsampler reads the codes above of a whole context."""
    per_code = model.samples_per_code[-1]
    contexts = [
        found.sample_length
        for level in sample_levels
        if level < len(model.levels) - 1 and (found := model.levels[level]) is not None
    ]
    return max([per_code, *(-(-context // per_code) * per_code for context in contexts)])


def read_sample_length(
    flags: Mapping[str, Any],
    mode: str,
    model: Model,
    sample_levels: Sequence[int],
    codes_shape: Any,
    prompt_length: int | None,
    remarks: list[str],
) -> int:
    """Samples of a finished song."""
    flag = "sample_length_in_seconds"
    seconds, per_code, sr = seconds_of(flags, flag), model.samples_per_code[-1], model.sr
    saved = 0 if codes_shape is None else codes_shape[1] * per_code
    given = saved if prompt_length is None else prompt_length
    if mode == "upsample":
        if seconds is None:
            return given
        if int(seconds * sr) > given + per_code:
            raise UserError(f"--{flag}={seconds:g}: the codes to upsample end there, use {at_most(given, sr)} or less")
    known = None if model.top is None else model.top.hps.get("song_duration")
    usual = SECONDS if known is None or known * sr < given + per_code else min(SECONDS, known)
    asked = usual if seconds is None else seconds
    length = int(asked * sr) // per_code * per_code
    if mode == "upsample":
        length = min(length, given)
    if length == 0:
        least = enough(shortest_song(model, sample_levels), sr)
        raise UserError(f"--{flag}={asked:g} is shorter than one token of the top level: use {least} or more")
    if mode in ("primed", "continue") and given >= length:
        what = "prompt" if mode == "primed" else "saved codes"
        shorten = "a shorter --prompt_length_in_seconds" if length > per_code else "a longer --sample_length_in_seconds"
        least = enough(max(given + per_code, shortest_song(model, sample_levels)), sr)
        raise UserError(
            f"--{flag}={asked:g} leaves nothing to make after {given / sr:.2f} s of {what}: use {least} or more, "
            f"or {shorten}"
        )
    if seconds is None and usual == known:
        remarks.append(f"not given and taken: --{flag}={asked:.4g}")
    else:
        _tell_cut(remarks, f"--{flag}={asked:g}", asked, length, model)
    return length


def check_something_to_do(
    flags: Mapping[str, Any], model: Model, sample_levels: list[int], zs: Sequence[Any], sample_length: int
) -> None:
    """Refuses saved codes that leave nothing to make."""
    if all(zs[level].shape[1] >= sample_length // model.samples_per_code[level] for level in sample_levels):
        top = len(model.levels) - 1
        raise UserError(
            f"--codes_file={flags['codes_file']} holds {sample_length / model.sr:.2f} s of all levels that "
            f"--mode={flags['mode']} "
            f"makes: give the file of level_{top} to make the lower ones again, or ask for more with --mode=continue"
        )


def check_context(model: Model, sample_levels: Sequence[int], sample_length: int, most: int | None = None) -> None:
    """Refuses a song that is shorter than the context of an upsampler.

    Args:
        sample_length: of the song, in samples; most: what can be asked for, if there is a limit.
    """
    least = shortest_song(model, sample_levels)
    if sample_length >= least:
        return
    seconds = enough(least, model.sr)
    said = f"{sample_length / model.sr:.2f} s are too short: an upsampler works on {seconds} s at a time"
    if most is not None and most < least:
        raise UserError(f"{said}; give codes of that length or more, which --mode=continue makes")
    raise UserError(f"{said}; use --sample_length_in_seconds={seconds} or more")


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
        ratio = 1 if level == levels - 1 else model.samples_per_code[level + 1] // model.samples_per_code[level]
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
