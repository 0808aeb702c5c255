"""Songs as Python has them: audio, codes, alignment and labels in memory, and how they are saved.

Change here what is known of a song; how songs are made is in `api.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from jukebox.sampling.levels import labels_of, tags, write_level


class Song:
    """One song.

    Attributes:
        audio: float32 [T]; sr: its samples per second.
        codes: per level, low to high, int64 [T_level]; empty for levels that were not made.
        alignment: float64 [T_top, characters], the attention of the top level to the lyrics; None without lyrics.
        labels: artist, genre, lyrics; total_length and offset in samples, of the timing labels.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self.audio: np.ndarray[Any, Any] = data["x"][0, :, 0].numpy()
        self.sr = int(data["hps"]["sr"])
        self.codes: list[np.ndarray[Any, Any]] = [z[0].numpy() for z in data["zs"]]
        self.alignment: np.ndarray[Any, Any] | None = data["alignments"][0].numpy() if data["alignments"] else None
        own = labels_of(data)
        self.labels: dict[str, Any] = {} if own is None else {**own["info"][0]}
        if own is not None and own["y"].shape[1] >= 2:
            self.labels.update(total_length=int(own["y"][0, 0]), offset=int(own["y"][0, 1]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the audio, tagged with the labels, by the ending of the path: .wav, .flac, .mp3, .ogg, .m4a, .opus.

        Raises:
            UserError: another ending, or the file cannot be written.
        """
        from jukebox.utils.audio.write import write_audio

        write_audio(path, self.audio, self.sr, tags(self.labels, self._data["hps"]))


class Songs(Sequence[Song]):
    """Songs that were made together."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data["x"])

    @overload
    def __getitem__(self, index: int) -> Song: ...

    @overload
    def __getitem__(self, index: slice) -> Songs: ...

    def __getitem__(self, index: int | slice) -> Song | Songs:
        rows, data = range(len(self))[index], self._data
        chosen = list(rows) if isinstance(rows, range) else [rows]
        part = {
            **data,
            "zs": [z[chosen] for z in data["zs"]],
            "x": data["x"][chosen],
            "labels": [
                labels and {**labels, "y": labels["y"][chosen], "info": [labels["info"][i] for i in chosen]}
                for labels in data["labels"]
            ],
            "alignments": data["alignments"] and [data["alignments"][i] for i in chosen],
        }
        return Songs(part) if isinstance(index, slice) else Song(part)

    def save_page(self, folder: str | os.PathLike[str]) -> None:
        """Writes a page to play the songs with their lyrics, `index.html`, and what it needs into a folder.

        The audio is in item_0.wav, item_1.wav, ...; `data.pth.tar` is for `continue_from` and `--codes_file`.

        Raises:
            UserError: the folder cannot be written.
        """
        write_level(Path(folder), self._data, {**self._data["hps"], "name": str(folder)})


@dataclass(frozen=True)
class Reconstruction:
    """Audio decoded from one level.

    Attributes:
        level: 0 is the finest.
        audio: float32 [T]; sr: its samples per second.
        codes: int64 [L].
        figures: spectral convergence, codebook use, bit rate and the like, by name.
    """

    level: int
    audio: np.ndarray[Any, Any]
    sr: int
    codes: np.ndarray[Any, Any]
    figures: dict[str, Any]
