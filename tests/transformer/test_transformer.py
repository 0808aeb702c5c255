"""Stacks of layers: one path equals the other, with recomputation, caches, chunks and single tokens."""

from __future__ import annotations

import pytest
import torch

from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.token_step import TokenStep
from jukebox.transformer.transformer import Transformer


def build(order: int, **kwargs: object) -> Transformer:
    """A small stack with random values everywhere, so that no path can hide behind a zero."""
    torch.manual_seed(order)
    defaults = dict(width=16, n_ctx=24, heads=2, depth=18 if order in (7, 11, 12) else 8, blocks=4)
    if order == 4:
        defaults["spread"] = 2
    if order in (6, 7, 8, 10, 11):
        defaults["encoder_dims"] = 5
    if order == 12:
        defaults["prime_len"] = 6
    model = Transformer(TransformerConfig(**{**defaults, "attn_order": order, **kwargs}))  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def encoder(order: int) -> torch.Tensor | None:
    return torch.randn(2, 5, 16) if order in (6, 7, 8, 10, 11) else None


@pytest.mark.parametrize("order", range(13))
@pytest.mark.parametrize("res_scale", [False, True])
def test_token_step_equals_the_whole_sequence(order: int, res_scale: bool) -> None:
    model, kv = build(order, res_scale=res_scale), encoder(order)
    x = torch.randn(2, 24, 16)
    with torch.no_grad():
        want = model(x, kv)
        caches = model.new_caches(2, torch.float32, "cpu")
        if kv is not None:
            for layer, cache in zip(model.layers, caches, strict=True):
                if layer.attn.is_cross:
                    cache.fill(*layer.attn.encoder_keys(kv))
        step = TokenStep(model, caches, torch.float32)
        got = torch.stack([step(x[:, i]) for i in range(24)], dim=1)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", [2, 5, 6, 12])
@pytest.mark.parametrize("prefix", [1, 6, 13, 23])
def test_steps_after_a_prefill(order: int, prefix: int) -> None:
    model, kv = build(order), encoder(order)
    x = torch.randn(2, 24, 16)
    with torch.no_grad():
        want = model(x, kv)
        caches = model.new_caches(2, torch.float32, "cpu")
        got = [model(x[:, :prefix], kv, caches)]
        step = TokenStep(model, caches, torch.float32)
        got += [step(x[:, i])[:, None] for i in range(prefix, 24)]
    torch.testing.assert_close(torch.cat(got, dim=1), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_token_step_in_half_follows_float(dtype: torch.dtype) -> None:
    model = build(2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 24, 16)
    with torch.no_grad():
        want = model(x)
        step = TokenStep(model, model.new_caches(2, dtype, "cpu"), dtype)
        got = torch.stack([step(x[:, i]) for i in range(24)], dim=1)
    assert got.dtype == torch.float32
    assert ((got - want).norm() / want.norm()).item() < 0.02


@pytest.mark.parametrize("flag", ["checkpoint_res", "checkpoint_attn", "checkpoint_mlp"])
def test_recomputation_changes_neither_names_nor_numbers(flag: str) -> None:
    plain, again = build(2).train(), build(2, **{flag: 1}).train()
    again.load_state_dict(plain.state_dict())
    x = torch.randn(2, 24, 16)
    for model in (plain, again):
        model(x).square().sum().backward()
    assert list(plain.state_dict()) == list(again.state_dict())
    for (name, a), (_, b) in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_recomputation_keeps_less() -> None:
    """Tensors saved for the backward pass: with recomputation about one per layer."""

    def saved(model: Transformer) -> int:
        count = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal count
            count += tensor.numel() if tensor.dim() == 3 else 0
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(2, 24, 16, requires_grad=True))
        return count

    assert saved(build(2, checkpoint_res=1).train()) < 0.4 * saved(build(2).train())


def test_dropout_acts_in_training_alone() -> None:
    model = build(2, attn_dropout=0.5, resid_dropout=0.5)
    x = torch.randn(2, 24, 16)
    torch.testing.assert_close(model(x), model(x))
    model.train()
    assert not torch.allclose(model(x), model(x))


def test_lyric_layers_start_as_the_identity() -> None:
    torch.manual_seed(0)
    model = Transformer(TransformerConfig(24, 16, 4, 2, attn_order=6, blocks=4, encoder_dims=5))
    layer = model.layers[3]
    x, kv = torch.randn(2, 24, 16), torch.randn(2, 5, 16)
    torch.testing.assert_close(layer(x, kv), x)


def test_caches_are_sized_by_the_pattern() -> None:
    model = build(2, depth=3)
    sizes = [cache.k.shape[2] for cache in model.new_caches(1, torch.float32, "cpu")]
    assert sizes == [6, 24, 12]  # one block, all, two blocks


def test_heads_must_divide_the_state() -> None:
    with pytest.raises(ValueError, match="3 heads do not divide"):
        TransformerConfig(24, 16, 2, 3)


def test_recording_a_layer_without_lyrics_is_refused() -> None:
    with pytest.raises(ValueError, match="does not map lyrics"):
        build(2)(torch.randn(1, 24, 16), record={0})
