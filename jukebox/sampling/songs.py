"""Who sings what, and where in a whole song: the labels of every song of a run.

What --metas says wins over the label flags, these over the run that codes come from, and that over the demo texts.
Times are checked against the model's ranges. Change here what is taken if nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from jukebox.data.labels import EmptyLabeller
from jukebox.data.lrc import parse_lyrics, read_lyric_line
from jukebox.data.metadata import as_text
from jukebox.data.spelling import read_for
from jukebox.hparams import Hyperparams
from jukebox.loaders import Level, Model, aligns_lyrics
from jukebox.sampling.metas import OFFSET, TOTAL, read_metas, read_text_of
from jukebox.sampling.report import Silent
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import at_most, enough, number, seconds_of
from jukebox.utils.label_row import SIGNALS, LabelRow, read_signal

TOTAL_SECONDS = 240.0
# Who sings what if nothing is said. The poem is by Percy Bysshe Shelley (1818).
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


@dataclass(frozen=True)
class Said:
    """What is said about the songs: by the run that codes come from, by the label flags, and by --metas.

    `saved` and `metas` have one entry a song and start over if there are more songs; `saved` has total_length and
    offset in samples. If there are `lyrics`, there are `times`, in samples for each character, or None.
    `saved_length`: samples of the saved codes.
    """

    saved: list[dict[str, Any]]
    words: dict[str, Any]
    metas: list[dict[str, Any]]
    saved_length: int = 0

    def about(self, song: int) -> dict[str, Any]:
        """All that is said about one song; the later source wins, and its times take the place of saved ones."""
        meta = dict(self.metas[song % len(self.metas)]) if self.metas else {}
        saved = dict(self.saved[song % len(self.saved)]) if self.saved else {}
        for seconds, samples in ((TOTAL, "total_length"), (OFFSET, "offset")):
            if seconds in meta:
                saved.pop(samples, None)
        return {**saved, **self.words, **meta}

    def names(self) -> list[tuple[str, str]]:
        """The artists and genres that the flags and --metas ask for, each pair once; "" for what is left open."""
        asked = [{**self.words, **meta} for meta in self.metas or [{}]]
        pairs = [tuple(as_text(key, meta.get(key)) or "" for key in ("artist", "genre")) for meta in asked]
        return list(dict.fromkeys((artist, genre) for artist, genre in pairs))


def read_said(flags: Mapping[str, Any], model: Model, codes: dict[str, Any] | None, notices: list[str]) -> Said:
    """Reads what --metas, the label flags and the run that codes come from say."""
    if flags.get("lyrics") and flags.get("lyrics_file"):
        raise UserError("--lyrics and --lyrics_file exclude each other: leave one out")
    line = read_lyric_line(1 if flags.get("lyric_line") is None else flags["lyric_line"])
    words = {key: str(flags[key]) for key in ("artist", "genre", "lyrics") if flags.get(key) is not None}
    if flags.get("lyrics_file"):
        words["lyrics"] = read_text_of("lyrics_file", str(flags["lyrics_file"]), notices)
    words = _with_times(words, model.sr, line, notices)
    conditioned = [level for level in model.levels if level is not None and level.hps.labels]
    if not conditioned and (words or flags.get("metas")):
        notices.append(f"model {model.name} was trained without labels: artist, genre and lyrics have no effect")
    elif "lyrics" in words and not any(level.n_tokens for level in conditioned):
        notices.append(f"model {model.name} was trained without lyrics: they have no effect")
    signals = {key: flags[key] for key in SIGNALS if flags.get(key) not in (None, "")}
    for key, value in signals.items():
        read_signal(key, value)
        if not any(key in level.labeller.row.signal_names for level in conditioned):
            notices.append(f"model {model.name} was trained without signals={key}: it has no effect")
    metas = (
        [_with_times(meta, model.sr, line, notices) for meta in read_metas(flags["metas"], notices)]
        if flags.get("metas")
        else []
    )
    saved, length = (
        ([], 0) if codes is None else (_saved_metas(codes), codes["zs"][-1].shape[1] * model.samples_per_code[-1])
    )
    return Said(saved, {**words, **signals}, metas, length)


def _with_times(said: dict[str, Any], sr: int, line: int, notices: list[str]) -> dict[str, Any]:
    """What is said about a song, its lyrics without stamps and tags but with `times` in samples if they had some."""
    if "lyrics" not in said:
        return said
    sung = parse_lyrics(as_text("lyrics", said["lyrics"]) or "", line=line)
    told = [f"{note}: {example}" for note, example in sung.notes]
    notices += [line for line in told if line not in notices]
    times = None if sung.times is None else [[round(start * sr), round(end * sr)] for start, end in sung.times]
    return {**said, "lyrics": sung.text, "times": times}


def _saved_metas(codes: dict[str, Any]) -> list[dict[str, Any]]:
    """What an earlier run says about its songs; total_length and offset in samples."""
    labels = codes.get("labels") or {}
    labels = (labels[-1] if isinstance(labels, (list, tuple)) else labels) or {}
    metas = []
    for i, info in enumerate(labels.get("info") or []):
        meta = {key: info[key] for key in ("artist", "genre", "lyrics") if isinstance(info.get(key), str)}
        meta |= {key: info[key] for key in SIGNALS if info.get(key) is not None}
        times = info.get("token_times")  # tokens are the characters of the saved lyrics
        meta["times"] = times if times and len(times) == len(meta.get("lyrics", "")) else None
        y = labels.get("y")
        if y is not None and y.shape[1] >= LabelRow.offset.stop:
            meta.update(total_length=int(y[i, LabelRow.total]), offset=int(y[i, LabelRow.offset]))
        metas.append(meta)
    return metas


def full_metas(
    flags: Mapping[str, Any],
    said: Said,
    n_samples: int,
    model: Model,
    mode: str,
    sample_length: int,
    remarks: list[str],
) -> list[dict[str, Any]]:
    """For each song artist, genre, lyrics, total_length and offset in samples, and `times` if they are known."""
    flag = "total_sample_length_in_seconds"
    total_seconds = seconds_of(flags, flag)
    timed = model.top if model.top is not None and model.top.hps.labels else None
    known_seconds = None if timed is None or mode == "upsample" else timed.hps.get("song_duration")
    usual = int((known_seconds or TOTAL_SECONDS) * model.sr)
    if mode == "upsample":  # the top prior aligns the lyrics at most
        timed, usual = timed if timed is not None and aligns_lyrics(timed) else None, said.saved_length
    asked = flags.get("sample_length_in_seconds") or f"{sample_length / model.sr:g}"
    demo: dict[str, str] = {}
    metas = []
    for song in range(n_samples):
        meta = said.about(song)
        if {"artist", "genre", "lyrics"} - set(meta):
            demo = demo or _demo(model)
        if song == 0:
            remarks += _taken(model, demo, meta)
        meta = {**demo, **meta}
        offset = int(meta[OFFSET] * model.sr) if OFFSET in meta else meta.get("offset", 0)
        seconds = meta.get(TOTAL, total_seconds)
        if seconds is None and meta.get("total_length", 0) >= offset + sample_length:
            where, total = f"total_length of song {song} of --codes_file", meta["total_length"]
        elif seconds is None:
            where, total = "", _usual_total(timed, usual, offset + sample_length, model.sr)
            if timed is not None and song == 0 and (total < usual or known_seconds):
                knows = f"the model knows songs of {known_seconds} s"
                why = knows if known_seconds else "the most that the model knows"
                remarks.append(f"the imagined whole song is {total / model.sr:.1f} s long, {why}")
        else:
            where = f"{TOTAL} of song {song}" if TOTAL in meta else f"--{flag}"
            total = int(number(flag, seconds, above=0.0) * model.sr)
        _check_timing(where, song, total, offset, sample_length, timed, model, asked)
        words = {key: as_text(key, meta[key]) or "" for key in ("artist", "genre", "lyrics")}
        signals = {key: meta[key] for key in SIGNALS if key in meta}
        sung = {"times": meta["times"]} if meta.get("times") else {}
        if sung and sung["times"][0][0] >= offset + sample_length:
            begin, end = sung["times"][0][0] / model.sr, (offset + sample_length) / model.sr
            remarks.append(
                f"song {song}: the first line of the lyrics is at {begin:.1f} s, and the sample ends at {end:.1f} s"
            )
        metas.append({**words, "total_length": total, "offset": offset, **signals, **sung})
    return metas


def make_labels(model: Model, metas: list[dict[str, Any]], device: torch.device, report: Silent) -> list[Any]:
    """Labels per level, None if there is no prior; says which names and characters a model does not know."""
    labels: list[Any] = []
    told: set[str] = set()
    for level in model.levels:
        if level is None:
            labels.append(None)
            continue
        labels.append(level.labeller.get_batch_labels([_as_read(meta, level) for meta in metas], device))
        lines = [line for meta in metas for line in level.labeller.unknown_names(meta["artist"], meta["genre"])]
        if level.n_tokens:
            lines += level.labeller.unknown_characters("\n".join(dict.fromkeys(meta["lyrics"] for meta in metas)))
        for line in dict.fromkeys(lines):
            if line not in told:
                told.add(line)
                report.message(line)
    return labels


def _as_read(meta: dict[str, Any], level: Level) -> dict[str, Any]:
    """What is said about a song, its lyrics as the alphabet of a level's model can spell them."""
    if isinstance(level.labeller, EmptyLabeller) or not level.n_tokens:
        return meta
    lyrics, times = read_for(level.labeller.text_processor, meta["lyrics"], meta.get("times"))
    return {**meta, "lyrics": lyrics, **({} if times is None else {"times": times})}


def _demo(model: Model) -> dict[str, str]:
    """The demo texts, with the first names of the model's own tables if it has some."""
    top = next((level for level in reversed(model.levels) if level is not None), None)
    words = dict(DEMO, lyrics=(top.hps.get("song_lyrics") if top is not None else "") or DEMO["lyrics"])
    ag = getattr(top.labeller, "ag_processor", None) if top is not None else None
    if ag is None or not ag.own_tables:
        return words
    names = {"artist": ag.list_artists()[:1], "genre": ag.list_genres()[:1]}
    return {**words, **{key: found[0] for key, found in names.items() if found}}


def _taken(model: Model, demo: Mapping[str, str], said: Mapping[str, Any]) -> list[str]:
    """A line with the words that are taken for a song because nothing is said, of those that the model reads."""
    conditioned = [level for level in model.levels if level is not None and level.hps.labels]
    keys = ["artist", "genre"] * bool(conditioned) + ["lyrics"] * any(level.n_tokens for level in conditioned)
    taken = [f'--{key}="{shorten(demo[key], 60)}"' for key in keys if key not in said]
    return [f"not given and taken: {' '.join(taken)}"] if taken else []


def _limits(hps: Hyperparams) -> tuple[float, float]:
    """The shortest and the longest whole song that timing labels know, in seconds."""
    return float(hps.min_duration or 0.0), float(hps.max_duration or math.inf)


def _usual_total(timed: Level | None, usual: int, least: int, sr: int) -> int:
    """The usual length, or what the model's range allows of it, and never under the sample."""
    total = max(usual, least)
    if timed is not None:
        low, high = _limits(timed.hps)
        if math.isfinite(high):
            total = min(total, int(high * sr) - timed.samples_per_code)
        total = max(total, math.ceil(low * sr), least)
    return total


def _check_timing(
    where: str, song: int, total: int, offset: int, sample_length: int, timed: Level | None, model: Model, asked: Any
) -> None:
    """Refuses times that the timing labels cannot say.

    Args:
        where: what gave the length of the whole song; "" if nothing did and it follows from the others.
        asked: the length of the sample in seconds as it was given.
    """
    sr, per_code = model.sr, model.samples_per_code[-1]
    shown = f"--sample_length_in_seconds={asked}"
    if offset + sample_length > total and where:
        need = offset + sample_length
        raise UserError(
            f"{where}={total / sr:g} is shorter than the {need / sr:.2f} s that offset and sample reach: "
            f"use {enough(need, sr)} or more, or a shorter --sample_length_in_seconds"
        )
    if timed is None:
        return
    low, high = _limits(timed.hps)
    window = max(sample_length, timed.sample_length)
    # As the timing embedding checks it: in float32.
    known = np.float32(low * sr) <= np.float32(total) < np.float32(high * sr)
    if where and not known:
        raise UserError(
            f"{where}={total / sr:g}: the model knows songs of {low:g} s up to, not including, {high:g} s; use "
            "such a length"
        )
    if known and offset + window <= high * sr:
        return
    ends = f"the model's timing ends at {high:g} s"
    if window > int(high * sr) - per_code:
        longest = (int(high * sr) - per_code) // per_code * per_code
        if longest < timed.sample_length:
            raise UserError(f"{shown}: {ends}, which is shorter than a window of it; use another model")
        raise UserError(f"{shown}: {ends}; use {at_most(longest, sr)} or less")
    latest = at_most(int(high * sr) - per_code - window, sr)
    raise UserError(
        f"{OFFSET} of song {song} is {offset / sr:g}: {ends}, and the song is to be {sample_length / sr:.2f} s long; "
        f"use {latest} or less, or a shorter --sample_length_in_seconds"
    )
