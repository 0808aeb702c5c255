"""Who sings what, and where in a whole song: the labels of every song of a run.

What --metas says wins over the label flags, these over the run that codes come from, and that over the demo texts.
Times are checked against the model's ranges. Change here what is taken where nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jukebox.data.metadata import as_text
from jukebox.hparams import Hyperparams
from jukebox.sampling.models import Level, Model
from jukebox.sampling.prompts import read_lyrics, read_metas
from jukebox.sampling.values import number, seconds_of
from jukebox.utils.errors import UserError

TOTAL_SECONDS = 240.0
# Who sings what where nothing is said. The poem is by Percy Bysshe Shelley (1818).
DEMO = {
    "artist": "Alan Jackson",
    "genre": "Country",
    "lyrics": "I met a traveller from an antique land,\nWho said: Two vast and trunkless legs of stone\n"
    "Stand in the desert. Near them, on the sand,\nHalf sunk, a shattered visage lies, whose frown,\n"
    "And wrinkled lip, and sneer of cold command,\nTell that its sculptor well those passions read\n"
    "Which yet survive, stamped on these lifeless things,\nThe hand that mocked them, and the heart that fed;\n"
    "And on the pedestal these words appear:\nMy name is Ozymandias, king of kings;\n"
    "Look on my works, ye Mighty, and despair!\nNothing beside remains. Round the decay\n"
    "Of that colossal wreck, boundless and bare\nThe lone and level sands stretch far away.\n",
}


def given_metas(
    flags: Mapping[str, Any], model: Model, codes: dict[str, Any] | None, notices: list[str]
) -> list[dict[str, Any]]:
    """What is said about the songs: by --metas, by the label flags, or by the run that the codes come from."""
    if flags.get("lyrics") and flags.get("lyrics_file"):
        raise UserError("--lyrics and --lyrics_file exclude each other: leave one out")
    words = {key: str(flags[key]) for key in ("artist", "genre", "lyrics") if flags.get(key) is not None}
    if flags.get("lyrics_file"):
        words["lyrics"] = read_lyrics(str(flags["lyrics_file"]))
    conditioned = [level for level in model.levels if level is not None and level.hps.labels]
    if not conditioned and (words or flags.get("metas")):
        notices.append(f"model {model.name} was trained without labels: artist, genre and lyrics have no effect")
    elif "lyrics" in words and not any(level.n_tokens for level in conditioned):
        notices.append(f"model {model.name} was trained without lyrics: they have no effect")
    if flags.get("metas"):
        return [{**words, **meta} for meta in read_metas(str(flags["metas"]))]
    if words or codes is None:
        return [words] if words else []
    return _saved_metas(codes)


def _saved_metas(codes: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier run says about its songs; total_length and offset in samples."""
    labels = codes.get("labels") or {}
    labels = (labels[-1] if isinstance(labels, (list, tuple)) else labels) or {}
    metas = []
    for i, info in enumerate(labels.get("info") or []):
        meta = {key: info[key] for key in ("artist", "genre", "lyrics") if isinstance(info.get(key), str)}
        y = labels.get("y")
        if y is not None and y.shape[1] >= 2:
            meta.update(total_length=int(y[i, 0]), offset=int(y[i, 1]))
        metas.append(meta)
    return metas


def full_metas(
    flags: Mapping[str, Any],
    given: list[dict[str, Any]],
    n_samples: int,
    model: Model,
    mode: str,
    sample_length: int,
    notices: list[str],
) -> list[dict[str, Any]]:
    """For each song artist, genre, lyrics, and total_length and offset in samples."""
    flag = "total_sample_length_in_seconds"
    total_seconds = seconds_of(flags, flag)
    timed = model.top if model.top is not None and model.top.hps.labels and mode != "upsample" else None
    demo = _demo(model) if any({"artist", "genre", "lyrics"} - set(meta) for meta in given or [{}]) else DEMO
    metas = []
    for song in range(n_samples):
        meta = {**demo, **(given[song % len(given)] if given else {})}
        where = f"--{flag}" if "total_length_in_seconds" not in meta else f"total_length_in_seconds of song {song}"
        offset = meta.get(
            "offset", int(number("offset_in_seconds", meta.get("offset_in_seconds", 0), least=0.0) * model.sr)
        )
        seconds = meta.get("total_length_in_seconds", total_seconds)
        if seconds is None and meta.get("total_length", 0) >= offset + sample_length:
            total = meta["total_length"]
        elif seconds is None:
            total = _usual_total(timed, offset + sample_length, model.sr)
            if timed is not None and song == 0 and total < TOTAL_SECONDS * model.sr:
                notices.append(
                    f"the imagined whole song is {total / model.sr:.1f} s long, the most that the model knows"
                )
        else:
            total = int(number("total_length_in_seconds", seconds, above=0.0) * model.sr)
        _check_timing(where, total, offset, sample_length, timed, model.sr)
        words = {key: as_text(key, meta[key]) or "" for key in ("artist", "genre", "lyrics")}
        metas.append({**words, "total_length": total, "offset": offset})
    return metas


def _demo(model: Model) -> dict[str, str]:
    """The demo texts, with the first names of the model's own tables where it has some."""
    top = next((level for level in reversed(model.levels) if level is not None), None)
    ag = getattr(top.labeller, "ag_processor", None) if top is not None else None
    if ag is None or not ag.own_tables:
        return dict(DEMO)
    names = {"artist": ag.list_artists()[:1], "genre": ag.list_genres()[:1]}
    return {**DEMO, **{key: found[0] for key, found in names.items() if found}}


def _limits(hps: Hyperparams) -> tuple[float, float]:
    """The shortest and the longest whole song that timing labels know, in seconds."""
    return float(hps.min_duration or 0.0), float(hps.max_duration or math.inf)


def _usual_total(timed: Level | None, least: int, sr: int) -> int:
    """240 s, or what the model's range allows of it, and never under the sample."""
    total = max(int(TOTAL_SECONDS * sr), least)
    if timed is not None:
        low, high = _limits(timed.hps)
        if math.isfinite(high):
            total = min(total, int(high * sr) - timed.hop)
        total = max(total, math.ceil(low * sr), least)
    return total


def _check_timing(where: str, total: int, offset: int, sample_length: int, timed: Level | None, sr: int) -> None:
    """Refuses times that the timing labels cannot say."""
    if offset + sample_length > total:
        need = (offset + sample_length) / sr
        raise UserError(
            f"{where}={total / sr:g} is shorter than the {need:.2f} s that offset and sample reach: "
            f"use {math.ceil(need * 100) / 100:g} or more, or a shorter --sample_length_in_seconds"
        )
    if timed is None:
        return
    low, high = _limits(timed.hps)
    # As the timing embedding checks it: in float32.
    if np.float32(total) < np.float32(low * sr) or np.float32(total) >= np.float32(high * sr):
        raise UserError(
            f"{where}={total / sr:g}: the model knows songs of {low:g} s up to, not including, {high:g} s; use "
            "such a length"
        )
    end = offset + max(sample_length, timed.sample_length)
    if end > high * sr:
        latest = high - (end - offset) / sr
        if latest < 0:
            raise UserError(
                f"--sample_length_in_seconds={sample_length / sr:g}: the model's timing ends at {high:g} s; use less"
            )
        raise UserError(
            f"offset_in_seconds={offset / sr:g}: the model's timing ends at {high:g} s; use {latest:.2f} or less"
        )
