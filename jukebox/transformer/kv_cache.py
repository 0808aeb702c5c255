"""Keys and values of the positions that later queries will read, in buffers allocated once and sized by the pattern."""

from __future__ import annotations

import torch
from torch import Tensor

from jukebox.transformer.patterns import Pattern


def slots(pattern: Pattern) -> int:
    """How many slots a cache has: those of null keys and of positions, and a spare one if positions are dropped."""
    drops = pattern.own_keys and bool((pattern.slot(torch.arange(pattern.n_ctx, device="cpu")) < 0).any())
    return pattern.null_keys + pattern.capacity + int(drops)


class KVCache:
    """Keys and values of one attention layer.

    Args:
        pattern: decides how many slots there are and which position goes where.
        n: batch size.
        heads, head_dim: layout of what is stored.

    Attributes:
        seen: positions written so far, the absolute position of the next one.
        kv: the buffer, [N, 2, H, null keys + slots, head_dim]; `k` and `v` are its halves. If the pattern drops
            positions there is a spare last slot, which no query reads.
    """

    def __init__(
        self, pattern: Pattern, n: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.pattern = pattern
        self.seen = 0
        self.nulls = pattern.null_keys
        self._slots = pattern.slot(torch.arange(max(pattern.n_ctx, pattern.encoder_len)))
        self._addresses = pattern.addresses()
        shape = (n, 2, heads, slots(pattern), head_dim)
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.k, self.v = self.kv[:, 0], self.kv[:, 1]

    def __len__(self) -> int:
        """Positions held, null keys not counted."""
        return self.pattern.kept(self.seen)

    def append(self, k: Tensor, v: Tensor) -> None:
        """Stores the next positions; k and v are [N, H, L, head_dim]. What the pattern never reads again is dropped."""
        n_new = k.shape[2]
        positions = torch.arange(self.seen, self.seen + n_new)
        slots = self._slots[positions]
        keep = slots >= 0
        if self.pattern.rolling:  # write only those that no later position of this chunk would overwrite
            keep &= positions >= self.seen + n_new - self.pattern.capacity
        index = (self.nulls + slots[keep]).to(self.kv.device)
        source = torch.nonzero(keep).flatten().to(self.kv.device)
        self.k.index_copy_(2, index, k.index_select(2, source))
        self.v.index_copy_(2, index, v.index_select(2, source))
        self.seen += n_new

    def append_one(self, kv: Tensor) -> None:
        """Stores the next position, [N, 2, H, head_dim]: the quick twin of `append` for a single token."""
        slot = self._addresses[self.seen][0]
        if slot >= 0:
            self.kv.select(3, slot).copy_(kv)
        self.seen += 1

    def read_one(self) -> tuple[Tensor, Tensor] | None:
        """What the newest position reads, null keys included: views [N, H, M, head_dim], or None for nothing."""
        _, first, n_read = self._addresses[self.seen - 1]
        if n_read == 0:
            return None
        return self.k.narrow(2, first, n_read), self.v.narrow(2, first, n_read)

    def fill(self, k: Tensor, v: Tensor) -> None:
        """Stores all slots at once: the keys and values of the lyric encoder."""
        self.k.copy_(k)
        self.v.copy_(v)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of given positions, [N, H, len(positions), head_dim]; null keys are left out."""
        index = (self.nulls + self._slots[positions]).to(self.kv.device)
        return self.k.index_select(2, index), self.v.index_select(2, index)

    def contents(self) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions held, in order of position."""
        return self.at(self.pattern.held(self.seen))
