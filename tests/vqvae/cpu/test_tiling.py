"""Tiled encoders and decoders against the plain modules, values and gradients, at every awkward size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from jukebox.vqvae.config import ConvConfig
from jukebox.vqvae.cpu import layers, tiling
from jukebox.vqvae.cpu.tiling import TiledDecoder, TiledDecoderConvBlock, TiledEncoder
from jukebox.vqvae.resnet import Resnet1D

# items, samples, stride, down, depth, growth, cycle, m_conv. The last dilations reach far beyond the shortest inputs.
SIZES = [
    (1, 64, 2, 2, 4, 3, None, 1.0),
    (3, 100, 2, 3, 6, 3, None, 1.0),
    (2, 37, 2, 1, 3, 3, 2, 1.5),
    (2, 130, 4, 2, 5, 3, None, 0.5),
    (5, 33, 6, 1, 2, 2, None, 1.0),
    (2, 9, 2, 2, 3, 3, None, 1.0),
    (1, 8, 2, 2, 0, 1, None, 1.0),
]


@pytest.fixture(params=[16, 500, 2**18])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiles of a position or two, of some, and of everything."""
    monkeypatch.setattr(layers, "TILE_ELEMENTS", request.param)
    monkeypatch.setattr(tiling, "TOGETHER_ELEMENTS", 8 * request.param)
    return request.param


def modules(size: tuple) -> list[tuple[nn.Module, Tensor]]:
    items, samples, stride, down, depth, growth, cycle, m_conv = size
    torch.manual_seed(samples)
    config = ConvConfig(6, depth, m_conv, growth, cycle)
    upsampler = TiledDecoderConvBlock(5, 7, down, stride, replace(config, res_scale=True, blocks_name="blocks"))
    encoder = TiledEncoder(2, 5, [(down, stride), (1, 2)], config)
    decoder = TiledDecoder(2, 5, [(down, stride), (1, 2)], replace(config, reverse_decoder_dilation=True))
    latent = torch.randn(items, 5, 7)
    return [(encoder, torch.randn(items, 2, samples)), (decoder, latent), (upsampler, latent)]


def run(module: nn.Module, x: Tensor) -> Tensor:
    return module.latent(x) if isinstance(module, TiledEncoder) else module(x)


def with_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradient of the input and of every parameter for a loss that weighs each output differently."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = run(module, x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients_equal_those_of_the_plain_modules(size: tuple, tile: int) -> None:
    for module, x in modules(size):
        module, x = module.double(), x.double()
        with torch.no_grad():
            fast = run(module, x)
        fast_gradients = with_gradients(module, x)
        with tiling.disabled():
            slow = with_gradients(module, x)
        torch.testing.assert_close(fast, slow[0], rtol=1e-10, atol=1e-10)
        for a, b in zip(fast_gradients, slow, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_float32_agrees_to_rounding() -> None:
    for module, x in modules((2, 4096, 2, 3, 4, 3, None, 1.0)):
        fast = with_gradients(module, x)
        with tiling.disabled():
            slow = with_gradients(module, x)
        for a, b in zip(fast, slow, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


def test_the_input_is_left_alone() -> None:
    for module, x in modules(SIZES[1]):
        before = x.clone()
        with torch.no_grad():
            run(module, x)
        assert torch.equal(x, before)


def test_gradients_of_frozen_parameters_and_inputs_are_not_made() -> None:
    (module, x), *_ = modules(SIZES[0])
    frozen = next(module.parameters())
    frozen.requires_grad_(False)
    run(module, x).sum().backward()
    assert frozen.grad is None
    assert all(p.grad is not None for p in module.parameters() if p is not frozen)


def ran_plainly(module: nn.Module, x: Tensor) -> bool:
    """Whether the plain residual stacks ran: only they call `Resnet1D.forward`."""
    calls: list[int] = []
    stack = next(m for m in module.modules() if isinstance(m, Resnet1D))
    hook = stack.register_forward_hook(lambda *_: calls.append(1))
    run(module, x)
    hook.remove()
    return bool(calls)


def test_the_switch_and_the_inputs_that_take_the_plain_path() -> None:
    for module, x in modules(SIZES[0]):
        assert not ran_plainly(module, x)
        with torch.no_grad():
            assert not ran_plainly(module, x)
        with tiling.disabled():
            assert ran_plainly(module, x)
        with torch.autocast("cpu"):
            assert ran_plainly(module, x)
        assert not ran_plainly(module, x)
        assert ran_plainly(module.to(torch.bfloat16), x.to(torch.bfloat16))


def test_frozen_modules_keep_nothing_for_a_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no user switched gradients off: they run in place, as without gradients."""
    monkeypatch.setattr(tiling, "gradients", None)
    for module, x in modules(SIZES[0]):
        module.requires_grad_(False)
        with torch.no_grad():
            expected = run(module, x)
        assert torch.equal(run(module, x), expected)
        with pytest.raises(AttributeError):
            run(module, x.clone().requires_grad_())


def test_recomputation_takes_the_plain_path_only_where_gradients_are_needed() -> None:
    module = TiledDecoderConvBlock(5, 7, 1, 2, ConvConfig(4, 2, checkpoint_res=True))
    x = torch.randn(1, 5, 9)
    assert ran_plainly(module, x)
    with torch.no_grad():
        assert not ran_plainly(module, x)
