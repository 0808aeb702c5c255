"""Songs of any length through one level of a VQ-VAE, in windows, with the numbers of one long pass.

Convolutions look a known way to both sides. Each window is read with that much more on either side, and what is over
the neighbours is dropped. So no seam can be heard or counted. Change here how long windows are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from jukebox.utils.audio.spool import Samples, filled
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


def decoder_reach(decoder: Decoder, samples_per_code: int) -> int:
    """Samples before and after a sample whose codes it depends on; `samples_per_code` is the decoder's."""
    reach, rate = 0, samples_per_code
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

    def encode(self, x: Samples, level: int, advance: Callable[[int], None] = lambda samples: None) -> Iterator[Tensor]:
        """Codes of audio.

        Args:
            x: float32 [T]; silence makes the last code whole, so that all of the audio is heard.
            level: 0 is the finest.
            advance: told the samples of each window that is done.

        Yields:
            For each window int64 [codes], on the CPU: ceil(T / samples per code) codes in all.

        Raises:
            UserError: not even the shortest window fits the memory.
        """
        per_code = self.vqvae.hop_lengths[level]
        halo = -(-encoder_reach(self.vqvae.encoders[level]) // per_code)  # type: ignore[arg-type]

        def window(first: int, last: int) -> Tensor:
            piece = filled(x, first * per_code, last * per_code)[None, :, None].to(self.device)
            return self.vqvae.encode(piece, level, level + 1)[0][0]  # [codes]

        return self._in_windows(window, -(-len(x) // per_code), per_code, halo, 1, advance)

    def decode(
        self, codes: Samples, level: int, advance: Callable[[int], None] = lambda samples: None
    ) -> Iterator[Tensor]:
        """Audio of codes [L] of one level: float32 [L * samples per code] in all. The rest is as in `encode`."""
        per_code = self.vqvae.hop_lengths[level]
        halo = -(-decoder_reach(self.vqvae.decoders[level], per_code) // per_code)  # type: ignore[arg-type]

        def window(first: int, last: int) -> Tensor:
            piece = codes[first:last].long()[None].to(self.device)
            return self.vqvae.decode([piece], level, level + 1)[0, :, 0].float()  # [codes * per_code]

        return self._in_windows(window, len(codes), per_code, halo, per_code, advance)

    def _in_windows(
        self,
        run: Callable[[int, int], Tensor],
        codes: int,
        per_code: int,
        halo: int,
        entries: int,
        advance: Callable[[int], None],
    ) -> Iterator[Tensor]:
        """What `run` gives for windows of codes [first, last), `entries` of it for each code, without overlaps."""

        def part(start: int, end: int) -> Tensor:
            first, last = max(0, start - halo), min(codes, end + halo)
            with torch.no_grad():
                return run(first, last)[(start - first) * entries : (end - first) * entries].cpu()

        def smaller(size: int) -> int:
            if self.window <= max(per_code, halo * per_code):  # it would be all neighbours
                where = "another machine" if self.device.type == "cpu" else "--device=cpu"
                raise UserError(
                    f"{min(codes, size + 2 * halo) * per_code} samples at a time do not fit the memory "
                    f"of {self.device}: use {where}"
                )
            self.window //= 2
            return max(1, self.window // per_code)

        for start, end, made in in_parts(codes, max(1, self.window // per_code), part, smaller):
            yield made
            advance((end - start) * per_code)
