"""What a layer is to the kernels, and whether they can run: no Triton is needed to import this."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

OLDEST = (3, 4)  # Triton; the one of torch 2.8


class Addresses(NamedTuple):
    """The four integers by which a kernel computes from a position which slots of the cache it writes and reads.

    Attributes:
        kind: number of the attention pattern: 0 dense, 1 block, 2 column, 3 previous block, 5 summary, 6 lyric encoder,
            7 lyric prefix. `own_slot` and `slots_read` of `kernels.py` are their rules.
        length: tokens of a block; blocks: their number in the context.
        extra: kind 5: positions of a block that are kept; kinds 6 and 7: positions that are read at most.
    """

    kind: int
    length: int
    blocks: int
    extra: int = 0


@dataclass(frozen=True)
class Matrix:
    """A dense layer.

    Attributes:
        w: [outputs, inputs], contiguous; float32, float16 or bfloat16.
        bias: float32 [outputs].

    Raises:
        ValueError: a layout or a type that the kernels do not know.
    """

    w: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        if self.w.dim() != 2 or not self.w.is_contiguous():
            raise ValueError(f"weights must be [outputs, inputs] in one piece, not {list(self.w.shape)}")
        if self.w.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"weights in {self.w.dtype}: the kernels know float32, float16 and bfloat16")
        if self.bias.dtype != torch.float32 or self.bias.shape != self.w.shape[:1]:
            raise ValueError(f"bias must be float32 [{len(self.w)}], not {self.bias.dtype} {list(self.bias.shape)}")


@dataclass(frozen=True)
class Layer:
    """A residual layer with its cache.

    Attributes:
        norm_0, norm_1: weight and bias, float32 [D], of the norms before attention and before the MLP.
        qkv: D -> 3 * state, or for kind 6 D -> state, which are queries only; proj: state -> D.
        fc: D -> MLP; out: MLP -> D.
        kv: [N, 2, heads, slots, width of a head], contiguous; null keys are the first slots.
        addresses: which slots are written and read.
        scale: of what the layer adds to the residual stream.
    """

    norm_0: tuple[Tensor, Tensor]
    qkv: Matrix
    proj: Matrix
    norm_1: tuple[Tensor, Tensor]
    fc: Matrix
    out: Matrix
    kv: Tensor
    addresses: Addresses
    scale: float = 1.0


def interpreted() -> bool:
    """Whether Triton's interpreter is on, which runs kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes")


def why_not(device: torch.device) -> str:
    """Why the kernels cannot run on a device, in a few words; nothing if they can."""
    try:
        import triton
    except ImportError:
        return "Triton is not installed"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < OLDEST:
        return f"Triton {triton.__version__} is older than {'.'.join(map(str, OLDEST))}"
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 8 else f"the GPU has compute capability {major}.{minor}, below 8.0"
    return "" if interpreted() else f"they are for GPUs, not for {device.type}"
