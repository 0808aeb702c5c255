"""VQ codes of a data set, written once, and a data set that gives them to a prior instead of audio.

    CODES_DIR/codes.json              what all codes were made with: digest of the VQ-VAE, sound and form
    CODES_DIR/part_R/index.json       segments: song, first sample, samples, where its codes begin; the songs; and
                                      bytes and SHA-256 of the codes of each level
    CODES_DIR/part_R/level_L.bin      codes of level L of all segments, one after the other

Each process of one job writes a part; reading takes all parts together. An index is written after the codes it speaks
of, so a run that is killed resumes after the last one. A part that is not what its index says is written again.
Segments are looked up one by one, and a run writes those that are missing. So priors of all levels, chunks of all
lengths and songs that came later share a folder. Without `aug_shift` a segment is one training chunk, encoded by itself
as in training from audio. With it a segment is a whole song, and chunks begin at codes of the top level. Change here
the form of the files and how chunks are cut from songs.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.hparams import Hyperparams
from jukebox.utils import dist_adapter as dist
from jukebox.utils.audio.reader import AudioError
from jukebox.utils.dist_utils import any_rank, first_rank_first, in_step, only_job, print_once
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write, only_writer, try_folder, write_error
from jukebox.utils.json_text import read_json
from jukebox.utils.levels import samples_per_code
from jukebox.utils.progress import progress_bar
from jukebox.vqvae.vqvae import VQVAE

VERSION = 2
INDEX = "index.json"
SAVE_SECONDS = 20.0  # between two writes of a part's index

Segment = tuple[str, int, int]  # song, first sample, samples
EncodedSong = tuple[int, int]  # samples, and bytes of the file


class PackedCodes:
    """Reads codes out of a tensor in which those of several levels are side by side; audio is encoded as before.

    Args:
        samples_per_code: raw samples that one code represents, of each packed level, the prior's own first.
        sample_length: samples of a chunk.
        level: the prior's.
        encode: of the VQ-VAE.
    """

    def __init__(
        self, samples_per_code: Sequence[int], sample_length: int, level: int, encode: Callable[..., list[torch.Tensor]]
    ) -> None:
        self.sizes = [sample_length // per_code for per_code in samples_per_code]
        self.level, self.encode = level, encode

    def __call__(self, x: torch.Tensor, start_level: int, end_level: int, bs_chunks: int = 1) -> list[torch.Tensor]:
        """Packed codes [N, sum of L] int64, or audio [N, T, 1] -> codes of each level from start to end."""
        if x.is_floating_point():
            return self.encode(x, start_level=start_level, end_level=end_level, bs_chunks=bs_chunks)
        return list(x.split(self.sizes, dim=1))[start_level - self.level : end_level - self.level]


def vqvae_digest(vqvae: VQVAE) -> str:
    """SHA-256 of all that codes depend on: encoders, codebooks and strides."""
    digest = hashlib.sha256(repr((vqvae.downs_t, vqvae.strides_t)).encode())
    for name, tensor in sorted(vqvae.state_dict().items()):
        if not name.startswith("decoders."):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class CodesDataset(FilesAudioDataset):
    """A `FilesAudioDataset` whose chunks are codes: int64 [sum of L] of the prior's level and those above.

    Args:
        hps: as there, and codes_dir, level.
        with_times: whether items have times.
    """

    def __init__(self, hps: Hyperparams, with_times: bool = False) -> None:
        super().__init__(hps, with_times)
        self.codes_dir = os.fspath(hps.codes_dir)
        self.train_test_split = float(hps.train_test_split)
        self.level = int(hps.level)
        self.whole_songs = self.aug_shift
        self.samples_per_code = samples_per_code(hps.strides_t, hps.downs_t)
        self.store = CodesStore(self.codes_dir, self.samples_per_code, np.uint16 if hps.l_bins <= 2**16 else np.int32)

    def locate(self, item: int, epoch: int) -> tuple[int, int]:
        """As for audio; with whole songs the chunk begins at a code of the top level."""
        song, offset = super().locate(item, epoch)
        if self.whole_songs:
            top = self.samples_per_code[-1]
            last = self.durations[song] // top * top - self.sample_length
            offset = min(offset // top * top, last)
        return song, offset

    def get_song_chunk(self, song: int, offset: int, test: bool = False) -> Any:
        """Codes of one chunk, with its label if there are labels."""
        codes = self.store.read(self._segment(song, offset), offset, self.sample_length, self.level)
        if codes is None:  # the song could not be decoded
            raise AudioError(f"{self.files[song]}: has no codes in {self.codes_dir}")
        packed = codes.astype(np.int64)
        return packed if self.labeller is None else (packed, *self.get_chunk_labels(song, offset, test))

    # -------------------------------------------------------------------------------------------- writing

    def _segment(self, song: int, offset: int) -> Segment:
        """What is encoded at once to get the codes of the chunk at an offset."""
        if self.whole_songs:
            top = self.samples_per_code[-1]
            return self.names[song], 0, self.durations[song] // top * top
        return self.names[song], offset, self.sample_length

    def segments(self) -> list[Segment]:
        """All that must be encoded."""
        if self.whole_songs:
            return [self._segment(i, 0) for i in self.songs]
        wanted = dict.fromkeys(
            self._segment(song, offset)
            for part in self.split(self.train_test_split)
            for song, offset in (part.locate(item, 0) for item in range(len(part)))
        )
        return list(wanted)

    def prepare(self, vqvae: VQVAE) -> list[str]:
        """Writes what is missing, all processes together. Returns lines for a person.

        Raises:
            UserError: the folder holds codes of another VQ-VAE or of another sound, a song has changed since, or
                another job writes there.
        """
        lines = []
        if self.whole_songs:
            top = self.samples_per_code[-1]
            lines.append(
                f"aug_shift: chunks begin at codes of the top level, every {top} samples ({top / self.sr:.4f} s)"
            )
        self.store.claim(
            dict(
                version=VERSION,
                vqvae=vqvae_digest(vqvae),
                whole_songs=self.whole_songs,
                sr=self.sr,
                channels=self.channels,
                hops=self.samples_per_code,
                dtype=np.dtype(self.store.dtype).name,
            )
        )
        segments, device = self.segments(), next(vqvae.parameters()).device
        places = {name: i for i, name in enumerate(self.names)}
        wanted = {name: places[name] for name, _, _ in segments}
        songs = {name: (self.durations[i], os.path.getsize(self.files[i])) for name, i in wanted.items()}
        damaged = first_rank_first(self.store.damaged_parts if dist.get_rank() == 0 else list)
        if any_rank(bool(damaged or self.store.missing(segments, songs)), device):
            with only_job(self.codes_dir, "codes_dir"):
                for part in damaged:
                    self.store.remove(part)
                dist.barrier()
                missing = self.store.missing(segments, songs)
                dist.barrier()  # no rank writes before all have looked
                if missing:
                    what = "songs" if self.whole_songs else "chunks"
                    print_once(f"encoding {len(missing)} {what} into {self.codes_dir}")
                    self._write(missing[dist.get_rank() :: dist.get_world_size()], songs, vqvae)
                dist.barrier()
        there = len(segments) - len(self.store.missing(segments, songs))
        lines.append(f"codes of {there} {'songs' if self.whole_songs else 'chunks'} in {self.codes_dir}")
        return lines

    def _write(self, segments: Sequence[Segment], songs: Mapping[str, EncodedSong], vqvae: VQVAE) -> None:
        places = {name: i for i, name in enumerate(self.names)}
        device = next(vqvae.parameters()).device
        with self.store.writer(f"part_{dist.get_rank()}", songs) as append:
            shown = progress_bar(segments, desc="encoding", disable=dist.get_rank() > 0 or len(segments) < 200)
            for name, start, samples in in_step(shown, device):
                try:
                    audio = self.read_song(places[name], start, samples)
                except AudioError as error:
                    self._cut[places[name]] = True
                    print(f"{error}; it gets no codes", flush=True)
                    continue
                x = torch.from_numpy(np.ascontiguousarray(audio)).to(device).mean(0)  # [C, T] -> [T]
                codes = vqvae.encode(x[None, :, None])
                append((name, start, samples), [z[0].cpu().numpy() for z in codes])


@dataclass
class Index:
    """What a part of a codes folder holds: nothing by default."""

    segments: list[list[Any]] = field(default_factory=list)  # song, first sample, samples, first sample in the part
    songs: dict[str, EncodedSong] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)  # of the codes of each level

    @property
    def end(self) -> int:
        """Samples of all segments, which is where the next one begins."""
        return self.segments[-1][3] + self.segments[-1][2] if self.segments else 0


class CodesStore:
    """The files of a codes folder.

    Args:
        folder: made if it is missing.
        samples_per_code: raw samples that one code represents, of all levels.
        dtype: of the codes in files.
    """

    def __init__(self, folder: str, samples_per_code: Sequence[int], dtype: Any) -> None:
        self.folder, self.samples_per_code, self.dtype = folder, list(samples_per_code), dtype
        self.places: dict[Segment, tuple[str, int]] = {}  # segment -> part, its first sample in the part
        self.songs: dict[str, EncodedSong] = {}  # as they were when they were encoded
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # each worker maps the files by itself

    def claim(self, made_of: dict[str, Any]) -> None:
        """Notes what the codes are made of, or compares it with what was noted.

        Raises:
            UserError: the folder's codes are of something else.
        """
        path = os.path.join(self.folder, "codes.json")
        if dist.get_rank() == 0 and not os.path.exists(path):
            try_folder(self.folder, "codes_dir")
            with only_writer(self.folder, "codes_dir"), atomic_write(path, "w") as file:
                json.dump(made_of, file, indent=1)
        dist.barrier()
        try:
            found = dict(read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"codes_dir={self.folder}: codes.json is damaged; delete the folder") from error
        words = {
            "vqvae": "another VQ-VAE",
            "whole_songs": f"a run with aug_shift={found.get('whole_songs')}",
        }
        for key, value in made_of.items():
            if found.get(key) != value:
                raise UserError(
                    f"codes_dir={self.folder} holds codes of {words.get(key, f'another {key}')}: "
                    "give another folder, or delete it to have it written again"
                )

    def check_songs(self, songs: Mapping[str, EncodedSong]) -> None:
        """Compares songs with those that were encoded.

        Raises:
            UserError: one has the name of another that has codes here.
        """
        for name, song in songs.items():
            if self.songs.get(name, song) != song:
                raise UserError(
                    f"codes_dir={self.folder} holds codes of another {name} (of {self.songs[name][1]} bytes, now "
                    f"{song[1]}): give the file another name, or delete the folder to have it written again"
                )

    def missing(self, segments: Sequence[Segment], songs: Mapping[str, EncodedSong]) -> list[Segment]:
        """Those of the segments that have no codes, as the folder is now."""
        self.open()
        self.check_songs(songs)
        return [segment for segment in segments if segment not in self.places]

    def open(self) -> None:
        """Reads the indices of all parts."""
        self.places, self.songs, self._maps = {}, {}, {}
        for part in self._parts():
            index = self._index(part)
            for name, start, samples, first in index.segments:
                self.places[name, start, samples] = (part, first)
            self.songs.update(index.songs)

    def _parts(self) -> list[str]:
        return sorted(part for part in os.listdir(self.folder) if os.path.isfile(self._path(part, INDEX)))

    def _path(self, part: str, name: int | str) -> str:
        """A file of a part: its index, or the codes of a level."""
        return os.path.join(self.folder, part, name if isinstance(name, str) else f"level_{name}.bin")

    def _index(self, part: str) -> Index:
        """What a part holds: nothing if it has no index, one of another form, or fewer codes than that says."""
        try:
            index = read_json(self._path(part, INDEX))
            found = Index(
                [
                    [str(name), int(start), int(samples), int(first)]
                    for name, start, samples, first in index["segments"]
                ],
                {str(name): (int(samples), int(size)) for name, (samples, size) in index["songs"].items()},
                [str(digest) for digest in index["sha256"]],
            )
            sizes = [os.path.getsize(self._path(part, level)) for level in range(len(self.samples_per_code))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            return Index()
        ends = list(itertools.accumulate((samples for _, _, samples, _ in found.segments), initial=0))
        whole = [first for _, _, _, first in found.segments] == ends[:-1] and len(found.digests) == len(sizes)
        whole = whole and index.get("bytes") == self._bytes(found.end)
        return found if whole and all(map(operator.ge, sizes, index["bytes"])) else Index()

    def _bytes(self, samples: int) -> list[int]:
        """Of the codes of that many samples, at each level."""
        return [samples // per_code * np.dtype(self.dtype).itemsize for per_code in self.samples_per_code]

    def _hash(self, part: str, samples: int) -> list[Any]:
        """SHA-256 of the codes of a part's first samples, at each level; more can be added."""
        digests = []
        for level, left in enumerate(self._bytes(samples)):
            digests.append(hashlib.sha256())
            with open(self._path(part, level), "rb") as file:
                while piece := file.read(min(left, 1 << 22)):
                    digests[-1].update(piece)
                    left -= len(piece)
        return digests

    def damaged_parts(self) -> list[str]:
        """Parts whose codes are not those that were written, by their length or digest."""
        return [part for part in self._parts() if not self._is_whole(part)]

    def _is_whole(self, part: str) -> bool:
        index = self._index(part)
        with contextlib.suppress(OSError):
            return bool(index.digests) and index.digests == [d.hexdigest() for d in self._hash(part, index.end)]
        return False

    def remove(self, part: str) -> None:
        """Removes a damaged part, and says so, unless another job has written it again by now."""
        if not self._is_whole(part):
            print(
                f"{os.path.join(self.folder, part)} is damaged or has no digests: its codes are made again", flush=True
            )
            for name in (INDEX, *range(len(self.samples_per_code))):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path(part, name))

    def read(self, segment: Segment, start: int, samples: int, level: int) -> np.ndarray | None:
        """Codes of a piece of a segment, of `level` and those above, side by side; None if there are none of it.

        Args:
            start, samples: of the piece, in samples of the song; it begins at a code of the top level of the segment.
        """
        if segment not in self.places:
            return None
        part, place = self.places[segment]
        begin = place + start - segment[1]
        return np.concatenate(
            [
                self._map(part, i)[begin // per_code : (begin + samples) // per_code]
                for i, per_code in enumerate(self.samples_per_code)
                if i >= level
            ]
        )

    def _map(self, part: str, level: int) -> np.ndarray:
        if (part, level) not in self._maps:
            path = self._path(part, level)
            count = os.path.getsize(path) // np.dtype(self.dtype).itemsize  # a killed write may leave half a code
            self._maps[part, level] = np.memmap(path, self.dtype, "r", shape=count)
        return self._maps[part, level]

    @contextlib.contextmanager
    def writer(
        self, part: str, songs: Mapping[str, EncodedSong]
    ) -> Iterator[Callable[[Segment, list[np.ndarray]], None]]:
        """Gives a function that appends a segment of one of the songs and its codes of all levels to a part."""
        index = self._index(part)
        try_folder(os.path.join(self.folder, part), "codes_dir")
        files = [open(self._path(part, level), "ab") for level in range(len(self.samples_per_code))]
        for file, size in zip(files, self._bytes(index.end), strict=True):
            file.truncate(size)  # what the index does not know
        digests = self._hash(part, index.end)
        saved = time.monotonic()

        def save() -> None:
            for file in files:
                file.flush()
                os.fsync(file.fileno())
            with atomic_write(self._path(part, INDEX), "w") as note:
                json.dump(
                    {
                        "segments": index.segments,
                        "songs": index.songs,
                        "bytes": self._bytes(index.end),
                        "sha256": [digest.hexdigest() for digest in digests],
                    },
                    note,
                )

        def append(segment: Segment, codes: list[np.ndarray]) -> None:
            nonlocal saved
            data = [z.astype(self.dtype).tobytes() for z in codes]
            for file, z in zip(files, data, strict=True):
                file.write(z)
            for digest, z in zip(digests, data, strict=True):
                digest.update(z)
            index.segments.append([*segment, index.end])
            index.songs[segment[0]] = songs[segment[0]]
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()

        try:
            try:
                yield append
            finally:
                save()
        except OSError as error:
            if error.filename is not None:  # of another file, such as a song
                raise
            kept = "all up to the last save is kept"
            raise write_error(error, os.path.join(self.folder, part), kept) from error
        finally:
            for file in files:
                with contextlib.suppress(OSError):
                    file.close()
