"""Random numbers that belong to a song, not to a run.

Every token of a song is drawn with one uniform number that is a function of (seed, song number, level, position in the
song). So the draws do not change with the number of songs made side by side, with batches, ranks, windows or a resume:

    uniform = Philox(key = hash(seed, song, level), counter = position // 4)[position % 4]

Philox is a counter-based generator (Salmon et al., 2011): any position is reached at once, without drawing what
precedes it. Nothing here may change without changing what a seed means; `tests/sampling/test_streams.py` pins a few
values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

_PER_BLOCK = 4  # 64-bit numbers that Philox gives for one value of its counter


def uniforms(seed: int, song: int, level: int, start: int, count: int) -> np.ndarray:
    """Uniform numbers for tokens [start, start + count) of one level of one song.

    Args:
        seed: any integer.
        song: number of the song in the whole run, over all ranks.
        level: level of the tokens; 0 is the finest.
        start: position of the first token in the song.
        count: number of tokens.

    Returns:
        float32 [count], in [0, 1).
    """
    name = f"jukebox {int(seed)} {int(song)} {int(level)}".encode()
    key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
    generator = np.random.Philox(key=key)
    generator.advance(start // _PER_BLOCK)
    skip = start % _PER_BLOCK
    raw = np.asarray(generator.random_raw(skip + count), dtype=np.uint64)[skip:]
    # The upper 24 bits: as many as a float32 in [0, 1) resolves evenly, so that no value rounds up to 1.
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def window_noise(seed: int, songs: Sequence[int], level: int, start: int, n_positions: int, known: int) -> torch.Tensor:
    """Uniform numbers for one window of several songs.

    Args:
        seed: any integer.
        songs: numbers of the N songs.
        level: level of the tokens.
        start: position of the window's first token in the song.
        n_positions: tokens of the window.
        known: tokens of the window that are given; nothing is drawn for them.

    Returns:
        float32 [N, n_positions]: column i is for token start + i of the song; zero if the token is known.
    """
    noise = np.zeros((len(songs), n_positions), dtype=np.float32)
    for row, song in enumerate(songs):
        noise[row, known:] = uniforms(seed, song, level, start + known, n_positions - known)
    return torch.from_numpy(noise)
