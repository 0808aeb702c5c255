"""Encoders and decoders on a CPU: the same numbers as the plain modules in a fraction of the time and memory.

The plain modules have PyTorch map and clear fresh pages for each layer's output and reorder it for each convolution.
Here the layers of `layers.py` run on rows, [N, T, C], in tiles. Without gradients residual blocks work in place and few
items run at a time, so only an activation or two is held. With gradients see `gradients.py`.

Change here which inputs take this path and how layers are strung together; tests compare both paths. `disabled()`
switches it off. Hooks on inner modules do not run here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from jukebox.vqvae.cpu import gradients, layers
from jukebox.vqvae.encdec import Decoder, DecoderConvBlock, Encoder
from jukebox.vqvae.resnet import Resnet1D

TOGETHER_ELEMENTS = 2**22  # floats in an activation up to which short items run together: 16 MiB

_enabled = True


@contextmanager
def disabled() -> Iterator[None]:
    """Runs the plain modules inside the `with` block."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def applies_to(module: nn.Module, x: Tensor) -> bool:
    """Whether a module takes this path for an input: on a CPU, in float32 or float64, without recomputation flags."""
    return (
        _enabled
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not (needs_gradients(module, x) and any(getattr(m, "checkpoint_res", False) for m in module.modules()))
    )


def needs_gradients(module: nn.Module, x: Tensor) -> bool:
    """Whether automatic differentiation will go through a module."""
    return torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in module.parameters()))


class Layers(Protocol):
    """The layers on rows [N, T, C]: `_Plain`, or the module `gradients`."""

    def stack(self, x: Tensor, stack: Resnet1D) -> Tensor: ...
    def conv3(self, x: Tensor, conv: nn.Conv1d) -> Tensor: ...
    def downsample(self, x: Tensor, conv: nn.Conv1d) -> Tensor: ...
    def upsample(self, x: Tensor, conv: nn.ConvTranspose1d) -> Tensor: ...
    def upsample_conv3(self, x: Tensor, conv: nn.ConvTranspose1d, after: nn.Conv1d) -> Tensor: ...


class _Plain:
    """Layers without gradients; the residual stack works in place."""

    def __init__(self, like: Tensor):
        self.tiles = layers.Tiles(like)

    def stack(self, x: Tensor, stack: Resnet1D) -> Tensor:
        for block in stack.residual_blocks:
            layers.residual_block(x, x, block.tensors(), block.dilation, block.res_scale, self.tiles)
        return x

    def conv3(self, x: Tensor, conv: nn.Conv1d) -> Tensor:
        return layers.conv3(x, conv, self.tiles)

    def downsample(self, x: Tensor, conv: nn.Conv1d) -> Tensor:
        return layers.downsample(x, conv, self.tiles)

    def upsample(self, x: Tensor, conv: nn.ConvTranspose1d) -> Tensor:
        return layers.upsample(x, conv, self.tiles)

    def upsample_conv3(self, x: Tensor, conv: nn.ConvTranspose1d, after: nn.Conv1d) -> Tensor:
        stride = conv.stride[0]
        weight, bias = layers.upsample_weight(conv), layers.bias_of(conv).repeat(stride)
        upsampled = layers.UpsampledRows(x, weight, bias, stride, self.tiles)
        return layers.upsample_conv3(upsampled, layers.side_by_side(after), layers.bias_of(after))


def _run(module: nn.Module, body: Callable[[Layers, Tensor], Tensor], x: Tensor, largest: int) -> Tensor:
    """Runs a function of rows on [N, C, T]; the result is [N, C', T'] lying in memory as [N, T', C'].

    Args:
        module: what `body` runs.
        body: takes layers and rows [N, T, C].
        x: input.
        largest: floats in one item's largest activation; sets how many items run together without gradients.
    """
    rows = x.transpose(1, 2)
    if needs_gradients(module, x):
        return body(gradients, rows).transpose(1, 2)
    plain = _Plain(x)
    together = max(1, TOGETHER_ELEMENTS // max(largest, 1))
    return torch.cat([body(plain, piece) for piece in rows.split(together)]).transpose(1, 2)


def _decoder_stages(run: Layers, rows: Tensor, block: DecoderConvBlock, after: nn.Conv1d | None) -> Tensor:
    """All of a decoder stage but its first convolution, and the convolution `after` it if there is one."""
    for i, (stack, up) in enumerate(block.stages):
        rows = run.stack(rows, stack)
        if after is None or i < len(block.stages) - 1:
            rows = run.upsample(rows, up)
        else:
            rows = run.upsample_conv3(rows, up, after)
    return rows


class TiledEncoder(Encoder):
    """An `Encoder` whose latent is computed in tiles if `applies_to` says so; all stages run as they are."""

    def forward(self, x: Tensor, last_only: bool = False) -> list[Tensor]:
        """As `Encoder.forward`; with `last_only` the other outputs may be left out, which takes less memory."""
        if not (last_only and applies_to(self, x)):
            return super().forward(x)

        def body(run: Layers, rows: Tensor) -> Tensor:
            for block in self.blocks:
                for down, stack in block.stages:
                    rows = run.stack(run.downsample(rows, down), stack)
                rows = run.conv3(rows, block.last)
            return rows

        first, _ = self.blocks[0].stages[0]
        return [_run(self, body, x, largest=x.shape[2] // first.stride[0] * first.out_channels)]

    def latent(self, x: Tensor) -> Tensor:
        return self(x, last_only=True)[-1]


class TiledDecoder(Decoder):
    """A `Decoder` that runs in tiles if `applies_to` says so."""

    def run(self, x: Tensor) -> Tensor:
        if not applies_to(self, x):
            return super().run(x)
        blocks = self.blocks
        convs = [block.first for block in blocks] + [self.out]

        def body(run: Layers, rows: Tensor) -> Tensor:
            rows = run.conv3(rows, convs[0])
            for block, after in zip(blocks, convs[1:], strict=True):
                rows = _decoder_stages(run, rows, block, after)
            return rows

        longer = math.prod(block.downsample for block in blocks)
        return _run(self, body, x, largest=x.shape[2] * longer // blocks[-1].stride * convs[-2].out_channels)


class TiledDecoderConvBlock(DecoderConvBlock):
    """A `DecoderConvBlock` that runs in tiles if `applies_to` says so."""

    def forward(self, x: Tensor) -> Tensor:
        if not applies_to(self, x):
            return super().forward(x)

        def body(run: Layers, rows: Tensor) -> Tensor:
            return _decoder_stages(run, run.conv3(rows, self.first), self, None)

        return _run(self, body, x, largest=x.shape[2] * self.downsample * self.first.out_channels)
