"""The learning rate as a function of the step: warm-up, then one kind of decay.

`learning_rate` is the whole rule; `Schedule` writes it into an optimizer. A new kind of decay is a new branch there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from jukebox.utils.errors import UserError


@dataclass(frozen=True)
class ScheduleOptions:
    """The hyper-parameters of the same names; all lengths in steps.

    Raises:
        UserError: two kinds of decay at once, or a length that is not positive.
    """

    lr: float = 0.0003
    lr_warmup: float = 100.0
    lr_decay: float = 1e10
    lr_gamma: float = 1.0
    lr_scale: float = 1.0
    lr_use_linear_decay: bool = False
    lr_start_linear_decay: float = 0
    lr_use_cosine_decay: bool = False

    def __post_init__(self) -> None:
        if self.lr_use_linear_decay and self.lr_use_cosine_decay:
            raise UserError("lr_use_linear_decay and lr_use_cosine_decay exclude each other: give one of them")
        if self.lr_decay <= 0 or self.lr_warmup < 0:
            raise UserError(
                f"lr_decay={self.lr_decay:g}, lr_warmup={self.lr_warmup:g}: lr_decay must be above 0 and "
                "lr_warmup not below 0, both in steps"
            )

    @property
    def end(self) -> float:
        """The step from which the learning rate is zero for good; infinite if it never is."""
        if self.lr_use_linear_decay or self.lr_use_cosine_decay:
            return self.lr_start_linear_decay + self.lr_decay
        return math.inf


def learning_rate(step: int, options: ScheduleOptions) -> float:
    """The learning rate at a step.

    It rises in proportion to the step during warm-up. Linear and cosine decay then fall from `lr_start_linear_decay` on
    to zero within `lr_decay` steps; otherwise every `lr_decay` steps multiply it by `lr_gamma`.

    Args:
        step: from 0, where warm-up gives a rate of zero. Training gives its updates the numbers 1, 2, ..., so that the
            first of them does something.
        options: the schedule.
    """
    scale = 1.0 if options.lr_warmup == 0 else min(1.0, step / options.lr_warmup)
    decayed = max(0.0, step - options.lr_start_linear_decay) / options.lr_decay
    if options.lr_use_linear_decay:
        scale *= max(0.0, 1.0 - decayed)
    elif options.lr_use_cosine_decay:
        scale *= 0.5 * (1.0 + math.cos(math.pi * min(1.0, decayed)))
    else:
        scale *= options.lr_gamma ** (step // options.lr_decay)
    return options.lr * options.lr_scale * scale


class Schedule:
    """Keeps an optimizer's learning rate at `learning_rate(step)`."""

    def __init__(self, optimizer: torch.optim.Optimizer, options: ScheduleOptions) -> None:
        self.optimizer = optimizer
        self.options = options
        self.last_step = 0
        self.step(0)

    def step(self, step: int | None = None) -> None:
        """Moves to a step, or to the next one."""
        self.last_step = self.last_step + 1 if step is None else int(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.get_lr()

    def get_lr(self) -> float:
        """The learning rate in use."""
        return learning_rate(self.last_step, self.options)
