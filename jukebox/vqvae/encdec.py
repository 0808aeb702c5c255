"""Convolutional encoders and decoders between audio and latents, one pair per VQ-VAE level.

Change here how stages are put together; how they run fast on a CPU is in `cpu/`. A stage changes the time axis by
stride ** down; the prior's conditioner has a `DecoderConvBlock` too. Source: Jukebox (arXiv 2005.00341), appendix B.1
and figure 11; the parameter names are part of the checkpoint format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from jukebox.utils.errors import UserError
from jukebox.vqvae.config import ConvConfig
from jukebox.vqvae.resnet import Resnet1D


def _kernel_rule(down_t: int, stride_t: int) -> tuple[int, int]:
    """Kernel size and padding of a strided convolution that divides the length by its stride exactly."""
    if down_t < 1:
        raise UserError(f"downs_t holds {down_t}: each level needs at least 1 strided convolution")
    if stride_t < 2 or stride_t % 2:
        raise UserError(
            f"strides_t holds {stride_t}: strides must be even (2, 4, ...), since odd ones do not keep the length"
        )
    return 2 * stride_t, stride_t // 2


class EncoderConvBlock(nn.Module):
    """One encoder stage, [N, C_in, T] -> [N, C_out, T / stride ** down].

    Args:
        input_emb_width: channels in.
        output_emb_width: channels out.
        down_t: number of strided convolutions, each followed by a residual stack.
        stride_t: stride of each; even.
        config: the residual stacks.

    Raises:
        UserError: an odd stride or no strided convolution.
    """

    def __init__(self, input_emb_width: int, output_emb_width: int, down_t: int, stride_t: int, config: ConvConfig):
        super().__init__()
        width, (kernel, padding) = config.width, _kernel_rule(down_t, stride_t)
        self.model = nn.Sequential()
        for i in range(down_t):
            conv = nn.Conv1d(width if i else input_emb_width, width, kernel, stride_t, padding)
            self.model.append(nn.Sequential(conv, Resnet1D(config)))
        self.model.append(nn.Conv1d(width, output_emb_width, 3, 1, 1))

    @property
    def stages(self) -> list[tuple[nn.Conv1d, Resnet1D]]:
        """Strided convolutions and the residual stacks after them."""
        return [cast("tuple[nn.Conv1d, Resnet1D]", tuple(stage.children())) for stage in list(self.model)[:-1]]

    @property
    def last(self) -> nn.Conv1d:
        """The convolution to the channels of the latent."""
        return cast(nn.Conv1d, self.model[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class DecoderConvBlock(nn.Module):
    """One decoder stage, [N, C_in, T] -> [N, C_out, T * stride ** down]; also the prior's upsampling conditioner.

    Arguments are as in `EncoderConvBlock`; here each residual stack comes before its transposed convolution.

    Raises:
        UserError: an odd stride or no strided convolution.
    """

    def __init__(self, input_emb_width: int, output_emb_width: int, down_t: int, stride_t: int, config: ConvConfig):
        super().__init__()
        width, (kernel, padding) = config.width, _kernel_rule(down_t, stride_t)
        self.stride, self.downsample = stride_t, stride_t**down_t
        self.model = nn.Sequential(nn.Conv1d(input_emb_width, width, 3, 1, 1))
        for i in range(down_t):
            stack = Resnet1D(config, config.reverse_decoder_dilation)
            out = output_emb_width if i == down_t - 1 else width
            self.model.append(nn.Sequential(stack, nn.ConvTranspose1d(width, out, kernel, stride_t, padding)))

    @property
    def first(self) -> nn.Conv1d:
        """The convolution from the channels of the latent."""
        return cast(nn.Conv1d, self.model[0])

    @property
    def stages(self) -> list[tuple[Resnet1D, nn.ConvTranspose1d]]:
        """Residual stacks and the transposed convolutions after them."""
        return [cast("tuple[Resnet1D, nn.ConvTranspose1d]", tuple(stage.children())) for stage in list(self.model)[1:]]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Encoder(nn.Module):
    """Encoder of one level: the stages of levels 0 to l in a row.

    `latent` gives what the last stage makes, calling the module what every stage makes.

    Args:
        channels: of the audio.
        emb_width: channels of the latent, and between stages.
        stages: (down, stride) of each, see `EncoderConvBlock`.
        config: the residual stacks.
    """

    def __init__(self, channels: int, emb_width: int, stages: Sequence[tuple[int, int]], config: ConvConfig):
        super().__init__()
        self.level_blocks = nn.ModuleList(
            EncoderConvBlock(emb_width if i else channels, emb_width, *stage, config) for i, stage in enumerate(stages)
        )

    @property
    def blocks(self) -> list[EncoderConvBlock]:
        """The stages in the order in which they run."""
        return [cast(EncoderConvBlock, block) for block in self.level_blocks]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Audio [N, channels, T] -> outputs of all stages [N, emb, T / samples per code]; the last is the latent."""
        outputs: list[Tensor] = []
        for block in self.blocks:
            outputs.append(block(outputs[-1] if outputs else x))
        return outputs

    def latent(self, x: Tensor) -> Tensor:
        """Audio [N, channels, T] -> latent [N, emb, T / samples per code]."""
        return self(x)[-1]


class Decoder(nn.Module):
    """Decoder of one level: the stages of levels l to 0 and a last convolution, [N, emb, L] -> [N, channels, T].

    Arguments are as in `Encoder`.
    """

    def __init__(self, channels: int, emb_width: int, stages: Sequence[tuple[int, int]], config: ConvConfig):
        super().__init__()
        self.level_blocks = nn.ModuleList(DecoderConvBlock(emb_width, emb_width, *stage, config) for stage in stages)
        self.out = nn.Conv1d(emb_width, channels, 3, 1, 1)

    @property
    def blocks(self) -> list[DecoderConvBlock]:
        """The stages in the order in which they run: from the highest level down."""
        return [cast(DecoderConvBlock, block) for block in reversed(self.level_blocks)]

    def forward(self, xs: Tensor | Sequence[Tensor], all_levels: bool = False) -> Tensor:
        """Latent [N, emb, L], or a list of one, -> audio [N, channels, T], T = L times the samples per code.

        Raises:
            ValueError: several latents; with `all_levels` too, since a decoder reads those of its own level.
        """
        if all_levels or (not isinstance(xs, Tensor) and len(xs) != 1):
            raise ValueError("a decoder reads one latent: give [z] and all_levels=False")
        return self.run(xs if isinstance(xs, Tensor) else xs[0])

    def run(self, x: Tensor) -> Tensor:
        """One latent -> audio."""
        for block in self.blocks:
            x = block(x)
        return self.out(x)
