"""Whole priors: sampling in any split gives the same tokens, noise decides them, conditioning reaches them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.make_models import build_prior, choose_guided_head, half_matrices, make_vqvae, transformer_config
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.conditioners import Conditioner
from jukebox.prior.prior import SimplePrior
from jukebox.utils.errors import UserError
from jukebox.utils.label_row import SIGNALS, LabelRow, Signal

VQVAE = dict(levels=2, downs_t=[1, 1], strides_t=[2, 2], l_bins=16, emb_width=4, width=4, depth=1, sample_length=64)
PRIOR = dict(n_ctx=16, prior_width=16, prior_depth=4, attn_order=2, blocks=4, cond_width=8, cond_depth=2, sr=100)
LABELS = dict(
    labels=True, labels_v3=True, y_bins=[4, 5], max_bow_genre_size=1, min_duration=0.1, max_duration=100.0, t_bins=8
)


def build(**kwargs: Any) -> tuple[SimplePrior, Hyperparams]:
    """A prior whose parameters are all random, so that every path matters."""
    torch.manual_seed(0)
    hps = setup_hparams("", dict(VQVAE, **{**PRIOR, "labels": False, **kwargs}))
    prior = build_prior(hps, make_vqvae(hps, "cpu"))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return prior.eval(), hps


KINDS: dict[str, dict[str, Any]] = {
    "top": dict(level=1),
    "upsampler": dict(level=0),
    "labelled": dict(LABELS, level=1),
    "labelled upsampler": dict(LABELS, level=0),
    "single": dict(LABELS, level=1, single_enc_dec=True, use_tokens=True, n_tokens=8, n_vocab=7, attn_order=12,
                   prior_depth=16),
    "separate": dict(LABELS, level=1, use_tokens=True, n_tokens=8, n_vocab=7, attn_order=6, prime_width=8, heads=2),
}  # fmt: skip


def conditioning(prior: SimplePrior, n: int) -> dict[str, Any]:
    y = None
    if prior.y_cond:
        lyrics = torch.randint(0, 7, (n, prior.n_tokens))
        y = torch.cat([torch.tensor([[3000, 500, prior.sample_length, 3, 2]]).repeat(n, 1), lyrics], dim=1)
    ratio = prior.cond_downsample
    return dict(y=y, z_conds=[torch.randint(0, 16, (n, prior.n_ctx // ratio))] if ratio else [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 0])
def test_sampling_does_not_depend_on_chunks_or_batches(kind: str, top_k: int) -> None:
    prior, _ = build(**KINDS[kind])
    torch.manual_seed(1)
    cond, noise = conditioning(prior, 3), torch.rand(3, 16)
    z = torch.randint(0, 16, (3, 7))
    whole = prior.sample(3, z, **cond, top_k=top_k, noise=noise)
    assert torch.equal(whole[:, :7], z)
    for chunk_size in (1, 3):
        assert torch.equal(prior.sample(3, z, **cond, top_k=top_k, noise=noise, chunk_size=chunk_size), whole)
    for i in range(3):
        row = dict(
            y=None if cond["y"] is None else cond["y"][i : i + 1], z_conds=[c[i : i + 1] for c in cond["z_conds"]]
        )
        alone = prior.sample(1, z[i : i + 1], **row, top_k=top_k, noise=noise[i : i + 1])
        assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_in_two_parts_equals_one(kind: str) -> None:
    prior, _ = build(**KINDS[kind])
    cond, noise = conditioning(prior, 2), torch.rand(2, 16)
    counted: list[int] = []
    whole = prior.sample(2, **cond, noise=noise, progress=counted.append)
    assert sum(counted) == 32
    first = prior.sample(2, **cond, noise=noise, sample_tokens=9)
    assert torch.equal(first, whole[:, :9])
    counted.clear()
    assert torch.equal(prior.sample(2, first, **cond, noise=noise, progress=counted.append), whole)
    assert sum(counted) == 2 * 7, "drawn codes only: no given ones and no lyrics"


@pytest.mark.parametrize("kind", ["single", "separate"])
def test_everything_runs_in_the_type_that_is_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of decoder and lyric encoder alike; weights of that type are not cast at every call."""
    prior, _ = build(**KINDS[kind])
    half_matrices(prior, torch.bfloat16)
    encoder = prior.prime_prior.transformer.layers if kind == "separate" else []
    layers = [*prior.prior.transformer.layers, *encoder]
    inputs: set[tuple[torch.dtype, torch.dtype]] = set()
    for layer in layers:
        for dense in (layer.attn.c_attn, layer.attn.c_proj, layer.mlp.c_fc, layer.mlp.c_proj):
            dense.register_forward_pre_hook(lambda module, args: inputs.add((args[0].dtype, module.w.dtype)))
    cond, z = conditioning(prior, 2), torch.randint(0, 16, (2, 16))
    for run in (
        lambda: prior.z_forward(z, [], cond["y"], dtype=torch.bfloat16),
        lambda: prior.z_forward(z, [], cond["y"], get_attn_weights=True, dtype=torch.bfloat16),
        lambda: prior.sample(2, z[:, :7], **cond, dtype=torch.bfloat16),
    ):
        inputs.clear()
        run()
        assert inputs == {(torch.bfloat16, torch.bfloat16)}


def test_noise_decides_and_generator_is_used_without_it() -> None:
    prior, _ = build(level=1)
    assert not torch.equal(prior.sample(2, noise=torch.rand(2, 16)), prior.sample(2, noise=torch.rand(2, 16)))
    torch.manual_seed(7)
    first = prior.sample(2)
    torch.manual_seed(7)
    assert torch.equal(prior.sample(2), first)


def test_samples_follow_the_model() -> None:
    """The share of each first code in many draws is the probability that the loss path gives it."""
    prior, _ = build(level=1)
    torch.manual_seed(0)
    n = 4000
    first = prior.sample(n, sample_tokens=1)[:, 0]
    _, metrics = prior.z_forward(torch.zeros(1, 16, dtype=torch.long), get_preds=True)  # type: ignore[misc]
    want = metrics["preds"][0, 0].softmax(-1)
    torch.testing.assert_close(torch.bincount(first, minlength=16) / n, want, atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["labelled", "single", "separate", "labelled upsampler"])
def test_every_label_reaches_the_logits(kind: str) -> None:
    prior, _ = build(**KINDS[kind])
    cond, z = conditioning(prior, 1), torch.randint(0, 16, (1, 16))

    def preds(y: torch.Tensor) -> torch.Tensor:
        return prior.z_forward(z, cond["z_conds"], y, get_preds=True)[1]["preds"][:, -1]  # type: ignore[index]

    base = preds(cond["y"])
    columns = [3, 4] if prior.x_cond else [0, 1, 3, 4, 5, 11]  # the encoder never reads its last character
    for column in [c for c in columns if c < cond["y"].shape[1]]:
        y = cond["y"].clone()
        y[0, column] = {0: 6000, 1: 1500, 3: 1, 4: 1}.get(column, (y[0, column] + 1) % 7)
        assert not torch.allclose(preds(y), base), f"column {column}"


def test_nothing_leaks_from_the_future() -> None:
    for kind in KINDS:
        prior, _ = build(**KINDS[kind])
        cond, z = conditioning(prior, 1), torch.randint(0, 16, (1, 16))
        other = z.clone()
        other[0, 9:] = (other[0, 9:] + 1) % 16
        preds = [
            prior.z_forward(codes, cond["z_conds"], cond["y"], get_preds=True)[1]["preds"]  # type: ignore[index]
            for codes in (z, other)
        ]
        first = 10 + (prior.n_tokens if prior.single_enc_dec else 0)
        torch.testing.assert_close(preds[0][:, :first], preds[1][:, :first], atol=1e-5, rtol=0)


def test_windows_of_the_level_above() -> None:
    prior, _ = build(level=0)
    zs = [torch.zeros(1, 0), torch.arange(32)[None]]
    assert prior.get_z_conds(zs, 16, 32)[0].tolist() == [list(range(8, 16))]  # type: ignore[index]
    for start, end, message in ((1, 17, "begin and end"), (56, 72, "a window needs 8")):
        with pytest.raises(ValueError, match=message):
            prior.get_z_conds(zs, start, end)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(level=2), "levels 0 to 1"),
        (dict(blocks=5, level=1), "not a multiple of blocks=5"),
        (dict(LABELS, level=1, y_bins=0), "number of genres"),
        (dict(LABELS, level=1, min_duration=None), "timing labels need both"),
        (dict(level=1, single_enc_dec=True), "needs --labels"),
        (dict(level=1, use_tokens=True, n_tokens=4), "needs --labels"),
        (dict(level=1, copy_input=True), "copy_input"),
    ],
)
def test_what_cannot_be_built_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**kwargs)


def test_song_lengths_outside_the_timing_labels_are_named_in_seconds() -> None:
    prior, _ = build(**KINDS["labelled"])
    y = torch.tensor([[20000, 0, 64, 1, 1]])
    with pytest.raises(UserError, match="200 s from 0 s.*just under 100 s"):
        prior.get_cond([], y)


def test_ids_outside_the_tables_are_refused() -> None:
    prior, _ = build(**KINDS["labelled"])
    with pytest.raises(UserError, match="knows ids 0 to 4"):
        prior.get_cond([], torch.tensor([[3000, 0, 64, 9, 1]]))


def test_a_signal_adds_its_vector_and_no_other_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNALS, "mood", Signal("a mood", 3, ["calm", "merry", "wild"].index))
    plain, _ = build(**KINDS["separate"])
    prior, _ = build(**KINDS["separate"], signals="mood")
    new = {name: weight for name, weight in prior.state_dict().items() if name not in plain.state_dict()}
    assert list(new) == ["y_emb.signal_embs.mood.emb.weight"]
    prior.load_state_dict({**plain.state_dict(), **new})
    y = conditioning(plain, 2)["y"]
    row = LabelRow(1, 8, "mood")
    with_mood = torch.cat([y[:, :5], torch.tensor([[-1], [2]]), y[:, 5:]], dim=1)
    assert row.size == with_mood.shape[1] and with_mood[:, row.signal("mood")].tolist() == [[-1], [2]]
    want, got = plain.get_cond([], y), prior.get_cond([], with_mood)
    torch.testing.assert_close(got[1], want[1] + torch.stack([torch.zeros(1, 16), new[list(new)[0]][2:]]))  # type: ignore[operator]
    assert torch.equal(got[2], y[:, 5:])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="14 columns, this prior reads 5 . 8"):
        plain.get_cond([], with_mood)


@pytest.mark.parametrize("kind", ["single", "separate"])
def test_guided_alignment_teaches_the_named_head(kind: str) -> None:
    """A few steps on only the guided term move that head's attention to the characters being sung."""
    prior, hps = build(**KINDS[kind], align_loss=5.0)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert choose_guided_head(hps)["alignment_shift"] == 1
    torch.manual_seed(0)
    cond, z = conditioning(prior, 2), torch.randint(0, 16, (2, 16))
    per_code = prior.raw_to_tokens
    starts = torch.arange(8) * 2 * per_code  # every character lasts two codes
    times = torch.stack([starts, starts + 2 * per_code], dim=-1).repeat(2, 1, 1)
    layer, head = prior.alignment_layer, prior.alignment_head
    assert layer is not None

    def attention() -> torch.Tensor:
        with torch.no_grad():
            weights = prior.z_forward(z, (), cond["y"], get_attn_weights={layer})[0][:, head]
        return torch.stack([weights[:, t, t // 2 + 1] for t in range(14)]).mean()

    before = attention()
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    for _ in range(120):
        optimizer.zero_grad()
        _, metrics = result = prior.z_forward(z, (), cond["y"], times=times)
        assert "align_loss" in metrics
        result[0].backward()
        optimizer.step()
    assert before < 0.3
    assert attention() > 0.7


def test_guided_alignment_ignores_what_has_no_times() -> None:
    from jukebox.prior.lyrics import guided_alignment_loss

    weights = torch.rand(1, 6, 4, requires_grad=True)
    assert guided_alignment_loss(weights, torch.zeros(1, 4, 2), 8).item() == 0.0
    times = torch.tensor([[[8, 24], [0, 0], [24, 32], [40, 48]]])  # the last one has no column that knows it
    want = -(weights[0, 1, 1].log() + weights[0, 2, 1].log() + weights[0, 3, 3].log()) / 3
    torch.testing.assert_close(guided_alignment_loss(weights, times, 8), want)


def test_a_guided_head_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="needs a layer"):
        build(**KINDS["labelled"], align_loss=1.0)
    with pytest.raises(UserError, match="attend to lyrics are 3, heads 0 to 1"):
        build(**KINDS["separate"], align_loss=1.0, alignment_layer=2)


def test_keywords_that_nobody_knows_are_named() -> None:
    prior, _ = build(level=1)
    parts = dict(x_cond_kwargs={}, y_cond_kwargs={})
    lyrics = dict(use_tokens=False, prime_loss_fraction=0.0, n_tokens=0)
    with pytest.raises(TypeError, match="'heds'"):
        ConditionalAutoregressive2D((8,), 4, width=8, heds=2)
    with pytest.raises(TypeError, match="'labeler'"):
        SimplePrior([(8,)], 4, 0, [1], [2], False, {}, **parts, prime_kwargs=lyrics, labeler=None)
    with pytest.raises(TypeError, match="'widht'"):
        SimplePrior([(8,)], 4, 0, [1], [2], False, dict(widht=8), **parts, prime_kwargs=lyrics)
    with pytest.raises(TypeError, match="'dept'"):
        Conditioner((4,), 4, 1, 2, 8, dept=2)


def test_a_shape_is_frozen_and_handed_down_whole() -> None:
    prior, hps = build(level=1)
    config = prior.prior.transformer.config
    assert config == transformer_config(hps, 16) and config.kinds == [1, 2, 3, 1]
    with pytest.raises(FrozenInstanceError):
        config.width = 4  # type: ignore[misc]
