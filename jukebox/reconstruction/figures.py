"""The figures of a reconstruction: spectral convergence, codebook use, entropy and bit rate of each level.

Spectral convergence is that of `vqvae/losses.py`, summed up in pieces so that a long song needs no more memory than a
short one. Source: Jukebox (arXiv 2005.00341), the section on VQ-VAE ablations and its table of spectral convergence.
Change here what is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jukebox.utils.audio.spool import PIECE, Samples, filled
from jukebox.vqvae.losses import SILENCE, StftSettings, decibels, magnitudes

STFT = StftSettings()  # the resolution of spectral convergence in the losses
FRAMES = 2048  # at a time


@dataclass(frozen=True)
class Figures:
    """What is known of one level, for one song or for several.

    Attributes:
        level: 0 is the finest.
        samples_per_code: audio samples that one code represents.
        sr: samples per second.
        counts: int64 [bins], how often each code of the codebook was used.
        convergences: spectral convergence of each song that is not silent: 0 is perfect, 1 as bad as silence.
    """

    level: int
    samples_per_code: int
    sr: int
    counts: Tensor
    convergences: tuple[float, ...]

    @property
    def bins(self) -> int:
        return self.counts.numel()

    @property
    def codes(self) -> int:
        return int(self.counts.sum())

    @property
    def used(self) -> int:
        """Codes of the codebook that were used at least once."""
        return int((self.counts > 0).sum())

    @property
    def use(self) -> float:
        """Share of the codebook that was used, 0 to 1."""
        return self.used / self.bins

    @property
    def entropy(self) -> float:
        """Bits per code that the codes' frequencies amount to: 0 for a single code, log2(bins) for even use."""
        shares = self.counts[self.counts > 0].double() / self.codes
        return max(0.0, -float((shares * shares.log2()).sum()))

    @property
    def codes_per_second(self) -> float:
        return self.sr / self.samples_per_code

    @property
    def bit_rate(self) -> float:
        """Bits per second when each code is written with log2(bins) bits."""
        return self.codes_per_second * math.log2(self.bins)

    @property
    def entropy_rate(self) -> float:
        """Bits per second when each code is written with `entropy` bits."""
        return self.codes_per_second * self.entropy

    @property
    def convergence(self) -> float | None:
        """Mean spectral convergence; None if all was silent."""
        return sum(self.convergences) / len(self.convergences) if self.convergences else None

    @property
    def decibels(self) -> float | None:
        """Mean spectral convergence in dB, lower is better, -inf is perfect; None if all was silent."""
        return None if self.convergence is None else decibels(self.convergence)

    def report(self) -> dict[str, Any]:
        """All figures as plain values; None for what no number says."""
        db = self.decibels
        return {
            "level": self.level,
            "hop": self.samples_per_code,
            "codes": self.codes,
            "codes_per_second": self.codes_per_second,
            "bins": self.bins,
            "codes_used": self.used,
            "codebook_use": self.use,
            "entropy_bits_per_code": self.entropy,
            "perplexity": 2.0**self.entropy,
            "bit_rate": self.bit_rate,
            "entropy_bit_rate": self.entropy_rate,
            "spectral_convergence": self.convergence,
            "spectral_convergence_db": db if db is not None and math.isfinite(db) else None,
        }


def joined(songs: Sequence[Figures]) -> Figures:
    """The figures of one level over several songs: codes counted together, the mean of their convergences."""
    first = songs[0]
    counts = torch.stack([song.counts for song in songs]).sum(0)
    return Figures(
        first.level, first.samples_per_code, first.sr, counts, tuple(c for song in songs for c in song.convergences)
    )


def measure(
    level: int, samples_per_code: int, sr: int, bins: int, codes: Samples, original: Samples, decoded: Samples
) -> Figures:
    """The figures of one song at one level.

    Args:
        bins: entries of the codebook.
        codes: int64 [L].
        original, decoded: audio [T].
    """
    convergence = spectral_convergence(original, decoded)
    convergences = () if convergence is None else (convergence,)
    counts = torch.zeros(bins, dtype=torch.int64)
    for start in range(0, len(codes), PIECE):
        counts += torch.bincount(codes[start : start + PIECE], minlength=bins)
    return Figures(level, samples_per_code, sr, counts, convergences)


def spectral_convergence(original: Samples, decoded: Samples) -> float | None:
    """Norm of the difference of spectra over the norm of the original's, for audio [T]; None for a silent original."""
    residual = norm = 0.0
    for target, prediction in zip(spectra(original), spectra(decoded), strict=True):
        residual += float((target - prediction).double().square().sum())
        norm += float(target.double().square().sum())
    return math.sqrt(residual / norm) if math.sqrt(norm) > SILENCE else None


def spectra(x: Samples, piece: int = FRAMES) -> Iterator[Tensor]:
    """Spectral magnitudes of audio [T] as in the losses, in pieces [n_fft // 2 + 1, at most `piece` frames].

    Audio that is too short for one spectrum is made longer with silence.
    """
    if len(x) <= STFT.n_fft // 2:
        x = filled(x, 0, STFT.n_fft // 2 + 1)
    frames = frame_count(len(x))
    margin = STFT.n_fft // 2 // STFT.hop_length + 1  # frames at a seam that the reflected edge would reach
    for start in range(0, frames, piece):
        end = min(frames, start + piece)
        first = max(0, start - margin)
        part = x[first * STFT.hop_length : (end + margin) * STFT.hop_length]
        yield magnitudes(part[None], STFT)[0, :, start - first : end - first]


def frame_count(samples: int) -> int:
    """Frames that `spectra` gives for that many samples."""
    return max(samples, STFT.n_fft // 2 + 1) // STFT.hop_length + 1


# ------------------------------------------------------------------------------------------------------- in words

COLUMNS = (
    "Level",
    "Samples per code",
    "Codes per second",
    "Bit rate (kbit/s)",
    "Codebook use",
    "Entropy (bits per code)",
    "Entropy rate (kbit/s)",
    "Spectral convergence (dB)",
)


def cells(figures: Figures) -> tuple[str, ...]:
    """One row of the table, as text, for COLUMNS."""
    return (
        str(figures.level),
        str(figures.samples_per_code),
        f"{figures.codes_per_second:.1f}",
        f"{figures.bit_rate / 1000:.2f}",
        f"{figures.used} of {figures.bins} ({figures.use:.1%})",
        f"{figures.entropy:.2f} of {math.log2(figures.bins):.2f}",
        f"{figures.entropy_rate / 1000:.2f}",
        decibels_text(figures),
    )


def decibels_text(figures: Figures) -> str:
    """Spectral convergence in dB, with one decimal."""
    db = figures.decibels
    return "silent" if db is None else "perfect" if db == -math.inf else f"{db:.1f}"


def text_table(levels: Sequence[Figures]) -> str:
    """The table for a terminal."""
    heads = [("level", "samples", "codes", "bit rate", "codebook", "entropy,", "entropy", "spectral")]
    heads += [("", "per code", "per s", "kbit/s", "use", "bits per code", "kbit/s", "convergence, dB")]
    rows = [*heads, *(cells(figures) for figures in levels)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
