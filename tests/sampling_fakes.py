"""A prior without a network, for tests of what happens around a prior.

Its token at a position depends on every code that a real prior could see there: the window's tokens before it, the
codes above, the labels and the noise. So a wrong slice anywhere changes the result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BINS = 64


class FakePrior:
    """A level l of a pyramid with 4 ** (l + 1) samples per token."""

    n_tokens = 0
    alignment_layer = alignment_head = None

    def __init__(self, level: int = 0, levels: int = 1, n_ctx: int = 8) -> None:
        self.level, self.levels, self.n_ctx = level, levels, n_ctx
        self.raw_to_tokens = 4 ** (level + 1)
        self.sample_length = n_ctx * self.raw_to_tokens
        self.calls: list[dict[str, Any]] = []
        self.fails: list[Exception] = []  # raised by the next calls, before anything is made

    def get_y(self, labels: dict[str, Any], start: int, get_indices: bool = False) -> Tensor:
        y = labels["y"].clone()
        y[:, 1] += start * self.raw_to_tokens
        return y

    def get_z_conds(self, zs: list[Tensor], start: int, end: int) -> list[Tensor] | None:
        if self.level == self.levels - 1:
            return None
        assert start % 4 == 0 and end % 4 == 0
        cond = zs[self.level + 1][:, start // 4 : end // 4]
        assert cond.shape[1] == self.n_ctx // 4, "the whole context of codes above is needed"
        return [cond]

    def sample(
        self,
        n_samples: int,
        z: Tensor,
        z_conds: list[Tensor] | None,
        y: Tensor,
        sample_tokens: int,
        noise: Tensor | None = None,
        progress: Any = None,
        **options: Any,
    ) -> Tensor:
        self.calls.append(dict(n_samples=n_samples, known=z.shape[1], sample_tokens=sample_tokens, **options))
        if self.fails:
            raise self.fails.pop(0)
        assert z.shape[0] == n_samples == y.shape[0] and z.shape[1] < sample_tokens <= self.n_ctx
        for i in range(z.shape[1], sample_tokens):
            token = z.sum(1) * 3 + y[:, 0] + y[:, 1] // self.raw_to_tokens + i
            for cond in z_conds or []:
                token = token + 7 * cond[:, i // 4]
            if noise is not None:
                assert noise.shape == (n_samples, sample_tokens)
                token = token + (noise[:, i] * BINS).long()
            z = torch.cat([z, (token % BINS)[:, None]], dim=1)
            progress and progress(n_samples)
        return z


def fake_labels(n: int) -> dict[str, Any]:
    """Labels of n songs, each of another length."""
    y = torch.zeros(n, 4, dtype=torch.long)
    y[:, 0] = 1000 + torch.arange(n)
    return {"y": y, "info": [dict(artist="a", genre="g", lyrics="", full_tokens=[])] * n}
