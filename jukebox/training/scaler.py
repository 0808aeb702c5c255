"""The loss scale of half precision, the gradient norm, and which gradients are fit for a step.

Half-precision gradients below 6e-8 vanish, so the loss is multiplied by a large factor before the backward pass and the
optimizer divides by it. The factor grows while all goes well and halves when something overflowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch


class LossScaler:
    """A loss scale that adapts: halved by an overflow, multiplied by `factor` after every `window` good steps.

    Args:
        scale: a fixed scale that never changes; None adapts.
        initial: where an adaptive scale starts.
        factor: growth after `window` good steps in a row.
        window: good steps between two growths.
        largest: the scale never grows above this.
    """

    def __init__(
        self,
        scale: float | None = None,
        initial: float = 2.0**16,
        factor: float = 2.0 ** (1.0 / 1000.0),
        window: int = 1,
        largest: float = 2.0**24,
    ) -> None:
        self.adaptive = scale is None
        self.scale = float(initial if scale is None else scale)
        self.factor = factor
        self.window = window
        self.largest = largest
        self.good_steps = 0

    def update(self, overflow: bool) -> None:
        """Notes how a step went."""
        if not self.adaptive:
            self.good_steps += 1
        elif overflow:
            self.scale /= 2.0
            self.good_steps = 0
        else:
            self.good_steps += 1
            if self.good_steps == self.window:
                self.scale = min(self.scale * self.factor, self.largest)
                self.good_steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where another left off; a fixed scale stays as it was asked for."""
        scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
        if self.adaptive:
            self.scale = scale


def make_scaler(fp16: bool, fixed_scale: float | None, window: float) -> LossScaler:
    """The scaler of a run.

    Args:
        fp16: without half precision the scale is 1 and stays.
        fixed_scale: a scale that never changes, or None.
        window: good steps in which an adaptive scale doubles, a little at every step.
    """
    if not fp16:
        return LossScaler(scale=1.0)
    return LossScaler(scale=fixed_scale, factor=2.0 ** (1.0 / window))


def gradient_norm(parameters: Iterable[torch.nn.Parameter], scale: float = 1.0) -> float:
    """Euclidean norm of all gradients together, taken in float32 or better and divided by the loss scale.

    Returns:
        The norm; infinite or NaN if any gradient is.
    """
    by_kind: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.numel():
            by_kind.setdefault((parameter.grad.device, parameter.grad.dtype), []).append(parameter.grad)
    if not by_kind:
        return 0.0
    norms = [norm for grads in by_kind.values() for norm in _norms(grads)]
    return torch.linalg.vector_norm(torch.stack(norms)).item() / scale


def clip_scale(grad_norm: float, clip: float, scale: float = 1.0) -> float:
    """What gradients are divided by: the loss scale, and more if their norm is above `clip` (0: never clip)."""
    ratio = grad_norm / clip if clip else 0.0
    return scale * ratio if ratio > 1.0 else scale


def is_fit(grad_norm: float, ignore_above: float = 0.0) -> bool:
    """Whether gradients of this norm may be used: finite, and not above `ignore_above` unless that is 0."""
    return math.isfinite(grad_norm) and not 0.0 < ignore_above < grad_norm


def _norms(grads: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Euclidean norms of gradients of one type, half ones taken in float32."""
    return torch._foreach_norm(grads, 2, torch.promote_types(grads[0].dtype, torch.float32))
