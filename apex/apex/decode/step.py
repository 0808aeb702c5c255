"""Runs the kernels of `kernels.py` for one position of a batch. Importing this module needs Triton."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from apex.decode import kernels
from apex.decode.layers import Layer, Matrix, interpreted
from torch import Tensor

TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Up to this batch the way by rows is taken: each song costs it a pass over the weights in registers.
FEW = 4
# The way by rows: up to so many bytes a row of weights is in registers whole, a longer one by chunks of inputs.
IN_REGISTERS = 4096
CHUNK = 1024
# Programs that the way by tiles aims at, three for each multiprocessor of a large card.
PROGRAMS = 384
# Rows and inputs of a tile of half precision.
TILE_ROWS, TILE_CHUNK, TILE_WARPS = 64, 128, 4
# Rows of a program of the way by rows.
ROWS = 8
ROWS_WARPS, WIDE_WARPS = 4, 8
# Larger matrices, in bytes, are not fetched ahead: they would push out of the L2 cache what is read before them.
FETCHED = 10_000_000
# In how many parts the keys of a query are cut at least, how many elements of them are read at once, and by how many
# warps.
LEAST_PARTS, KEY_ELEMENTS, ATTENTION_WARPS = 4, 8192, 4
# How many products ahead weights are fetched from memory to the L2 cache; 0 fetches none.
DISTANCE = 1


class _Launch(NamedTuple):
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]


class FusedLayers:
    """All layers of a transformer for one position of a batch, in five kernels a layer, seven if it is wide, or ten
    for many songs.

    All shapes are fixed, nothing is allocated in a call, and the host never waits: calls can be captured in a graph.
    Results do not depend on the order in which programs run.

    Args:
        layers: all on one device.
        n: batch size N.
        position: integer tensor with one element: the position of the next call, which the caller advances. It must not
            be written by the last operation before a call.
        eps: of the layer norms.
        way: "rows" or "tiles", see `kernels.py`; None takes rows up to a batch of 4.
        early: start kernels early; None does so if the GPU can (Hopper and later).

    Raises:
        ValueError: tensors that do not fit, or an unknown way.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        n: int,
        position: Tensor,
        eps: float = 1e-5,
        way: str | None = None,
        early: bool | None = None,
    ) -> None:
        if way not in (None, "rows", "tiles"):
            raise ValueError(f"way={way}: choose rows or tiles")
        self.n, self.position, self.eps = n, position, eps
        self.way = way or ("rows" if n <= FEW else "tiles")
        self.early = _can_start_early(position.device) if early is None else early
        self.width = layers[0].qkv.w.shape[1]
        for layer in layers:
            _check(layer, n, self.width)
        self._x = self._empty(n, self.width)
        self._y = self._empty(n, self.width)
        state = max(layer.proj.w.shape[1] for layer in layers)
        splits = max(_splits(layer) * layer.kv.shape[2] for layer in layers)
        self._q = self._empty(n, state)
        self._value = self._empty(n, max(_splits(layer) for layer in layers), state)
        self._most, self._mass = self._empty(n, splits), self._empty(n, splits)
        widest = max(self.width, state, *(len(layer.fc.w) for layer in layers))
        self._h = self._empty(n, widest, dtype=torch.float32 if self.way == "rows" else layers[0].kv.dtype)
        self._normed = self._empty(n, self.width)
        self._sums = self._normed
        if self.way == "tiles":
            matrices = [matrix for layer in layers for matrix in (layer.qkv, layer.proj, layer.fc, layer.out)]
            self._sums = self._empty(max(_shares(m)[1] * len(m.w) for m in matrices) * n)
        self._later = _later(layers, 0 if interpreted() else DISTANCE)
        launches = self._by_rows if self.way == "rows" else self._by_tiles
        self._launches = list(launches(layers))

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.position.device)

    def __call__(self, x: Tensor) -> Tensor:
        """Takes [N, D] in float32 and returns [N, D] in float32, which the next call overwrites."""
        self._x.copy_(x)
        for kernel, grid, arguments, constants in self._launches:
            kernel[grid](*arguments, **constants)
        return self._x

    def _launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, warps: int, **constants: Any) -> _Launch:
        constants.update(EARLY=self.early, num_warps=warps)
        if self.early:
            constants["launch_pdl"] = True
        return _Launch(kernel, grid, arguments, constants)

    def _attention(self, layer: Layer) -> _Launch:
        width = layer.kv.shape[-1]
        padded = max(16, triton.next_power_of_2(width))
        return self._launch(
            kernels.attention, (self.n * layer.kv.shape[2], _splits(layer)),
            self._q, layer.kv, self.position, self._value, self._most, self._mass, width**-0.5,
            **_geometry(layer), KEYS=min(64, max(16, KEY_ELEMENTS // padded)), PADDED=padded,
            FETCH=DISTANCE > 0 and not interpreted(), warps=ATTENTION_WARPS,
        )  # fmt: skip

    def _ahead(self, matrix: Matrix, programs: int) -> tuple[Tensor, dict[str, int]]:
        """The weights that the programs of this product fetch for a later one, and how many each."""
        later = self._later.get(id(matrix))
        if later is None or later.w.numel() * later.w.element_size() > FETCHED:
            return matrix.w, dict(AHEAD=0, LINES=1)
        lines = triton.cdiv(later.w.numel() * later.w.element_size(), 128)
        share = triton.next_power_of_2(triton.cdiv(lines, programs))
        return later.w, dict(AHEAD=later.w.numel(), LINES=share)

    # --------------------------------------------------------------------------------------------------------- rows

    def _by_rows(self, layers: Sequence[Layer]) -> Iterator[_Launch]:
        x, y, h = self._x, self._y, self._h
        # A vector that does not fit registers is normed once, by a kernel of its own, and not by every program.
        wide = not _in_registers(layers[0].qkv)
        source = kernels.PLAIN if wide else kernels.NORM
        for layer in layers:
            if wide:
                yield self._norm(None, x, 1.0, layer.norm_0, self._normed)
            yield self._rows(layer, layer.qkv, self._normed if wide else x, self._q, SOURCE=source, TARGET=kernels.QKV)
            yield self._attention(layer)
            yield self._rows(layer, layer.proj, self._value, y, SOURCE=kernels.PARTS, TARGET=kernels.RESIDUAL)
            if wide:
                yield self._norm(None, y, 1.0, layer.norm_1, self._normed)
            yield self._rows(layer, layer.fc, self._normed if wide else y, h, SOURCE=source, TARGET=kernels.ACTIVATION)
            yield self._rows(layer, layer.out, h, x, SOURCE=kernels.PLAIN, TARGET=kernels.RESIDUAL)

    def _rows(self, layer: Layer, matrix: Matrix, source: Tensor, target: Tensor, **modes: Any) -> _Launch:
        n_out, n_in = matrix.w.shape
        in_registers = _in_registers(matrix)
        rows = 32 if interpreted() else ROWS  # in the interpreter a program costs more than its arithmetic
        norm = layer.norm_0 if matrix is layer.qkv else layer.norm_1
        programs = triton.cdiv(n_out, rows)
        ahead, fetching = self._ahead(matrix, programs)
        return self._launch(
            kernels.product_of_rows, (programs,),
            matrix.w, matrix.bias, source, *norm, self.eps, self._most, self._mass,
            target, self._x, self._x if matrix is layer.proj else self._y, layer.kv, self.position, ahead,
            SONGS=self.n, OUT=n_out, IN=n_in, **modes, **fetching,
            SCALE=layer.scale if matrix is layer.out else 1.0, **_geometry_for(layer, matrix),
            ROWS=rows, CHUNK=triton.next_power_of_2(n_in) if in_registers else CHUNK,
            BATCH=triton.next_power_of_2(self.n), warps=ROWS_WARPS if in_registers else WIDE_WARPS,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------------------------- tiles

    def _by_tiles(self, layers: Sequence[Layer]) -> Iterator[_Launch]:
        ahead: Layer | None = None
        for layer in layers:
            yield self._norm(ahead.out if ahead else None, self._x, ahead.scale if ahead else 1.0, layer.norm_0)
            yield self._tiles(layer.qkv)
            yield self._sum(layer, layer.qkv, self._q, kernels.QKV)
            yield self._attention(layer)
            yield self._join(layer)
            yield self._tiles(layer.proj)
            yield self._norm(layer.proj, self._y, 1.0, layer.norm_1)
            yield self._tiles(layer.fc)
            yield self._sum(layer, layer.fc, self._h, kernels.ACTIVATION)
            yield self._tiles(layer.out)
            ahead = layer
        assert ahead is not None
        yield self._norm(ahead.out, self._x, ahead.scale, None)

    def _tiles(self, matrix: Matrix) -> _Launch:
        n_out, n_in = matrix.w.shape
        rows, chunk = _tile(matrix)
        share, shares = _shares(matrix)
        songs = min(64, max(16, triton.next_power_of_2(self.n)))
        ahead, fetching = self._ahead(matrix, triton.cdiv(n_out, rows) * shares)
        return self._launch(
            kernels.product_of_tiles, (triton.cdiv(n_out, rows), shares, triton.cdiv(self.n, songs)),
            matrix.w, self._h, self._sums, ahead, self.n, OUT=n_out, IN=n_in, **fetching,
            ROWS=rows, CHUNK=chunk, SHARE=share, SONGS=songs, TYPE=_multiplied_in(matrix.w.dtype), warps=TILE_WARPS,
        )  # fmt: skip

    def _join(self, layer: Layer) -> _Launch:
        _, _, heads, _, width = layer.kv.shape
        return self._launch(
            kernels.join_parts, (self.n, triton.cdiv(heads * width, 256)),
            self._value, self._most, self._mass, self._h,
            SPLITS=_splits(layer), HEADS=heads, WIDTH=width, COLUMNS=256, warps=4,
        )  # fmt: skip

    def _sum(self, layer: Layer, matrix: Matrix, target: Tensor, mode: Any) -> _Launch:
        geometry = _geometry_for(layer, matrix)
        del geometry["SPLITS"]
        return self._launch(
            kernels.sum_of_tiles, (self.n, triton.cdiv(len(matrix.w), 256)),
            self._sums, matrix.bias, target, layer.kv, self.position, self.n, OUT=len(matrix.w),
            SHARES=_shares(matrix)[1], TARGET=mode, **geometry, ROWS=256, warps=4,
        )  # fmt: skip

    def _norm(
        self,
        product: Matrix | None,
        into: Tensor,
        scale: float,
        norm: tuple[Tensor, Tensor] | None,
        normed: Tensor | None = None,
    ) -> _Launch:
        """Adds what `product` left in sums to the residual stream: of attention's to y, of the MLP's to x."""
        unused = self._x  # a pointer that a kernel does not follow still has to be a tensor
        bias, shares = (unused, 0) if product is None else (product.bias, _shares(product)[1])
        middle = self._x if into is self._y else self._y
        return self._launch(
            kernels.norm_of_tiles, (self.n,),
            self._sums, bias, self._x, middle, into, *(norm or (unused, unused)), self.eps,
            self._h if normed is None else normed, self.n,
            OUT=self.width, SHARES=shares, SCALE=scale, NORMED=norm is not None,
            PADDED=triton.next_power_of_2(self.width), warps=8,
        )  # fmt: skip


def _can_start_early(device: torch.device) -> bool:
    if interpreted() or device.type != "cuda" or torch.version.hip or not hasattr(tl.extra.cuda, "gdc_wait"):
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def _check(layer: Layer, n: int, width: int) -> None:
    state, heads, head_width = layer.proj.w.shape[1], layer.kv.shape[2], layer.kv.shape[4]
    queries = len(layer.qkv.w) // (1 if layer.addresses.kind == kernels.CROSS.value else 3)
    found = [
        *(("norm", list(t.shape), [width]) for norm in (layer.norm_0, layer.norm_1) for t in norm),
        ("qkv", [queries, layer.qkv.w.shape[1]], [state, width]),
        ("proj", list(layer.proj.w.shape), [width, heads * head_width]),
        ("fc", [layer.fc.w.shape[1]], [width]),
        ("out", list(layer.out.w.shape), [width, len(layer.fc.w)]),
        ("cache", list(layer.kv.shape[:2]), [n, 2]),
    ]
    for what, got, wanted in found:
        if got != wanted:
            raise ValueError(f"{what} has shape {got}, not {wanted}")
    if layer.kv.dtype not in TYPES or not layer.kv.is_contiguous():
        raise ValueError(f"a cache in {layer.kv.dtype}, or not in one piece")


def _geometry(layer: Layer) -> dict[str, int]:
    _, _, heads, slots, width = layer.kv.shape
    kind, length, blocks, extra = layer.addresses
    geometry = dict(SLOTS=slots, HEADS=heads, WIDTH=width, KIND=kind, LENGTH=length, BLOCKS=blocks, EXTRA=extra)
    return {**geometry, "SPLITS": _splits(layer)}


def _in_registers(matrix: Matrix) -> bool:
    """Whether the way by rows holds a whole row of weights in registers."""
    return triton.next_power_of_2(matrix.w.shape[1]) * max(2, matrix.w.element_size()) <= IN_REGISTERS


def _geometry_for(layer: Layer, matrix: Matrix) -> dict[str, int]:
    """The geometry as far as a product needs it, so that layers share compiled kernels."""
    geometry = _geometry(layer)
    if matrix is layer.qkv:
        return {**geometry, "SPLITS": 1}
    if matrix is layer.proj:
        return {**geometry, **dict(SLOTS=1, KIND=0, LENGTH=1, BLOCKS=1, EXTRA=0)}
    return dict.fromkeys(geometry, 1)


def _later(layers: Sequence[Layer], distance: int) -> dict[int, Matrix]:
    """Which matrix is multiplied so many products later, by the identity of each; the first layer follows the last."""
    matrices = [matrix for layer in layers for matrix in (layer.qkv, layer.proj, layer.fc, layer.out)]
    if not distance:
        return {}
    return {id(m): matrices[(i + distance) % len(matrices)] for i, m in enumerate(matrices)}


def _splits(layer: Layer) -> int:
    """In how many parts the keys of a query are cut: of at most 128 keys, but at least 4 parts and at most 32."""
    kind, length, blocks, extra = layer.addresses
    reads = {1: length, 2: blocks, 3: length, 5: extra * blocks, 6: extra, 7: extra}.get(kind, length * blocks)
    return 2 if interpreted() else min(32, max(LEAST_PARTS, triton.next_power_of_2(triton.cdiv(reads, 128))))


def _tile(matrix: Matrix) -> tuple[int, int]:
    """Rows and inputs of a tile; float32 has no tensor cores and twice the bytes."""
    if interpreted():
        return 32, 16
    return (TILE_ROWS, TILE_CHUNK) if matrix.w.element_size() <= 2 else (32, 32)


def _multiplied_in(dtype: torch.dtype) -> Any:
    """Type of a product's factors; the interpreter's product takes bfloat16 for whole numbers."""
    return tl.float32 if interpreted() and dtype == torch.bfloat16 else TYPES[dtype]


def _shares(matrix: Matrix) -> tuple[int, int]:
    """How many inputs a program takes, and how many programs share them all."""
    n_out, n_in = matrix.w.shape
    rows, chunk = _tile(matrix)
    wanted = max(1, PROGRAMS // triton.cdiv(n_out, rows))
    share = triton.cdiv(triton.cdiv(n_in, wanted), chunk) * chunk
    return share, triton.cdiv(n_in, share)
