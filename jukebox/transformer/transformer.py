"""A stack of residual layers, each with attention over its pattern and an MLP (paper, appendix A)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jukebox.transformer.factored_attention import FactoredAttention
from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.ops import MLP, LayerNorm
from jukebox.transformer.patterns import CROSS_KIND, LYRIC_KINDS, layer_kinds
from jukebox.utils.precision import read_dtype


class ResAttnBlock(nn.Module):
    """x + a + m with a = attention(ln_0(x)) and m = mlp(ln_1(x + a)); the sum a + m is scaled by `res_scale`."""

    def __init__(
        self,
        attn: FactoredAttention,
        n_in: int,
        n_mlp: int,
        resid_dropout: float = 0.0,
        zero_out: bool = False,
        init_scale: float = 1.0,
        res_scale: float = 1.0,
        checkpoint_attn: bool = False,
        checkpoint_mlp: bool = False,
    ) -> None:
        super().__init__()
        self.attn = attn
        self.ln_0 = LayerNorm(n_in)
        self.mlp = MLP(n_in, n_mlp, resid_dropout, zero_out, init_scale)
        self.ln_1 = LayerNorm(n_in)
        self.res_scale = res_scale
        self.checkpoint_attn = checkpoint_attn
        self.checkpoint_mlp = checkpoint_mlp

    @property
    def attn_func(self) -> int:
        """The attention pattern's number."""
        return self.attn.attn_func

    def _attention(self, x: Tensor, encoder_kv: Tensor | None) -> Tensor:
        y = self.attn(self.ln_0(x), encoder_kv)
        assert isinstance(y, Tensor)
        return y

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_1(x))

    def forward(
        self, x: Tensor, encoder_kv: Tensor | None = None, cache: KVCache | None = None, sample: bool = False
    ) -> Tensor:
        """One layer over [N, L, D]; `sample` goes on from what the layer's own cache has seen, at first nothing."""
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
    """The layers, with the kinds of attention that `attn_order` lays out (`patterns.layer_kinds`).

    Args:
        n_in: width D.
        n_ctx: context length L in tokens.
        n_head: attention heads.
        n_depth: layers.
        m_attn, m_mlp: widths of attention and MLP as factors of n_in.
        res_scale: scale residual branches by 1 / n_depth.
        checkpoint_res, checkpoint_attn, checkpoint_mlp: recompute layers, attention or MLP in the backward pass. This
            saves memory and changes neither numbers nor parameter names.
        blocks, spread, encoder_dims, prime_len: geometry of the patterns, see `patterns.make_pattern`.
    """

    def __init__(
        self,
        n_in: int,
        n_ctx: int,
        n_head: int,
        n_depth: int,
        attn_dropout: float = 0.0,
        resid_dropout: float = 0.0,
        mask: bool = True,
        zero_out: bool = False,
        init_scale: float = 1.0,
        res_scale: bool = False,
        m_attn: float = 0.25,
        m_mlp: float = 1.0,
        checkpoint_attn: int = 0,
        checkpoint_mlp: int = 0,
        checkpoint_res: int = 0,
        attn_order: int = 0,
        blocks: int | None = None,
        spread: int | None = None,
        encoder_dims: int | None = None,
        prime_len: int | None = None,
    ) -> None:
        super().__init__()
        self.n_in, self.n_ctx, self.n_head = n_in, n_ctx, n_head
        self.checkpoint_res = bool(checkpoint_res)
        layers = []
        for kind in layer_kinds(attn_order, n_depth):
            zero = zero_out or kind == CROSS_KIND  # lyric layers start as the identity, so they can be added later
            attn = FactoredAttention(
                n_in,
                n_ctx,
                n_state=int(m_attn * n_in),
                n_head=n_head,
                attn_func=kind,
                mask=mask,
                attn_dropout=attn_dropout,
                resid_dropout=resid_dropout,
                zero_out=zero,
                init_scale=init_scale,
                blocks=blocks,
                spread=spread,
                prime_len=prime_len,
                encoder_dims=encoder_dims,
            )
            layer = ResAttnBlock(
                attn,
                n_in,
                n_mlp=int(m_mlp * n_in),
                resid_dropout=resid_dropout,
                zero_out=zero,
                init_scale=init_scale,
                res_scale=1.0 / n_depth if res_scale else 1.0,
                checkpoint_attn=bool(checkpoint_attn),
                checkpoint_mlp=bool(checkpoint_mlp),
            )
            layers.append(layer)
        self._attn_mods = nn.ModuleList(layers)

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
            layers: counted from 1, so that 36 means the 36th layer; the layers behind the last wanted one do not run.
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
