"""A stack of residual layers, each with attention over its pattern and an MLP (paper, appendix A)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.factored_attention import FactoredAttention, starts_at_zero
from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.ops import MLP, Conv1D, LayerNorm
from jukebox.transformer.patterns import CROSS_KIND, LYRIC_KINDS
from jukebox.utils.precision import read_dtype


class ResAttnBlock(nn.Module):
    """x + a + m with a = attention(ln_0(x)) and m = mlp(ln_1(x + a)); the sum a + m is scaled by `res_scale`."""

    def __init__(self, config: TransformerConfig, attn_func: int) -> None:
        super().__init__()
        n_mlp, zero_out = int(config.m_mlp * config.width), starts_at_zero(config, attn_func)
        self.attn = FactoredAttention(config, attn_func)
        self.ln_0 = LayerNorm(config.width)
        self.mlp = MLP(config.width, n_mlp, config.resid_dropout, zero_out, config.init_scale)
        self.ln_1 = LayerNorm(config.width)
        self.res_scale = 1.0 / config.depth if config.res_scale else 1.0
        self.checkpoint_attn = bool(config.checkpoint_attn)
        self.checkpoint_mlp = bool(config.checkpoint_mlp)

    @property
    def attn_func(self) -> int:
        """The attention pattern's number."""
        return self.attn.attn_func

    def matrices(self) -> tuple[Conv1D, Conv1D, Conv1D, Conv1D]:
        """The dense layers that a token passes, in order."""
        return self.attn.c_attn, self.attn.c_proj, self.mlp.c_fc, self.mlp.c_proj

    def _attention(self, x: Tensor, encoder_kv: Tensor | None) -> Tensor:
        y = self.attn(self.ln_0(x), encoder_kv)
        assert isinstance(y, Tensor)
        return y

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_1(x))

    def forward(
        self, x: Tensor, encoder_kv: Tensor | None = None, cache: KVCache | None = None, sample: bool = False
    ) -> Tensor:
        """One layer over [N, L, D]; `sample` continues from what the layer's own cache has seen, at first nothing."""
        if sample:
            cache = self.attn.cache_for(x)
        if cache is not None:
            a = self.attn(self.ln_0(x), encoder_kv, cache)
        elif self.checkpoint_attn and torch.is_grad_enabled():
            a = checkpoint(self._attention, x, encoder_kv, use_reentrant=False)
        else:
            a = self._attention(x, encoder_kv)
        y = x + a
        if self.checkpoint_mlp and torch.is_grad_enabled():
            m = checkpoint(self._mlp, y, use_reentrant=False)
        else:
            m = self._mlp(y)
        return y + m if self.res_scale == 1.0 else x + self.res_scale * (a + m)

    def record(self, x: Tensor, encoder_kv: Tensor | None) -> Tensor:
        """The attention weights of this layer for its input x."""
        return self.attn(self.ln_0(x), encoder_kv, record=True)[1]


class Transformer(nn.Module):
    """The layers, with the kinds of attention that `attn_order` lays out (`patterns.layer_kinds`)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.n_in, self.n_ctx, self.n_head = config.width, config.n_ctx, config.heads
        self.checkpoint_res = bool(config.checkpoint_res)
        self._attn_mods = nn.ModuleList([ResAttnBlock(config, kind) for kind in config.kinds])

    @property
    def layers(self) -> list[ResAttnBlock]:
        return list(self._attn_mods)  # type: ignore[arg-type]

    @property
    def lyric_layers(self) -> list[int]:
        """Numbers of the layers that attend to lyrics, whose attention maps them to the music."""
        return [i for i, layer in enumerate(self.layers) if layer.attn_func in LYRIC_KINDS]

    def new_caches(self, n: int, dtype: torch.dtype, device: torch.device | str) -> list[KVCache]:
        """Empty caches of all layers for a batch of n."""
        return [layer.attn.new_cache(n, dtype, device) for layer in self.layers]

    def del_cache(self) -> None:
        """Forgets what calls with `sample=True` have seen, in all layers."""
        for layer in self.layers:
            layer.attn.del_cache()

    def check_cache(self, n_samples: int, sample_t: int, fp16: bool) -> None:
        """Refuses own caches of the layers that have not seen just `sample_t` positions of `n_samples` sequences.

        Raises:
            ValueError: what they hold instead.
        """
        for i, cache in enumerate(layer.attn.own_cache for layer in self.layers):
            held = (0, n_samples, fp16) if cache is None else (cache.seen, len(cache.k), cache.k.dtype == torch.half)
            if held != (sample_t, n_samples, fp16):
                raise ValueError(f"layer {i} has seen (positions, songs, fp16)={held}, not {sample_t, n_samples, fp16}")

    def forward(
        self,
        x: Tensor,
        encoder_kv: Tensor | None = None,
        caches: list[KVCache] | None = None,
        fp16: bool = False,
        fp16_out: bool = False,
        record: Collection[int] = (),
        dtype: torch.dtype | None = None,
        sample: bool = False,
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Runs the layers over [N, L, D].

        Args:
            encoder_kv: lyric encoder's output [N, encoder length, D] for the layers of kind 6.
            caches: from `new_caches`; x then are the positions after those seen.
            dtype: type of the computation, that of x if left out; `fp16` is short for torch.half. Norms and softmax
                stay in float32.
            fp16_out: leave the output in that type.
            record: layers whose attention weights are wanted; they must attend to lyrics.
            sample: x are the positions after those that the layers' own caches have seen, see `del_cache`.

        Returns:
            [N, L, D] in float32 (or in `dtype`), and with `record` the list of weights in order of layers.
        """
        if fp16 or dtype is not None:
            x = x.to(read_dtype(fp16, dtype))
        recorded: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            kv = encoder_kv if layer.attn_func == CROSS_KIND else None
            if i in record:
                recorded.append(layer.record(x, kv))
            if caches is not None or sample:
                x = layer(x, kv, None if caches is None else caches[i], sample)
            elif self.checkpoint_res and torch.is_grad_enabled():
                x = checkpoint(layer, x, kv, use_reentrant=False)
            else:
                x = layer(x, kv)
        if not fp16_out:
            x = x.float()
        return (x, recorded) if record else x

    def outputs_after(
        self,
        x: Tensor,
        layers: Collection[int],
        encoder_kv: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[tuple[int, Tensor]]:
        """What some layers hand on: the residual stream after each of them, while the layers run.

        Args:
            x: [N, L, D].
            layers: counted from 1, so that 36 means the 36th layer; the layers after the last wanted one do not run.
            encoder_kv: as in `forward`.
            dtype: type of the computation; norms and softmax stay in float32.

        Yields:
            (layer, its output [N, L, D] in `dtype`), in ascending order.

        Raises:
            ValueError: a layer that does not exist.
        """
        unknown = [layer for layer in layers if not 1 <= layer <= len(self.layers)]
        if unknown:
            raise ValueError(f"layers {unknown} are not among 1 to {len(self.layers)}")
        x = x.to(dtype)
        for count, layer in enumerate(self.layers[: max(layers, default=0)], start=1):
            x = layer(x, encoder_kv if layer.attn_func == CROSS_KIND else None)
            if count in layers:
                yield count, x
