"""A folder of audio files in, a folder of features out.

    files that are not done -> decoded in the background -> windows -> batches across files -> arrays and notes

Every position of a file is taken from one window. Windows begin at multiples of the hop. The last one is moved back so
that it ends at the end of the file, and gives the positions that are still missing. For 20 positions, a context of 8
and a hop of 8 or 5 (# taken, . context):

    hop 8   ########                    hop 5   ########
                    ########                         ...#####
                        ....####                          ...#####
                                                            ......##

A file shorter than one context is one short window; nothing is padded. What is left of a file after its last whole
position is not used. A file shorter than one position is filled up with silence. Change here the order of things; what
a window gives is in `activations.py`, what is written in `results.py`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jukebox.features.activations import AudioWindow, Extractor
from jukebox.features.results import POOLS, MeanFile, RowsFile, Writing, array_path, find_note, write_note
from jukebox.utils.audio.read import read_into
from jukebox.utils.audio.reader import Cut
from jukebox.utils.audio.spool import Samples, Spool, filled
from jukebox.utils.errors import UserError
from jukebox.utils.files import WriteError, atomic_write
from jukebox.utils.flag_values import DAMAGED
from jukebox.utils.memory import free_bytes, in_parts
from jukebox.utils.sample_utils import Window, schedule

READERS = min(4, os.cpu_count() or 1)  # threads that decode files while others run
STALE = 600.0  # seconds after which an unfinished file has no writer any more
LARGEST_BATCH = 16
Report = Callable[[str], None]


@dataclass
class Outcome:
    """How many files were made; those that cannot be read (name, why), and those whose end is missing (name, how)."""

    made: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    cut: list[tuple[str, str]] = field(default_factory=list)


class OpenSong:
    """One file on its way.

    Args:
        name: relative to the folder.
        audio: float32 [T].
        size: bytes of the file.
        extractor: decides the windows.
        hop: new positions of a window.
        writing: gives the file of the results; pool: a key of POOLS.
    """

    def __init__(
        self, name: str, audio: Samples, size: int, extractor: Extractor, hop: int, writing: Writing, pool: str
    ) -> None:
        self.name, self.size, self.samples = name, size, len(audio)
        self.cut = ""  # what says that the end of the file is missing
        self._per_code = extractor.samples_per_code
        self.positions = max(1, self.samples // self._per_code)
        whole = -(-self.positions // extractor.ratio) * extractor.ratio
        self._audio = audio
        self.windows = schedule(whole, extractor.n_ctx, hop)
        self.left = len(self.windows)
        self._writing, self._pool = writing, pool
        self._shape = (len(extractor.layers), self.positions, extractor.width)
        self.file: MeanFile | RowsFile | None = None

    def audio_of(self, window: Window) -> AudioWindow:
        audio = filled(self._audio, window.start * self._per_code, window.end * self._per_code)
        return AudioWindow(audio[:, None], window.start * self._per_code, self.samples)

    def add(self, window: Window, layer: int, rows: Tensor) -> None:
        """Takes what a window gives of the layer with this index, [L, D], L its positions or more."""
        first, last = window.start + window.known, min(window.end, self.positions)
        if self.file is None:
            self.file = POOLS[self._pool](self._writing, self._shape)
        if last > first:
            self.file.add(layer, first, rows[first - window.start : last - window.start])


def extract(extractor: Extractor, items: Sequence[tuple[OpenSong, Window]]) -> None:
    """Runs windows of songs together and hands each song what is its own."""
    for layer, h in extractor.run([song.audio_of(window) for song, window in items]):
        index = extractor.layers.index(layer)
        for (song, window), rows in zip(items, h, strict=True):
            song.add(window, index, rows)


def fitting_batch(extractor: Extractor) -> int:
    """Windows that half of the free memory takes."""
    # Per position: input, norm, q, k, v, MLP and their padded copies, in float32 at worst.
    per_window = extractor.n_ctx * extractor.width * 4 * 16
    return max(1, min(LARGEST_BATCH, free_bytes(extractor.device) // 2 // per_window))


def smaller_batch(extractor: Extractor, batch: int) -> int:
    """Half of a batch that did not fit.

    Raises:
        UserError: it was one window.
    """
    if batch == 1:
        elsewhere = "another machine" if extractor.device.type == "cpu" else "--fp16, --device=cpu"
        raise UserError(
            f"one window of {extractor.n_ctx} positions does not fit the memory of {extractor.device}: "
            f"use {elsewhere} or a smaller model"
        )
    return batch // 2


def features_of(
    extractor: Extractor, audio: Samples, pool: str, hop_fraction: float = 1.0, batch: int | None = None
) -> np.ndarray:
    """The features of one song, which nothing is written of.

    Args:
        audio: float32 [T].
        pool: a key of POOLS.
        hop_fraction: new positions of a window as a share of the context.
        batch: windows at a time; None: chosen from free memory.

    Returns:
        float32 [layers, D] or [layers, positions, D].

    Raises:
        UserError: too little memory.
    """
    hop, buffer = window_hop(hop_fraction, extractor.n_ctx, extractor.ratio), io.BytesIO()
    song = OpenSong("", audio, 0, extractor, hop, contextlib.nullcontext(buffer), pool)
    items = [(song, window) for window in song.windows]

    def run(start: int, end: int) -> None:
        extract(extractor, items[start:end])

    for _ in in_parts(len(items), batch or fitting_batch(extractor), run, partial(smaller_batch, extractor)):
        pass
    assert song.file is not None
    song.file.finish()
    buffer.seek(0)
    return np.load(buffer)


class FeatureWriter:
    """Makes the features of files.

    Args:
        extractor: gives activations.
        folder, out: of the audio files, of the results.
        settings: what the results depend on, see `results.SETTINGS`; goes into the notes.
        batch: windows at a time; None: chosen from free memory.
        advance: called with the seconds of audio that were dealt with.
        say: called with lines for the user.
        damaged: what becomes of files that cannot be read to their end, as for `load_audio`.
    """

    def __init__(
        self,
        extractor: Extractor,
        folder: Path,
        out: Path,
        settings: dict[str, Any],
        batch: int | None = None,
        advance: Callable[[float], None] = lambda seconds: None,
        say: Report = print,
        damaged: str = DAMAGED[0],
    ) -> None:
        self.extractor, self.folder, self.out, self.settings = extractor, folder, out, settings
        self.batch = batch or fitting_batch(extractor)
        self.advance, self.say, self.damaged = advance, say, damaged
        self.outcome = Outcome()
        self._hop = window_hop(settings["hop_fraction"], extractor.n_ctx, extractor.ratio)
        self._open: dict[str, OpenSong] = {}

    def run(self, names: Sequence[str]) -> Outcome:
        """Makes the features of files, in order; what is finished is whole, whatever happens.

        Args:
            names: relative to the folder.
        """
        waiting: deque[tuple[OpenSong, Window]] = deque()

        def run_some() -> None:
            self._run_batch([waiting.popleft() for _ in range(min(self.batch, len(waiting)))])

        try:
            with contextlib.closing(self._songs(names)) as songs:
                for song in songs:
                    self._open[song.name] = song
                    waiting.extend((song, window) for window in song.windows)
                    while len(waiting) >= self.batch:
                        run_some()
            while waiting:
                run_some()
        except BaseException:
            with contextlib.ExitStack() as stack:  # unfinished files are removed
                for song in self._open.values():
                    if song.file is not None:
                        stack.push(song.file.__exit__)
                raise
        return self.outcome

    # ------------------------------------------------------------------------------------------ files

    def _songs(self, names: Sequence[str]) -> Generator[OpenSong]:
        """Decoded files; the next ones are read in the background. Those that cannot be read are noted."""
        with ThreadPoolExecutor(READERS) as pool:
            coming: list[tuple[str, Future[tuple[Spool, int, list[str]]]]] = []
            rest = iter(names)
            try:
                while True:
                    for name in rest:
                        coming.append((name, pool.submit(self._read, name)))
                        if len(coming) > READERS:
                            break
                    if not coming:
                        return
                    name, future = coming.pop(0)
                    try:
                        audio, size, notes = future.result()
                    except WriteError:  # of the disk that a long song is kept on
                        raise
                    except (OSError, ValueError) as error:  # AudioError, UserError, or a file that has gone
                        self.outcome.broken.append((name, str(error)))
                        self.say(f"left out: {error}")
                        continue
                    writing = atomic_write(array_path(self.out, name))
                    song = OpenSong(name, audio, size, self.extractor, self._hop, writing, self.settings["pool"])
                    for note in notes:
                        self.say(note)
                    song.cut = next((str(note) for note in notes if isinstance(note, Cut)), "")
                    yield song
            finally:
                for _, future in coming:
                    future.cancel()

    def _read(self, name: str) -> tuple[Spool, int, list[str]]:
        path, notes, audio = self.folder / name, list[str](), Spool(self.out)
        read_into(audio, path, self.extractor.sr, damaged=self.damaged, tell=notes.append)
        return audio, os.path.getsize(path), notes

    # ------------------------------------------------------------------------------------------ windows

    def _run_batch(self, items: list[tuple[OpenSong, Window]]) -> None:
        """Runs windows together, in halves if memory does not suffice for all.

        Raises:
            UserError: not even one fits.
        """

        def run(start: int, end: int) -> None:  # what was written until memory ran out is written again
            extract(self.extractor, items[start:end])

        for start, end, _ in in_parts(len(items), self.batch, run, self._smaller_batch):
            for song, window in items[start:end]:
                self._window_done(song, window)

    def _smaller_batch(self, batch: int) -> int:
        self.batch = smaller_batch(self.extractor, batch)
        self.say(f"out of memory with {batch} windows at a time: continuing with {self.batch}")
        return self.batch

    def _window_done(self, song: OpenSong, window: Window) -> None:
        self.advance(window.new * self.extractor.samples_per_code / self.extractor.sr)
        song.left -= 1
        if song.left:
            return
        assert song.file is not None
        song.file.finish()
        of = self.extractor
        note = {
            "audio": song.name,
            "audio_bytes": song.size,
            "seconds": song.samples / of.sr,
            **self.settings,
            "shape": song.file.shape,
            "sr": of.sr,
            "hop": of.samples_per_code,
            "positions": song.positions,
            "cut": song.cut,
        }
        write_note(self.out, song.name, note)
        self.outcome.made += 1
        if song.cut:
            self.outcome.cut.append((song.name, song.cut))
        del self._open[song.name]


def window_hop(fraction: float, n_ctx: int, ratio: int) -> int:
    """New positions of a window, a multiple of the ratio.

    Raises:
        UserError: a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise UserError(f"--hop_fraction={fraction:g}: must be above 0 and at most 1")
    return max(1, int(fraction * n_ctx) // ratio) * ratio


def split_done(
    names: Sequence[str], folder: Path, out: Path, settings: dict[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """(files to do, files that are done: what says that the end of the file is missing, "" if it is whole).

    Raises:
        UserError: there are results of other settings.
    """
    todo: list[str] = []
    done: dict[str, str] = {}
    for name in names:
        try:
            size = os.path.getsize(folder / name)
        except OSError:  # a link that leads nowhere: reading it will say so
            size = -1
        note = find_note(out, name, settings, size)
        if note is None:
            todo.append(name)
        else:
            done[name] = str(note.get("cut", ""))
    return todo, done


def remove_stale(out: Path) -> None:
    """Removes what jobs that were killed have left unfinished."""
    for path in out.rglob(".*.tmp"):
        if re.search(r"\.(npy|json)\.[^.]+\.tmp$", path.name) and time.time() - path.stat().st_mtime > STALE:
            path.unlink(missing_ok=True)
