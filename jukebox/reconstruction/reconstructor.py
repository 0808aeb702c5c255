"""The order of things: take each song through a VQ-VAE, write its files, and the page after each song.

A song leaves `item_{i}/`: the original and each level as audio and as a spectrogram. Then the report and, last of all,
the page are written again. So after an interruption there is a complete page of the songs that were done. Change here
what is written and under which names; what is measured is in `figures.py`, what the page says in `page.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jukebox.reconstruction.coder import Coder
from jukebox.reconstruction.figures import Figures, joined, measure
from jukebox.reconstruction.page import ReconstructedSong, Version, page
from jukebox.reconstruction.spectrogram import mel_decibels, picture
from jukebox.utils.audio.spool import Samples, Spool
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.flag_values import DAMAGED
from jukebox.utils.json_text import read_json
from jukebox.vqvae.vqvae import VQVAE

REPORT = "report.json"
KIND = "reconstruction"  # tells a report from other files of that name
QUIETEST = -20.0  # dB of spectral power: the brightest colour of a song that is quieter than this all through


def read_part(
    audio: Any,
    sr: int,
    offset: float,
    seconds: float | None,
    damaged: str = DAMAGED[0],
    tell: Callable[[str], None] | None = None,
    folder: Path | None = None,
) -> Samples:
    """Mono audio [T] at a rate: the wanted part, or what there is of it.

    Args:
        audio: a file, or samples [T] or [T, channels] at the rate.
        offset, seconds: where it begins and how long it is; None is up to the end.
        damaged, tell: as for `load_audio`.
        folder: where a long file is kept at the rate; None: where the system keeps temporary files.
    """
    from jukebox.utils.audio.read import mono, probe_audio, read_into

    samples: Samples
    if hasattr(audio, "shape"):
        begin = round(offset * sr)
        end = None if seconds is None else begin + round(seconds * sr)
        samples, what = torch.from_numpy(mono(audio)[begin:end]), "the audio"
    else:
        whole = seconds is None or offset + seconds > probe_audio(audio)[0]  # up to the end, and no silence after it
        duration = None if whole or seconds is None else round(seconds * sr)
        samples, what = Spool(folder), audio
        read_into(samples, audio, sr, round(offset * sr), duration, False, damaged, tell)
        if seconds is not None:
            samples.resize(min(len(samples), round(seconds * sr)))
    if len(samples) == 0 and offset:
        raise UserError(f"{what} ends before {offset:.2f} s, from where it was to be read: use a smaller --offset")
    return samples


def check_length(name: Any, samples: int, sr: int, vqvae: VQVAE, levels: Sequence[int]) -> None:
    """Refuses audio that is shorter than one code of the highest of the levels."""
    top = max(vqvae.hop_lengths[level] for level in levels)
    if samples < top:
        raise UserError(
            f"{name} has {samples} samples at {sr} Hz, less than one code of level {max(levels)}: "
            f"give at least {top} samples ({top / sr:.3g} s) or choose lower --levels"
        )


def reconstruct_level(
    coder: Coder,
    original: Samples,
    level: int,
    sr: int,
    advance: Callable[[int], None] = lambda samples: None,
    folder: Path | None = None,
) -> tuple[Spool, Spool, Figures]:
    """Codes [L] of audio [T] at one level, the audio [T] decoded from them, and the figures of both."""
    codes, decoded = Spool(folder, np.int64), Spool(folder)
    for piece in coder.encode(original, level, advance):
        codes.append(piece)
    for piece in coder.decode(codes, level, advance):
        decoded.append(piece)
    decoded.resize(len(original))
    per_code = coder.vqvae.hop_lengths[level]
    return codes, decoded, measure(level, per_code, sr, coder.vqvae.l_bins, codes, original, decoded)


@dataclass
class Reconstructor:
    """Reconstructs songs into one folder.

    Args:
        vqvae: frozen, on the device to use.
        sr: its samples per second.
        model: what to call it.
        folder: where to write; of what exists only files of the same names are replaced.
        levels: which levels, the finest first.
        format: ending of the audio files: wav, flac or mp3.
        offset, seconds: part of each file; seconds None is up to the end.
        damaged: what becomes of files that cannot be read to their end, as for `load_audio`.
        advance: told a song's name, the seconds done of it, over all levels, and how many these will be.

    Attributes:
        songs: those that are done.
        figures: per song, those of each level.
        remarks: per song, what is wrong with its file.

    Raises:
        UserError: the folder holds a page of something else.
    """

    vqvae: VQVAE
    sr: int
    model: str
    folder: Path
    levels: Sequence[int]
    format: str = "wav"
    offset: float = 0.0
    seconds: float | None = None
    damaged: str = DAMAGED[0]
    advance: Callable[[str, float, float], None] = lambda name, done, total: None
    songs: list[ReconstructedSong] = field(default_factory=list)
    figures: list[list[Figures]] = field(default_factory=list)
    remarks: list[list[str]] = field(default_factory=list)
    _notes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.folder / "index.html").exists() and not _is_ours(self.folder / REPORT):
            raise UserError(f"--name={self.folder} holds a page of something else: choose another folder")
        self._coder = Coder(self.vqvae)

    def run(self, file: str, name: str) -> list[Figures]:
        """Takes one song through the levels and writes its files, the report and the page.

        Args:
            file: path of the audio.
            name: what to call it.

        Returns:
            The figures of each level.

        Raises:
            UserError: the file cannot be read, or is too short for the highest of the levels.
        """
        remarks: list[str] = []
        original = read_part(file, self.sr, self.offset, self.seconds, self.damaged, remarks.append, self.folder)
        number, samples = len(self.songs), len(original)
        check_length(file, samples, self.sr, self.vqvae, self.levels)
        loudness = mel_decibels(original, self.sr)
        peak = max(float(loudness.max()), QUIETEST)
        versions = [self._write(number, "original", original, picture(loudness, peak), name)]
        figures: list[Figures] = []
        done, total = 0.0, 2.0 * len(self.levels) * samples / self.sr

        def advance(more: int) -> None:
            nonlocal done
            done = min(total, done + more / self.sr)
            self.advance(name, done, total)

        self.advance(name, done, total)
        for level in self.levels:
            _, decoded, measured = reconstruct_level(self._coder, original, level, self.sr, advance, self.folder)
            figures.append(measured)
            image = picture(mel_decibels(decoded, self.sr), peak)
            versions.append(self._write(number, f"level_{level}", decoded, image, name, figures[-1]))
        self.advance(name, total, total)
        self.songs.append(ReconstructedSong(name, samples / self.sr, self.offset, versions))
        self.figures.append(figures)
        self.remarks.append(remarks)
        self._notes.append(
            {
                "audio": file,
                "folder": f"item_{number}",
                "offset": self.offset,
                "seconds": samples / self.sr,
                "samples": samples,
                "levels": [level.report() for level in figures],
            }
        )
        self._write_report()
        return figures

    def totals(self) -> list[Figures]:
        """The figures of each level over all songs that are done."""
        return [joined(of_level) for of_level in zip(*self.figures, strict=True)]

    def _write(
        self, number: int, stem: str, audio: Samples, image: bytes, name: str, figures: Figures | None = None
    ) -> Version:
        from jukebox.utils.audio.write import write_audio

        base = f"item_{number}/{stem}"
        title = f"{name} ({stem.replace('_', ' ')})"
        write_audio(self.folder / f"{base}.{self.format}", audio, self.sr, {"title": title})
        with atomic_write(self.folder / f"{base}.png") as file:
            file.write(image)
        return Version(f"{base}.{self.format}", f"{base}.png", figures)

    def _write_report(self) -> None:
        totals, step = self.totals(), int(getattr(self.vqvae, "step", 0))
        report = {
            "kind": KIND,
            "model": self.model,
            "step": step,
            "sr": self.sr,
            "levels": [level.report() for level in totals],
            "items": self._notes,
        }
        with atomic_write(self.folder / REPORT, "w") as file:
            json.dump(report, file, indent=1, allow_nan=False)
        with atomic_write(self.folder / "index.html", "w") as file:
            file.write(page(self.folder.resolve().name, self.model, step, self.sr, self.songs, totals))


def _is_ours(path: Path) -> bool:
    try:
        report = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("kind") == KIND
