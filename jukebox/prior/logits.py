"""From logits to a token: temperature, top-k, top-p, and the draw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jukebox.transformer.ops import filter_logits


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn.

    Attributes:
        temperature: logits are divided by it; above 0.
        top_k: keep the k most likely symbols; 0 keeps all, 1 is greedy.
        top_p: keep the most likely symbols whose probabilities first exceed p together; 0 keeps all.

    Raises:
        ValueError: values out of range, or top_k and top_p at once.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temp={self.temperature}: must be above 0; for greedy choices use top_k=1")
        if self.top_k < 0 or not 0.0 <= self.top_p < 1.0:
            raise ValueError(f"top_k={self.top_k}, top_p={self.top_p}: top_k must be 0 or more, top_p in [0, 1)")
        if self.top_k and self.top_p:
            raise ValueError(f"top_k={self.top_k} and top_p={self.top_p} exclude each other: set one to 0")


def draw(logits: Tensor, options: SamplingOptions, uniform: Tensor) -> Tensor:
    """Draws one symbol per row by inverting the cumulative distribution.

    One uniform number decides one token, so a song's tokens depend on its own numbers alone.

    Args:
        logits: [N, K] in float32.
        uniform: [N] in [0, 1).

    Returns:
        LongTensor [N].
    """
    if options.top_k == 1:
        return logits.argmax(-1)
    if options.temperature != 1.0:
        logits = logits / options.temperature
    logits = filter_logits(logits, options.top_k, options.top_p)
    mass = logits.softmax(-1).cumsum(-1)
    # The symbol whose interval holds the number. A number at the very end, above the rounded total, takes the last one
    # that has any mass.
    wanted = (uniform.to(mass.dtype)[:, None] * mass[:, -1:]).minimum(_below(mass[:, -1:]))
    return torch.searchsorted(mass, wanted, right=True).squeeze(-1)


def _below(x: Tensor) -> Tensor:
    """The largest number under x."""
    return torch.nextafter(x, torch.zeros_like(x))
