"""Which lyrics belong to a window of a song: at an even pace, or by the times at which they are sung.

    lyrics      0 ........................................ n_full
    window             [start ... centre ... start + n)           at an even pace: centre = n_full * middle / total

Change here what a model sees of the lyrics; models were trained on the even pace as it is.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from jukebox.utils.errors import UserError

Times = Sequence[Sequence[float]]  # one (start, end) for each character or token


def get_relevant_lyric_tokens(
    full_tokens: Sequence[int], n_tokens: int, total_length: Any, offset: Any, duration: Any
) -> tuple[list[int], list[int]]:
    """The lyrics of a window, as if they were sung at an even pace from the first to the last sample of the song.

        lyrics      0 ........................................ n_full
        window             [start ... centre ... start + n)           centre = n_full * (offset + duration / 2) / total

    Fewer lyrics than n_tokens are taken whole, with padding before them, wherever the window is.

    Args:
        full_tokens: tokens of the whole song.
        n_tokens: tokens of a window; even.
        total_length: samples of the song.
        offset: first sample of the window, in [0, total_length).
        duration: samples of the window.
        The last three are ints, or integer tensors without dimensions as in a row y: then the arithmetic is that of
        float32, as in windowed sampling, and the start can differ by one from that of ints.

    Returns:
        The window's tokens and their places in `full_tokens`; padding is token 0 at place -1.

    Raises:
        UserError: more lyrics than n_tokens, and n_tokens is odd or the offset is outside the song.
    """
    n_full = len(full_tokens)
    if n_full < n_tokens:
        return _pad(full_tokens, n_tokens)
    if not 0 <= offset < total_length:
        raise UserError(f"offset {int(offset)} is outside the song: it must be 0 to {int(total_length) - 1} samples")
    half = n_tokens // 2
    if n_tokens != 2 * half:
        raise UserError(f"n_tokens={n_tokens}: lyrics are cut around their middle, so use an even number")
    centre = int(n_full * (offset + duration / 2.0) / total_length)
    start = min(max(centre, half), n_full - half) - half
    return list(full_tokens[start : start + n_tokens]), list(range(start, start + n_tokens))


def get_timed_lyric_tokens(
    full_tokens: Sequence[int], times: Times, n_tokens: int, offset: float, duration: float
) -> tuple[list[int], list[int]]:
    """The lyrics of a window if it is known when each token is sung.

    The window of tokens is centred on those that sound in [offset, offset + duration). If none does, it is centred
    between the last one before and the first one after.

    Args:
        full_tokens: tokens of the whole song.
        times: (start, end) of each token in samples, starts and ends ascending.
        n_tokens: tokens of a window.
        offset, duration: the window in samples.

    Returns:
        As `get_relevant_lyric_tokens`.
    """
    n_full = len(full_tokens)
    if n_full < n_tokens:
        return _pad(full_tokens, n_tokens)
    first = bisect.bisect_right([end for _, end in times], offset)  # first token that is not over yet
    last = bisect.bisect_left([start for start, _ in times], offset + duration)  # first token that has not begun
    centre = (first + max(first, last)) // 2
    start = min(max(centre - n_tokens // 2, 0), n_full - n_tokens)
    return list(full_tokens[start : start + n_tokens]), list(range(start, start + n_tokens))


def _pad(tokens: Sequence[int], n_tokens: int) -> tuple[list[int], list[int]]:
    missing = n_tokens - len(tokens)
    return [0] * missing + list(tokens), [-1] * missing + list(range(len(tokens)))
