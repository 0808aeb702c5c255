"""When each character of the lyrics is sung: from an alignment to times, and to an .lrc file.

What may be changed: the rule of `character_times`, together with its tests. The page, the files beside it and every
figure about lit characters read this one definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

FLOOR = 0.05  # attention below this share of the usual peak says little about the place in the lyrics
SUNG = 0.2  # the same for whether anything is sung at all, before the first character and after the last
STEP = 0.01  # seconds: rows shorter than this are averaged before the decoding; an eye does not follow 10 ms


@dataclass(frozen=True)
class CharacterTimes:
    """When each character of some lyrics is sung.

    Attributes:
        lit: int array [rows], the character that is lit during each row of the alignment, -1 for none; never goes back.
        starts: float array [characters], seconds; nan for characters that are not reached.
        ends: the same; equal to `starts` for characters that the music passes within one step.
        seconds_per_row: length of a row, in seconds.
    """

    lit: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    seconds_per_row: float

    def changes(self) -> list[tuple[float, int]]:
        """Lists when the light moves: (seconds, character), in order, with character -1 where the last one goes out."""
        before = np.concatenate([[-1], self.lit[:-1]])
        spans = [(int(row) * self.seconds_per_row, int(self.lit[row])) for row in np.flatnonzero(self.lit != before)]
        if len(self.lit) and self.lit[-1] >= 0:
            spans.append((len(self.lit) * self.seconds_per_row, -1))
        return spans


def to_array(values: Any) -> np.ndarray:
    """Returns an array, list or tensor (of any device and float type) as a numpy array."""
    if hasattr(values, "detach"):  # a tensor, without importing torch here
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def character_times(alignment: Any, seconds_per_row: float, shift: int = 0) -> CharacterTimes:
    """Decides which character is sung when, from the attention of the music to the lyrics.

    A path through the alignment never goes back in the lyrics; it may wait, and it may skip. The path with the largest
    sum of log(attention + floor) is taken. The floor is a twentieth of the usual peak. Among equally good paths the one
    that waits is taken. So a row that looks elsewhere for a moment does not move the light. The path is found by
    dynamic programming (Viterbi; forward transitions cost nothing, backward ones are forbidden) in time proportional to
    rows * characters. Before the first and after the last row whose attention on the path exceeds a fifth of the usual
    peak, nothing is lit.

    Args:
        alignment: float array or tensor [rows, characters], weights >= 0; row r is the music from r * seconds_per_row.
            Rows need not sum to 1. As many rows as fit in 10 ms are averaged and decoded together.
        seconds_per_row: length of a row, in seconds, > 0.
        shift: column i + shift belongs to character i. If position i of the lyrics has seen only the characters
            before it, character i is read from position i + 1: use 1. The last `shift` characters have no column and
            stay dark.

    Returns:
        The lit character of each row, and the start and end of each character.

    Raises:
        ValueError: an alignment that is not two-dimensional, a length that is not positive, or a negative shift.
    """
    weights = to_array(alignment)
    if weights.ndim != 2 or not seconds_per_row > 0 or shift < 0:
        raise ValueError(
            f"alignment of shape {weights.shape}, seconds_per_row={seconds_per_row}, shift={shift}: "
            "expected [rows, characters], a positive length, and a shift of 0 or more"
        )
    rows, characters = weights.shape
    lit = np.full(rows, -1)
    starts, ends = np.full(characters, np.nan), np.full(characters, np.nan)
    times = CharacterTimes(lit, starts, ends, seconds_per_row)
    if rows == 0 or characters <= shift:
        return times

    pool = min(max(1, int(STEP / seconds_per_row + 1e-6)), rows)
    whole = rows // pool * pool
    evidence = weights[:whole, shift:].reshape(-1, pool, characters - shift).mean(axis=1)  # [steps, characters]
    if whole < rows:
        evidence = np.concatenate([evidence, weights[whole:, shift:].mean(axis=0, keepdims=True)])
    evidence = np.fmax(evidence, 0)  # NaN counts as no attention
    usual_peak = float(evidence.max(axis=1).mean(dtype=np.float64))
    if usual_peak == 0:
        return times
    path = monotone_path(evidence, FLOOR * usual_peak)

    known = np.flatnonzero(evidence[np.arange(len(path)), path] > SUNG * usual_peak)
    if len(known) == 0:
        return times
    begin, end = int(known[0]) * pool, min((int(known[-1]) + 1) * pool, rows)
    lit[begin:end] = np.repeat(path, pool)[begin:end]
    reached = np.arange(lit[begin], lit[end - 1] + 1)
    starts[reached] = (begin + np.searchsorted(lit[begin:end], reached, "left")) * seconds_per_row
    ends[reached] = (begin + np.searchsorted(lit[begin:end], reached, "right")) * seconds_per_row
    return times


def monotone_path(evidence: np.ndarray, floor: float) -> np.ndarray:
    """Finds the non-decreasing path with the largest sum of log(evidence + floor).

    Args:
        evidence: float array [steps, characters], >= 0, neither dimension 0.
        floor: > 0.

    Returns:
        int array [steps]: the character at each step; if paths are equally good, the one that moves on last.
    """
    steps, characters = evidence.shape
    # record[t, j]: up to step t - 1, ending at j is better than ending anywhere before j. A path at j at step t was,
    # one step earlier, at the last record up to j. One byte a cell is all that the way back needs.
    record = np.ones((steps, characters), dtype=bool)
    score = np.log(evidence[0] + floor, dtype=np.float64)  # a sum over a whole song needs the digits
    for t in range(1, steps):
        best = np.maximum.accumulate(score)
        record[t, 1:] = score[1:] > best[:-1]
        score = best + np.log(evidence[t] + floor, dtype=np.float64)
    path = np.empty(steps, dtype=int)
    path[-1] = np.argmax(score)
    for t in range(steps - 1, 0, -1):
        path[t - 1] = path[t] - np.argmax(record[t, path[t] :: -1])  # column 0 is always a record
    return path


def lines_of(lyrics: str) -> list[tuple[int, str]]:
    """Lists the lines of some lyrics as (index of the first character, text); newlines count as one character."""
    lines, start = [], 0
    for line in lyrics.split("\n"):
        lines.append((start, line))
        start += len(line) + 1
    return lines


def lrc(lyrics: str, times: CharacterTimes, artist: str = "") -> str:
    """Writes lyrics as an .lrc text: each line with the time at which its first character is sung.

    Args:
        lyrics: the text whose characters `times` knows.
        times: from `character_times`.
        artist: written as a tag if given.

    Returns:
        Lines `[mm:ss.cc]text`; lines that are blank or are never reached are left out.
    """
    lines = [f"[ar:{' '.join(artist.split())}]"] if artist else []
    for start, line in lines_of(lyrics):
        starts = times.starts[start : start + len(line)]
        sung = starts[~np.isnan(starts)]
        if line.strip() and len(sung):
            minutes, hundredths = divmod(round(float(sung[0]) * 100), 6000)
            gap = " " if line.lstrip().startswith("[") else ""  # a line such as [Chorus] must not look like a tag
            lines.append(f"[{minutes:02d}:{hundredths // 100:02d}.{hundredths % 100:02d}]{gap}{line.strip()}")
    return "".join(f"{line}\n" for line in lines)
