"""Between settings and levels: labels, prompts or codes, options and alignments that a run begins with.

Everything is cut to the songs of one process. Change here what the levels are handed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from jukebox.hparams import Hyperparams
from jukebox.sampling.levels import saved_alignments
from jukebox.sampling.models import Model
from jukebox.sampling.modes import encode_prompts
from jukebox.sampling.plan import LevelPlan
from jukebox.sampling.prompts import cut_codes, load_prompts, read_codes
from jukebox.sampling.report import Silent
from jukebox.sampling.settings import Settings
from jukebox.sampling.state import RunState


def starting_lengths(settings: Settings) -> list[int]:
    """Tokens per level that prompts or saved codes will give, known before they are encoded."""
    if settings.mode == "primed":
        assert settings.prompt_length is not None
        return [settings.prompt_length // hop for hop in settings.model.hops]
    if not settings.codes_file:
        return [0] * len(settings.model.levels)
    have = [z.shape[1] for z in read_codes(settings.codes_file)["zs"]]
    if settings.prompt_length is None:
        return have
    return [min(n, settings.prompt_length // hop) for n, hop in zip(have, settings.model.hops, strict=True)]


def keep_asked_sizes(state: RunState, settings: Settings) -> None:
    """Batch and chunk sizes stay those of the interrupted run, unless the user asks for others."""
    for kwargs, batch, chunk in zip(state.sampling_kwargs, settings.batch, settings.chunk, strict=True):
        if batch is not None:
            kwargs["max_batch_size"] = batch
        if chunk is not None:
            kwargs["chunk_size"] = chunk


def make_labels(model: Model, metas: list[dict[str, Any]], device: torch.device, report: Silent) -> list[Any]:
    """Labels per level, None where there is no prior; says which names and characters a model does not know."""
    labels: list[Any] = []
    told: set[str] = set()
    for level in model.levels:
        if level is None:
            labels.append(None)
            continue
        labels.append(level.labeller.get_batch_labels(metas, device))
        lines = [line for meta in metas for line in level.labeller.unknown_names(meta["artist"], meta["genre"])]
        if level.n_tokens:
            lines += [line for meta in metas for line in level.labeller.unknown_characters(meta["lyrics"])]
        for line in dict.fromkeys(lines):
            if line not in told:
                told.add(line)
                report.message(line)
    return labels


def run_hps(settings: Settings, folder: Path, songs: range, flags: Mapping[str, Any]) -> Hyperparams:
    """What the importable functions and the page read."""
    top = settings.model.top
    asked = {key: value for key, value in flags.items() if key not in ("lyrics", "resume", "dry_run")}
    return Hyperparams(
        asked,
        model=settings.model.name,
        name=str(folder),
        mode=settings.mode,
        sr=settings.model.sr,
        levels=len(settings.model.levels),
        sample_length=settings.sample_length,
        sample_length_in_seconds=settings.sample_length / settings.model.sr,
        total_sample_length_in_seconds=settings.metas[songs[0]]["total_length"] / settings.model.sr,
        hop_fraction=list(settings.hop_fraction),
        n_samples=len(songs),
        songs=list(songs),
        temp=list(settings.temp),
        top_k=list(settings.top_k),
        top_p=list(settings.top_p),
        seed=settings.seed,
        dtype=settings.dtype,
        format=settings.format,
        alignment_shift=0 if top is None else int(top.hps.get("alignment_shift") or 0),
    )


def load_inputs(settings: Settings, hps: Hyperparams) -> Any:
    """Audio prompts [N, T, 1], or None; read before any model is."""
    if settings.mode != "primed":
        return None
    assert settings.prompt_length is not None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompts = load_prompts(settings.audio_files, settings.prompt_length, hps)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    return prompts


def starting_codes(settings: Settings, prompts: Any, priors: list[Any], hps: Hyperparams) -> list[torch.Tensor]:
    """Codes per level that a run begins with, [N, T_level]."""
    if prompts is not None:
        return encode_prompts(prompts, priors)
    if settings.codes_file:
        zs = read_codes(settings.codes_file)["zs"]
        return cut_codes(zs, settings.model.hops, settings.prompt_length, hps)
    return [torch.zeros(hps.n_samples, 0, dtype=torch.long) for _ in priors]


def sampling_kwargs(settings: Settings, songs: range, plans: list[LevelPlan], dtype: str) -> list[dict[str, Any]]:
    """Options per level, low to high."""
    batch = {plan.level: plan.batch for plan in plans}
    options = []
    for level in range(len(settings.model.levels)):
        kwargs: dict[str, Any] = {
            "temp": settings.temp[level],
            "fp16": dtype == "fp16",
            "chunk_size": settings.chunk[level],
            "max_batch_size": batch.get(level, len(songs)),
            "seed": settings.seed,
            "songs": list(songs),
        }
        kwargs.update(
            {key: value for key, value in (("top_k", settings.top_k[level]), ("top_p", settings.top_p[level])) if value}
        )
        if dtype == "bf16":
            kwargs["dtype"] = dtype
        options.append(kwargs)
    return options


def known_alignments(settings: Settings, folder: Path, songs: range, state: RunState, labels: list[Any]) -> Any:
    """Alignments that a finished level of this run, or the run whose codes are upsampled, has left; else None."""
    if state.done:
        return saved_alignments(folder / f"level_{state.done[-1]}")
    if settings.mode != "upsample" or labels[-1] is None:
        return None
    saved = read_codes(settings.codes_file).get("alignments")
    if not isinstance(saved, (list, tuple)) or not saved or not all(isinstance(a, torch.Tensor) for a in saved):
        return None
    chosen = [saved[song % len(saved)].numpy() for song in songs]
    shapes = [(state.zs[-1].shape[1], len(info["full_tokens"])) for info in labels[-1]["info"]]
    return chosen if [a.shape for a in chosen] == shapes else None
