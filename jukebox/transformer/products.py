"""Attention products: queries of a run of positions against the keys of one pattern, computed by reshaping.

Each function is an optimisation of the same thing, `masked` below: the softmax of q k^T / sqrt(d) over the keys that
`Pattern.visible` allows. All take q [N, H, L, d] for positions start .. start + L - 1 and keys and values [N, H, M, d]
for positions first .. start + L - 1, and return [N, H, L, d]. Runs need not begin or end at a block's border: they are
padded to whole blocks and cut back. `tests/transformer/test_products.py` holds each against `masked`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from jukebox.transformer.patterns import (
    Block,
    Column,
    Dense,
    LyricCross,
    LyricPrefix,
    Pattern,
    Previous,
    Summary,
)

Product = Callable[[Pattern, Tensor, Tensor, Tensor, int, int, float], Tensor]


def weights(q: Tensor, k: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax in float32 of q k^T / sqrt(d), [N, H, L, M] in the type of q; `visible` is a bool tensor [L, M]."""
    logits = (q.float() @ k.float().transpose(-1, -2)) / math.sqrt(q.shape[-1])
    if visible is not None:
        logits = logits.masked_fill(~visible.to(q.device), -1e9)
    return logits.softmax(-1).to(q.dtype)


def masked(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0) -> Tensor:
    """The definition itself: every key of the run, null keys in front, and a mask. Slow; tests compare against it."""
    n_query, n_key = q.shape[2], k.shape[2]
    visible = pattern.visible(
        torch.arange(start, start + n_query)[:, None], torch.arange(first, first + n_key)[None, :]
    )
    k, v, visible = _with_nulls(pattern.null_keys, k, v, visible)
    w = weights(q, k, visible) * visible.any(-1)[:, None].to(q.device)  # nothing visible: the value is zero
    return F.dropout(w, dropout) @ v


def _with_nulls(n: int, k: Tensor, v: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Puts n keys and values of zeros in front, visible to every query."""
    if not n:
        return k, v, visible
    return F.pad(k, (0, 0, n, 0)), F.pad(v, (0, 0, n, 0)), F.pad(visible, (n, 0), value=True)


def _pad(x: Tensor, before: int, after: int) -> Tensor:
    return F.pad(x, (0, 0, before, after)) if before or after else x


def _whole_blocks(block: int, start: int, length: int) -> tuple[int, int, int, int]:
    """The whole blocks around a run: where they begin and end, and how many positions that adds before and after."""
    begin, end = start // block * block, -(-(start + length) // block) * block
    return begin, end, start - begin, end - start - length


def dense(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0) -> Tensor:
    if start == first:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=q.shape[2] > 1)
    return F.scaled_dot_product_attention(q, k, v, _causal(q, k), dropout)


def _causal(q: Tensor, k: Tensor) -> Tensor:
    """Mask for queries that are the last positions of the keys: bool [L, M]."""
    n_query, n_key = q.shape[-2], k.shape[-2]
    return torch.ones(n_query, n_key, dtype=torch.bool, device=q.device).tril(n_key - n_query)


def block(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0) -> Tensor:
    n, h, length, d = q.shape
    b = pattern.block
    begin, end, before, after = _whole_blocks(b, start, length)
    k, v = (_pad(x[:, :, begin - first :], 0, after) for x in (k, v))
    q, k, v = (x.reshape(n, h, -1, b, d).transpose(1, 2).flatten(0, 1) for x in (_pad(q, before, after), k, v))
    a = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)  # [N * blocks, H, b, d]
    a = a.view(n, -1, h, b, d).transpose(1, 2).reshape(n, h, -1, d)
    return a[:, :, before : before + length]


def column(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0) -> Tensor:
    n, h, length, d = q.shape
    b = pattern.block
    begin, end, before, after = _whole_blocks(b, start, length)
    # [N, H, blocks * b, d] -> [N, b * H, blocks, d]: one head per column of the grid; a view if there is one head
    q, k, v = (
        x.reshape(n, h, -1, b, d).permute(0, 3, 1, 2, 4).flatten(1, 2)
        for x in (_pad(q, before, after), _pad(k, 0, after), _pad(v, 0, after))
    )
    if begin == first:
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    else:
        a = F.scaled_dot_product_attention(q, k, v, _causal(q, k), dropout)
    a = a.view(n, b, h, -1, d).permute(0, 2, 3, 1, 4).reshape(n, h, -1, d)
    return a[:, :, before : before + length]


def previous(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0) -> Tensor:
    n, h, length, d = q.shape
    b = pattern.block
    begin, end, before, after = _whole_blocks(b, start, length)
    wanted = begin - b  # first key position that the first block of queries reads
    front = max(0, first - wanted)  # the block before the context: keys and values of zeros
    k, v = (_pad(x[:, :, max(0, wanted - first) :], front, after)[:, :, : end - begin] for x in (k, v))
    q, k, v = (x.reshape(n, h, -1, b, d).transpose(1, 2).flatten(0, 1) for x in (_pad(q, before, after), k, v))
    a = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    a = a.view(n, -1, h, b, d).transpose(1, 2).reshape(n, h, -1, d)
    return a[:, :, before : before + length]


def summary(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0) -> Tensor:
    positions = pattern.held(start + q.shape[2])
    if k.shape[2] != len(positions):  # fresh keys of all positions: keep those that represent their block
        index = positions.to(k.device)
        k, v = k.index_select(2, index), v.index_select(2, index)
    visible = positions[None, :] <= torch.arange(start, start + q.shape[2])[:, None]
    k, v, visible = _with_nulls(pattern.null_keys, k, v, visible)
    return F.scaled_dot_product_attention(q, k, v, visible.to(q.device), dropout)


def lyric_prefix(
    pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0
) -> Tensor:
    n_key = pattern.kept(start + q.shape[2])
    k, v = k[:, :, :n_key], v[:, :, :n_key]
    if start >= n_key:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    visible = torch.arange(n_key)[None, :] <= torch.arange(start, start + q.shape[2])[:, None]
    return F.scaled_dot_product_attention(q, k, v, visible.to(q.device), dropout)


def lyric_cross(
    pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, start: int, first: int, dropout: float = 0.0
) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


PRODUCTS: dict[type[Pattern], Product] = {
    Dense: dense,
    Block: block,
    Column: column,
    Previous: previous,
    Summary: summary,
    LyricPrefix: lyric_prefix,
    LyricCross: lyric_cross,
}
