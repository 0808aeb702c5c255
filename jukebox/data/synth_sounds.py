"""The sounds of the synthesised songs: instruments, drums and a voice, each a short piece of float32 samples.

Every sound begins at phase 0, and rises and falls smoothly to silence within its own length. It is the same each time,
so that models can learn it from few songs. Tonal sounds are read out of a table of one period, made of sine harmonics
below the Nyquist frequency. Change here how things sound; which sounds a song is made of is in `synthesizer.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

TABLE = 2048  # samples of one period
CACHED = 1024  # sounds kept

# Formants of the sung vowels in Hz (Peterson and Barney 1952, men), and their bandwidths.
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
_BANDWIDTHS = (90, 110, 170)
_HUMS = {"m": (250, 1000, 2200), "l": (360, 1300, 2700)}  # voiced consonants
_NOISES = {"s": (3400, 5400), "t": (1800, 5400), "k": (900, 1900)}  # bands of voiceless ones, in Hz
CONSONANTS = ("m", "l", "s", "t", "k")


@dataclass(frozen=True)
class Timbre:
    """How an artist sounds.

    Args:
        harmonics: strengths of the instrument's harmonics.
        decay: seconds in which its notes fall to 37 %; 0 holds them.
        octave: register of its chords, in octaves from the middle one.
        voice_low: lowest note of the voice, as a MIDI number; it reaches an octave up.
        formants: factor on the formants; smaller throats have higher ones.
        vibrato: depth of the voice's vibrato, as a share of the frequency.
        breath: share of noise in the vowels.
    """

    harmonics: tuple[float, ...]
    decay: float
    octave: int
    voice_low: int
    formants: float
    vibrato: float
    breath: float


def frequency(midi: float) -> float:
    """Hz of a MIDI note number."""
    return 440.0 * 2.0 ** ((midi - 69) / 12)


def _edges(n: int, attack: int, release: int) -> np.ndarray:
    """An envelope that rises from 0 and falls to 0 along half cosines."""
    envelope = np.ones(n, np.float32)
    attack, release = min(attack, n // 2), min(release, n // 2)
    envelope[:attack] = 0.5 - 0.5 * np.cos(np.pi * np.arange(attack) / max(1, attack))
    envelope[n - release :] *= 0.5 + 0.5 * np.cos(np.pi * (np.arange(release) + 1) / max(1, release))
    return envelope


def _period(strengths: np.ndarray, hz: float, sr: int) -> np.ndarray:
    """One period with those of the harmonics that the rate can hold; RMS 1, one sample more to read ahead."""
    strengths = strengths[: max(1, int(0.47 * sr / hz))]
    k = np.arange(1, len(strengths) + 1)
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[k] = strengths * np.exp(-1j * np.pi * k * k / len(k))  # Schroeder's phases keep the peaks low
    table = np.fft.irfft(spectrum, TABLE)
    loudness = max(1e-9, float(np.sqrt(np.mean(table**2))))
    return (np.append(table, table[0]) / loudness).astype(np.float32)


def _play(table: np.ndarray, hz: float | np.ndarray, n: int, sr: int) -> np.ndarray:
    """n samples of a period at a frequency, which may be an array [n]; starts at phase 0."""
    phase: np.ndarray
    if isinstance(hz, np.ndarray):
        phase = np.concatenate([[0.0], np.cumsum(hz[:-1])]) / sr
    else:
        phase = np.arange(n) * (hz / sr)
    place = (phase % 1.0) * TABLE
    index = place.astype(np.int64)
    share = (place - index).astype(np.float32)
    return table[index] * (1 - share) + table[index + 1] * share


@lru_cache(CACHED)
def note(timbre: Timbre, midi: int, n: int, sr: int) -> np.ndarray:
    """A note of the artist's instrument, n samples."""
    hz = frequency(midi)
    x = _play(_period(np.asarray(timbre.harmonics), hz, sr), hz, n, sr)
    if timbre.decay:
        x = x * np.exp(-np.arange(n, dtype=np.float32) / (timbre.decay * sr))
    return x * _edges(n, int(0.005 * sr), int(0.03 * sr))


@lru_cache(CACHED)
def bass(midi: int, n: int, sr: int) -> np.ndarray:
    """A bass note, the same for all artists."""
    hz = frequency(midi)
    x = _play(_period(np.array([1.0, 0.5, 0.2, 0.1]), hz, sr), hz, n, sr)
    x = x * np.exp(-np.arange(n, dtype=np.float32) / (0.4 * sr))
    return x * _edges(n, int(0.006 * sr), int(0.03 * sr))


@lru_cache(64)
def _noise(n: int, low: float, high: float, sr: int) -> np.ndarray:
    """Noise between two frequencies, RMS 1, the same each time."""
    spectrum = np.fft.rfft(np.random.RandomState(n % 2**31).standard_normal(n))  # a frozen generator
    hz = np.fft.rfftfreq(n, 1 / sr)
    high = min(high, 0.49 * sr)
    low = min(low, 0.6 * high)
    spectrum[(hz < low) | (hz > high)] = 0
    x = np.fft.irfft(spectrum, n)
    return (x / max(1e-9, float(np.sqrt(np.mean(x**2))))).astype(np.float32)


@lru_cache(64)
def drum(kind: str, sr: int) -> np.ndarray:
    """One stroke of "kick", "snare", "hat" or "rim"."""
    n = int({"kick": 0.16, "snare": 0.14, "hat": 0.05, "rim": 0.04}[kind] * sr)
    t = np.arange(n) / sr
    if kind == "kick":
        x = np.sin(2 * np.pi * (50 * t + 2.5 * (1 - np.exp(-t / 0.025)))) * np.exp(-t / 0.06) * 1.6
    elif kind == "snare":
        x = (_noise(n, 800, 5000, sr) * 0.8 + np.sin(2 * np.pi * 190 * t)) * np.exp(-t / 0.04)
    elif kind == "hat":
        x = _noise(n, 3500, 11000, sr) * np.exp(-t / 0.014) * 0.8
    else:
        x = np.sin(2 * np.pi * 900 * t) * np.exp(-t / 0.009) * 1.4
    return (x * _edges(n, int(0.002 * sr), int(0.02 * sr))).astype(np.float32)


def _formant_strengths(hz: float, formants: tuple[float, ...], factor: float) -> np.ndarray:
    """Strengths of the harmonics of a voice at a pitch: resonances at the formants, falling with frequency."""
    k = np.arange(1, max(2, int(9000 / hz)) + 1)
    f = k * hz
    out = np.zeros(len(k))
    for formant, bandwidth, gain in zip(formants, _BANDWIDTHS, (1.0, 0.7, 0.35), strict=True):
        out += gain / (1 + ((f - formant * factor) / bandwidth) ** 2)
    return out + 0.004


@lru_cache(CACHED)
def _sung(timbre: Timbre, formants: tuple[float, ...], midi: int, n: int, sr: int) -> np.ndarray:
    hz = frequency(midi)
    t = np.arange(n) / sr
    pitch = hz * (1 + timbre.vibrato * np.sin(2 * np.pi * 5.5 * t) * np.minimum(1, t / 0.15))
    table = _period(_formant_strengths(hz, formants, timbre.formants), hz, sr)
    return _play(table, pitch, n, sr)


@lru_cache(CACHED)
def vowel(timbre: Timbre, letter: str, midi: int, n: int, sr: int) -> np.ndarray:
    """A sung vowel of n samples."""
    x = _sung(timbre, VOWELS[letter], midi, n, sr)
    if timbre.breath:
        x = (1 - timbre.breath) * x + timbre.breath * _noise(n, 600, 4000, sr)
    return x * _edges(n, int(0.012 * sr), int(0.03 * sr))


@lru_cache(CACHED)
def consonant(timbre: Timbre, letter: str, midi: int, n: int, sr: int) -> np.ndarray:
    """A consonant of n samples: "m" and "l" are hummed, "s" hisses, "t" and "k" are silent and burst at the end."""
    if letter in _HUMS:
        return 0.6 * _sung(timbre, _HUMS[letter], midi, n, sr) * _edges(n, int(0.01 * sr), int(0.012 * sr))
    low, high = _NOISES[letter]
    if letter == "s":
        return 0.3 * _noise(n, low, high, sr) * _edges(n, int(0.02 * sr), int(0.012 * sr))
    burst = min(n, int(0.035 * sr))
    x = np.zeros(n, np.float32)
    x[n - burst :] = 0.5 * _noise(burst, low, high, sr) * _edges(burst, int(0.002 * sr), int(0.015 * sr))
    return x
