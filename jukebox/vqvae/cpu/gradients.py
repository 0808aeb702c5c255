"""The layers of `layers.py` with gradients, for training on a CPU.

A residual block keeps its input and its hidden activations, nothing else. Computing the hidden ones again would halve
that and take half as long again. Change here what is kept and how gradients are gathered; tests compare every gradient
with automatic differentiation of the plain modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from jukebox.vqvae.cpu import layers
from jukebox.vqvae.resnet import Resnet1D


class _ResidualStack(Function):
    """A row of residual blocks on [N, T, C]; `geometry` holds (dilation, scale) of each, `params` four for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, geometry: Sequence[tuple[int, float]], *params: Tensor) -> Tensor:
        tiles = layers.Tiles(x)
        inputs, kept = [], []
        for i, (dilation, scale) in enumerate(geometry):
            inputs.append(x)
            kept.append(x.new_empty(*x.shape[:2], params[4 * i].shape[0]))
            x = layers.residual_block(
                x, torch.empty_like(x), params[4 * i : 4 * i + 4], dilation, scale, tiles, kept[-1]
            )
        ctx.geometry = geometry
        ctx.save_for_backward(*inputs, *kept, *params)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        depth = len(ctx.geometry)
        saved = ctx.saved_tensors
        inputs, kept, params = saved[:depth], saved[depth : 2 * depth], saved[2 * depth :]
        tiles = layers.Tiles(grad)
        grads: list[Tensor] = []
        grad = grad.clone(memory_format=torch.contiguous_format)  # each block turns it into that of its input
        for i in reversed(range(depth)):
            dilation, scale = ctx.geometry[i]
            grads[:0] = _residual_block_grad_(
                inputs[i], kept[i], grad, params[4 * i : 4 * i + 4], dilation, scale, tiles
            )
        return grad, None, *grads


def _residual_block_grad_(
    x: Tensor, kept: Tensor, grad: Tensor, params: Sequence[Tensor], dilation: int, scale: float, tiles: layers.Tiles
) -> list[Tensor]:
    """Turns the gradient of a block's output into that of its input, in place; returns those of its parameters.

    Args:
        x, kept: input [N, T, C] and hidden activations [N, T, hidden] of the block.
        grad: gradient of its output [N, T, C], overwritten.
        params, dilation, scale, tiles: see `layers.residual_block`.
    """
    weight, bias, mix_weight, _ = params
    items, length, channels = x.shape
    hidden_channels = len(weight)
    mix_back = (mix_weight[:, :, 0] * scale).expand(items, -1, -1)  # [N, C, hidden]
    taps_back = weight.permute(2, 0, 1).contiguous()  # [3, hidden, C]
    grad_taps, grad_bias = x.new_zeros(3, channels, hidden_channels), torch.zeros_like(bias)
    grad_mix, grad_mix_bias = x.new_zeros(hidden_channels, channels), x.new_zeros(channels)

    d = min(dilation, length)
    offsets = (0, d, 2 * d)
    around = layers.RowsAround(x, d, hidden_channels, tiles)
    # Gradients of `rows`, which gather over two tiles.
    into = tiles.buffer("into", items, around.longest + 2 * d, channels)
    into[:, : 2 * d].zero_()
    for start, end in around.spans:
        size = end - start
        rows = around.load(start, end)
        hidden = kept[:, start:end]
        out = grad[:, start:end]
        grad_mix += torch.bmm(hidden.transpose(1, 2), out).sum(0)
        grad_mix_bias += out.sum((0, 1))
        of_hidden = torch.bmm(out, mix_back, out=tiles.buffer("of_hidden", items, size, hidden_channels))
        of_hidden.mul_(torch.sign(hidden, out=tiles.buffer("mask", items, size, hidden_channels)))
        grad_bias += of_hidden.sum((0, 1))
        if start:
            into[:, : 2 * d].copy_(into[:, around.longest :])
        for j in (2, 1, 0):
            read = slice(offsets[j], offsets[j] + size)
            grad_taps[j] += torch.bmm(rows[:, read].transpose(1, 2), of_hidden).sum(0)
            # The positions of the last tap are new, and overwritten; the others are added.
            into[:, read].baddbmm_(of_hidden, taps_back[j].expand(items, -1, -1), beta=0 if j == 2 else 1)
        # Positions before end - d are complete now, and so are all at the end of x. None is read from `grad` again.
        ready = size if end < length else size + d
        before = max(0, d - start)  # positions before the start of x
        done = grad[:, start - d + before : start - d + ready]
        done.addcmul_(into[:, before:ready], rows[:, before:ready].sign_())
    return [
        grad_taps.permute(2, 1, 0),
        grad_bias,
        (grad_mix * scale).t()[:, :, None],
        grad_mix_bias * scale,
    ]


class _Products(Function):
    """`layers.products` over a whole activation: [N, n + offsets[-1], C] -> [N, n, C_out]."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, weight: Tensor, bias: Tensor, offsets: Sequence[int]) -> Tensor:
        weight = weight.contiguous()
        out = a.new_empty(len(a), a.shape[1] - offsets[-1], weight.shape[2])
        for start, end in layers.spans(out.shape[1], len(a) * max(weight.shape[1:])):
            layers.products(a[:, start : end + offsets[-1]], weight, bias, offsets, out[:, start:end])
        ctx.offsets = offsets
        ctx.save_for_backward(a, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, weight = ctx.saved_tensors
        grad_a = torch.zeros_like(a) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight)
        for start, end in layers.spans(grad.shape[1], len(a) * max(weight.shape[1:])):
            piece = grad[:, start:end]
            for j, offset in enumerate(ctx.offsets):
                read = slice(start + offset, end + offset)
                grad_weight[j] += torch.bmm(a[:, read].transpose(1, 2), piece).sum(0)
                if grad_a is not None:
                    grad_a[:, read].baddbmm_(piece, weight[j].t().expand(len(a), -1, -1))
        return grad_a, grad_weight, grad.sum((0, 1)), None


class _UpsampleConv3(Function):
    """`layers.upsample_conv3`; the activation between the two convolutions is computed again, not kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, after_bias: Tensor, stride: int
    ) -> Tensor:
        ctx.stride = stride
        ctx.save_for_backward(x, weight, bias, taps, after_bias)
        upsampled = layers.UpsampledRows(x, weight, bias, stride, layers.Tiles(x))
        return layers.upsample_conv3(upsampled, taps, after_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, taps, after_bias = ctx.saved_tensors
        stride, channels, items = ctx.stride, len(after_bias), len(x)
        tiles = layers.Tiles(x)
        upsampled = layers.UpsampledRows(x, weight, bias, stride, tiles)
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        grad_bias, grad_taps = torch.zeros_like(bias), torch.zeros_like(taps)
        for start, end in upsampled.spans:
            rows, piece = upsampled.load(start, end)
            first, size = stride // 2 - 1, (end - start) * stride
            used = slice(first, first + size + 2)
            # What position t of the result gives to the taps before, at and after it is in rows t, t + 1, t + 2.
            by_tap = tiles.buffer("by_tap", items, size + 2, 3 * channels).zero_()
            for j in range(3):
                part = grad[:, start * stride : end * stride]
                by_tap[:, j : j + size, j * channels : (j + 1) * channels].copy_(part)
            grad_taps += torch.bmm(piece[:, used].transpose(1, 2), by_tap).sum(0)
            of_piece = tiles.buffer("of_piece", *piece.shape)
            of_piece[:, :first].zero_()
            of_piece[:, used].baddbmm_(by_tap, taps.t().expand(items, -1, -1), beta=0)
            of_piece[:, used.stop :].zero_()
            upsampled.clear_outside(of_piece, start, end)
            windows = of_piece.view(items, end - start + 1, -1)
            grad_bias += windows.sum((0, 1))
            of_rows = tiles.buffer("of_rows", *rows.shape).zero_()
            for j in range(2):
                read = slice(j, j + end - start + 1)
                grad_weight[j] += torch.bmm(rows[:, read].transpose(1, 2), windows).sum(0)
                of_rows[:, read].baddbmm_(windows, weight[j].t().expand(items, -1, -1))
            inside = slice(max(start - 1, 0), min(end + 1, x.shape[1]))
            grad_x[:, inside] += of_rows[:, inside.start - start + 1 : inside.stop - start + 1]
        return grad_x, grad_weight, grad_bias, grad_taps, grad.sum((0, 1)), None


def stack(x: Tensor, stack: Resnet1D) -> Tensor:
    """Residual blocks in a row, [N, T, C] -> [N, T, C]."""
    blocks = stack.residual_blocks
    geometry = [(block.dilation, block.res_scale) for block in blocks]
    params = [parameter for block in blocks for parameter in block.tensors()]
    return _ResidualStack.apply(x, geometry, *params) if geometry else x


def conv3(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Kernel-3 convolution with padding 1, [N, T, C] -> [N, T, C_out]."""
    return _Products.apply(F.pad(x, (0, 0, 1, 1)), layers.conv3_weight(conv), layers.bias_of(conv), (0, 1, 2))


def downsample(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Strided convolution with kernel 2s and padding s / 2, [N, T, C] -> [N, T // s, C_out]."""
    items, length, channels = x.shape
    stride = conv.stride[0]
    after = (length // stride + 1) * stride - length - stride // 2  # negative: positions that no window reaches
    windows = F.pad(x, (0, 0, stride // 2, after)).view(items, length // stride + 1, stride * channels)
    return _Products.apply(windows, layers.downsample_weight(conv), layers.bias_of(conv), (0, 1))


def upsample(x: Tensor, conv: nn.ConvTranspose1d) -> Tensor:
    """Transposed convolution, [N, T, C] -> [N, T * s, C_out]."""
    items, length, _ = x.shape
    stride = conv.stride[0]
    weight, bias = layers.upsample_weight(conv), layers.bias_of(conv).repeat(stride)
    windows = _Products.apply(F.pad(x, (0, 0, 1, 1)), weight, bias, (0, 1))  # [N, T + 1, s * C_out]
    return windows.view(items, (length + 1) * stride, -1)[:, stride // 2 : stride // 2 + length * stride]


def upsample_conv3(x: Tensor, conv: nn.ConvTranspose1d, after: nn.Conv1d) -> Tensor:
    """Transposed convolution and the kernel-3 convolution after it, [N, T, C] -> [N, T * s, C_out]."""
    stride = conv.stride[0]
    return _UpsampleConv3.apply(
        x,
        layers.upsample_weight(conv),
        layers.bias_of(conv).repeat(stride),
        layers.side_by_side(after),
        layers.bias_of(after),
        stride,
    )
