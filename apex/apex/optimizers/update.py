"""The numbers of one Adam update, and the update by PyTorch's foreach functions.

This is the arithmetic that `kernels.py` fuses; change both together. With gradient g, divided by `scale`:

    m = beta1 m + (1 - beta1) g                  v = beta2 v + (1 - beta2) g^2
    p = p - step_size (m / (sqrt(v) + eps) + weight_decay p)
    step_size = lr sqrt(1 - beta2^t) / (1 - beta1^t)

so eps is added to the root of the uncorrected v (Kingma and Ba, arXiv 1412.6980, end of section 2), and the decay is
kept out of the moments (Loshchilov and Hutter, arXiv 1711.05101) but follows the corrected step size. Everything is
computed in float32; parameters of other types are rounded once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# A float16 moment is stored divided by a multiplier that puts its largest element at float16's largest number.
HALF_MAX = 65504.0
HALF_FLOOR = 1e-8
# Elements that one foreach call works on: bounds its temporary tensors to some 64 MB each.
FOREACH_ELEMENTS = 2**24


@dataclass(frozen=True)
class Coefficients:
    """What all parameters of one group with the same step count share."""

    step_size: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    @classmethod
    def of(cls, group: dict[str, Any], step: int) -> Coefficients:
        """Coefficients of a param group at a step, counted from 1."""
        beta1, beta2 = group["betas"]
        step_size = group["lr"] * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)
        return cls(float(step_size), beta1, beta2, group["eps"], group["weight_decay"])


@dataclass(frozen=True)
class Item:
    """One parameter with all that its update reads and writes; all tensors have its shape and device.

    `average` is the float32 moving average of the parameter, or None. `multipliers` is None where the moments are
    float32; where they are float16 it holds two float32 scalars by which the first and the second moment are divided.
    """

    parameter: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    multipliers: tuple[Tensor, Tensor] | None
    average: Tensor | None


def foreach_update(items: list[Item], c: Coefficients, scale: Tensor, decay: float) -> None:
    """Updates parameters, moments, multipliers and averages in place; gradients are only read.

    Args:
        items: parameters that share the coefficients and are on one device.
        c: the coefficients.
        scale: float32 scalar that gradients are divided by, on the same device.
        decay: share that a moving average keeps; used where an item has one.
    """
    for part in _parts(items):
        _update(part, c, scale)
        average = [item for item in part if item.average is not None]
        if average:
            foreach_average([i.average for i in average], [i.parameter for i in average], decay)  # type: ignore[misc]


def foreach_average(averages: list[Tensor], parameters: list[Tensor], decay: float) -> None:
    """average = decay * average + (1 - decay) * parameter, in float32 and in place."""
    torch._foreach_mul_(averages, decay)
    torch._foreach_add_(averages, [p.float() for p in parameters], alpha=1.0 - decay)


def _update(items: list[Item], c: Coefficients, scale: Tensor) -> None:
    gradients = torch._foreach_div([i.gradient.float() for i in items], scale)
    m = [_expanded(i.exp_avg, i.multipliers, 0) for i in items]
    v = [_expanded(i.exp_avg_sq, i.multipliers, 1) for i in items]
    torch._foreach_mul_(m, c.beta1)
    torch._foreach_add_(m, gradients, alpha=1.0 - c.beta1)
    torch._foreach_mul_(v, c.beta2)
    torch._foreach_addcmul_(v, gradients, gradients, 1.0 - c.beta2)

    denominators = torch._foreach_sqrt(v)
    torch._foreach_add_(denominators, c.eps)
    change = torch._foreach_div(m, denominators)
    parameters = [i.parameter.float() for i in items]  # the parameters themselves where they are float32
    if c.weight_decay:
        torch._foreach_add_(change, parameters, alpha=c.weight_decay)
    torch._foreach_add_(parameters, change, alpha=-c.step_size)

    for item, p, new_m, new_v in zip(items, parameters, m, v, strict=True):
        if p is not item.parameter:
            item.parameter.copy_(p)
        if item.multipliers is not None:
            for moment, new, multiplier in zip(
                (item.exp_avg, item.exp_avg_sq), (new_m, new_v), item.multipliers, strict=True
            ):
                multiplier.copy_(half_multiplier(new.abs().amax()))
                moment.copy_(new / multiplier)


def half_multiplier(largest: Tensor) -> Tensor:
    """What to divide a moment by, whose largest magnitude is given, before it is stored in float16."""
    return HALF_FLOOR + largest / HALF_MAX


def _expanded(moment: Tensor, multipliers: tuple[Tensor, Tensor] | None, index: int) -> Tensor:
    return moment if multipliers is None else moment.float() * multipliers[index]


def _parts(items: list[Item]) -> Iterator[list[Item]]:
    part: list[Item] = []
    elements = 0
    for item in items:
        if part and elements + item.parameter.numel() > FOREACH_ELEMENTS:
            yield part
            part, elements = [], 0
        part.append(item)
        elements += item.parameter.numel()
    if part:
        yield part
