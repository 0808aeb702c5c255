"""Hands a model to the native library as tables and pointers, and draws tokens with it.

The library knows no pattern and no module: a layer is four matrices, two norms, a cache and `Pattern.addresses`.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator, Sequence
from ctypes import POINTER, Structure, byref, c_double, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from jukebox.native.build import library
from jukebox.transformer.kv_cache import KVCache
from jukebox.transformer.patterns import Pattern
from jukebox.transformer.transformer import ResAttnBlock, Transformer
from jukebox.utils.precision import logits_error

_PAGE = 1 << 21
TYPES = {torch.float32: 0, torch.bfloat16: 1}
MATRICES = {**TYPES, torch.int8: 2}


class Matrix(Structure):
    """As in step.cpp."""

    _fields_ = [(name, c_void_p) for name in ("w", "bias", "scale")] + [(n, c_int64) for n in ("rows", "cols", "type")]


_LAYER_POINTERS = ("norm_0_weight", "norm_0_bias", "norm_1_weight", "norm_1_bias", "addresses", "kv")
_MODEL_POINTERS = ("embedding", "positions", "first", "cond")
_MODEL_SIZES = ("first_song", "cond_song", "cond_position", "cond_after")
_MODEL_SHAPE = ("n", "n_ctx", "width", "heads", "head_dim", "depth", "kv_type")


class Layer(Structure):
    """As in step.cpp."""

    _fields_ = [
        *((name, Matrix) for name in ("qkv", "proj", "fc", "out")),
        *((name, c_void_p) for name in _LAYER_POINTERS),
        ("slots", c_int64),
    ]


class Model(Structure):
    """As in step.cpp."""

    _fields_ = [
        ("layers", POINTER(Layer)),
        ("head", Matrix),
        *((name, c_void_p) for name in _MODEL_POINTERS),
        *((name, c_int64) for name in (*_MODEL_SIZES, *_MODEL_SHAPE)),
        *((name, c_double) for name in ("eps", "res_scale", "temp", "top_p")),
        *((name, c_int64) for name in ("top_k", "threads", "level")),
    ]


def lay_out(transformer: Transformer, head: Tensor) -> Iterator[Tensor]:
    """The matrices as [n_out, n_in], each row in one piece and all in one region of large pages.

    Read by 4 KB pages, memory gives half of its speed. Frozen parameters are moved there, one at a time, so that there
    is no second copy; others are copied.

    Yields:
        For each layer the four matrices in order of use, and last the head.
    """
    parts = [(module.w, True) for layer in transformer.layers for module in layer.matrices()] + [(head, False)]
    sizes = [-(-p.numel() * max(p.element_size(), 4 * (p.dtype not in MATRICES)) // 64) * 64 for p, _ in parts]
    if all(p.t().is_contiguous() for p, turned in parts if turned):  # laid out before
        yield from (p.detach().t() if turned else p.detach() for p, turned in parts)
        return
    region, place = _large_pages(sum(sizes)), 0
    for (parameter, turned), size in zip(parts, sizes, strict=True):
        rows = parameter.detach().t() if turned else parameter.detach()
        rows = rows if rows.dtype in MATRICES else rows.float()
        with torch.inference_mode(False):
            found = region[place : place + rows.numel() * rows.element_size()].view(rows.dtype).view(rows.shape)
        found.copy_(rows)
        place += size
        if not parameter.requires_grad:
            parameter.data = found.t() if turned else found
        yield found


def _large_pages(size: int) -> Tensor:
    """Memory as uint8 [size], if the system has them in pages of 2 MB."""
    with torch.inference_mode(False):
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(size, dtype=torch.uint8)
        region = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            region.madvise(mmap.MADV_HUGEPAGE)
        whole = torch.frombuffer(region, dtype=torch.uint8)
        return whole[-whole.data_ptr() % _PAGE :][:size]


class NativeSteps:
    """Draws token after token of a batch on the processor, several in one call.

    Args:
        transformer: its frozen matrices are moved (see `lay_out`), others copied.
        caches: filled up to the position that comes first.
        dtype: of the caches; matrices of another type are cast.
        head: [bins, D]; embedding: [bins, D]; positions: [n_ctx, D].
        first: [N, D], what position 0 holds.
        cond: [N, L or 1, D] or None; cond_after: add it once more in front of the head.
        level: instruction set, 0 plain, 1 AVX2, 2 AVX-512; None the best there is.

    Raises:
        NotBuiltError: there is no library.
        ValueError: a type or a layout that the library does not know.
    """

    def __init__(
        self,
        transformer: Transformer,
        caches: Sequence[KVCache],
        dtype: torch.dtype,
        head: Tensor,
        embedding: Tensor,
        positions: Tensor,
        first: Tensor,
        cond: Tensor | None,
        cond_after: bool,
        level: int | None = None,
    ) -> None:
        self._library = library()
        if self._library.jukebox_sizes() != sum(
            ctypes.sizeof(struct) * factor for struct, factor in ((Matrix, 10**6), (Layer, 10**3), (Model, 1))
        ):
            raise ValueError("step.cpp and steps.py do not agree on their structs")
        self._kept: list[Any] = []  # what the library has pointers to
        self._tables: dict[Pattern, int] = {}
        self._caches = caches
        self._n, self.bins = len(first), len(embedding)
        layers = transformer.layers
        best = self._library.jukebox_best_level()
        cond_song, cond_position = (0, 0) if cond is None else (cond.stride(0), cond.stride(1))
        if cond is not None:
            if cond.stride(2) != 1 or cond.dtype != torch.float32:
                cond = cond.float().contiguous()
                cond_song, cond_position = cond.stride()[:2]
            cond_position = 0 if cond.shape[1] == 1 else cond_position
        config, matrices = transformer.config, lay_out(transformer, head)
        self._model = Model(
            layers=(Layer * len(layers))(
                *(self._layer(*pair, dtype, matrices) for pair in zip(layers, caches, strict=True))
            ),
            head=self._matrix(next(matrices)),
            embedding=self._pointer(embedding),
            positions=self._pointer(positions),
            first=self._pointer(first.contiguous()),
            cond=None if cond is None else self._pointer(cond),
            first_song=first.shape[1],
            cond_song=cond_song,
            cond_position=cond_position,
            cond_after=int(cond is not None and cond_after),
            n=self._n,
            n_ctx=config.n_ctx,
            width=config.width,
            heads=config.heads,
            head_dim=config.n_state // config.heads,
            depth=len(layers),
            kv_type=TYPES[dtype],
            eps=layers[0].ln_0.eps,
            res_scale=layers[0].res_scale,
            level=best if level is None else min(level, best),
        )

    def _pointer(self, tensor: Tensor, dtype: torch.dtype | None = torch.float32) -> int:
        tensor = tensor.detach()
        tensor = tensor if dtype is None else tensor.to(dtype)
        if not (tensor.is_contiguous() or tensor.dim() == 3) or tensor.device.type != "cpu":
            raise ValueError(f"a tensor of layout {tuple(tensor.stride())} on {tensor.device}")
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _table(self, pattern: Pattern) -> int:
        if pattern not in self._tables:
            self._tables[pattern] = self._pointer(torch.tensor(pattern.addresses(), device="cpu"), torch.int32)
        return self._tables[pattern]

    def _matrix(self, rows: Tensor, bias: Tensor | None = None, scale: Tensor | None = None) -> Matrix:
        return Matrix(
            w=self._pointer(rows, None),
            bias=None if bias is None else self._pointer(bias),
            scale=None if scale is None else self._pointer(scale),
            rows=rows.shape[0],
            cols=rows.shape[1],
            type=MATRICES[rows.dtype],
        )

    def _layer(self, layer: ResAttnBlock, cache: KVCache, dtype: torch.dtype, matrices: Iterator[Tensor]) -> Layer:
        if cache.kv.dtype != dtype:
            raise ValueError(f"caches in {cache.kv.dtype}, not {dtype}")
        norms = (layer.ln_0.weight, layer.ln_0.bias, layer.ln_1.weight, layer.ln_1.bias)
        return Layer(
            *(self._matrix(next(matrices), module.b, module.scale) for module in layer.matrices()),
            *(self._pointer(weight) for weight in norms),
            self._table(cache.pattern),
            self._pointer(cache.kv, None),
            cache.kv.shape[3],
        )

    def draw(
        self,
        tokens: Tensor,
        noise: Tensor,
        start: int,
        count: int,
        temp: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        logits: Tensor | None = None,
    ) -> None:
        """Draws tokens for positions start .. start + count - 1.

        Args:
            tokens: int64 [n_ctx at most, N], contiguous, a row per position; those before `start` are there.
            noise: float32, the same shape, in [0, 1); row i decides the tokens of position i.
            temp, top_k, top_p: as in `SamplingOptions`.
            logits: float32 [count, N, bins] to be filled, or None.

        Raises:
            ValueError: shapes that do not fit, or a token that does not exist.
            UserError: logits are NaN or infinite.
        """
        end, held = start + count, tokens[start - 1 : start]
        for what, tensor, kind in (("tokens", tokens, torch.int64), ("noise", noise, torch.float32)):
            if tensor.dtype != kind or not tensor.is_contiguous() or tensor.shape[1:] != (self._n,):
                raise ValueError(f"{what} must be {kind} in one piece for {self._n} songs")
            if not 0 <= start < end <= min(len(tensor), self._model.n_ctx):
                raise ValueError(f"positions {start} to {end} do not fit {what} or the context")
        if any(cache.seen != start for cache in self._caches):
            raise ValueError(f"caches that have not seen just {start} positions")
        if start and not 0 <= int(held.min()) <= int(held.max()) < self.bins:
            raise ValueError(f"tokens before position {start} are not all among 0 to {self.bins - 1}")
        if logits is not None and (logits.shape != (count, self._n, self.bins) or not logits.is_contiguous()):
            raise ValueError("logits must be [count, songs, bins] in one piece")
        model = self._model
        model.temp, model.top_k, model.top_p, model.threads = temp, top_k, top_p, torch.get_num_threads()
        pointers = (c_void_p(t.data_ptr()) for t in (tokens, noise))
        kept = c_void_p(None if logits is None else logits.data_ptr())
        failed = self._library.jukebox_draw(byref(model), c_int64(start), c_int64(count), *pointers, kept)
        if failed >= 0:
            raise logits_error(failed)
        for cache in self._caches:
            cache.seen += count
