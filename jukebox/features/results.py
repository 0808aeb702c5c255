"""Where features go: for each audio file an array and a note, and the question whether they are there already.

    OUT/rock/song.mp3.npy     float32 [layers, D] (mean) or [layers, positions, D]
    OUT/rock/song.mp3.json    what they were made of; written last, so that where it is, the array is complete

Both appear under their names only when they are whole. Change here what is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.json_text import read_json

# What features depend on; those of one folder agree in it.
SETTINGS = ("model", "weights_from", "level", "layers", "pool", "hop_fraction", "artist", "genre", "dtype", "tf32")


Writing = AbstractContextManager[Any]  # of a binary file


def array_path(out: Path, name: str) -> Path:
    return out / f"{name}.npy"


def note_path(out: Path, name: str) -> Path:
    return out / f"{name}.json"


def find_note(out: Path, name: str, settings: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """The note of a file whose features exist, complete, and of the file as it is now; else None.

    Args:
        name: of the audio file, relative to its folder.
        settings: what the features depend on.
        size: bytes of the audio file.

    Raises:
        UserError: there are features of other settings.
    """
    try:
        note = read_json(note_path(out, name))
        array = np.load(array_path(out, name), mmap_mode="r")  # checks the header and the length
    except (OSError, ValueError, EOFError):
        return None  # missing, or not by us
    if not isinstance(note, dict) or list(array.shape) != note.get("shape") or array.dtype != np.float32:
        return None
    other = [key for key in SETTINGS if note.get(key) != settings.get(key)]
    if other:
        says = ", ".join(f"{key}={_show(note.get(key))} instead of {_show(settings.get(key))}" for key in other)
        raise UserError(f"{array_path(out, name)} was made with {says}: choose another --out, or remove it")
    return note if note.get("audio_bytes") == size else None


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else repr(value)


def write_note(out: Path, name: str, note: Mapping[str, Any]) -> None:
    """Writes the note of a file whose array is complete."""
    with atomic_write(note_path(out, name), "w") as file:
        json.dump(note, file, indent=1, ensure_ascii=False)
        file.write("\n")


def _finite(features: np.ndarray) -> np.ndarray:
    """The features as they are.

    Raises:
        UserError: some are NaN or infinite.
    """
    if not np.isfinite(features).all():
        raise UserError(
            "the features are not finite (NaN or infinite): the weights are damaged, from a run that diverged, or too "
            "large for the type they run in; use another checkpoint, or --dtype=fp32"
        )
    return features


class MeanFile:
    """Collects the mean over all positions of a file, [layers, D], and writes it when it is complete.

    Args:
        writing: gives the .npy file to write to.
        shape: (layers, positions, D).
    """

    def __init__(self, writing: Writing, shape: tuple[int, int, int]) -> None:
        self._writing, self._positions = writing, shape[1]
        self.shape = [shape[0], shape[2]]
        self._sums = np.zeros((shape[0], shape[2]))
        self._taken = [0] * shape[0]  # positions of each layer: repeating a window is harmless

    def add(self, layer: int, position: int, rows: Tensor) -> None:
        """Takes rows [n, D] of the layer with this index, from a position on."""
        assert position <= self._taken[layer], "windows come in order"
        if position == self._taken[layer]:
            self._sums[layer] += rows.float().sum(0).cpu().double().numpy()
            self._taken[layer] += len(rows)

    def finish(self) -> None:
        """Makes the file appear."""
        with self._writing as file:
            np.save(file, _finite((self._sums / self._positions).astype(np.float32)))

    def __exit__(self, *_: Any) -> None:
        """Nothing is on the disk before the end."""


class RowsFile:
    """Writes all positions of a file, [layers, positions, D], as they come; nothing is held in memory.

    Args: as `MeanFile`.
    """

    def __init__(self, writing: Writing, shape: tuple[int, int, int]) -> None:
        self.shape = list(shape)
        self._writing = writing
        self._open = True
        self._file = self._writing.__enter__()
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._begin = self._file.tell()

    def add(self, layer: int, position: int, rows: Tensor) -> None:
        """Takes rows [n, D] of the layer with this index, from a position on."""
        _, positions, width = self.shape
        self._file.seek(self._begin + 4 * width * (layer * positions + position))
        self._file.write(_finite(rows.float().cpu().numpy()).astype("<f4").tobytes())

    def finish(self) -> None:
        """Makes the file appear."""
        self.__exit__(None, None, None)

    def __exit__(self, *error: Any) -> Any:
        """Keeps the file, or removes it after an error; says what a full disk means."""
        was_open, self._open = self._open, False
        return self._writing.__exit__(*error) if was_open else None


POOLS: dict[str, type[MeanFile] | type[RowsFile]] = {"mean": MeanFile, "none": RowsFile}
