"""The two pictures of an item: its alignment as a PNG and its waveform as an SVG path.

What may be changed: sizes and colour. Both are plain numpy, so the page needs no plotting library.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from jukebox.page.times import to_array

BUCKETS = 1000  # columns of a waveform
INK = (38, 148, 182)  # colour of the alignment, readable on white and on black


def alignment_picture(alignment: Any, width: int = 1000, height: int = 480) -> bytes:
    """Draws an alignment as a transparent PNG: time to the right, lyrics downwards, stronger ink is more attention.

    Args:
        alignment: float array or tensor [rows, characters], weights >= 0, neither dimension 0.
        width: most pixels; of a longer alignment each pixel shows the largest weight under it.
        height: the same for characters.

    Returns:
        The bytes of the file.
    """
    weights = np.clip(np.nan_to_num(to_array(alignment)), 0, None).T  # [characters, rows]
    for axis, limit in enumerate((height, width)):
        weights = np.maximum.reduceat(weights, _bounds(weights.shape[axis], limit), axis=axis)
    usual_peak = weights.max(axis=0).mean() or 1.0
    return png(
        np.round(255 * np.clip(weights / usual_peak, 0, 1) ** 0.7).astype(np.uint8), bytes(INK) * 256, bytes(range(256))
    )


def waveform_path(samples: np.ndarray) -> str:
    """Draws the outline of a waveform, scaled to its own peak, as an SVG path.

    Args:
        samples: float array [T].

    Returns:
        The path's `d`, in a view box of BUCKETS x 200 with silence at height 100.
    """
    if len(samples) == 0:
        return f"M0 99H{BUCKETS}V101H0Z"
    bounds = _bounds(len(samples), BUCKETS)
    peak = np.abs(samples).max() or 1.0
    highest = np.maximum.reduceat(samples, bounds) / peak
    lowest = np.minimum.reduceat(samples, bounds) / peak
    above = np.minimum(99, np.round(100 - 98 * highest)).astype(int)
    below = np.maximum(101, np.round(100 - 98 * lowest)).astype(int)
    xs = np.round((np.arange(len(bounds)) + 0.5) * BUCKETS / len(bounds)).astype(int)
    forth = [f"0 {above[0]}", *(f"{x} {y}" for x, y in zip(xs, above, strict=True)), f"{BUCKETS} {above[-1]}"]
    back = [f"0 {below[0]}", *(f"{x} {y}" for x, y in zip(xs, below, strict=True)), f"{BUCKETS} {below[-1]}"]
    return f"M{'L'.join(forth + back[::-1])}Z"


def _bounds(length: int, parts: int) -> np.ndarray:
    """First index of each of at most `parts` nearly equal parts."""
    parts = min(length, parts)
    return np.arange(parts) * length // parts


def png(indices: np.ndarray, colours: bytes, opacities: bytes = b"") -> bytes:
    """A palette image as in the PNG specification (ISO/IEC 15948).

    Args:
        indices: uint8 [H, W].
        colours: red, green and blue of each of 256 colours.
        opacities: of each colour, 0 to 255; empty: all are opaque.
    """

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = indices.shape
    lines = np.pad(indices, ((0, 0), (1, 0)))  # each line starts with the number of its filter, 0 for none
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", colours),
            chunk(b"tRNS", opacities) if opacities else b"",
            chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            chunk(b"IEND", b""),
        ]
    )
