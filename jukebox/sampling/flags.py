"""From flags to a run: every value is checked before any weight is read, and each error says what to type instead.

`read_settings` turns the flags that were given into a frozen `Settings`, with everything in samples and tokens. Lengths
and hops are checked in `lengths.py`, labels in `songs.py`, single values in `utils/flag_values.py`, and here what
belongs to which mode. The list of flags with their help is in `sample.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jukebox.loaders import Model
from jukebox.prior.engine import ENGINES
from jukebox.sampling.lengths import (
    check_context,
    check_something_to_do,
    read_hop_fraction,
    read_prompt_length,
    read_sample_length,
)
from jukebox.sampling.options import read_drawing
from jukebox.sampling.prompts import check_codes, read_codes, shown, split_prompts
from jukebox.sampling.settings import MODES, Settings
from jukebox.sampling.songs import full_metas, read_said
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import (
    DAMAGED,
    FORMATS,
    UNKNOWN_LABELS,
    choice,
    device_name,
    per_level,
    port_number,
    whole,
)
from jukebox.utils.precision import DTYPES

MOST_SONGS = 10_000


def read_settings(flags: Mapping[str, Any], model: Model) -> Settings:
    """Checks the flags that were given against each other and against the model.

    Args:
        flags: the given flags by name; those left out are missing.
        model: what --model names.

    Raises:
        UserError: the first thing that cannot work, with what to type instead.
    """
    notices, remarks = list(model.notices), list[str]()
    name = str(flags.get("name", "")).rstrip("/\\")
    if not name:
        raise UserError("--name is missing: give the folder to write to, such as --name=out/first_try")
    mode = choice("mode", str(flags.get("mode", MODES[0])), MODES)
    levels = len(model.levels)
    if flags.get("levels") is not None and flags["levels"] != levels:
        raise UserError(
            f"--levels={flags['levels']}: model {model.name} has {levels} levels; use {levels} or leave it out"
        )
    if flags.get("sr") is not None and flags["sr"] != model.sr:
        raise UserError(f"--sr={flags['sr']}: model {model.name} makes {model.sr} Hz; use that or leave --sr out")

    lowest = whole("lowest_level", flags.get("lowest_level", 0), least=0, most=levels - 1)
    sample_levels = [level for level in _sample_levels(model, mode) if level >= lowest]
    prompts, codes = _inputs(flags, mode, model)
    n_codes = None if codes is None else codes["zs"][-1].shape
    prompt_length = read_prompt_length(flags, mode, model, n_codes, remarks)
    sample_length = read_sample_length(flags, mode, model, sample_levels, n_codes, prompt_length, remarks)
    most = (
        None
        if mode != "upsample" or codes is None
        else prompt_length or codes["zs"][-1].shape[1] * model.samples_per_code[-1]
    )
    check_context(model, sample_levels, sample_length, most)
    if codes is not None and prompt_length is None:
        check_something_to_do(flags, model, sample_levels, codes["zs"], sample_length)
    hop_fraction = read_hop_fraction(flags, model, sample_levels)

    said = read_said(flags, model, codes, notices)
    given = {
        "prompts": len(prompts),
        "songs of --codes_file": 0 if n_codes is None else n_codes[0],
        "entries of --metas": len(said.metas),
    }
    # If --n_samples is left out, as many songs as prompts, saved songs or entries of --metas.
    n_samples = whole("n_samples", flags.get("n_samples", max(1, *given.values())), least=1)
    if n_samples > MOST_SONGS:
        raise UserError(
            f"--n_samples={n_samples}: a run makes at most {MOST_SONGS:,} songs; make more under another --name, with "
            "another --seed"
        )
    for what, count in given.items():
        if count > n_samples:
            notices.append(f"{count - n_samples} of {count} {what} left out: --n_samples={n_samples}")
    metas = full_metas(flags, said, n_samples, model, mode, sample_length, remarks)
    strict = choice("unknown_labels", str(flags.get("unknown_labels", UNKNOWN_LABELS[0])), UNKNOWN_LABELS) == "stop"
    port_number(flags.get("port", 29500))
    whole("bit_rate", flags.get("bit_rate", 192), least=32, most=320)
    choice("damaged", str(flags.get("damaged", DAMAGED[0])), DAMAGED)
    drawing = read_drawing(flags, levels)
    return Settings(
        model=model,
        name=name,
        mode=mode,
        sample_levels=sample_levels,
        sample_length=sample_length,
        prompt_length=prompt_length,
        prompts=prompts,
        codes_file=shown(flags.get("codes_file", "")),
        codes=codes,
        hop_fraction=hop_fraction,
        metas=metas,
        n_samples=n_samples,
        drawing=drawing,
        seed=whole("seed", flags.get("seed", 0)),
        batch=_sizes("max_batch_size", flags, levels),
        chunk=_sizes("chunk_size", flags, levels),
        device=device_name(flags.get("device", "")),
        dtype="" if not flags.get("dtype") else choice("dtype", str(flags["dtype"]), list(DTYPES)),
        engine=choice("engine", str(flags.get("engine", ENGINES[0])), list(ENGINES)),
        tf32=bool(flags.get("tf32")),
        format=choice("format", str(flags.get("format", FORMATS[0])), FORMATS),
        notices=notices,
        remarks=remarks,
        must_know=said.names() if strict else [],
    )


def _sizes(flag: str, flags: Mapping[str, Any], levels: int) -> list[int | None]:
    if flags.get(flag) is None:
        return [None] * levels
    return [whole(flag, value, least=1) for value in per_level(flag, flags[flag], levels)]


def _sample_levels(model: Model, mode: str) -> list[int]:
    """The levels to make: from the highest that the mode asks for down, as far as there are priors."""
    first = len(model.levels) - (2 if mode == "upsample" else 1)
    levels: list[int] = []
    while first >= 0 and model.levels[first] is not None:
        levels.insert(0, first)
        first -= 1
    if not levels:
        wanted = "an upsampler" if mode == "upsample" else "a top-level prior"
        raise UserError(
            f"--mode={mode} needs {wanted}, of level {first}, and --model={model.name} has none: add its run"
        )
    return levels


def _inputs(flags: Mapping[str, Any], mode: str, model: Model) -> tuple[list[Any], dict[str, Any] | None]:
    """Audio prompts and saved codes, as the mode needs them."""
    codes_file = flags.get("codes_file", "")
    prompts = split_prompts(flags.get("audio_file", ""))
    if mode == "primed" and not prompts:
        raise UserError("--mode=primed needs --audio_file=FILE[,FILE,...], the music to begin with")
    if mode in ("continue", "upsample") and not codes_file:
        level = len(model.levels) - 1
        raise UserError(f"--mode={mode} needs --codes_file, such as EARLIER_RUN/level_{level}/data.pth.tar")
    if prompts and mode != "primed":
        raise UserError(f"--audio_file is for --mode=primed, not --mode={mode}: change the mode or leave it out")
    if codes_file and mode not in ("continue", "upsample"):
        raise UserError(f"--codes_file is for --mode=continue or --mode=upsample, not --mode={mode}: change the mode")
    if not codes_file:
        return prompts, None
    codes = read_codes(codes_file)
    check_codes(shown(codes_file), codes["zs"], len(model.levels), model.vqvae_hps.l_bins, model.name)
    return prompts, {key: codes.get(key) for key in ("zs", "labels", "alignments")}
