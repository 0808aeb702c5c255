"""One token of a batch after another with fixed shapes, everything on the device, and nothing that waits for it.

Position, last token, noise and tokens are static tensors, and what a query reads follows from the position
(`transformer/places.py`). On CUDA a step is captured as a graph, and one replay is one token of every song. Elsewhere
the same code runs eagerly. The layers are those of `TokenStep` or, with `fused`, the kernels of `apex.decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.logits import SamplingOptions, draw
from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.ops import Conv1D
from jukebox.transformer.places import Places
from jukebox.transformer.token_step import TokenStep

Layers = Callable[[Tensor], Tensor]


def why_not_fused(device: torch.device) -> str:
    """Why the fused kernels cannot run on a device, in a few words; nothing if they can."""
    try:
        from apex.decode import why_not
    except ImportError:
        return "apex is not installed (pip install ./apex)"
    return str(why_not(device))


class FixedSteps:
    """Draws tokens for a batch, a step per position.

    Args:
        model: in eval mode.
        caches: filled up to the position that comes first, and by the lyric encoder if there is one.
        plain: the layers in PyTorch, with the same caches.
        first: [N, D], what position 0 holds.
        cond: [N, L or 1, D] or None.
        finite: bool, one per position; a step notes in it whether its logits are finite.
        fused: run the layers in the kernels of `apex.decode`, which move the matrices (see `_rows`).

    Attributes:
        position: int64 [1], the next one.
        logits: [N, K] of the latest step; the next one overwrites them.

    Raises:
        Exception: of Triton or CUDA, if kernels do not build; any step may raise them.
    """

    def __init__(
        self,
        model: ConditionalAutoregressive2D,
        caches: Sequence[KVCache],
        plain: TokenStep,
        first: Tensor,
        cond: Tensor | None,
        finite: Tensor,
        fused: bool = False,
    ) -> None:
        self._model, self._cond, self._finite = model, cond, finite
        self._pos_emb, self._first = model.pos_emb(), first
        self.position = torch.zeros(1, dtype=torch.long, device=first.device)
        self.logits = torch.zeros(len(first), model.bins, device=first.device)
        self._held = torch.empty_like(first, memory_format=torch.contiguous_format)
        self._layers = self._fused(caches, plain.dtype) if fused else self._plain(caches, plain)
        self._options = SamplingOptions()
        self._tokens = self._noise = torch.empty(0)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._next = -1

    def _plain(self, caches: Sequence[KVCache], step: TokenStep) -> Layers:
        places, position = Places(caches, step.dtype), self.position  # without self: no circle keeps caches on a card
        return lambda x: step(x, places(position))

    def _fused(self, caches: Sequence[KVCache], dtype: torch.dtype) -> Layers:
        from apex.decode import Addresses, Layer, Matrix
        from apex.decode.step import FusedLayers

        layers = []
        for layer, cache in zip(self._model.transformer.layers, caches, strict=True):
            qkv, proj, fc, out = (Matrix(_rows(m, dtype), m.b.detach().float()) for m in layer.matrices())
            norm_0, norm_1 = (
                (norm.weight.detach().float(), norm.bias.detach().float()) for norm in (layer.ln_0, layer.ln_1)
            )
            addresses = Addresses(*cache.pattern.integers())
            layers.append(Layer(norm_0, qkv, proj, norm_1, fc, out, cache.kv, addresses, layer.res_scale))
        eps = self._model.transformer.layers[0].ln_0.eps
        return FusedLayers(layers, len(self._held), self.position, eps)

    def draw(self, position: int, tokens: Tensor, noise: Tensor, options: SamplingOptions) -> Tensor:
        """Draws the tokens of one position.

        Args:
            position: for the first call and after others have drawn; else it is the one after the latest.
            tokens: int64 [n_tokens, N], a row per position; those before are there.
            noise: uniform numbers in [0, 1), float32, the same shape.

        Returns:
            `logits`.
        """
        if self._tokens is not tokens or self._noise is not noise or self._options != options:
            self._tokens, self._noise, self._options, self._graph = tokens, noise, options, None
        if position != self._next:
            self.position.fill_(position)
            self._held.copy_(self._embedding(tokens[position - 1]) if position else self._first)
        if self.position.device.type == "cuda":
            self._graph = self._graph or self._capture()
            self._graph.replay()
        else:
            self._step()
        self._next = position + 1
        return self.logits

    def _embedding(self, token: Tensor) -> Tensor:
        return torch.embedding(self._model.x_emb.weight, token)

    def _step(self) -> None:
        """Everything from the static tensors and back into them."""
        model, at, cond = self._model, self.position, self._cond
        x = self._held + self._pos_emb.index_select(0, at)
        if cond is not None:
            cond = cond[:, 0] if cond.shape[1] == 1 else cond.index_select(1, at)[:, 0]
            x = x + cond
        h = self._layers(x)
        if cond is not None and model.add_cond_after_transformer:
            h = h + cond
        torch.mm(h, model.x_out.weight.t(), out=self.logits)
        token = draw(self.logits, self._options, self._noise.index_select(0, at)[0])
        self._tokens.index_copy_(0, at, token[None])
        self._finite.index_copy_(0, at, self.logits.isfinite().all()[None])
        self._held.copy_(self._embedding(token))
        at.add_(1)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """The graph of a step. A step runs before, since libraries allocate and kernels are built at first use."""
        position, held = self.position.clone(), self._held.clone()
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            self._step()
        main.wait_stream(side)
        self.position.copy_(position)  # the step will run again: it writes the same keys to the same slots
        self._held.copy_(held)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph


def _rows(module: Conv1D, dtype: torch.dtype) -> Tensor:
    """The matrix as [n_out, n_in] in one piece. A frozen one of this type is moved, so that no second copy stays."""
    with torch.inference_mode(module.w.is_inference()), torch.no_grad():  # a tensor of another mode cannot be set
        rows = module.weight(dtype).detach().t().contiguous()
        frozen = module.scale is None and module.w.dtype == dtype and not module.w.requires_grad
        if frozen and rows.data_ptr() != module.w.data_ptr():  # else an earlier engine has moved it
            module.w.data = rows.t()
    return rows
