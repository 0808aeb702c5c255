"""From logits to a token: temperature, top-k, top-p, and the draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from jukebox.transformer.ops import filter_logits


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. Each field is also a flag of `sample.py` and an entry of `sampling_kwargs`, by its name.

    Attributes:
        temp: temperature, which logits are divided by; above 0.
        top_k: keep the k most likely symbols; 0 keeps all, 1 is greedy.
        top_p: keep the most likely symbols whose probabilities first exceed p together; 0 keeps all.

    Raises:
        ValueError: values out of range, or top_k and top_p at once.
    """

    temp: float = 1.0
    top_k: int = 0
    top_p: float = 0.0

    def __post_init__(self) -> None:
        if self.temp <= 0:
            raise ValueError(f"temp={self.temp:g}: must be above 0; for the likeliest token every time use top_k=1")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: must be 0 or more")
        if not 0.0 <= self.top_p < 1.0:
            raise ValueError(f"top_p={self.top_p}: must be {'below 1' if self.top_p > 0 else '0 or more'}")
        if self.top_k and self.top_p:
            raise ValueError(f"top_k={self.top_k} and top_p={self.top_p} exclude each other: set one to 0")

    @classmethod
    def pick(cls, values: Mapping[str, Any]) -> SamplingOptions:
        """The options among other values, such as those of `sampling_kwargs`; what is missing keeps its default."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: values[name] for name in names if values.get(name) is not None})

    def keep(self, logits: Tensor) -> Tensor:
        """Sets the logits [N, K] of symbols that may not be drawn to -inf."""
        return filter_logits(logits, self.top_k, self.top_p)


def draw(logits: Tensor, options: SamplingOptions, uniform: Tensor) -> Tensor:
    """Draws one symbol per row by inverting the cumulative distribution.

    One uniform number decides one token, so a song's tokens depend only on its own numbers.

    Args:
        logits: [N, K] in float32.
        uniform: [N] in [0, 1).

    Returns:
        LongTensor [N]; of logits that are not finite, any symbol.
    """
    if options.top_k == 1:
        return logits.argmax(-1)
    if options.temp != 1.0:
        logits = logits / options.temp
    mass = options.keep(logits).softmax(-1).cumsum(-1)
    # The symbol whose interval holds the number. A number at the end, above the rounded total, takes the last one
    # that has any mass.
    wanted = (uniform.to(mass.dtype)[:, None] * mass[:, -1:]).minimum(_below(mass[:, -1:]))
    return torch.searchsorted(mass, wanted, right=True).squeeze(-1).clamp_(max=logits.shape[-1] - 1)


def _below(x: Tensor) -> Tensor:
    """The largest number under x."""
    return torch.nextafter(x, torch.zeros_like(x))
