"""What feature extractors do with a prior: activations of the whole model, layers one by one, steps by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from jukebox.prior.autoregressive import ConditionalAutoregressive2D, PositionEmbedding
from jukebox.prior.conditioners import SimpleEmbedding

N, L, D, BINS = 2, 32, 16, 11


def make(attn_order: int = 2, depth: int = 4, **more: int) -> ConditionalAutoregressive2D:
    torch.manual_seed(0)
    return ConditionalAutoregressive2D(
        (L,), BINS, width=D, depth=depth, heads=2, blocks=4, attn_order=attn_order, init_scale=5.0, x_cond=True,
        y_cond=True, **more,
    ).eval()  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


X = torch.randint(BINS, (N, L), generator=torch.Generator().manual_seed(1))
X_COND = torch.randn(N, L, D, generator=torch.Generator().manual_seed(2))
Y_COND = torch.randn(N, 1, D, generator=torch.Generator().manual_seed(3))


def shifted(model: ConditionalAutoregressive2D, x: Tensor) -> Tensor:
    """The input of the transformer, put together outside of the package."""
    n = x.shape[1]
    h = torch.roll(model.x_emb(x), 1, dims=1)
    h[:, 0] = Y_COND.view(N, model.width)
    return model.x_emb_dropout(h) + model.pos_emb_dropout(model.pos_emb())[:n] + X_COND[:, :n]


def test_only_encode_set_from_outside_gives_activations() -> None:
    model = make()
    expected = model(X, x_cond=X_COND, y_cond=Y_COND).acts
    model.only_encode = True
    acts = model.forward(X, x_cond=X_COND, y_cond=Y_COND, encoder_kv=None, fp16=False)
    assert acts.shape == (N, L, D) and torch.equal(acts, expected)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_layers_that_are_cut_off_from_outside_do_not_run(cut: int) -> None:
    """As extractors do it: fewer modules in the list, and the activations of the whole model are those of a layer."""
    model = make()
    (_, expected), *_ = model.layer_outputs(X, [cut], X_COND, Y_COND)
    model.transformer._attn_mods = model.transformer._attn_mods[:cut]
    model.only_encode = True
    model.add_cond_after_transformer = False
    assert torch.equal(model.forward(X, x_cond=X_COND, y_cond=Y_COND), expected)


@pytest.mark.parametrize("length", [L, 19])
@pytest.mark.parametrize("attn_order", [0, 2, 10])
def test_a_walk_over_the_layers_is_the_plain_pass(length: int, attn_order: int) -> None:
    model = make(attn_order)
    x = model.preprocess(X[:, :length].int())
    assert x.dtype == torch.long and x.shape == (N, length)
    expected = dict(model.layer_outputs(x, range(1, 5), X_COND[:, :length], Y_COND))
    for walk in range(2):  # a second song, with what the first has left
        h = shifted(model, x)
        for i, layer in enumerate(model.transformer._attn_mods, 1):
            h = layer(h, encoder_kv=None, sample=True)
            if walk == 0 or length < L:  # a whole context begins again by itself
                layer.attn.del_cache()
            torch.testing.assert_close(h, expected[i])


@pytest.mark.parametrize("attn_order", [0, 2, 10])
def test_steps_by_hand_are_the_plain_pass(attn_order: int) -> None:
    model = make(attn_order)
    expected = model.transformer(shifted(model, X))
    transformer = model.transformer
    for _ in range(2):
        transformer.check_cache(N, 0, False)
        steps = [transformer(shifted(model, X)[:, :5], sample=True)]
        for t in range(5, L):
            transformer.check_cache(N, t, False)
            x, cond = model.get_emb(t, N, X[:, t - 1 : t], X_COND, Y_COND)
            assert x.shape == (N, 1, D) and torch.equal(cond, X_COND[:, t : t + 1])
            steps.append(transformer(x, sample=True))
        torch.testing.assert_close(torch.cat(steps, dim=1), expected)
        with pytest.raises(ValueError, match="has seen"):
            transformer.check_cache(N, 0, False)
        transformer.del_cache()


def test_the_first_position_holds_the_labels() -> None:
    model = make()
    x, cond = model.get_emb(0, N, None, None, Y_COND)
    torch.testing.assert_close(x, Y_COND + model.pos_emb()[0])
    assert cond.shape == (N, 1, D) and not cond.any()


def test_embeddings_by_their_old_names() -> None:
    assert PositionEmbedding(input_shape=256, width=8)().shape == (256, 8)
    assert PositionEmbedding(input_shape=(16,), width=8, pos_init=True)().shape == (16, 8)
    embedding = SimpleEmbedding(7, 8, 1.0)
    assert embedding(torch.tensor([[0], [6]])).shape == (2, 1, 8)


def test_filter_logits_is_with_the_small_parts_of_the_transformer() -> None:
    from jukebox.transformer.ops import filter_logits

    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert filter_logits(logits, top_k=2).isinf().tolist() == [[True, False, False]]
    assert filter_logits(logits, top_p=0.1).isinf().tolist() == [[True, False, True]]
