"""All that shapes one transformer, in one frozen object: made once from hyper-parameters and handed down whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jukebox.transformer.patterns import Pattern, layer_kinds, make_pattern


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer over a sequence, and the embedding in front of it.

    Attributes:
        n_ctx: context length L in tokens.
        width: width D; depth: layers; heads: attention heads, which must divide the attention width.
        m_attn, m_mlp: widths of attention and MLP as factors of the width.
        attn_order: which kind of attention each layer has (`patterns.ORDERS`).
        blocks, spread, prime_len, encoder_dims: geometry of the patterns, see `patterns.make_pattern`.
        mask: causal; without it (kind 0 only) every position sees every other.
        attn_dropout, resid_dropout, emb_dropout: of attention weights, residual branches and embeddings.
        init_scale, zero_out, pos_init: how weights start; see `Conv1D` and `PositionEmbedding`.
        res_scale: scale residual branches by 1 / depth.
        checkpoint_res, checkpoint_attn, checkpoint_mlp: recompute layers, attention or MLP in the backward pass. This
            saves memory and changes neither numbers nor parameter names.

    Raises:
        ValueError: heads that do not divide the attention width, or an unknown order.
    """

    n_ctx: int
    width: int = 128
    depth: int = 2
    heads: int = 1
    m_attn: float = 0.25
    m_mlp: float = 1.0
    attn_order: int = 0
    blocks: int | None = None
    spread: int | None = None
    prime_len: int | None = None
    encoder_dims: int | None = None
    mask: bool = True
    attn_dropout: float = 0.0
    resid_dropout: float = 0.0
    emb_dropout: float = 0.0
    init_scale: float = 1.0
    zero_out: bool = False
    pos_init: bool = False
    res_scale: bool = False
    checkpoint_res: int = 0
    checkpoint_attn: int = 0
    checkpoint_mlp: int = 0

    def __post_init__(self) -> None:
        if self.n_state % self.heads:
            raise ValueError(f"{self.heads} heads do not divide an attention width of {self.n_state}")
        layer_kinds(self.attn_order, self.depth)

    @classmethod
    def of(cls, n_ctx: int, config: TransformerConfig | None = None, **values: Any) -> TransformerConfig:
        """A config, or else the defaults, for a context of n_ctx tokens and with other values.

        Raises:
            TypeError: names a value that no config has.
        """
        return replace(config or cls(n_ctx), n_ctx=n_ctx, **values)

    @property
    def n_state(self) -> int:
        """Width of queries, keys and values over all heads."""
        return int(self.m_attn * self.width)

    @property
    def kinds(self) -> list[int]:
        """The kind of attention of each layer."""
        return layer_kinds(self.attn_order, self.depth)

    def pattern(self, kind: int) -> Pattern:
        """The pattern of a layer of one kind."""
        return make_pattern(kind, self.n_ctx, self.blocks, self.spread, self.prime_len, self.encoder_dims)
