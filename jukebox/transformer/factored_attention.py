"""Multi-head attention over one of the sparse patterns: whole sequence, chunk by chunk, or token by token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.ops import Conv1D
from jukebox.transformer.patterns import CROSS_KIND, LYRIC_KINDS
from jukebox.transformer.products import PRODUCTS, masked, weights


def starts_at_zero(config: TransformerConfig, kind: int) -> bool:
    """Whether a layer starts as the identity: lyric layers do, so that they can be added to a trained prior."""
    return config.zero_out or kind == CROSS_KIND


class FactoredAttention(nn.Module):
    """Attention of one layer (paper, appendix A).

    Args:
        config: of the whole transformer.
        attn_func: the pattern's number (`patterns.KINDS`).

    Raises:
        ValueError: a geometry that does not fit.
    """

    def __init__(self, config: TransformerConfig, attn_func: int = 0) -> None:
        super().__init__()
        if not config.mask and attn_func != 0:
            raise ValueError(f"attention kind {attn_func} is causal; only kind 0 runs without a mask")
        width, n_state, scale = config.width, config.n_state, config.init_scale
        self.pattern = config.pattern(attn_func)
        self.attn_func = attn_func
        self.n_head = config.heads
        self.n_state = n_state
        self.mask = config.mask
        self.attn_dropout = config.attn_dropout
        self.product = PRODUCTS.get(type(self.pattern), masked)
        self.is_cross = attn_func == CROSS_KIND
        if self.is_cross:
            self.c_attn = Conv1D(width, n_state, init_scale=scale)
            self.c_enc_kv = Conv1D(width, 2 * n_state, init_scale=scale)
        else:
            self.c_attn = Conv1D(width, 3 * n_state, init_scale=scale)
        self.c_proj = Conv1D(n_state, width, starts_at_zero(config, attn_func), scale)
        self.resid_dropout = nn.Dropout(config.resid_dropout)
        self.own_cache: KVCache | None = None  # of those who step through a layer from outside

    def del_cache(self) -> None:
        """Forgets what calls with `sample=True` have seen: the next one begins at position 0."""
        self.own_cache = None

    def cache_for(self, x: Tensor) -> KVCache:
        """The layer's own cache for the next positions x [N, L, n_in]; an empty one if they do not follow on."""
        cache = self.own_cache
        fits = (
            cache is not None and cache.k.shape[0] == len(x) and (cache.k.dtype, cache.k.device) == (x.dtype, x.device)
        )
        if cache is None or not fits or cache.seen + x.shape[1] > self.pattern.n_ctx:
            cache = self.own_cache = self.new_cache(len(x), x.dtype, x.device)
        return cache

    def new_cache(self, n: int, dtype: torch.dtype, device: torch.device | str) -> KVCache:
        """An empty cache for a batch of n."""
        return KVCache(self.pattern, n, self.n_head, self.n_state // self.n_head, dtype, device)

    def _split(self, x: Tensor) -> Tensor:
        """[N, L, H * d] -> [N, H, L, d]"""
        return x.view(*x.shape[:-1], self.n_head, -1).transpose(1, 2)

    def encoder_keys(self, encoder_kv: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the lyric encoder's output [N, encoder length, n_in]."""
        k, v = self.c_enc_kv(encoder_kv).chunk(2, dim=-1)
        return self._split(k), self._split(v)

    def forward(
        self, x: Tensor, encoder_kv: Tensor | None = None, cache: KVCache | None = None, record: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attends from the positions of x.

        Args:
            x: [N, L, n_in]; without a cache positions 0 .. L - 1, with one the L positions after those it has seen.
            encoder_kv: [N, encoder length, n_in]; only for kind 6, and with a cache only at the first call.
            cache: keys and values of earlier positions; gets those of x.
            record: also return the attention weights; kinds 6 and 7, without a cache.

        Returns:
            [N, L, n_in], and if asked the weights: [N, H, L, encoder length] for kind 6; for kind 7
            [N, H, L - lyrics, lyrics], music to lyrics, whose rows need not sum to 1.
        """
        start = cache.seen if cache is not None else 0
        first = start
        dropout = self.attn_dropout if self.training else 0.0
        if self.is_cross:
            q = self._split(self.c_attn(x))
            if cache is None or start == 0:
                if encoder_kv is None:
                    raise ValueError("a lyric layer needs the encoder's output")
                k, v = self.encoder_keys(encoder_kv.to(x.dtype))
                if cache is not None:
                    cache.fill(k, v)
            else:
                k, v = cache.k, cache.v
            if cache is not None:
                cache.seen += x.shape[1]
        else:
            if encoder_kv is not None:
                raise ValueError("only lyric layers of kind 6 read an encoder")
            q, k, v = (self._split(t) for t in self.c_attn(x).chunk(3, dim=-1))
            if cache is not None:
                new_k, new_v = k, v
                if start:
                    held = self.pattern.held(start)
                    old_k, old_v = cache.at(held)
                    keep = self._kept_of_chunk(start, x.shape[1], k.device)
                    k, v = (t if keep is None else t.index_select(2, keep) for t in (k, v))
                    k, v = torch.cat([old_k, k], dim=2), torch.cat([old_v, v], dim=2)
                    first = int(held[0]) if len(held) else start
                cache.append(new_k, new_v)
        if self.mask:
            a = self.product(self.pattern, q, k, v, start, first, dropout)
        else:
            a = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        y = self.resid_dropout(self.c_proj(a.transpose(1, 2).reshape(*x.shape[:-1], self.n_state)))
        return (y, self._record(q, k)) if record else y

    def _kept_of_chunk(self, start: int, length: int, device: torch.device) -> Tensor | None:
        """Which of the chunk's own positions the pattern keeps, if it does not keep all: those are all it reads."""
        if self.pattern.rolling or self.pattern.capacity >= self.pattern.n_ctx:
            return None
        slots = self.pattern.slot(torch.arange(start, start + length))
        return torch.nonzero(slots >= 0).flatten().to(device)

    def _record(self, q: Tensor, k: Tensor) -> Tensor:
        if self.attn_func not in LYRIC_KINDS:
            raise ValueError(f"attention kind {self.attn_func} does not map lyrics to music; record {LYRIC_KINDS}")
        if self.is_cross:
            return weights(q, k, None)
        n_lyrics, prefix = self.pattern.prime_len, self.pattern.kept(q.shape[2])
        visible = self.pattern.visible(torch.arange(q.shape[2])[:, None], torch.arange(prefix)[None, :])
        return weights(q, k[:, :, :prefix], visible)[:, :, n_lyrics:, :n_lyrics]
