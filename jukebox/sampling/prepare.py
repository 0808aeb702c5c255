"""From checked settings to the maker of levels: the plan, labels, prompts, the VQ-VAE and codes to begin with.

The command and `jukebox.load` both make songs by this. Change here what a run loads before its first level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jukebox.prior.engine import pick_engine
from jukebox.sampling.levels import LevelMaker, given_alignments, saved_alignments
from jukebox.sampling.plan import make_plan
from jukebox.sampling.prompts import load_inputs, starting_codes, starting_lengths
from jukebox.sampling.report import Silent
from jukebox.sampling.settings import Settings
from jukebox.sampling.songs import make_labels
from jukebox.sampling.state import RunState
from jukebox.utils.errors import UserError
from jukebox.utils.memory import enough_memory
from jukebox.utils.precision import half_dtype, torch_dtype

INSTEAD = "use --device=cpu, shorter prompts or a machine with more memory"


def prepare(
    settings: Settings,
    songs: range,
    folder: Path,
    flags: Mapping[str, Any],
    device: torch.device,
    report: Silent,
    state: RunState | None = None,
) -> LevelMaker:
    """Loads what the levels of some songs need, except their priors, each of which is loaded in its turn.

    Args:
        settings: with the type of arithmetic.
        songs: numbers of the songs in the whole run.
        folder: where levels are written.
        flags: as they were given, for the page.
        state: of the run to resume; None begins one.

    Raises:
        UserError: a level, the VQ-VAE or the prompts do not fit the memory, or a prompt cannot be read.
    """
    model = settings.model
    settings = with_engine(settings, device, report, state)
    if device.type == "cpu" and settings.dtype == "fp16":
        report.message(f"--dtype=fp16: a CPU is many times slower with it; use --dtype={half_dtype(device)}")
    plans = make_plan(settings, songs, state, device, timed=False, report=report)
    if state is None:
        model.check_names(settings.must_know)
    # A token of a level takes its weights through the processor: they say how the levels compare.
    report.expect({plan.level: (plan.new_tokens * plan.songs, plan.weights) for plan in plans})
    labels = make_labels(model, [settings.metas[song] for song in songs], device, report)
    hps = settings.hps(folder, songs, flags)
    if settings.mode != "upsample":  # its codes are a sketch of all the music, not its beginning
        hps.prompt_seconds = starting_lengths(settings)[-1] * model.samples_per_code[-1] / model.sr
    with enough_memory("loading the VQ-VAE or encoding the prompts", INSTEAD):
        prompts = load_inputs(settings, hps, report) if state is None else None
        vqvae = model.vqvae(settings.sample_length, device)
        priors = [model.prior(level, vqvae, device, settings.dtype) for level in range(len(model.levels))]
        zs = starting_codes(settings, prompts, priors, hps) if state is None else state.zs
    if state is None:
        options = settings.level_options(songs, {plan.level: plan.batch for plan in plans})
    else:
        state.keep_asked_sizes(settings.batch, settings.chunk)
        options = state.options
        for level in options:
            level.engine = settings.engine
    if state is not None and state.done:
        alignments = saved_alignments(folder / f"level_{state.done[-1]}")
    else:
        alignments = given_alignments(settings, songs, labels)
    return LevelMaker([z.to(device) for z in zs], labels, options, priors, hps, state, alignments, report)


def with_engine(settings: Settings, device: torch.device, report: Silent, state: RunState | None) -> Settings:
    """Settings with the engine that will draw; a resumed run keeps its own, or is told that it changes.

    Raises:
        UserError: the engine that is asked for cannot be built.
    """
    asked, dtype = settings.engine, torch_dtype(settings.dtype)
    earlier = engine_of(state)
    because = "it failed before" if asked == "auto" else "as --engine asks"
    try:
        engine, why = pick_engine(earlier if asked == "auto" and earlier else asked, device, dtype)
    except ValueError as error:
        if asked != "auto":
            raise UserError(f"--{error}; use --engine=auto") from error
        because = str(error).partition(": ")[2]
        engine, why = pick_engine("auto", device, dtype)
    if state is not None and state.begun and earlier and engine != earlier:
        report.message(
            f"engine={earlier} drew the tokens so far and engine={engine} draws the rest, which may round differently: "
            f"{because}"
        )
    elif why and device.type == "cpu":
        report.message(f"PyTorch draws the tokens, several times slower than native code: {why}")
    elif why and device.type == "cuda":
        report.message(f"PyTorch in a CUDA graph draws the tokens, slower than fused kernels: {why}")
    return replace(settings, engine=engine)


def engine_of(state: RunState | None) -> str:
    """The engine that draws the level at which a run was interrupted; "" if there is none."""
    left = set() if state is None else {*state.levels} - {*state.done}
    engine = state.options[max(left)].engine if state is not None and left else "auto"
    return "" if engine == "auto" else engine
