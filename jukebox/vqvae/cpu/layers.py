"""The layers of encoders and decoders as matrix products of shifted rows, in tiles that stay in cache.

Activations are rows, [N, T, C]. So each tap of a convolution over time reads a plain slice, and a layer is a sum of
matrix products. It walks along the rows in tiles:

    x      |......done......|====tile====|..............|      [T, C] of each item
    rows             |--d--|====tile====|--d--|                relu(x) as it was before this layer
    hidden                  |===tile====|                      relu(bias + sum over taps of rows * weight)
    out                     |===tile====|                      x + hidden * weight, in place without gradients

`rows` keeps what a tile still needs of the rows before it, which may be overwritten by then. So tiles are exact at
every length, stride and dilation, the zero padding at both ends included.

Change here how one layer is computed. Nothing here knows gradients; `gradients.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

TILE_ELEMENTS = 2**20  # floats per tile over the whole batch: small against caches, large against the cost of a call


class Tiles:
    """Scratch buffers that all layers of one call share, of the dtype and device of `like`."""

    def __init__(self, like: Tensor):
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, *shape: int) -> Tensor:
        """An uninitialised contiguous buffer; the same name gives the same memory."""
        size = 1
        for extent in shape:
            size *= extent
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._like.new_empty(size)
        return self._buffers[name][:size].view(shape)


def spans(length: int, row_elements: int, at_least: int = 1) -> list[tuple[int, int]]:
    """Start and end of successive tiles, where one position takes `row_elements` floats over the batch."""
    step = max(TILE_ELEMENTS // max(row_elements, 1), at_least, 1)
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def copy_padded(out: Tensor, x: Tensor, start: int) -> None:
    """Copies positions `start`, `start` + 1, ... of x [N, T, C] to out [N, n, C]; those outside of x are zero."""
    first, last = max(start, 0), min(start + out.shape[1], x.shape[1])
    if last <= first:
        out.zero_()
        return
    out[:, : first - start].zero_()
    out[:, first - start : last - start].copy_(x[:, first:last])
    out[:, last - start :].zero_()


def products(a: Tensor, weight: Tensor, bias: Tensor, offsets: Sequence[int], out: Tensor) -> Tensor:
    """out[:, t] = bias + sum over j of a[:, t + offsets[j]] @ weight[j].

    Args:
        a: [N, n + offsets[-1], C].
        weight: [k, C, C_out].
        bias: [C_out].
        offsets: k shifts.
        out: [N, n, C_out], overwritten.
    """
    items, size = out.shape[:2]
    for j, offset in enumerate(offsets):
        factor = weight[j].expand(items, -1, -1)
        torch.baddbmm(out if j else bias, a[:, offset : offset + size], factor, out=out)
    return out


# ------------------------------------------------------------------------------------------------ residual blocks


class RowsAround:
    """relu(x) around successive tiles: `d` positions more on either side, zero outside of x.

    Args:
        x: [N, T, C]; a tile of it may be overwritten once `load` gave the next one.
        d: reach of the layer, at most T.
        hidden: the layer's hidden channels, which count for the size of a tile.
        tiles: scratch.
    """

    def __init__(self, x: Tensor, d: int, hidden: int, tiles: Tiles):
        items, self.length, channels = x.shape
        self.x, self.d = x, d
        # Tiles of 2d positions or more, so that what moves to the front in `load` does not overlap with where it was.
        self.spans = spans(self.length, items * max(channels, hidden), at_least=2 * d)
        self.longest = self.spans[0][1]
        self.rows = tiles.buffer("rows", items, self.longest + 2 * d, channels)
        self.rows[:, :d].zero_()
        torch.clamp_min(x[:, :d], 0, out=self.rows[:, d : 2 * d])

    def load(self, start: int, end: int) -> Tensor:
        """Positions start - d to end + d, [N, end - start + 2d, C]; call it for each of `spans` in order."""
        d, rows, size = self.d, self.rows, end - start
        if start:
            rows[:, : 2 * d].copy_(rows[:, self.longest :])  # every tile before this one has the full length
        new = max(0, min(end + d, self.length) - (start + d))
        torch.clamp_min(self.x[:, start + d : start + d + new], 0, out=rows[:, 2 * d : 2 * d + new])
        rows[:, 2 * d + new : 2 * d + size].zero_()
        return rows[:, : size + 2 * d]


def residual_block(
    x: Tensor,
    out: Tensor,
    params: Sequence[Tensor],
    dilation: int,
    scale: float,
    tiles: Tiles,
    keep: Tensor | None = None,
) -> Tensor:
    """out = x + scale * mix(relu(conv(relu(x)))).

    Args:
        x: [N, T, C].
        out: [N, T, C]; may be x.
        params: see `ResConv1DBlock.tensors`.
        dilation: distance of the taps.
        scale: factor on the branch.
        tiles: scratch.
        keep: [N, T, hidden], takes the hidden activations.
    """
    weight, bias, mix_weight, mix_bias = params
    taps = weight.permute(2, 1, 0).contiguous()  # [3, C, hidden]
    mix = mix_weight[:, :, 0].t().expand(len(x), -1, -1)  # [N, hidden, C]
    mix_bias = mix_bias * scale
    d = min(dilation, x.shape[1])  # beyond that the outer taps see nothing but padding
    around = RowsAround(x, d, taps.shape[2], tiles)
    for start, end in around.spans:
        rows = around.load(start, end)
        hidden = tiles.buffer("hidden", len(x), end - start, taps.shape[2]) if keep is None else keep[:, start:end]
        products(rows, taps, bias, (0, d, 2 * d), hidden).relu_()
        torch.add(x[:, start:end], mix_bias, out=out[:, start:end]).baddbmm_(hidden, mix, alpha=scale)
    return out


# ----------------------------------------------------------------------------------------- convolutions over time
#
# A strided convolution with kernel 2s and padding s / 2 reads windows of 2s positions that start every s positions:
# two neighbours of the padded input seen as [T / s + 1, s * C]. Its transpose writes such windows.


def bias_of(conv: nn.Conv1d | nn.ConvTranspose1d) -> Tensor:
    """[C_out]; all convolutions here have one."""
    assert conv.bias is not None
    return conv.bias


def conv3_weight(conv: nn.Conv1d) -> Tensor:
    """[C_out, C, 3] -> [3, C, C_out], for offsets 0, 1, 2."""
    return conv.weight.permute(2, 1, 0)


def downsample_weight(conv: nn.Conv1d) -> Tensor:
    """[C_out, C, 2s] -> [2, s * C, C_out], for offsets 0, 1."""
    return conv.weight.permute(2, 1, 0).reshape(2, conv.stride[0] * conv.in_channels, -1)


def upsample_weight(conv: nn.ConvTranspose1d) -> Tensor:
    """[C, C_out, 2s] -> [2, C, s * C_out], for offsets 0, 1: first the later half, which input t - 1 gives to t."""
    halves = conv.weight.permute(2, 0, 1).reshape(2, conv.stride[0], conv.in_channels, -1)  # [2, s, C, C_out]
    return halves.transpose(1, 2).reshape(2, conv.in_channels, -1).flip(0)


def conv3(x: Tensor, conv: nn.Conv1d, tiles: Tiles) -> Tensor:
    """Kernel-3 convolution with padding 1, [N, T, C] -> [N, T, C_out]."""
    items, length, channels = x.shape
    weight = conv3_weight(conv).contiguous()
    out = x.new_empty(items, length, conv.out_channels)
    for start, end in spans(length, items * max(channels, conv.out_channels)):
        rows = tiles.buffer("rows", items, end - start + 2, channels)
        copy_padded(rows, x, start - 1)
        products(rows, weight, bias_of(conv), (0, 1, 2), out[:, start:end])
    return out


def downsample(x: Tensor, conv: nn.Conv1d, tiles: Tiles) -> Tensor:
    """Strided convolution with kernel 2s and padding s / 2, [N, T, C] -> [N, T // s, C_out]."""
    items, length, channels = x.shape
    stride = conv.stride[0]
    weight = downsample_weight(conv)
    out = x.new_empty(items, length // stride, conv.out_channels)
    for start, end in spans(out.shape[1], items * stride * channels):
        rows = tiles.buffer("rows", items, (end - start + 1) * stride, channels)
        copy_padded(rows, x, start * stride - stride // 2)
        windows = rows.view(items, end - start + 1, stride * channels)
        products(windows, weight, bias_of(conv), (0, 1), out[:, start:end])
    return out


def side_by_side(conv: nn.Conv1d) -> Tensor:
    """[C_out, C, 3] -> [C, 3 * C_out]: one product serves all taps, whose results are shifted and added."""
    return conv.weight.permute(1, 2, 0).reshape(conv.in_channels, -1)


class UpsampledRows:
    """Tiles of a transposed convolution with kernel 2s and padding s / 2 on [N, T, C].

    Args:
        x: [N, T, C].
        weight, bias, stride: `upsample_weight`, the bias s times in a row, and s.
        tiles: scratch.
    """

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int, tiles: Tiles):
        self.x, self.weight, self.bias, self.stride, self.tiles = x, weight, bias, stride, tiles
        self.spans = spans(x.shape[1], len(x) * weight.shape[2])

    def clear_outside(self, out: Tensor, start: int, end: int) -> None:
        """Zeroes what `load` gives, or its gradient, outside of the result's length."""
        if start == 0:
            out[:, : self.stride // 2].zero_()
        if end == self.x.shape[1]:
            out[:, out.shape[1] - self.stride // 2 :].zero_()

    def load(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Positions start - 1 to end + 1 of x. Of the result: start * s - s / 2 to end * s + s / 2.

        Outside of their lengths both are zero.
        """
        items, size = len(self.x), end - start
        rows = self.tiles.buffer("rows", items, size + 2, self.x.shape[2])
        copy_padded(rows, self.x, start - 1)
        windows = self.tiles.buffer("hidden", items, size + 1, self.weight.shape[2])
        products(rows, self.weight, self.bias, (0, 1), windows)
        out = windows.view(items, (size + 1) * self.stride, -1)
        self.clear_outside(out, start, end)
        return rows, out


def upsample(x: Tensor, conv: nn.ConvTranspose1d, tiles: Tiles) -> Tensor:
    """Transposed convolution, [N, T, C] -> [N, T * s, C_out]."""
    stride = conv.stride[0]
    upsampled = UpsampledRows(x, upsample_weight(conv), bias_of(conv).repeat(stride), stride, tiles)
    out = x.new_empty(len(x), x.shape[1] * stride, conv.out_channels)
    for start, end in upsampled.spans:
        _, piece = upsampled.load(start, end)
        out[:, start * stride : end * stride].copy_(piece[:, stride // 2 : stride // 2 + (end - start) * stride])
    return out


def upsample_conv3(upsampled: UpsampledRows, taps: Tensor, bias: Tensor) -> Tensor:
    """Transposed convolution and the kernel-3 convolution after it, without the long activation between them.

    Args:
        upsampled: the transposed convolution, [N, T, C] -> [N, T * s, C'].
        taps: `side_by_side`, [C', 3 * C_out].
        bias: [C_out].

    Returns:
        [N, T * s, C_out].
    """
    x, stride, channels = upsampled.x, upsampled.stride, len(bias)
    out = x.new_empty(len(x), x.shape[1] * stride, channels)
    for start, end in upsampled.spans:
        _, piece = upsampled.load(start, end)
        first, size = stride // 2 - 1, (end - start) * stride
        by_tap = upsampled.tiles.buffer("by_tap", len(x), size + 2, 3 * channels)
        torch.bmm(piece[:, first : first + size + 2], taps.expand(len(x), -1, -1), out=by_tap)
        target = torch.add(bias, by_tap[:, :-2, :channels], out=out[:, start * stride : end * stride])
        target.add_(by_tap[:, 1:-1, channels : 2 * channels]).add_(by_tap[:, 2:, 2 * channels :])
    return out
