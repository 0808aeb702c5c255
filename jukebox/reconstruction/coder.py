"""Songs of any length through one level of a VQ-VAE, in windows, with the numbers of one long pass.

Convolutions look a known way to both sides. Each window is read with that much more on either side, and what is over
the neighbours is dropped. So no seam can be heard or counted. Change here how long windows are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from jukebox.utils.errors import UserError
from jukebox.utils.memory import in_parts
from jukebox.vqvae.encdec import Decoder, Encoder
from jukebox.vqvae.vqvae import VQVAE

WINDOW = 2**19  # samples: 12 s at 44.1 kHz, for which the widest released level needs about 0.3 GB


def encoder_reach(encoder: Encoder) -> int:
    """Samples before and after those of a code that the code depends on."""
    reach, rate = 0, 1  # rate: samples per position
    for block in encoder.blocks:
        for conv in block.modules():
            if isinstance(conv, nn.Conv1d):
                reach += int(conv.padding[0]) * rate  # all of them keep the length, or divide it by the stride
                rate *= conv.stride[0]
    return reach


def decoder_reach(decoder: Decoder, hop: int) -> int:
    """Samples before and after a sample whose codes it depends on; `hop` is the decoder's samples per code."""
    reach, rate = 0, hop
    for block in decoder.blocks:
        for conv in block.modules():
            if isinstance(conv, nn.Conv1d):
                reach += int(conv.padding[0]) * rate
            elif isinstance(conv, nn.ConvTranspose1d):
                reach += -(-int(conv.padding[0]) // conv.stride[0]) * rate
                rate //= conv.stride[0]
    return reach + int(decoder.out.padding[0])


class Coder:
    """Encodes and decodes long mono audio with a VQ-VAE.

    Args:
        vqvae: frozen, on the device to use.
        window: samples that go through a level at a time; halved if they do not fit the memory.
    """

    def __init__(self, vqvae: VQVAE, window: int = WINDOW) -> None:
        self.vqvae, self.window = vqvae, window
        self.device = next(vqvae.parameters()).device

    def encode(self, x: Tensor, level: int, advance: Callable[[int], None] = lambda samples: None) -> Tensor:
        """Codes of audio.

        Args:
            x: float32 [T], T a multiple of the level's samples per code.
            level: 0 is the finest.
            advance: told the samples of each window that is done.

        Returns:
            int64 [T / hop], on the CPU.

        Raises:
            UserError: not even the shortest window fits the memory.
        """
        hop = self.vqvae.hop_lengths[level]
        halo = -(-encoder_reach(self.vqvae.encoders[level]) // hop)  # type: ignore[arg-type]

        def window(first: int, last: int) -> Tensor:
            piece = x[None, first * hop : last * hop, None].to(self.device)
            return self.vqvae.encode(piece, level, level + 1)[0][0]  # [codes]

        return self._in_windows(window, x.shape[0] // hop, hop, halo, 1, advance)

    def decode(self, codes: Tensor, level: int, advance: Callable[[int], None] = lambda samples: None) -> Tensor:
        """Audio of codes [L] of one level: float32 [L * hop], on the CPU. `advance` and errors as in `encode`."""
        hop = self.vqvae.hop_lengths[level]
        halo = -(-decoder_reach(self.vqvae.decoders[level], hop) // hop)  # type: ignore[arg-type]

        def window(first: int, last: int) -> Tensor:
            piece = codes[None, first:last].to(self.device)
            return self.vqvae.decode([piece], level, level + 1)[0, :, 0].float()  # [codes * hop]

        return self._in_windows(window, codes.shape[0], hop, halo, hop, advance)

    def _in_windows(
        self,
        run: Callable[[int, int], Tensor],
        codes: int,
        hop: int,
        halo: int,
        per_code: int,
        advance: Callable[[int], None],
    ) -> Tensor:
        """Joins what `run` gives for windows of codes [first, last), `per_code` entries for each code."""

        def part(start: int, end: int) -> Tensor:
            first, last = max(0, start - halo), min(codes, end + halo)
            with torch.no_grad():
                return run(first, last)[(start - first) * per_code : (end - first) * per_code].cpu()

        def smaller(size: int) -> int:
            if self.window <= max(hop, halo * hop):  # it would be all neighbours
                where = "another machine" if self.device.type == "cpu" else "--device=cpu"
                raise UserError(
                    f"{min(codes, size + 2 * halo) * hop} samples at a time do not fit the memory of {self.device}: "
                    f"use {where}"
                )
            self.window //= 2
            return max(1, self.window // hop)

        parts: list[Tensor] = []
        for start, end, made in in_parts(codes, max(1, self.window // hop), part, smaller):
            parts.append(made)
            advance((end - start) * hop)
        return torch.cat(parts)
