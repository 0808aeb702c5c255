"""Spectrograms as PNG files: time to the right, mel frequency upwards, brighter is louder.

What may be changed: sizes, the range of loudness and the colours. Plain numpy and the spectra of `figures.py`, so that
no plotting library is needed.
"""

from __future__ import annotations

import numpy as np

from jukebox.page.pictures import png
from jukebox.reconstruction.figures import STFT, frame_count, spectra
from jukebox.utils.audio.spool import Samples

WIDTH = 1000  # most columns; of a longer song each shows the mean power of its frames
ROWS = 192
RANGE = 80.0  # dB from the loudest to the darkest colour
TICKS = (100, 200, 500, 1000, 2000, 5000, 10000, 20000)  # Hz
CLOSEST = 0.11  # of the height, between two ticks
# From silent to loud; lightness grows evenly, so the picture can be read without seeing colours.
COLOURS = ((9, 11, 26), (24, 42, 92), (17, 92, 134), (44, 145, 150), (138, 194, 130), (240, 222, 130), (255, 252, 232))


def mel(frequency: np.ndarray | float) -> np.ndarray:
    """Frequency in Hz to mel: 2595 log10(1 + f / 700), after O'Shaughnessy, Speech Communication (1987)."""
    return 2595.0 * np.log10(1.0 + np.asarray(frequency, float) / 700.0)


def mel_bands(sr: int) -> np.ndarray:
    """Weights [ROWS, bins] that average spectral power into bands evenly spaced in mel, the lowest first."""
    frequencies = np.arange(STFT.n_fft // 2 + 1) * sr / STFT.n_fft  # [bins], Hz
    step = mel(sr / 2) / ROWS
    centres = 700.0 * (10.0 ** ((np.arange(ROWS) + 0.5) * step / 2595.0) - 1.0)
    edges = 700.0 * (10.0 ** (np.arange(ROWS + 1) * step / 2595.0) - 1.0)
    reach = np.maximum(np.diff(edges), sr / STFT.n_fft)  # a band takes part in two bins at least
    weights = np.clip(1.0 - np.abs(frequencies - centres[:, None]) / reach[:, None], 0.0, None)
    return weights / weights.sum(1, keepdims=True)


def mel_decibels(x: Samples, sr: int) -> np.ndarray:
    """Loudness of audio [T] in dB: float [ROWS, at most WIDTH columns], high frequencies first."""
    bands = mel_bands(sr)
    frames = frame_count(len(x))
    width = min(WIDTH, frames)
    power, count = np.zeros((width, ROWS)), np.zeros(width)
    first = 0
    for piece in spectra(x):  # [bins, frames]
        columns = np.arange(first, first + piece.shape[1]) * width // frames
        np.add.at(power, columns, (bands @ piece.numpy().astype(np.float64) ** 2).T)
        count += np.bincount(columns, minlength=width)
        first += piece.shape[1]
    return 10.0 * np.log10(power / count[:, None] + 1e-20).T[::-1]


def picture(loudness: np.ndarray, peak: float) -> bytes:
    """The bytes of a PNG of loudness [H, W] in dB; `peak` has the brightest colour, RANGE dB less the darkest."""
    strength = np.clip(1.0 + (loudness - peak) / RANGE, 0.0, 1.0)
    return png(np.round(255 * strength).astype(np.uint8), palette().tobytes())


def palette() -> np.ndarray:
    """uint8 [256, 3]: COLOURS and the shades between them."""
    stops = np.linspace(0, 255, len(COLOURS))
    return np.stack([np.interp(np.arange(256), stops, c) for c in zip(*COLOURS, strict=True)], 1).round().astype("u1")


def ticks(sr: int) -> list[tuple[str, float]]:
    """Labels for the frequency axis and how far from the top each belongs, 0 to 1."""
    found: list[tuple[str, float]] = []
    for frequency in TICKS:
        place = 1.0 - float(mel(frequency) / mel(sr / 2))
        if CLOSEST / 2 < place < 1 - CLOSEST / 2 and (not found or found[-1][1] - place > CLOSEST):
            found.append((f"{frequency // 1000} kHz" if frequency >= 1000 else f"{frequency} Hz", place))
    return found
