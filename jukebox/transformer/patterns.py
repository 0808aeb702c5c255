"""The attention patterns of the sparse transformer, each defined once (paper, appendix A).

A pattern is a rule over absolute positions. Four questions define it, and everything else (the training path, the
cached path, the tests, the documentation) reads the answers:

    visible(q, k)   may the query at position q see the key at position k?
    slot(p)         where in its cache is the key of position p kept?
    reads(q)        which slots does the query at position q read, once position q itself has been written?
    kept(n)         how many positions does the cache hold after n positions were seen?

Drawn for 12 positions in 3 blocks of 4 (rows: queries, columns: keys, # seen, `summary` with its null key in front):

    dense          block          column         previous       summary
    #...........   #...........   #...........   ............   # ............
    ##..........   ##..........   .#..........   ............   # ............
    ###.........   ###.........   ..#.........   ............   # ............
    ####........   ####........   ...#........   ............   # ...#........
    #####.......   ....#.......   #...#.......   ####........   # ...#........
    ######......   ....##......   .#...#......   ####........   # ...#........
    #######.....   ....###.....   ..#...#.....   ####........   # ...#........
    ########....   ....####....   ...#...#....   ####........   # ...#...#....
    #########...   ........#...   #...#...#...   ....####....   # ...#...#....
    ##########..   ........##..   .#...#...#..   ....####....   # ...#...#....
    ###########.   ........###.   ..#...#...#.   ....####....   # ...#...#....
    ############   ........####   ...#...#...#   ....####....   # ...#...#....

A new pattern: write a subclass here, give it a number in `KINDS`, and name that number in an order of `orders.py`. Add
the reshaped product that computes it quickly to `products.py`. `tests/transformer/test_patterns.py` then checks it.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from jukebox.transformer.orders import ORDERS, layer_kinds

__all__ = ["CROSS_KIND", "KINDS", "LYRIC_KINDS", "ORDERS", "Pattern", "layer_kinds", "make_pattern"]


@dataclass(frozen=True)
class Pattern(ABC):
    """The geometry that all patterns share, in tokens.

    Attributes:
        n_ctx: length of the context.
        block: length of a block, n_ctx / blocks; equal to n_ctx if there are no blocks.
        spread: positions at the end of each block that represent it (summary patterns).
        prime_len: lyric characters in front of the music (lyric prefix).
        encoder_len: positions of the lyric encoder (lyric cross).
    """

    n_ctx: int
    block: int
    spread: int = 1
    prime_len: int = 0
    encoder_len: int = 0

    name: ClassVar[str]
    rolling: ClassVar[bool] = False  # later positions take the slots of earlier ones
    own_keys: ClassVar[bool] = True  # positions are kept; else all slots are filled from elsewhere

    @property
    def null_keys(self) -> int:
        """Keys and values of zeros in front of all others, seen by every query: they take probability mass."""
        return 0

    @property
    def capacity(self) -> int:
        """Slots of the cache."""
        return self.n_ctx

    @abstractmethod
    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        """Bool tensor, broadcast over query and key positions."""

    def slot(self, p: Tensor) -> Tensor:
        """Slot of each position, -1 if the position is never kept."""
        return p

    @abstractmethod
    def reads(self, q: int) -> slice:
        """Slots of the cache that the query at position q reads."""

    def kept(self, n: int) -> int:
        return n

    def held(self, n: int) -> Tensor:
        """The positions that the cache holds after n were seen, in ascending order."""
        return torch.arange(n - self.kept(n), n)

    def addresses(self) -> list[tuple[int, int, int]]:
        """All that a step needs to know of the pattern, null keys counted as slots: a row for each position.

        Row i holds the slot of position i's own key (-1: not kept), the first slot that its query reads, and how many.
        """
        return _addresses(self)

    def integers(self) -> tuple[int, int, int, int]:
        """The pattern as four integers, for kernels that compute addresses themselves: kind, block, blocks, extra.

        Kinds 4 and 5 are both 5. `extra` is for them `spread`, and for layers that read lyrics the number of slots.
        """
        kind = max(number for number, pattern in KINDS.items() if pattern is type(self))
        extra = self.capacity if kind in LYRIC_KINDS else self.null_keys
        return kind, self.block, self.n_ctx // self.block, extra


@functools.cache
def _addresses(pattern: Pattern) -> list[tuple[int, int, int]]:  # a kept tensor would be a fake one for all who follow
    nulls, positions = pattern.null_keys, torch.arange(pattern.n_ctx)
    slots = pattern.slot(positions) if pattern.own_keys else torch.full_like(positions, -1)
    rows = []
    for slot, reads in zip(slots.tolist(), map(pattern.reads, range(pattern.n_ctx)), strict=True):
        first = reads.start + nulls if reads.start else 0
        rows.append((slot + nulls if slot >= 0 else -1, first, reads.stop + nulls - first))
    return rows


class Dense(Pattern):
    """Every earlier position and itself."""

    name = "dense"

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return k <= q

    def reads(self, q: int) -> slice:
        return slice(0, q + 1)


class Block(Pattern):
    """Earlier positions of the own block: a row of the grid that the context forms when cut into blocks."""

    name = "block"
    rolling = True

    @property
    def capacity(self) -> int:
        return self.block

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return (k // self.block == q // self.block) & (k <= q)

    def slot(self, p: Tensor) -> Tensor:
        return p % self.block

    def reads(self, q: int) -> slice:
        return slice(0, q % self.block + 1)

    def kept(self, n: int) -> int:
        return (n - 1) % self.block + 1 if n else 0


class Column(Pattern):
    """The same offset in every earlier block and in the own: a column of the grid.

    The cache is kept column by column, so that what one query reads is in one piece.
    """

    name = "column"

    @property
    def blocks(self) -> int:
        return self.n_ctx // self.block

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return (k % self.block == q % self.block) & (k <= q)

    def slot(self, p: Tensor) -> Tensor:
        return p % self.block * self.blocks + p // self.block

    def reads(self, q: int) -> slice:
        first = q % self.block * self.blocks
        return slice(first, first + q // self.block + 1)


class Previous(Pattern):
    """All of the block before. In the first block there is none: the attended value is zero."""

    name = "previous"
    rolling = True

    @property
    def capacity(self) -> int:
        return 2 * self.block

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return k // self.block == q // self.block - 1

    def slot(self, p: Tensor) -> Tensor:
        return p % (2 * self.block)

    def reads(self, q: int) -> slice:
        if q < self.block:
            return slice(0, 0)
        first = (q // self.block - 1) % 2 * self.block
        return slice(first, first + self.block)

    def kept(self, n: int) -> int:
        return n if n <= self.block else self.block + (n - 1) % self.block + 1


class Summary(Pattern):
    """The last `spread` positions of every block but the final one, and as many null keys."""

    name = "summary"

    @property
    def null_keys(self) -> int:
        return self.spread

    @property
    def capacity(self) -> int:
        return self.n_ctx // self.block * self.spread - self.spread

    def is_summary(self, p: Tensor) -> Tensor:
        return (p % self.block >= self.block - self.spread) & (p < self.n_ctx - self.block)

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return self.is_summary(k) & (k <= q)

    def slot(self, p: Tensor) -> Tensor:
        compact = p // self.block * self.spread + p % self.block - (self.block - self.spread)
        return torch.where(self.is_summary(p), compact, -1)

    def reads(self, q: int) -> slice:
        return slice(0, self.kept(q + 1))

    def kept(self, n: int) -> int:
        n = min(n, self.n_ctx - self.block)
        return n // self.block * self.spread + max(0, n % self.block - (self.block - self.spread))

    def held(self, n: int) -> Tensor:
        p = torch.arange(n)
        return p[self.is_summary(p)]


class LyricPrefix(Pattern):
    """Positions of the lyrics in front of the music, up to the next multiple of the number of blocks.

    The released models round the prefix up by the *number of blocks*, and an exact multiple gains one more unit. With
    384 characters and 64 blocks these layers read 448 positions, 64 of them music. Causality holds all the same.
    """

    name = "lyric prefix"

    @property
    def prefix(self) -> int:
        blocks = self.n_ctx // self.block
        return min(self.n_ctx, (self.prime_len // blocks + 1) * blocks)

    @property
    def capacity(self) -> int:
        return self.prefix

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return (k < self.prefix) & (k <= q)

    def slot(self, p: Tensor) -> Tensor:
        return torch.where(p < self.prefix, p, -1)

    def reads(self, q: int) -> slice:
        return slice(0, min(self.prefix, q + 1))

    def kept(self, n: int) -> int:
        return min(n, self.prefix)

    def held(self, n: int) -> Tensor:
        return torch.arange(self.kept(n))


class LyricCross(Pattern):
    """Every position of the separate lyric encoder; nothing of the music itself."""

    name = "lyric cross"
    own_keys = False

    @property
    def capacity(self) -> int:
        return self.encoder_len

    def visible(self, q: Tensor, k: Tensor) -> Tensor:
        return (k < self.encoder_len) & (q >= 0)

    def reads(self, q: int) -> slice:
        return slice(0, self.encoder_len)

    def kept(self, n: int) -> int:
        return self.encoder_len

    def held(self, n: int) -> Tensor:
        return torch.arange(self.encoder_len)


# The number that a layer carries as `attn_func`. 4 and 5 differ in `spread`, which is 1 for 4.
KINDS: dict[int, type[Pattern]] = {
    0: Dense,
    1: Block,
    2: Column,
    3: Previous,
    4: Summary,
    5: Summary,
    6: LyricCross,
    7: LyricPrefix,
}
CROSS_KIND = 6
LYRIC_KINDS = (6, 7)  # layers whose recorded weights map lyrics to music


def make_pattern(
    kind: int,
    n_ctx: int,
    blocks: int | None = None,
    spread: int | None = None,
    prime_len: int | None = None,
    encoder_len: int | None = None,
) -> Pattern:
    """Builds the pattern of a layer.

    Raises:
        ValueError: an unknown kind, blocks that do not divide the context, or a missing length.
    """
    if kind not in KINDS:
        raise ValueError(f"attention kind {kind}: choose one of {sorted(KINDS)}")
    if blocks is not None and n_ctx % blocks:
        raise ValueError(f"blocks={blocks} does not divide the context of {n_ctx} tokens")
    if blocks is None and kind not in (0, CROSS_KIND):
        raise ValueError(f"attention kind {kind} ({KINDS[kind].name}) needs blocks")
    if kind == 5 and not spread:
        raise ValueError("attention kind 5 needs spread, the positions per block that are kept")
    if kind == 7 and not prime_len:
        raise ValueError("attention kind 7 needs the number of lyric characters")
    if kind == CROSS_KIND and not encoder_len:
        raise ValueError("attention kind 6 needs the length of the lyric encoder")
    block = n_ctx // blocks if blocks else n_ctx
    if kind == 5 and spread is not None and spread > block:
        raise ValueError(f"spread={spread} is longer than a block of {block} tokens")
    return KINDS[kind](
        n_ctx=n_ctx,
        block=block,
        spread=(spread or 1) if kind == 5 else 1,
        prime_len=prime_len or 0,
        encoder_len=encoder_len or 0,
    )
