"""One new token through all layers with as few operator calls as possible.

A small model spends its time in calls, not in arithmetic. So this path looks up nothing per token that can be looked up
once. It writes keys and values in one copy, reads the cache through views and folds scales into the products. It is the
fast twin of `Transformer.forward(x, caches=caches)` for a single position; `tests/transformer/test_transformer.py`
holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.ops import GELU, Conv1D, LayerNorm
from jukebox.transformer.patterns import Pattern
from jukebox.transformer.places import Place
from jukebox.transformer.transformer import ResAttnBlock, Transformer


class _Layer(NamedTuple):
    cache: KVCache
    is_cross: bool
    heads: int
    n_state: int
    ln_0: tuple[Tensor, Tensor]
    c_attn: tuple[Tensor, Tensor]
    c_proj: tuple[Tensor, Tensor]
    ln_1: tuple[Tensor, Tensor]
    c_fc: tuple[Tensor, Tensor]
    mlp_proj: tuple[Tensor, Tensor]
    res_scale: float


def _layer(layer: ResAttnBlock, cache: KVCache, dtype: torch.dtype) -> _Layer:
    def dense(module: Conv1D) -> tuple[Tensor, Tensor]:
        return module.weight(dtype), module.b.to(dtype)

    def norm(module: LayerNorm) -> tuple[Tensor, Tensor]:
        return module.weight.float(), module.bias.float()

    attn, mlp = layer.attn, layer.mlp
    return _Layer(
        cache,
        attn.is_cross,
        attn.n_head,
        attn.n_state,
        norm(layer.ln_0),
        dense(attn.c_attn),
        dense(attn.c_proj),
        norm(layer.ln_1),
        dense(mlp.c_fc),
        dense(mlp.c_proj),
        layer.res_scale,
    )


class TokenStep:
    """Runs single positions of a batch through a transformer, with caches that earlier positions have filled.

    Weights of another type than `dtype` are cast once, here; if they have it already nothing is copied.
    Dropout is never applied: this is for sampling.
    """

    def __init__(self, transformer: Transformer, caches: list[KVCache], dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.width = transformer.n_in
        self.layers = [_layer(layer, cache, dtype) for layer, cache in zip(transformer.layers, caches, strict=True)]

    def __call__(self, x: Tensor, places: Mapping[Pattern, Place] | None = None) -> Tensor:
        """Takes [N, D] in float32, returns [N, D] in float32.

        `places` say for each pattern what the position writes and reads. With them shapes are fixed, and the caller
        counts what the caches have seen. Without them the caches know the position, and less is read.
        """
        shape = (self.width,)
        x = x.to(self.dtype)
        for layer in self.layers:
            n = x.shape[0]
            if self.dtype is torch.float32:
                h = torch.layer_norm(x, shape, *layer.ln_0)
            else:
                h = torch.layer_norm(x.float(), shape, *layer.ln_0).to(self.dtype)
            qkv = torch.addmm(layer.c_attn[1], h, layer.c_attn[0])
            cache, heads, bias = layer.cache, layer.heads, None
            place = None if places is None else places[cache.pattern]
            if layer.is_cross:
                q = qkv.view(n, heads, 1, -1)
                cache.seen += place is None
            else:
                qkv = qkv.view(n, 3, heads, -1)
                q = qkv.narrow(1, 0, 1).transpose(1, 2)
                if place is None:
                    cache.append_one(qkv.narrow(1, 1, 2))
                else:
                    place.write(cache, qkv.narrow(1, 1, 2))
            if place is None:
                keys = cache.read_one()
            else:
                keys, bias = place.read(cache), place.bias
            if keys is None:  # nothing before: the attended value is zero
                a = layer.c_proj[1]
            else:
                a = F.scaled_dot_product_attention(q, *keys, bias)
                a = torch.addmm(layer.c_proj[1], a.reshape(n, layer.n_state), layer.c_proj[0])
            y = x + a
            if self.dtype is torch.float32:
                h = torch.layer_norm(y, shape, *layer.ln_1)
            else:
                h = torch.layer_norm(y.float(), shape, *layer.ln_1).to(self.dtype)
            h = torch.addmm(layer.c_fc[1], h, layer.c_fc[0], beta=GELU, alpha=GELU)
            m = torch.addmm(layer.mlp_proj[1], F.silu(h, inplace=True), layer.mlp_proj[0], alpha=1 / GELU)
            x = y.add_(m) if layer.res_scale == 1.0 else x + layer.res_scale * (a + m)
        return x.float()
