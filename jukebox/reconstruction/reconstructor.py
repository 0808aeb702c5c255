"""The order of things: take each song through a VQ-VAE, write its files, and the page after each song.

A song leaves `item_{i}/`: the original and each level as audio and as a spectrogram. Then the report and, last of all,
the page are written anew, so that after an interruption there is a whole page of the songs that were done. Change here
what is written and under which names; what is measured is in `figures.py`, what the page says in `page.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from jukebox.reconstruction.coder import Coder
from jukebox.reconstruction.figures import Figures, joined, measure
from jukebox.reconstruction.page import ReconstructedSong, Version, page
from jukebox.reconstruction.spectrogram import mel_decibels, picture
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.vqvae.vqvae import VQVAE

REPORT = "report.json"
KIND = "reconstruction"  # tells a report from other files of that name
QUIETEST = -20.0  # dB of spectral power: the brightest colour of a song that is quieter than this all through


@dataclass
class Reconstructor:
    """Reconstructs songs into one folder.

    Args:
        vqvae: frozen, on the device to use.
        sr: its samples per second.
        model: what to call it.
        folder: where to write; of what is there only files of the same names are replaced.
        levels: which levels, the finest first.
        format: ending of the audio files: wav, flac or mp3.
        offset, seconds: part of each file; seconds None is up to the end.
        advance: told a song's name, the seconds done of it, over all levels, and how many these will be.

    Attributes:
        songs: those that are done.
        figures: per song, those of each level.

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
    advance: Callable[[str, float, float], None] = lambda name, done, total: None
    songs: list[ReconstructedSong] = field(default_factory=list)
    figures: list[list[Figures]] = field(default_factory=list)
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
        original = self._read(file)
        samples, top = original.shape[0], max(self.vqvae.hop_lengths[level] for level in self.levels)
        if samples < top:
            raise UserError(
                f"{file} has {samples} samples at {self.sr} Hz, less than one code of level {max(self.levels)}: "
                f"give at least {top} samples ({top / self.sr:.3g} s) or choose lower --levels"
            )
        number = len(self.songs)
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
            hop, bins = self.vqvae.hop_lengths[level], self.vqvae.l_bins
            padded = F.pad(original, (0, -samples % hop))  # so that the last code is whole and all of the song is heard
            codes = self._coder.encode(padded, level, advance)
            decoded = self._coder.decode(codes, level, advance)[:samples]
            figures.append(measure(level, hop, self.sr, bins, codes, original, decoded))
            image = picture(mel_decibels(decoded, self.sr), peak)
            versions.append(self._write(number, f"level_{level}", decoded, image, name, figures[-1]))
        self.advance(name, total, total)
        self.songs.append(ReconstructedSong(name, samples / self.sr, self.offset, versions))
        self.figures.append(figures)
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

    def _read(self, file: str) -> Tensor:
        """Mono audio [T] at the model's rate: the wanted part, or what there is of it."""
        import torch

        from jukebox.utils.audio.read import load_audio, probe_audio

        wanted = self.seconds
        if wanted is not None and self.offset + wanted > probe_audio(file)[0]:
            wanted = None  # up to the end, and no silence behind it
        audio, _ = load_audio(file, self.sr, self.offset, wanted, time_base="sec", check_duration=False, channels=1)
        if audio.shape[1] == 0 and self.offset:
            raise UserError(
                f"{file} ends before {self.offset:.2f} s, from where it was to be read: use a smaller --offset"
            )
        most = audio.shape[1] if self.seconds is None else round(self.seconds * self.sr)
        return torch.from_numpy(audio[0, :most])

    def _write(
        self, number: int, stem: str, audio: Tensor, image: bytes, name: str, figures: Figures | None = None
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
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(report, dict) and report.get("kind") == KIND
