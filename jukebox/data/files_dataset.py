"""A folder of audio files as a data set of equal chunks, with labels if the model has them.

Opened once, a folder is described by its index (`utils/audio/index.py`): durations, tags, and which files are broken.
Chunks are laid over the songs by `song_index.py`; labels come from `metadata.py`. A file that turns out to be broken
while training is told once and another chunk taken instead: training continues.

To label files in a way of your own, override `get_metadata`, or give a Python file with such a function
(`--metadata_py=my_labels.py`). Change here what one item of the data is.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jukebox.data.fit_labels import labels_for
from jukebox.data.labels import Labeller
from jukebox.data.lrc import read_lyric_line
from jukebox.data.metadata import FolderMetadata, Notices, SongLabels
from jukebox.data.metadata_hook import call_hook, load_hook
from jukebox.data.song_index import SongIndex, choose_songs, split_songs
from jukebox.hparams import Hyperparams, take_hparams
from jukebox.utils.audio.index import AudioEntry, AudioIndex, find_audio_files
from jukebox.utils.audio.read import EXTENSIONS, read_samples
from jukebox.utils.audio.reader import AudioError, Cut
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import DAMAGED
from jukebox.utils.plural import counted

ItemKey = int | tuple[int, int]  # an item, or (epoch, item)


class FilesAudioDataset(torch.utils.data.Dataset):
    """Chunks of the songs in a folder, as numpy arrays.

    `dataset[i]` is audio, float32 [sample_length, channels]. With labels it is (audio, y), y int64 [LabelRow.size].
    With times it is (audio, y, times), times int64 [n_tokens, 2]: when each lyric token is sung. These are (start, end)
    in samples of the chunk, equal if that is not known. `dataset[epoch, i]` is the same item with the random shift of
    that epoch.

    Args:
        hps: hyper-parameters, of any class: audio_files_dir, sr, channels, sample_length, min_duration, max_duration,
            damaged, aug_shift, seed; labels, labels_v3, labels_dir, metadata_py, max_bow_genre_size, signals,
            use_tokens, n_tokens, n_vocab, y_bins.
        with_times: whether items have times.

    Raises:
        UserError: the folder has no usable audio, or the label tables do not fit the model; the message says what was
            found.
    """

    def __init__(self, hps: Hyperparams, with_times: bool = False) -> None:
        hps = take_hparams(hps)
        self.sr, self.channels, self.sample_length = int(hps.sr), int(hps.channels), int(hps.sample_length)
        self.seed = int(getattr(hps, "seed", 0))
        self.aug_shift = bool(hps.aug_shift)
        self.epoch = 0
        self.folder = os.fspath(hps.audio_files_dir)
        self.damaged = getattr(hps, "damaged", DAMAGED[0])
        if self.sample_length <= 0:
            raise UserError(f"sample_length={self.sample_length}: give the samples of a training chunk, such as 262144")
        names, others, self._unread = find_audio_files(self.folder)
        entries = AudioIndex(self.folder).look_up(names)
        self._messages: list[str] = []
        limits = getattr(hps, "min_duration", None), getattr(hps, "max_duration", None)
        kept = self._choose(names, others, entries, *limits)
        self.names = [names[i] for i in kept]
        self.files = [os.path.join(self.folder, *name.split("/")) for name in self.names]
        self.durations = [int(entries[name].seconds * self.sr) for name in self.names]  # in samples
        self.songs = list(range(len(kept)))  # those that items are taken from
        self._index = SongIndex(self.durations, self.sample_length)
        # Flags for each file, in memory that loader workers share, so that trouble is told once by all of them.
        flags = torch.zeros(4, len(kept), dtype=torch.bool).share_memory_()
        self._broken, self._cut, self._told, self._crashes = flags
        self._work = _new_work(int(getattr(hps, "nworkers", 0)))
        for i, name in enumerate(self.names):
            self._cut[i] = self._told[i] = bool(entries[name].cut)
        self.notices = Notices()
        self.with_times = with_times
        self.labeller = _make_labeller(hps)
        self.labels = self.labeller is not None
        self._hook_file = os.fspath(getattr(hps, "metadata_py", ""))
        self._lyric_line = read_lyric_line(getattr(hps, "lyric_line", 1))
        self._hook: Callable[[str, bool], Any] | None = None
        self._metadata: dict[str, SongLabels] = {}  # their times are in `_times`, [characters, 2] in seconds
        self._times: dict[str, np.ndarray] = {}
        self._reader: FolderMetadata | None = None
        if self.labeller is not None:
            self._check_tables(self.labeller, getattr(hps, "y_bins", None), getattr(hps, "n_vocab", 0))
            self._read_labels(self.labeller, entries)

    # ------------------------------------------------------------------------------------------------ set-up

    def _choose(
        self,
        names: list[str],
        others: dict[str, int],
        entries: dict[str, AudioEntry],
        low: float | None,
        high: float | None,
    ) -> list[int]:
        """Places of the usable files among the names; an error that says what was found if there is none."""
        accepted = "accepted are ." + " .".join(EXTENSIONS)
        if not names:
            found = _count_endings(others) or "nothing"
            said = f"audio_files_dir={self.folder} has no audio files: found {found}; {accepted}"
            raise UserError("; ".join([said, *self._unread]))
        refusals = {name: entries[name].refusal(self.damaged) for name in names}
        broken = [name for name in names if refusals[name]]
        usable = [i for i, name in enumerate(names) if not refusals[name]]
        self._messages += [f"left out: {why}" for why in [*self._unread, *(refusals[name] for name in broken)]]
        chunk = self.sample_length / self.sr
        if low is not None and low * self.sr < self.sample_length:
            raise UserError(
                f"min_duration={low} is shorter than one chunk of sample_length={self.sample_length} at {self.sr} Hz; "
                f"use --min_duration={math.ceil(chunk)} or a shorter sample_length"
            )
        seconds = [entries[names[i]].seconds for i in usable]
        kept = [usable[i] for i in choose_songs(seconds, chunk, low, high)]
        asked, low = low is not None, math.ceil(chunk) if low is None else low
        short = 0 if asked else sum(duration < low for duration in seconds)
        self._left_out = len(broken) + len(self._unread) + short  # but not by a limit that was asked for
        limits = f"{low:g} s or longer" + (f" and shorter than {high:g} s" if high is not None else "")
        if not kept:
            found = _count_endings(Counter(name.rpartition(".")[2].lower() for name in names))
            lengths = (
                f", {min(seconds):.1f} to {max(seconds):.1f} s long"
                if seconds
                else f", none of which can be decoded ({'; '.join(refusals[name] for name in broken[:3])})"
            )
            raise UserError(
                f"audio_files_dir={self.folder} has no usable song: found {found}{lengths}; songs must be {limits} "
                f"(sample_length={self.sample_length} is {chunk:.1f} s)"
            )
        self._messages += [entries[names[i]].cut for i in kept if entries[names[i]].cut]
        for i in sorted({*usable} - {*kept}):
            self._messages.append(f"left out: {names[i]} is {entries[names[i]].seconds:.1f} s long")
        if short:
            self._messages.append(f"--min_duration={low:g} says that shorter songs are to be left out")
        total = sum(entries[names[i]].seconds for i in kept)
        left = f"; {len(usable) - len(kept)} left out, songs must be {limits}" if len(kept) < len(usable) else ""
        self._messages.insert(0, f"{counted(len(kept), 'song')}, {total / 3600:.2f} hours{left}")
        return kept

    def _read_labels(self, labeller: Labeller, entries: dict[str, AudioEntry]) -> None:
        reader = FolderMetadata(self.folder, self.notices, self._lyric_line)
        if self._has_hook():
            self._get_hook()  # a mistake in the file should show now
            self._reader = reader
            return
        for name in self.names:
            entry = entries[name]
            labels = labels_for(labeller, reader.read(name, entry.tags, entry.seconds), self.notices, name)
            if labels.times is not None:  # as tuples, those of ten thousand songs would be gigabytes
                self._times[name] = np.asarray(labels.times)
            self._metadata[name] = replace(labels, times=None)
        self._messages += [*self.notices.lines(), *reader.unused_rows(entries)]

    def _check_tables(self, labeller: Labeller, y_bins: Any, n_vocab: int) -> None:
        needed = labeller.ag_processor.y_bins
        if isinstance(y_bins, (list, tuple)) and any(n > bins for n, bins in zip(needed, y_bins, strict=True)):
            raise UserError(
                f"y_bins={','.join(map(str, y_bins))} is too small for the label tables; "
                f"use --y_bins={','.join(map(str, needed))}"
            )
        if labeller.n_tokens and n_vocab and labeller.text_processor.n_vocab > n_vocab:
            raise UserError(
                f"n_vocab={n_vocab} is too small for the vocabulary; use --n_vocab={labeller.text_processor.n_vocab}"
            )

    def describe(self) -> list[str]:
        """Lines for a person: how much music there is, and one for each kind of trouble."""
        return list(self._messages)

    def part(self, songs: Sequence[int], aug_shift: bool | None = None) -> FilesAudioDataset:
        """The same data set with items from some of its songs only.

        Args:
            songs: places in `files`.
            aug_shift: whether its chunks are shifted; None: as here.
        """
        other = copy.copy(self)
        other.songs = list(songs)
        other._index = SongIndex([self.durations[i] for i in songs], self.sample_length)
        other._work = _new_work(len(self._work))
        other.aug_shift = self.aug_shift if aug_shift is None else aug_shift
        return other

    def split(self, train_share: float) -> tuple[FilesAudioDataset, FilesAudioDataset]:
        """A part for training and a held-out part without random shifts; no song is in both."""
        train, held_out = split_songs([self.names[i] for i in self.songs], train_share)
        return self.part([self.songs[i] for i in train]), self.part([self.songs[i] for i in held_out], aug_shift=False)

    def has_times(self) -> bool:
        """Whether any song has timed lyrics, or a user's function may bring some that an .lrc file times."""
        return self._has_hook() or bool(self._times)

    # ------------------------------------------------------------------------------------------------- items

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: ItemKey) -> Any:
        epoch, item = key if isinstance(key, tuple) else (self.epoch, key)
        n = len(self)
        if not -n <= item < n:
            raise IndexError(f"item {item} of {n}")
        item %= n
        for step in range(n):
            song, offset = self.locate((item + step) % n, epoch)
            if self._crashes[song] or (self._broken[song] and self.damaged != "keep"):
                continue
            try:
                self._note_work(song)
                chunk = self.get_song_chunk(song, offset, test=not self.aug_shift)
                self._note_work(-1)
                return chunk
            except AudioError as error:
                told = bool(self._broken[song])  # by a worker that was quicker
                self._broken[song] = True
                if not told:
                    which = "the chunks that it lacks" if self.damaged == "keep" else "its chunks"
                    print(f"{error}; {which} are left out, others take their place", file=sys.stderr, flush=True)
        raise UserError(f"no file of audio_files_dir={self.folder} can be decoded any more")

    def _note_work(self, song: int) -> None:
        """Notes in a worker what it is about to read; -1: nothing."""
        worker = torch.utils.data.get_worker_info()
        if worker is not None and worker.id < len(self._work):
            self._work[worker.id, 0] = song + 1
            self._work[worker.id, 1] += 1

    def at_work(self) -> dict[int, tuple[str, int]]:
        """Worker -> the file that it is reading, and a number that changes when it gets on."""
        return {i: (self.files[song - 1], n) for i, (song, n) in enumerate(self._work.tolist()) if song}

    def leave_out(self, worker: int) -> bool:
        """Leaves out the file that a worker was reading when it crashed; False if it read none."""
        song = int(self._work[worker, 0]) - 1
        self._work[worker, 0] = 0
        if song >= 0 and not self._crashes[song]:
            self._crashes[song] = self._broken[song] = True
            file = self.files[song]
            print(f"cannot decode {file}: the decoder crashes; its chunks are left out", file=sys.stderr, flush=True)
        return song >= 0

    def locate(self, item: int, epoch: int) -> tuple[int, int]:
        """The song (a place in `files`) and the first sample of an item, with its random shift in an epoch.

        The shift comes only from (seed, epoch, item), so it depends neither on workers nor on other items.
        """
        shift = 0
        if self.aug_shift:
            half = self.sample_length // 2
            shift = int(
                np.random.default_rng([self.seed % 2**32, epoch % 2**32, item]).integers(-half, max(half, 1 - half))
            )
        place, offset = self._index.locate(item, shift)
        return self.songs[place], offset

    def get_song_chunk(self, song: int, offset: int, test: bool = False) -> Any:
        """One chunk of a song, with its label if there are labels; see the class for the shapes.

        Args:
            song: place in `files`.
            offset: first sample.
            test: handed to `get_metadata`.
        """
        audio = np.ascontiguousarray(self.read_song(song, offset, self.sample_length).T)
        return audio if self.labeller is None else (audio, *self.get_chunk_labels(song, offset, test))

    def read_song(self, song: int, offset: int, samples: int) -> np.ndarray:
        """A part of a song, float32 [channels, samples]; what is wrong with a song is told once.

        Raises:
            AudioError: the part cannot be read.
        """

        def tell(note: str) -> None:
            if not self._told[song]:
                self._told[song] = True
                print(note, file=sys.stderr, flush=True)
            self._cut[song] |= isinstance(note, Cut)

        file = self.files[song]
        return read_samples(file, self.sr, offset, samples, channels=self.channels, damaged=self.damaged, tell=tell)

    def is_incomplete(self) -> bool:
        """Whether a file, or the end of one, has been left out for another reason than a limit that was given."""
        return self._left_out > 0 or bool(self._broken.any() or self._cut.any())

    def get_chunk_labels(self, song: int, offset: int, test: bool = False) -> tuple[np.ndarray, ...]:
        """What comes with the audio of a chunk if there are labels: (y,), or (y, times)."""
        assert self.labeller is not None
        labels = self._labels_of(song, test)
        times = None if labels.times is None else [(a * self.sr, b * self.sr) for a, b in labels.times]
        label = self.labeller.get_label(
            labels.artist, labels.genre, labels.lyrics, self.durations[song], offset, times, **labels.signals
        )
        if not self.with_times:
            return (label["y"].numpy(),)
        _, places = self.labeller.lyric_window(label["info"], self.durations[song], offset, self.sample_length)
        return label["y"].numpy(), self.labeller.get_token_times(label["info"], places, offset).numpy()

    # ------------------------------------------------------------------------------------------------ labels

    def get_metadata(self, filename: str, test: bool) -> tuple[Any, Any, Any]:
        """Artist, genre and lyrics of a file. Override this to label files in a way of your own.

        Args:
            filename: path of the file.
            test: whether the chunk is for evaluation.

        Returns:
            Three strings; None for what is not known.
        """
        hook = self._get_hook()
        if hook is not None:
            return hook(filename, test)
        name = os.path.relpath(filename, self.folder).replace(os.sep, "/")
        labels = self._metadata.get(name, SongLabels())
        return labels.artist, labels.genre, labels.lyrics

    def _has_hook(self) -> bool:
        return bool(self._hook_file) or type(self).get_metadata is not FilesAudioDataset.get_metadata

    def _labels_of(self, song: int, test: bool) -> SongLabels:
        name = self.names[song]
        if not self._has_hook():
            kept = self._times.get(name)
            spans = None if kept is None else tuple((start, end) for start, end in kept.tolist())
            return replace(self._metadata[name], times=spans)
        assert self.labeller is not None and self._reader is not None
        seen = set(self.notices.counts)
        labels = call_hook(self.get_metadata, self.files[song], test, name, self.notices, self._lyric_line)
        if labels.times is None and labels.lyrics:
            times = self._reader.read_times(name, labels.lyrics, self.durations[song] / self.sr)
            labels = replace(labels, times=times)
        labels = labels_for(self.labeller, labels, self.notices, name)
        for kind in self.notices.counts.keys() - seen:
            print(f"labels: {kind} (first: {self.notices.examples[kind]})", file=sys.stderr, flush=True)
        return labels

    def _get_hook(self) -> Callable[[str, bool], Any] | None:
        if self._hook is None and self._hook_file:
            self._hook = load_hook(self._hook_file)
        return self._hook

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hook": None}  # a function from a file is loaded again by each worker


def _new_work(workers: int) -> torch.Tensor:
    """What each worker is doing, shared with it, [workers, 2]: 1 + the song that it reads or 0, and a counter."""
    return torch.zeros(workers, 2, dtype=torch.int64).share_memory_()


def _make_labeller(hps: Hyperparams) -> Labeller | None:
    """The labeller of the hyper-parameters; None without labels."""
    words = getattr(hps, "max_bow_genre_size", None)
    if not getattr(hps, "labels", False):
        return None
    if words is None:
        if getattr(hps, "prior", False):
            raise UserError(
                "labels=True needs max_bow_genre_size, y_bins and t_bins, as in --hps=...,small_labelled_prior; "
                "use --labels=False to train without labels"
            )
        return None  # a VQ-VAE has no use for labels
    n_tokens = int(hps.n_tokens) if getattr(hps, "use_tokens", hps.n_tokens > 0) else 0
    folder = getattr(hps, "labels_dir", "")
    signals = getattr(hps, "signals", "")
    labeller = Labeller.from_folder(folder, words, n_tokens, int(hps.sample_length), bool(hps.labels_v3), signals)
    try:
        _ = labeller.ag_processor.y_bins  # reads the tables
    except UserError as error:
        if folder:
            raise
        raise UserError(
            f"{error}; tables of your own songs: python -m jukebox.data.labels build "
            f"--audio_files_dir={hps.audio_files_dir}, then --labels_dir={hps.audio_files_dir}"
        ) from error
    return labeller


def _count_endings(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{n} .{ending}" if ending else f"{n} without an ending" for ending, n in ordered[:8])
