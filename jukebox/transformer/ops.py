"""The small parts of the transformer: dense projection, layer norm, activation, MLP, and the choice among logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv1D(nn.Module):
    """Dense layer on the last axis with weight `w` [n_in, n_out] and bias `b` [n_out].

    The weight may be kept in half precision, or as whole numbers with a factor `scale` [n_out] per output (`to_int8`).
    The bias stays in float32. Both are cast to the input's type.

    Args:
        init_scale: the weight starts as N(0, 0.02 * init_scale), the bias at zero.
        zero_out: start the weight at zero.
    """

    scale: Tensor | None

    def __init__(self, n_in: int, n_out: int, zero_out: bool = False, init_scale: float = 1.0) -> None:
        super().__init__()
        self.n_in, self.n_out = n_in, n_out
        self.w = nn.Parameter(torch.empty(n_in, n_out))
        self.b = nn.Parameter(torch.zeros(n_out))
        self.register_buffer("scale", None, persistent=False)
        if zero_out:
            nn.init.zeros_(self.w)
        else:
            nn.init.normal_(self.w, std=0.02 * init_scale)

    def forward(self, x: Tensor, scale: float = 1.0, w_scale: float = 1.0) -> Tensor:
        """scale * (w_scale * x w + b); the factors cost nothing, they ride along in the product."""
        w, b = self.weight(x.dtype), self.b.to(x.dtype)
        y = torch.addmm(b, x.reshape(-1, self.n_in), w, beta=scale, alpha=scale * w_scale)
        return y.view(*x.shape[:-1], self.n_out)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weight [n_in, n_out] in a type of the arithmetic; itself where it has that type already."""
        w = self.w.to(dtype)
        return w if self.scale is None else w * self.scale.to(dtype)

    def to_int8(self) -> None:
        """Rounds the weight to 8 bits and freezes it: the largest of each output becomes 127."""
        if self.scale is None:
            w = self.w.detach().float()
            self.scale = w.abs().amax(0).clamp_min(1e-30) / 127
            self.w.requires_grad_(False).data = (w / self.scale).round().to(torch.int8)


class LayerNorm(nn.LayerNorm):
    """Layer norm that always computes in float32 and returns the input's type."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


# The activation is x * sigmoid(1.702 x), the sigmoid approximation of GELU (arXiv 1606.08415, section 2), which is
# silu(1.702 x) / 1.702. Both factors go into the products around it.
GELU = 1.702


class MLP(nn.Module):
    """Two projections with an activation between: n_in -> n_state -> n_in."""

    def __init__(
        self, n_in: int, n_state: int, resid_dropout: float = 0.0, zero_out: bool = False, init_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.c_fc = Conv1D(n_in, n_state, init_scale=init_scale)
        self.c_proj = Conv1D(n_state, n_in, zero_out, init_scale=init_scale)
        self.resid_dropout = nn.Dropout(resid_dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.c_fc(x, scale=GELU))
        return self.resid_dropout(self.c_proj(h, w_scale=1 / GELU))


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """Sets the logits that may not be drawn to -inf.

    Args:
        logits: [..., K].
        top_k: keep everything at least as large as the k-th largest; ties may keep more.
        top_p: keep the shortest prefix of the sorted distribution whose mass exceeds p (arXiv 1904.09751).
    """
    if top_k and top_p:
        raise ValueError("top_k and top_p exclude each other")
    if top_k:
        smallest = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        return logits.masked_fill(logits < smallest, float("-inf"))
    if top_p:
        ordered, index = logits.sort(dim=-1, descending=True, stable=True)  # ties: in order on any device
        mass_before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
        mass_before[..., 0] = 0.0
        removed = torch.zeros_like(index, dtype=torch.bool).scatter(-1, index, mass_before > top_p)
        return logits.masked_fill(removed, float("-inf"))
    return logits
