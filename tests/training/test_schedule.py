"""Warm-up and each kind of decay."""

from __future__ import annotations

import math

import pytest
import torch

from jukebox.training.schedule import Schedule, ScheduleOptions, learning_rate
from jukebox.utils.errors import UserError


def test_warm_up() -> None:
    options = ScheduleOptions(lr=1.0, lr_warmup=4)
    assert [learning_rate(step, options) for step in range(7)] == [0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate(0, ScheduleOptions(lr=1.0, lr_warmup=0)) == 1


def test_steps() -> None:
    options = ScheduleOptions(lr=1.0, lr_warmup=0, lr_gamma=0.5, lr_decay=3, lr_scale=2.0)
    assert [learning_rate(step, options) for step in range(8)] == [2, 2, 2, 1, 1, 1, 0.5, 0.5]
    assert options.end == math.inf


def test_linear_ends_at_zero() -> None:
    options = ScheduleOptions(lr=1.0, lr_warmup=0, lr_decay=4, lr_use_linear_decay=True, lr_start_linear_decay=2)
    assert [learning_rate(step, options) for step in range(8)] == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert options.end == 6


def test_cosine() -> None:
    options = ScheduleOptions(lr=1.0, lr_warmup=0, lr_decay=4, lr_use_cosine_decay=True, lr_start_linear_decay=1)
    expected = [1, 1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0, 0]
    assert [learning_rate(step, options) for step in range(7)] == pytest.approx(expected)
    assert options.end == 5


def test_a_schedule_drives_an_optimizer() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)
    schedule = Schedule(optimizer, ScheduleOptions(lr=1.0, lr_warmup=4))
    rates = [optimizer.param_groups[0]["lr"]]
    schedule.step()
    rates.append(optimizer.param_groups[0]["lr"])
    schedule.step(3)
    rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0, 0.25, 0.75] and schedule.get_lr() == 0.75


def test_what_cannot_be() -> None:
    with pytest.raises(UserError, match="exclude each other"):
        ScheduleOptions(lr_use_linear_decay=True, lr_use_cosine_decay=True)
    with pytest.raises(UserError, match="lr_decay"):
        ScheduleOptions(lr_decay=0.0)
