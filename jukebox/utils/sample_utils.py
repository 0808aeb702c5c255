"""Where the windows of a long song are, and how a batch is cut into parts.

Plain arithmetic: nothing here knows a model. Change here where windows are; the walk along a song is in
`jukebox/sampling/windows.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


def get_starts(total_length: int, n_ctx: int, hop_length: int) -> list[int]:
    """First token of every window that is needed to cover a song.

    Windows start at multiples of the hop; the last one is moved back to end exactly at the end of the song:

        total_length 20, n_ctx 8, hop_length 5      0....5....10...15...20
                                                    ########                 start 0
                                                         ########            start 5
                                                              ########       start 10
                                                                ########     start 12, not 15

    Args:
        total_length: tokens of the song.
        n_ctx: tokens of one window.
        hop_length: tokens between two starts, at least 1.

    Returns:
        Ascending starts. A song shorter than one window has no proper start: the list is then empty or its one entry is
        negative. Callers take a partial window instead.
    """
    if hop_length < 1:
        raise ValueError(f"hop_length={hop_length}: windows must move by at least one token")
    last = total_length - n_ctx
    count = -(-last // hop_length) + 1
    return [min(i * hop_length, last) for i in range(count)]


@dataclass(frozen=True)
class Window:
    """Positions [start, end) of a song, of which the first `known` are given. All in tokens of one level."""

    start: int
    end: int
    known: int

    @property
    def new(self) -> int:
        return self.end - self.start - self.known


def schedule(total_length: int, n_ctx: int, hop_length: int, known: int = 0) -> list[Window]:
    """The windows that still have something to make, in order.

    Args:
        total_length: tokens that the level will have at the end.
        n_ctx: context of the prior in tokens.
        hop_length: new tokens of a usual window.
        known: tokens that are there already.

    Returns:
        Windows whose new tokens join to [known, total_length) without gap or overlap; none if nothing is missing.
    """
    if total_length < n_ctx:
        return [Window(0, total_length, known)] if known < total_length else []
    windows = []
    for start in get_starts(total_length, n_ctx, hop_length):
        end = start + n_ctx
        if known < end:
            windows.append(Window(start, end, max(0, known - start)))
            known = end
    return windows


def split_batch(obj: Any, n_samples: int, split_size: int) -> list[Any]:
    """Cuts a batch into parts of at most `split_size` items, in order.

    Args:
        obj: a tensor [N, ...], a list or tuple of such tensors (each is cut, every part is a list), or None.
        n_samples: N.
        split_size: largest number of items in one part.

    Returns:
        One entry for each part; None entries if `obj` is None.
    """
    if split_size < 1:
        raise ValueError(f"split_size={split_size}: a part holds at least one item")
    n_parts = -(-n_samples // split_size)
    if obj is None:
        return [None] * n_parts
    if isinstance(obj, torch.Tensor):
        return list(torch.split(obj, split_size, dim=0))
    if isinstance(obj, Sequence):
        cut = [split_batch(item, n_samples, split_size) for item in obj]
        return [[item[part] for item in cut] for part in range(n_parts)]
    raise TypeError(f"split_batch: {type(obj).__name__} is neither a tensor, nor a list of tensors, nor None")
