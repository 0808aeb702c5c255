"""What a position writes and reads of each cache, computed on the device, in tensors whose shapes never change.

All of it comes from `Pattern.addresses`, one table per pattern. So the host need not know the position, and a step can
be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.patterns import Pattern


class Place(NamedTuple):
    """Of one pattern at one position.

    Attributes:
        slot: int64 [1], where the position's own key goes; the spare slot if the pattern does not keep it.
        reads: R, how many slots are read; the first ones of the cache if there is no `picked`.
        picked: int64 [R] or None, the slots.
        bias: [1, 1, 1, R] or None, -inf for slots that the query does not see, else 0.
    """

    slot: Tensor
    reads: int
    picked: Tensor | None
    bias: Tensor | None

    def write(self, cache: KVCache, kv: Tensor) -> None:
        """Stores the position's key and value, [N, 2, H, head_dim]."""
        cache.kv.index_copy_(3, self.slot, kv.unsqueeze(3))

    def read(self, cache: KVCache) -> tuple[Tensor, Tensor]:
        """Keys and values [N, H, R, head_dim]."""
        found = cache.kv.narrow(3, 0, self.reads) if self.picked is None else cache.kv.index_select(3, self.picked)
        return found[:, 0], found[:, 1]


class _Table:
    def __init__(self, cache: KVCache, dtype: torch.dtype) -> None:
        slots, device = cache.kv.shape[3], cache.kv.device
        slot, first, count = torch.tensor(cache.pattern.addresses(), device="cpu").unbind(1)
        most = int(count.max())
        # A query that sees nothing reads slots that were never written: their values are zero, and so is the sum.
        first, count = torch.where(count == 0, slots - most, first), torch.where(count == 0, most, count)
        slot = torch.where(slot < 0, slots - 1, slot)
        whole = int((first + count).max())
        self.in_order = not first.any() or whole <= 2 * most  # else less is read by picking slots out
        self.reads = whole if self.in_order else most
        self.always_all = self.in_order and not first.any() and bool((count == whole).all())
        self.last = slots - 1
        self.rows = torch.stack([slot, first, count], 1).to(device)
        self.steps = torch.arange(self.reads, device=device)
        self.zeros = torch.zeros(1, 1, 1, self.reads, dtype=dtype, device=device)

    def at(self, position: Tensor) -> Place:
        slot, first, count = self.rows.index_select(0, position).unbind(1)
        if self.always_all:
            return Place(slot, self.reads, None, None)
        if self.in_order:
            seen, picked = (self.steps >= first) & (self.steps < first + count), None
        else:
            seen, picked = self.steps < count, (self.steps + first).clamp_(max=self.last)
        return Place(slot, self.reads, picked, self.zeros.masked_fill(~seen, float("-inf")))


class Places:
    """The places of all patterns of some caches.

    Args:
        caches: one per layer; those of one pattern share a table.
        dtype: of `Place.bias`, that of the queries.
    """

    def __init__(self, caches: Sequence[KVCache], dtype: torch.dtype) -> None:
        self._tables = {cache.pattern: _Table(cache, dtype) for cache in {c.pattern: c for c in caches}.values()}

    def __call__(self, position: Tensor) -> dict[Pattern, Place]:
        """The places of a position, int64 [1] on the device of the caches."""
        return {pattern: table.at(position) for pattern, table in self._tables.items()}
