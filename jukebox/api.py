"""Music from Python, by the engine and the checks of the commands.

    import jukebox
    model = jukebox.load("demo")
    songs = model.sample(lyrics="mila sola", artist="anna bell", genre="disco", seconds=10, n=2, seed=0)
    songs[0].save("song.mp3")
    songs.save_page("out")

Arguments become the flags of the command that does the same, so both are checked and drawn alike. Nothing is written
before `save` or `save_page`. Change here how flags and results are called in Python.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from jukebox.features.activations import Extractor, check_layers
from jukebox.features.feature_writer import features_of
from jukebox.loaders import KeptModel, find_model
from jukebox.music import Reconstruction, Song, Songs
from jukebox.prior.engine import ENGINES
from jukebox.reconstruction.coder import Coder
from jukebox.reconstruction.reconstructor import check_length, read_part, reconstruct_level
from jukebox.sampling.flags import read_settings
from jukebox.sampling.prepare import prepare
from jukebox.sampling.report import Silent
from jukebox.utils.dist_utils import pick_device
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import (
    choice,
    device_name,
    layer_numbers,
    level_number,
    level_numbers,
    number,
    seconds_of,
    whole,
)
from jukebox.utils.float32 import keep_float32
from jukebox.utils.precision import DTYPES, check_dtype, torch_dtype, usual_dtype
from jukebox.utils.python_words import in_python, python_words
from jukebox.weights.huggingface import is_folder

Array: TypeAlias = "np.ndarray[Any, Any] | Tensor"
Audio: TypeAlias = "str | os.PathLike[str] | Array"
Words: TypeAlias = "str | Sequence[str] | None"
Codes: TypeAlias = "Song | Songs | str | os.PathLike[str] | Sequence[Array]"
PerLevel: TypeAlias = "float | Sequence[float]"
Sizes: TypeAlias = "int | Sequence[int] | None"
Progress: TypeAlias = "Callable[[int, int, int], object] | None"

_loaded: weakref.WeakValueDictionary[Any, MusicModel] = weakref.WeakValueDictionary()


def load(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    weights_from: str = "",
    engine: str = "auto",
    tf32: bool = False,
) -> MusicModel:
    """Finds a model. Weights are read when they are first needed, and kept as long as the model is.

    Args:
        model: a key of MODELS; folders or checkpoints of runs, as a list or separated by commas; or a folder in the
            Hugging Face layout.
        device: "cuda", "cuda:1", "mps" or "cpu"; None is the best there is.
        dtype: "fp16", "bf16", "fp32" or on a CPU "int8"; None is fp16 on CUDA, else fp32.
        weights_from: a folder in the Hugging Face layout, with the weights of a key of MODELS.
        engine: who draws codes: "native" (on a CPU), "fused" or "graph" (on CUDA), "eager" (PyTorch), or "auto",
            the fastest that works.
        tf32: on CUDA let products in float32 round to TF32, for speed; codes then depend on the card.

    Returns:
        The model; the same one as before if it is in use already.

    Raises:
        UserError: no such model or device, or parts of the model are missing.
    """
    names = [model] if isinstance(model, (str, os.PathLike)) else list(model)
    name = ",".join(os.fspath(part) for part in names)
    with python_words():
        if not weights_from and is_folder(name):
            name, weights_from = "", name
        found = find_model(name, weights_from)
        chosen = pick_device(0, 1, device_name(device))
        asked = next((name for name in DTYPES if torch_dtype(name) == dtype), dtype)
        kind = choice("dtype", str(asked), list(DTYPES)) if asked else usual_dtype(chosen)
        check_dtype(kind, chosen)
        marks = found.marks([level.level for level in found.levels if level is not None])
        drawer = choice("engine", engine, list(ENGINES))
    key = (found.name, weights_from, str(chosen), kind, drawer, bool(tf32), *marks.items())
    return _loaded.setdefault(key, MusicModel(KeptModel(**vars(found)), chosen, kind, drawer, bool(tf32)))


class MusicModel:
    """A model that makes songs, `jukebox.load` gives one. Parts are loaded when they are needed, and kept.

    Attributes:
        name: as it was asked for.
        sr: sample rate in Hz.
        samples_per_code: raw samples that one code represents, of each level, the finest first.
        device, dtype: where it runs, and in which type: "fp32", "fp16", "bf16" or "int8".
        engine: who draws codes.
        tf32: whether products in float32 may round to TF32.
    """

    def __init__(
        self, found: KeptModel, device: torch.device, dtype: str, engine: str = "auto", tf32: bool = False
    ) -> None:
        self.engine, self.tf32 = engine, tf32
        self.name, self.sr, self.device, self.dtype = found.name, found.sr, device, dtype
        self.samples_per_code = self.hops = found.samples_per_code  # `hops`: its name in earlier programs
        self._found = found

    def sample(
        self,
        lyrics: Words = None,
        artist: Words = None,
        genre: Words = None,
        seconds: float | None = None,
        n: int | None = None,
        seed: int = 0,
        *,
        total_seconds: float | None = None,
        metas: Sequence[Mapping[str, Any]] | None = None,
        prompt: Audio | Sequence[Audio] | None = None,
        continue_from: Codes | None = None,
        prompt_seconds: float | None = None,
        temp: PerLevel | None = None,
        top_k: Sizes = None,
        top_p: PerLevel | None = None,
        hop_fraction: PerLevel | None = None,
        max_batch_size: Sizes = None,
        chunk_size: Sizes = None,
        lowest_level: int = 0,
        lyric_line: int = 1,
        progress: Progress = None,
    ) -> Songs:
        """Makes songs: from nothing, from audio (`prompt`) or from codes (`continue_from`).

        Song number i of a seed is drawn as by `jukebox-sample`. Values per level are given from level 0 up.

        Args:
            lyrics, artist, genre: of all songs, or a list with one for each; demo texts if left out. Lyrics may have
                times in any dialect of `.lrc` files and subtitles; then a window reads what is sung in it.
            seconds: length of a song, the prompt included; 24 if left out.
            n: songs; if left out, as many as there are prompts, songs to continue or entries of a list, or 1.
            seed: of all random numbers.
            total_seconds: length of the imagined whole song, for the timing labels; 240 if the model knows that.
            metas: per song a dict of artist, genre, lyrics, total_length_in_seconds and offset_in_seconds, each of
                which may be left out.
            prompt: audio to begin with: a file, float samples [T] or [T, channels] at the rate of the model, or a list.
            continue_from: songs, `data.pth.tar` of an earlier run, or codes per level, int [n, T_level].
            prompt_seconds: how much of the prompts to keep; of songs to continue, all if left out.
            temp: temperature, one or one per level; 0.99 if left out.
            top_k: draw among the k likeliest codes; 0 is all.
            top_p: draw among the likeliest codes that have this much probability; 0 is all. Not with top_k.
            hop_fraction: new codes of a window as a share of the context; (0.5, 0.5, 0.125) if left out.
            max_batch_size, chunk_size: songs at a time, and given codes in one pass; by the memory if left out.
            lowest_level: level to stop at. Only the top level is a sketch, which `upsample` finishes.
            lyric_line: which of several lines of lyrics on the same stamp is sung.
            progress: called with (level, codes made, codes to make) as codes are made.

        Raises:
            UserError: an argument that cannot work, or too little memory.
        """
        if prompt is not None and continue_from is not None:
            raise UserError("prompt and continue_from exclude each other: leave one out")
        if isinstance(prompt, (list, tuple)) and not prompt:
            raise UserError("prompt is empty: give files or samples, or leave it out")
        prompts = None if prompt is None else list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
        mode = "primed" if prompts is not None else "continue" if continue_from is not None else "ancestral"
        flags = {
            **_labels(lyrics, artist, genre, metas),
            "mode": mode,
            "audio_file": prompts,
            "codes_file": None if continue_from is None else _codes(continue_from),
            "sample_length_in_seconds": seconds,
            "total_sample_length_in_seconds": total_seconds,
            "prompt_length_in_seconds": prompt_seconds,
            "n_samples": n,
            "seed": seed,
            "temp": temp,
            "top_k": top_k,
            "top_p": top_p,
            "hop_fraction": hop_fraction,
            "max_batch_size": max_batch_size,
            "chunk_size": chunk_size,
            "lowest_level": lowest_level,
            "lyric_line": lyric_line,
        }
        with python_words(), keep_float32(self.tf32):
            return self._make(flags, progress)

    def upsample(
        self,
        codes: Codes,
        *,
        seconds: float | None = None,
        n: int | None = None,
        seed: int = 0,
        temp: PerLevel | None = None,
        top_k: Sizes = None,
        top_p: PerLevel | None = None,
        hop_fraction: PerLevel | None = None,
        max_batch_size: Sizes = None,
        chunk_size: Sizes = None,
        progress: Progress = None,
    ) -> Songs:
        """Makes the levels below the top from codes of the top.

        Args:
            codes: songs, of which the codes of the top level are read; else as `continue_from` of `sample`.

        The rest is as in `sample`. Songs keep their labels.

        Raises:
            UserError: an argument that cannot work, or too little memory.
        """
        saved = _codes(codes)
        if isinstance(codes, (Song, Songs)):
            saved = {**saved, "zs": [*(z[:, :0] for z in saved["zs"][:-1]), saved["zs"][-1]]}
        flags = {
            "mode": "upsample",
            "codes_file": saved,
            "sample_length_in_seconds": seconds,
            "n_samples": n,
            "seed": seed,
            "temp": temp,
            "top_k": top_k,
            "top_p": top_p,
            "hop_fraction": hop_fraction,
            "max_batch_size": max_batch_size,
            "chunk_size": chunk_size,
        }
        with python_words(codes_file="codes"), keep_float32(self.tf32):
            return self._make(flags, progress)

    def reconstruct(
        self,
        audio: Audio,
        levels: int | Sequence[int] | None = None,
        *,
        offset: float = 0.0,
        seconds: float | None = None,
    ) -> list[Reconstruction]:
        """Encodes audio and decodes it again from each level, to hear and measure what the codes keep.

        Args:
            audio: a file, or float samples [T] or [T, channels] at the rate of the model.
            levels: to decode from, 0 the finest; all if left out.
            offset, seconds: part of the audio; up to its end if `seconds` is left out.

        Returns:
            One for each level, the finest first.

        Raises:
            UserError: the audio cannot be read or is too short, or there is no such level.
        """
        with python_words(), keep_float32(self.tf32):
            wanted = level_numbers(levels, len(self.samples_per_code))
            length = seconds_of({"seconds": seconds}, "seconds")
            original = read_part(audio, self.sr, number("offset", offset, least=0.0), length)
            coder = Coder(self._found.vqvae(self.samples_per_code[-1], self.device))
            check_length("the audio", len(original), self.sr, coder.vqvae, wanted)
            found = []
            for level in wanted:
                codes, decoded, figures = reconstruct_level(coder, original, level, self.sr)
                found.append(Reconstruction(level, decoded[:].numpy(), self.sr, codes[:].numpy(), figures.report()))
        return found

    def represent(
        self,
        audio: Audio,
        layers: int | Sequence[int],
        pool: str = "mean",
        *,
        level: int | str = "top",
        artist: str = "",
        genre: str = "",
        hop_fraction: float = 1.0,
        batch_size: int | None = None,
    ) -> np.ndarray[Any, Any]:
        """Activations of layers of a prior, as features.

        Args:
            audio: a file, or float samples [T] or [T, channels] at the rate of the model.
            layers: counted from 1: 36 is what the 36th layer hands on to the 37th.
            pool: "mean" over all positions, or "none".
            level: of the prior; "top", or 0 for the finest.
            artist, genre: labels; unknown if left out.
            hop_fraction: new positions of a window as a share of the context.
            batch_size: windows at a time; by the memory if left out.

        Returns:
            float32 [layers, D], or with pool="none" [layers, positions, D].

        Raises:
            UserError: an argument that cannot work, audio that cannot be read, or too little memory.
        """
        with python_words(), keep_float32(self.tf32):
            wanted = layer_numbers(layers)
            choice("pool", pool, ("mean", "none"))
            batch = None if batch_size is None else whole("batch_size", batch_size, least=1)
            of = level_number(str(level), len(self.samples_per_code))
            check_layers(self._found, of, wanted)
            samples = read_part(audio, self.sr, 0.0, None)
            extractor = Extractor(self._found, of, wanted, self.device, self.dtype, artist, genre)
            try:
                for line in extractor.notices:
                    warnings.warn(line, stacklevel=2)
                return features_of(extractor, samples, pool, number("hop_fraction", hop_fraction), batch)
            finally:
                extractor.release()

    def _make(self, flags: dict[str, Any], progress: Progress) -> Songs:
        """Makes the songs of the flags of `jukebox-sample`; those that are None are left out."""
        flags = {
            "name": "songs",
            "unknown_labels": "ok",
            **({"tf32": True} if self.tf32 else {}),
            **{flag: _plain(value) for flag, value in flags.items() if value is not None},
        }
        settings = replace(read_settings(flags, self._found), dtype=self.dtype, engine=self.engine)
        shown = {flag: value for flag, value in flags.items() if isinstance(value, (str, int, float))}
        songs, report, made = range(settings.n_samples), _Report(progress), dict[int, dict[str, Any]]()
        maker = prepare(settings, songs, Path(settings.name), shown, self.device, report)
        for line in report.lines:
            warnings.warn(in_python(line), stacklevel=3)
        lowest = maker.hps.level = settings.sample_levels[0]
        maker.keep = made.__setitem__
        maker.make(settings.sample_levels)
        return Songs(made[lowest])


class _Report(Silent):
    """Hands progress to a function of the user, and keeps what is to be told."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self.lines = progress, list[str]()
        self._level = self._made = self._all = 0

    def message(self, text: str) -> None:
        self.lines.append(text)

    warn = message

    def begin(self, level: int, tokens: int, windows: int) -> None:
        self._level, self._made, self._all = level, 0, tokens

    def advance(self, tokens: int) -> None:
        self._made += tokens
        if self._progress is not None:
            self._progress(self._level, self._made, self._all)


def _labels(lyrics: Words, artist: Words, genre: Words, metas: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The flags of the labels: words of all songs, and as metas those of each.

    Raises:
        UserError: lists of different lengths.
    """
    words = {"lyrics": lyrics, "artist": artist, "genre": genre}
    lists: dict[str, Any] = {key: list(value) for key, value in words.items() if isinstance(value, (list, tuple))}
    counts = {key: len(value) for key, value in {**lists, **({} if metas is None else {"metas": metas})}.items()}
    if len(set(counts.values())) > 1:
        (one, few), *_, (other, many) = counts.items()
        raise UserError(f"{one} has {few} entries, {other} {many}: give one for all songs, or one for each")
    entries = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
    if metas is not None:
        entries = [{**entry, **meta} for entry, meta in zip(entries or [{}] * len(metas), metas, strict=True)]
    return {**{key: value for key, value in words.items() if key not in lists}, "metas": entries or None}


def _codes(source: Codes) -> Any:
    """The value of `--codes_file`: a path, or what such a file holds."""
    if isinstance(source, (Song, Songs)):
        return source._data
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return {"zs": [torch.atleast_2d(torch.as_tensor(np.asarray(z))) for z in source]}


def _plain(value: Any) -> Any:
    """Numbers of numpy as those of Python."""
    return value.item() if isinstance(value, np.generic) else value
