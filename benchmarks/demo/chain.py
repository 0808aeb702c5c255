"""The demo model's whole chain on new lyrics, and the classifiers that listen to what comes out of it.

    songs (labels, lyrics) -> top codes -> level 1 -> level 0 -> audio -> what the classifiers hear in it

`Parts` holds a model with all its weights; parts that are missing are left out. What is measured on the way is in
`measures.py`; the command is `report.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from demo import measures as m
from demo.classifiers import CLASSES, TRAIN_SEED, Listeners, stack
from demo.intervals import difference, figure, share_of_letters, share_of_songs
from torch import Tensor

from jukebox.data.synthesizer import GENRES, Song, make_song
from jukebox.hparams import Hyperparams, all_defaults
from jukebox.loaders import Model, aligns_lyrics, find_model
from jukebox.make_models import load_checkpoint
from jukebox.sampling.options import LevelOptions
from jukebox.sampling.windows import walk_level
from jukebox.utils.errors import UserError
from jukebox.utils.run_files import RunFiles

WINDOW = 576  # codes of the top level that are judged, where no top prior says so


@contextmanager
def step(title: str) -> Iterator[None]:
    """Prints what is being done and how long it took."""
    start = time.monotonic()
    print(f"{title} ...", end=" ", flush=True)
    yield
    print(f"{time.monotonic() - start:.0f} s", flush=True)


class Parts:
    """A model with all its weights, as far as there are any.

    Attributes:
        model: by its hyper-parameters; vqvae, priors: modules, None for priors that are missing.
        length: samples of a top-level window, which the model makes; total: samples of a song, whole codes.
        seconds: of a song; per_code: of a top-level code.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.model = vqvae_alone(name) or find_model(name)
        self.sr, self.samples_per_code, self.seconds = self.model.sr, self.model.samples_per_code, seconds
        top = self.model.top
        self.length = (top.n_ctx if top else WINDOW) * self.samples_per_code[-1]
        self.total = int(seconds * self.sr) // self.samples_per_code[-1] * self.samples_per_code[-1]
        self.per_code = self.samples_per_code[-1] / self.sr
        if self.total < self.length:
            raise UserError(f"--seconds={seconds}: the model makes {self.length / self.sr:g} s, give as many or more")
        self.vqvae = self.model.vqvae(self.total, "cpu")
        lazy = [self.model.prior(i, self.vqvae, torch.device("cpu")) for i in range(len(self.samples_per_code))]
        self.priors = [None if prior is None else prior.load() for prior in lazy]
        self.shift = int(top.hps.get("alignment_shift") or 0) if top else 0

    @property
    def aligns(self) -> bool:
        """Whether the top prior reads lyrics and names the head that shows where they are."""
        top = self.priors[-1]
        return top is not None and aligns_lyrics(top)

    def lit(self, zs: Sequence[Tensor], songs: Sequence[Song]) -> list[Any]:
        """When each character is sung, as the top prior's attention says: CharacterTimes per song."""
        return m.align(self.priors[-1], zs, [m.meta(song) for song in songs], self.shift, self.per_code)


def vqvae_alone(name: str) -> Model | None:
    """The model of a VQ-VAE's run without priors, None for anything else."""
    path = RunFiles(name).latest if os.path.isdir(name) else name
    if not os.path.isfile(path):
        return None
    hps = load_checkpoint(path).get("hps") or {}
    if not hps or hps.get("prior"):
        return None
    hps = Hyperparams({**all_defaults(), **hps, "restore_vqvae": path, "train": False, "test": False})
    return Model(name, hps, [None] * hps.levels)


def make_songs(
    parts: Parts, songs: Sequence[Song], options: Sequence[dict[str, Any]], hop_fraction: Sequence[float]
) -> list[Tensor]:
    """The model's codes for the labels and lyrics of songs, one top-level window long.

    Args:
        songs: whose labels are asked for.
        options: sampling_kwargs per level, low to high; hop_fraction: per level.

    Returns:
        Codes per level [N, T_level], low to high; empty below a prior that is missing.
    """
    from tqdm import tqdm

    zs = [torch.zeros(len(songs), 0, dtype=torch.long) for _ in parts.priors]
    for level, prior in reversed(list(enumerate(parts.priors))):
        if prior is None:
            break
        labels = prior.labeller.get_batch_labels([m.meta(song) for song in songs])
        total, hop = parts.length // parts.samples_per_code[level], max(1, int(hop_fraction[level] * prior.n_ctx))
        with tqdm(total=total * len(songs), desc=f"making codes of level {level}", unit="code", mininterval=2) as bar:
            chosen = LevelOptions.from_kwargs(options[level])
            zs = walk_level(zs, labels, chosen, level, prior, total, hop, progress=bar.update)
    return zs


# --------------------------------------------------------------------------------------------------------- listening


def train_ears(parts: Parts, songs: int, steps: int) -> dict[str, Listeners]:
    """Two sets of classifiers: "real" learned only from real songs, "codec" from those and what the VQ-VAE makes of
    them as well, each song at one level.
    """
    made = [make_song(TRAIN_SEED + i, parts.sr, parts.seconds) for i in range(songs)]
    audio, levels = stack(made)[:, : parts.length], len(parts.samples_per_code)
    through = [m.decode(parts.vqvae, m.encode(parts.vqvae, audio[i::levels], i)[0], i) for i in range(levels)]
    again = [song for i in range(levels) for song in made[i::levels]]
    return {
        "real": Listeners.train(made, audio, parts.sr, steps),
        "codec": Listeners.train([*made, *again], torch.cat([audio, *through]), parts.sr, steps),
    }


@dataclass
class Heard:
    """Audio to listen to, and when its letters are sung.

    `name`: what it is; `audio` [N, T]; `times`: name of a source of times -> (starts, ends) of each song's characters.
    """

    name: str
    audio: Tensor
    times: dict[str, list[tuple[Any, Any]]]


def true_times(songs: Sequence[Song]) -> list[tuple[Any, Any]]:
    """(starts, ends) in seconds of the characters of each song."""
    return [(np.array(song.char_times)[:, 0], np.array(song.char_times)[:, 1]) for song in songs]


def listen(ears: dict[str, Listeners], heard: Sequence[Heard], songs: Sequence[Song], sr: int) -> list[dict[str, Any]]:
    """How often the classifiers recognise what was asked for: a dict per audio, `kind` -> `ear` -> figure.

    Letters have one figure for each source of their times: `kind` -> `times` -> `ear` -> figure.
    """
    rows = []
    for row in heard:
        found: dict[str, Any] = {"audio": row.name}
        for kind in ("artist", "genre"):
            names = [getattr(song, kind) for song in songs]
            found[kind] = {who: share_of_songs(*ear.songs(kind, row.audio, sr, names)) for who, ear in ears.items()}
        for kind in ("vowel", "consonant"):
            found[kind] = {
                source: {
                    who: share_of_letters(ear.letters(kind, row.audio, sr, [s.lyrics for s in songs], times))
                    for who, ear in ears.items()
                }
                for source, times in row.times.items()
            }
        rows.append(found)
    return rows


def sounds(songs: Sequence[Song], real: Tensor, made: Tensor, sr: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Loudness, flatness and onsets of real songs and of those that were made, by genre and for all."""
    measured = {"real": m.sound_figures(real, sr), "made": m.sound_figures(made, sr)}
    genres = np.array([song.genre for song in songs])
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for genre in [*GENRES, "all"]:
        chosen = genres == genre if genre != "all" else np.full(len(songs), True)
        out[genre] = {
            key: {
                **{who: figure(values[key][chosen]) for who, values in measured.items()},
                "difference": difference(measured["real"][key][chosen], measured["made"][key][chosen]),
            }
            for key in measured["real"]
        }
    return out


def confusion(ear: Listeners, kind: str, audio: Tensor, songs: Sequence[Song], sr: int) -> dict[str, dict[str, int]]:
    """What was asked for -> what was heard -> how many songs."""
    truth, guess = ear.songs(kind, audio, sr, [getattr(song, kind) for song in songs])
    names = CLASSES[kind]
    return {
        asked: {heard: int(((truth == i) & (guess == j)).sum()) for j, heard in enumerate(names)}
        for i, asked in enumerate(names)
    }
