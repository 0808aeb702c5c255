"""The loss scale, the gradient norm and clipping."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jukebox.training.scaler import LossScaler, clip_scale, gradient_norm, is_fit, make_scaler


def test_an_adaptive_scale_doubles_in_a_window_and_halves_at_once() -> None:
    scaler = make_scaler(True, None, window=10)
    start = scaler.scale
    for _ in range(10):
        scaler.update(False)
    assert scaler.scale == pytest.approx(2 * start)
    scaler.update(True)
    assert scaler.scale == pytest.approx(start)


def test_a_fixed_scale_and_no_scale() -> None:
    for scaler, scale in ((make_scaler(True, 128.0, 10), 128.0), (make_scaler(False, None, 10), 1.0)):
        for overflow in (True, False, True):
            scaler.update(overflow)
        assert scaler.scale == scale


def test_it_goes_on_where_it_was() -> None:
    one = LossScaler(factor=2.0, window=3)
    for overflow in (False, True, False, False):
        one.update(overflow)
    two = LossScaler(factor=2.0, window=3)
    two.load_state_dict(one.state_dict())
    for scaler in (one, two):
        scaler.update(False)
    assert (one.scale, one.good_steps) == (two.scale, two.good_steps) == (2.0**16, 0)
    fixed = LossScaler(scale=8.0)
    fixed.load_state_dict(one.state_dict())
    assert fixed.scale == 8.0
    with pytest.raises(TypeError):  # of a damaged checkpoint, whatever the scale of this run
        fixed.load_state_dict({"scale": [8.0], "good_steps": 3})


def test_the_norm_of_mixed_gradients_is_taken_in_float32() -> None:
    params = [nn.Parameter(torch.zeros(1000).half()), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    params[0].grad = torch.full((1000,), 3000.0).half()  # its square is not a half number
    params[1].grad = torch.tensor([1.0, 2.0, 3.0]) * 1e4
    expected = math.sqrt(1000 * 3000.0**2 + 14e8)
    assert gradient_norm(params, 4.0) == pytest.approx(expected / 4, rel=1e-6)
    assert gradient_norm(params[2:]) == 0.0
    params[2].grad = torch.tensor([0.0, math.nan])
    assert math.isnan(gradient_norm(params)) and not is_fit(gradient_norm(params))
    params[2].grad = torch.tensor([0.0, math.inf])
    assert gradient_norm(params) == math.inf


def test_clipping() -> None:
    assert clip_scale(0.5, 1.0, 8.0) == 8.0
    assert clip_scale(4.0, 1.0, 8.0) == 32.0
    assert clip_scale(4.0, 0.0, 8.0) == 8.0
    assert is_fit(4.0) and is_fit(4.0, 5.0) and not is_fit(4.0, 3.0)
