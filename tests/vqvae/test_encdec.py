"""Shapes, dilations, names and messages of the residual stack, encoders and decoders."""

from __future__ import annotations

import math

import pytest
import torch

from jukebox.utils.errors import UserError
from jukebox.vqvae.config import ConvConfig
from jukebox.vqvae.encdec import Decoder, DecoderConvBlock, Encoder, EncoderConvBlock
from jukebox.vqvae.resnet import Resnet1D


def test_stages_change_the_length_by_stride_to_the_power_of_down() -> None:
    encoder = EncoderConvBlock(1, 6, 2, 4, ConvConfig(width=5, depth=1))
    decoder = DecoderConvBlock(6, 3, 2, 4, ConvConfig(width=5, depth=1))
    x = torch.randn(2, 1, 64)
    assert encoder(x).shape == (2, 6, 4)
    assert decoder(encoder(x)).shape == (2, 3, 64)
    assert encoder(torch.randn(2, 1, 79)).shape == (2, 6, 4)  # 79 // 4 // 4: what no window covers is dropped


def test_levels_stack_stages() -> None:
    config = ConvConfig(width=4, depth=1)
    x = torch.randn(1, 2, 48)
    *_, latent = Encoder(2, 5, [(1, 2), (1, 6), (2, 2)], config)(x)
    assert latent.shape == (1, 5, 1)
    assert Decoder(2, 5, [(1, 2), (1, 6), (2, 2)], config)(latent).shape == x.shape


@pytest.mark.parametrize("down, stride", [(1, 1), (2, 3), (0, 2), (1, 0)])
@pytest.mark.parametrize("block", [EncoderConvBlock, DecoderConvBlock])
def test_stages_that_cannot_keep_the_length_are_refused(block: type, down: int, stride: int) -> None:
    with pytest.raises(UserError, match="strides_t|downs_t"):
        block(1, 4, down, stride, ConvConfig(width=4, depth=1))


def test_dilations_grow_cycle_and_are_reversed_last() -> None:
    def dilations(cycle: int | None = None, reverse: bool = False) -> list[int]:
        stack = Resnet1D(ConvConfig(4, 5, dilation_growth_rate=3, dilation_cycle=cycle), reverse)
        return [block.dilation for block in stack.residual_blocks]

    assert dilations() == [1, 3, 9, 27, 81]
    assert dilations(2) == [1, 3, 1, 3, 1]
    assert dilations(reverse=True) == [81, 27, 9, 3, 1]
    assert dilations(3, reverse=True) == [3, 1, 9, 3, 1]
    stack = Resnet1D(ConvConfig(4, 3, dilation_growth_rate=3))
    convs = [m for m in stack.modules() if isinstance(m, torch.nn.Conv1d) and m.kernel_size == (3,)]
    assert [(conv.dilation, conv.padding) for conv in convs] == [((d,), (d,)) for d in (1, 3, 9)]


def test_residual_stack_is_the_sum_of_scaled_branches() -> None:
    stack = Resnet1D(ConvConfig(4, 3, 2.0, 2, res_scale=True))
    x = torch.randn(2, 4, 20)
    expected = x
    for block in stack.residual_blocks:
        expected = expected + block.model(expected) / math.sqrt(3)
    torch.testing.assert_close(stack(x), expected)
    assert stack.residual_blocks[0].tensors()[0].shape == (8, 4, 3)


def test_zero_out_starts_as_the_identity() -> None:
    x = torch.randn(1, 4, 9)
    torch.testing.assert_close(Resnet1D(ConvConfig(4, 3, zero_out=True))(x), x)
    assert not torch.equal(Resnet1D(ConvConfig(4, 3))(x), x)


def test_recomputation_changes_neither_names_nor_gradients() -> None:
    torch.manual_seed(0)
    stacks = [Resnet1D(ConvConfig(4, 3, 1.0, 3, checkpoint_res=flag)) for flag in (False, True)]
    stacks[1].load_state_dict(stacks[0].state_dict())
    x = torch.randn(2, 4, 30)
    grads = []
    for stack in stacks:
        y = x.clone().requires_grad_()
        stack(y).square().sum().backward()
        grads.append([y.grad, *(p.grad for p in stack.parameters())])
    assert list(stacks[0].state_dict()) == list(stacks[1].state_dict())
    for plain, recomputed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_conditioner_recomputes_in_the_backward_pass() -> None:
    """With the flag set, each block runs a second time when gradients are asked for."""
    block = DecoderConvBlock(3, 3, 1, 2, ConvConfig(4, 2, checkpoint_res=True, blocks_name="blocks"))
    calls = []
    for residual in block.stages[0][0].residual_blocks:
        residual.register_forward_pre_hook(lambda *_: calls.append(1))
    loss = block(torch.randn(1, 3, 8)).sum()
    assert len(calls) == 2
    loss.backward()
    assert len(calls) == 4


@pytest.mark.parametrize("saved, wanted", [("model", "blocks"), ("blocks", "model"), ("blocks", "blocks")])
def test_both_names_of_the_residual_list_load(saved: str, wanted: str) -> None:
    source, target = (DecoderConvBlock(3, 5, 2, 2, ConvConfig(4, 2, blocks_name=name)) for name in (saved, wanted))
    assert f"model.1.0.{saved}.0.model.1.weight" in source.state_dict()
    target.load_state_dict(source.state_dict(), strict=True)
    assert f"model.1.0.{wanted}.0.model.1.weight" in target.state_dict()
    x = torch.randn(1, 3, 7)
    torch.testing.assert_close(target(x), source(x))


def test_an_unknown_key_of_a_residual_stack_is_still_reported() -> None:
    stack = Resnet1D(ConvConfig(4, 1))
    state = {**stack.state_dict(), "blocks.7.model.1.weight": torch.zeros(1)}
    with pytest.raises(RuntimeError, match="model.7"):
        stack.load_state_dict(state)


def test_plain_modules_see_zeros_beyond_both_ends() -> None:
    """Audio padded with silence by hand gives the same inner latents: there is no other padding than zeros."""
    encoder = EncoderConvBlock(1, 4, 1, 2, ConvConfig(width=4, depth=2, dilation_growth_rate=3))
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    x = torch.randn(1, 1, 40)
    inner = encoder(torch.nn.functional.pad(x, (40, 40)))[:, :, 20:40]
    torch.testing.assert_close(encoder(x)[:, :, 6:-6], inner[:, :, 6:-6])


def test_a_config_is_frozen_and_knows_its_names() -> None:
    config = ConvConfig.of(ConvConfig(4, 2), m_conv=2.0)
    assert config == ConvConfig(4, 2, 2.0) and config.scaled(3) == ConvConfig(12, 6, 2.0)
    with pytest.raises(AttributeError):
        config.width = 5  # type: ignore[misc]
    with pytest.raises(TypeError, match="dept"):
        ConvConfig.of(dept=2)
    with pytest.raises(ValueError, match="blocks_name='layers'"):
        ConvConfig(blocks_name="layers")
