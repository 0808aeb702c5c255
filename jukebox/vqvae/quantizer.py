"""What makes codes of one level's latents, as all else sees it; the kinds are in `bottleneck.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class QuantizerOutput(NamedTuple):
    """Result of one level's quantizer."""

    codes: Tensor  # [N, L] int64 (the latents themselves if nothing is quantised)
    quantized: Tensor  # [N, C, L]
    commit_loss: Tensor  # scalar
    metrics: dict[str, Tensor]  # scalars


class Quantizer(nn.Module):
    """Latents [N, C, L] of one level to codes, and codes to vectors.

    A class of this kind is called with (l_bins, emb_width, mu, threshold), see `BottleneckBlock`, and defines `encode`,
    `decode` and `forward`. The other methods are for those that learn otherwise than by gradients.
    """

    discrete = True  # False: `encode` passes latents through, of which a prior cannot learn

    def encode(self, x: Tensor) -> Tensor:
        """Latents [N, C, L] -> codes [N, L] int64."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [N, L] -> vectors [N, C, L]."""
        raise NotImplementedError

    def forward(self, x: Tensor, update_k: bool = True) -> QuantizerOutput:
        """Quantises latents [N, C, L], whose gradient is that of the vectors; `update_k` lets the codebook learn."""
        raise NotImplementedError

    def restore_k(self, num_tokens: float | None = None, threshold: float | None = None) -> None:
        """Prepares to train on from loaded weights; see `BottleneckBlock.restore_k`."""

    def state_extra(self) -> dict[str, Any]:
        """What a resumed run needs beyond the state dict: plain values and tensors."""
        return {}

    def load_extra(self, extra: Mapping[str, Any]) -> None:
        """Takes up what `state_extra` gave."""
