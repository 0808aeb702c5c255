"""Songs whose sound ends far below what a model can hear: recordings of a low rate, or strongly compressed ones.

A model that learns from them learns silence in its upper octave. A few moments of a few songs are looked at, so that
this costs a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jukebox.utils.audio.read import read_samples
from jukebox.utils.errors import UserError
from jukebox.utils.plural import counted

LOOKED_AT = 12  # songs, evenly spread over the list
SECONDS = 2.0
FFT = 1024
FLOOR = 1e-7  # of the strongest band's power: -70 dB
FAR_UNDER = 0.6  # of half the model's rate


def band_end(x: np.ndarray, sr: int) -> float:
    """The frequency in Hz above which audio [T] has nothing within 70 dB of its strongest band; 0 for silence."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (0, max(0, FFT - len(x)))), FFT)[:: FFT // 2]
    power = np.square(np.abs(np.fft.rfft(frames * np.blackman(FFT), axis=1))).mean(0)
    heard = np.flatnonzero(power > FLOOR * power.max()) if power.max() > 1e-12 else np.zeros(0, int)
    return float(heard[-1] * sr / FFT) if heard.size else 0.0


def narrow_songs(files: Sequence[str], names: Sequence[str], seconds: Sequence[float], sr: int) -> list[str]:
    """A line for a person if songs end far below half the rate; none if all that were looked at are fine.

    Args:
        files: paths; names: how they are called; seconds: their lengths.
        sr: the model's rate in Hz.
    """
    narrow: list[tuple[float, str]] = []
    chosen = range(0, len(files), max(1, len(files) // LOOKED_AT))[:LOOKED_AT]
    for i in chosen:
        begin = int(max(0.0, seconds[i] / 2 - SECONDS / 2) * sr)
        try:
            (x,) = read_samples(files[i], sr, begin, int(min(SECONDS, seconds[i]) * sr), channels=1, damaged="keep")
        except (UserError, OSError):
            continue  # told by whoever reads it to learn from it
        end = band_end(x, sr)
        if 0 < end < FAR_UNDER * sr / 2:
            narrow.append((end, names[i]))
    if not narrow:
        return []
    end, name = min(narrow)
    return [
        f"nothing above {FAR_UNDER * sr / 2:,.0f} Hz in {len(narrow)} of {counted(len(chosen), 'song')} looked at, "
        f"which a model of {sr} Hz could learn: {name} ends at {end:,.0f} Hz; use better recordings, or a model of a "
        "lower --sr"
    ]
