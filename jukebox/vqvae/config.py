"""All that shapes residual stacks, in one frozen object: made once from hyper-parameters and handed down whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

BLOCKS_NAMES = ("model", "blocks")


@dataclass(frozen=True)
class ConvConfig:
    """The residual stacks beside the strided convolutions of the VQ-VAE or of a prior's conditioner.

    Attributes:
        width: channels.
        depth: residual blocks per stack.
        m_conv: hidden channels of a residual block as a factor of the width.
        dilation_growth_rate: block d has dilation growth ** d.
        dilation_cycle: restart the dilations after this many blocks: growth ** (d mod cycle).
        zero_out: start each residual branch at zero.
        res_scale: scale each residual branch by 1 / sqrt(depth).
        reverse_decoder_dilation: reverse the blocks of decoders, so that these run from large dilations to small.
        checkpoint_res: recompute each block in the backward pass instead of keeping its activations.
        blocks_name: attribute, and so state-dict name, of the list of blocks: `model` or `blocks`. A state dict with
            the other name loads too.
    """

    width: int = 128
    depth: int = 3
    m_conv: float = 1.0
    dilation_growth_rate: int = 1
    dilation_cycle: int | None = None
    zero_out: bool = False
    res_scale: bool = False
    reverse_decoder_dilation: bool = False
    checkpoint_res: bool = False
    blocks_name: str = "model"

    def __post_init__(self) -> None:
        if self.blocks_name not in BLOCKS_NAMES:
            raise ValueError(f"blocks_name={self.blocks_name!r}: use one of {BLOCKS_NAMES}")

    @classmethod
    def of(cls, config: ConvConfig | None = None, **values: Any) -> ConvConfig:
        """A config, or else the defaults, with other values; a name that no config has is a TypeError."""
        return replace(config or cls(), **values)

    def scaled(self, factor: int) -> ConvConfig:
        """That many times wider and deeper."""
        return replace(self, width=self.width * factor, depth=self.depth * factor)

    @property
    def dilations(self) -> list[int]:
        """The dilation of each block of a stack."""
        return [self.dilation_growth_rate ** (d % (self.dilation_cycle or self.depth)) for d in range(self.depth)]
