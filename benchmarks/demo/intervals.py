"""How sure a figure is: shares with Wilson's interval, means and medians with a bootstrap over songs, and chance.

A figure is a dict: `value`, `low` and `high` (95 %), `n` (songs, or what else was counted), and where it means
something `chance`. The unit that is resampled is always the song: codes, moments and letters of one song are not
independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Figure = dict[str, Any]
Z = 1.959964  # of a normal distribution's central 95 %
RESAMPLES = 1000


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, right of n independent ones (Wilson 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    songs: Sequence[np.ndarray], statistic: Callable[[np.ndarray], Any] = np.mean, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a statistic of all values of all songs, by drawing songs with replacement.

    Args:
        songs: the values of each song, of any number.
        statistic: of one array; the mean is computed from sums, which is quick.

    Returns:
        The 2.5th and the 97.5th percentile; nan where there is nothing.
    """
    songs = [np.asarray(values, float) for values in songs if len(values)]
    if not songs:
        return math.nan, math.nan
    drawn = np.random.default_rng(seed).integers(len(songs), size=(RESAMPLES, len(songs)))
    if statistic is np.mean:
        sums, counts = (np.array([f(values) for values in songs]) for f in (np.sum, len))
        found = sums[drawn].sum(1) / counts[drawn].sum(1)
    else:
        found = np.array([statistic(np.concatenate([songs[i] for i in row])) for row in drawn[: RESAMPLES // 4]])
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def figure(songs: Sequence[Any], statistic: Callable[[np.ndarray], Any] = np.mean) -> Figure:
    """A statistic of the values of all songs, with its bootstrap interval; single numbers count as one value each."""
    values = [np.atleast_1d(np.asarray(song, float)) for song in songs]
    low, high = bootstrap(values, statistic)
    whole = np.concatenate(values) if values else np.zeros(0)
    return {"value": float(statistic(whole)) if len(whole) else math.nan, "low": low, "high": high, "n": len(values)}


def difference(songs: Sequence[float], other: Sequence[float]) -> Figure:
    """Mean over songs of other - songs, pair by pair."""
    return figure(np.asarray(other, float) - np.asarray(songs, float))


def decibels(songs: Sequence[float]) -> Figure:
    """20 log10 of the mean over songs, and of its interval's ends."""
    found = figure(songs)
    return {key: 20 * math.log10(max(1e-12, v)) if key != "n" else v for key, v in found.items()}


def chance(truth: np.ndarray, guess: np.ndarray) -> float:
    """The share that would be right if the same guesses were dealt out at random: the sum over classes of
    share(truth) * share(guess).

    Where all classes are asked for equally often, that is one over their number, whatever is guessed.
    """
    if len(truth) == 0:
        return math.nan
    bins = int(max(truth.max(), guess.max())) + 1
    return float(np.bincount(truth, minlength=bins) @ np.bincount(guess, minlength=bins) / len(truth) ** 2)


def share_of_songs(truth: np.ndarray, guess: np.ndarray) -> Figure:
    """The share of songs whose class was recognised, with Wilson's interval."""
    right, n = int((truth == guess).sum()), len(truth)
    low, high = wilson(right, n)
    return {"value": right / max(1, n), "low": low, "high": high, "n": n, "chance": chance(truth, guess)}


def share_of_letters(songs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Figure:
    """The share of letters that were recognised, with a bootstrap over songs; `letters` is how many were counted."""
    found = figure([truth == guess for truth, guess in songs])
    truth, guess = (np.concatenate([pair[i] for pair in songs]) for i in (0, 1))
    return {**found, "letters": len(truth), "chance": chance(truth, guess)}


def show(found: Figure | None, digits: int = 2) -> str:
    """A figure as text: value (low to high)."""
    if found is None or math.isnan(found["value"]):
        return "-"
    return f"{found['value']:.{digits}f} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
