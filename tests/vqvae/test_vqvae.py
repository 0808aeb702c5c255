"""The whole VQ-VAE: what runs for which level, the training loss, names, messages, resuming."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.utils.errors import UserError
from jukebox.vqvae import losses
from jukebox.vqvae.vqvae import VQVAE, calculate_strides


def build(samples: int = 2048, **changes: Any) -> VQVAE:
    arguments: dict[str, Any] = dict(
        input_shape=(samples, 1),
        levels=3,
        downs_t=[2, 1, 1],
        strides_t=[2, 4, 2],
        emb_width=6,
        l_bins=10,
        mu=0.9,
        commit=0.25,
        spectral=0.5,
        multispectral=2.0,
        multipliers=[2, 1, 1],
        width=4,
        depth=2,
        m_conv=1.0,
        dilation_growth_rate=3,
        reverse_decoder_dilation=True,
    )
    torch.manual_seed(0)
    return VQVAE(**{**arguments, **changes})


def trained(**changes: Any) -> VQVAE:
    """A model whose codebooks were started from noise."""
    model = build(**changes).train()
    model(torch.randn(2, 2048, 1), hparams(), "l2")
    return model.eval()


def hparams(**changes: Any) -> Hyperparams:
    hps = setup_hparams("small_vqvae", dict(linf_k=20, lmix_l1=0.1, lmix_l2=1.0, lmix_linf=0.02))
    return Hyperparams(hps, bandwidth={"l1": 0.5, "l2": 0.25, "spec": 4.0}, **changes)


def test_strides_of_levels() -> None:
    assert calculate_strides([2, 4, 2], [3, 1, 2]) == [8, 4, 4]
    model = build()
    assert model.downsamples == [4, 4, 2] and model.hop_lengths == [4, 16, 32]
    assert model.z_shapes == [(512,), (128,), (64,)]
    assert (model.sample_length, model.x_shape, model.levels, model.l_bins) == (2048, (2048,), 3, 10)


def test_multipliers_widen_and_deepen_their_level() -> None:
    names = build().state_dict()
    assert names["encoders.0.level_blocks.0.model.0.0.weight"].shape == (8, 1, 4)
    assert names["encoders.1.level_blocks.0.model.0.0.weight"].shape == (4, 1, 4)
    assert "encoders.0.level_blocks.0.model.0.1.model.3.model.1.weight" in names
    assert "encoders.1.level_blocks.0.model.0.1.model.2.model.1.weight" not in names
    assert "decoders.0.level_blocks.0.model.1.0.model.3.model.1.weight" in names


@torch.no_grad()
def test_encoding_and_decoding_some_levels_equals_encoding_all() -> None:
    model = trained()
    x = torch.randn(3, 2048, 1)
    zs = model.encode(x)
    assert [tuple(z.shape) for z in zs] == [(3, 512), (3, 128), (3, 64)]
    assert all(z.dtype == torch.int64 and 0 <= int(z.min()) and int(z.max()) < 10 for z in zs)
    for start, end in ((0, 1), (1, 2), (1, None), (2, 3), (0, 2)):
        some = model.encode(x, start, end)
        assert len(some) == len(zs[start:end])
        assert all(torch.equal(a, b) for a, b in zip(some, zs[start:end], strict=True))
    for level in range(3):
        audio = model.decode(zs[level:], start_level=level)
        assert audio.shape == x.shape
        torch.testing.assert_close(model.decode(zs[level : level + 1], level, level + 1), audio)
        other = [zs[level], *(torch.zeros_like(z) for z in zs[level + 1 :])]
        assert torch.equal(model.decode(other, start_level=level), audio)  # codes above are not read
    with pytest.raises(ValueError, match="2 levels of codes"):
        model.decode(zs[:2], start_level=0)


@torch.no_grad()
def test_batches_in_pieces_give_the_same() -> None:
    model = trained()
    x = torch.randn(3, 2048, 1)
    zs = model.encode(x)
    for chunks in (2, 3, 5):
        assert all(torch.equal(a, b) for a, b in zip(model.encode(x, bs_chunks=chunks), zs, strict=True))
        torch.testing.assert_close(model.decode(zs, bs_chunks=chunks), model.decode(zs))


def test_only_the_modules_of_the_levels_asked_for_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    ran: list[str] = []
    for kind in ("encoders", "decoders"):
        for level, module in enumerate(getattr(model, kind)):
            module.register_forward_hook(lambda *_, name=f"{kind}{level}": ran.append(name))
    zs = model.encode(torch.randn(1, 2048, 1), start_level=1, end_level=2)
    assert ran == ["encoders1"]
    model.decode(zs, start_level=1, end_level=2)
    assert ran == ["encoders1", "decoders1"]
    assert not zs[0].requires_grad


@torch.no_grad()
def test_other_lengths_than_that_of_training_work() -> None:
    model = trained()
    zs = model.encode(torch.randn(2, 320, 1))
    assert [z.shape[1] for z in zs] == [80, 20, 10]
    assert model.decode(zs).shape == (2, 320, 1)
    assert [z.shape[1] for z in model.encode(torch.randn(1, 45, 1))] == [11, 2, 1]
    with pytest.raises(UserError, match="31 samples .* level 2: give at least 32"):
        model.encode(torch.randn(1, 31, 1))
    assert model.encode(torch.randn(1, 31, 1), end_level=2)[1].shape == (1, 1)


@pytest.mark.parametrize("loss_fn", losses.RECONSTRUCTION)
def test_the_loss_adds_up_over_levels(loss_fn: str) -> None:
    model = trained()
    hps = hparams()
    settings = losses.LossSettings.from_hps(hps)
    x = torch.randn(2, 2048, 1) * 0.5
    with torch.no_grad():
        x_out, loss, metrics = model(x, hps, loss_fn)
        latents = [encoder(x.transpose(1, 2))[-1] for encoder in model.encoders]
        zs = model.encode(x)
        outs = [model.decode(zs[level:], level) for level in range(3)]
        recons = [losses.reconstruction_loss(loss_fn, x, out, settings) for out in outs]
        spectral = [losses.spectral_loss(x, out, settings).mean() / 4.0 for out in outs]
        multi = [losses.multispectral_loss(x, out, settings).mean() / 4.0 for out in outs]
        vectors = [block.decode(z) for block, z in zip(model.bottleneck.blocks, zs, strict=True)]
        commit = sum((a - b).square().mean() for a, b in zip(latents, vectors, strict=True))
        expected = sum(recons) + 0.5 * sum(spectral) + 2.0 * sum(multi) + 0.25 * commit
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(x_out, outs[0])
    for level in range(3):
        torch.testing.assert_close(metrics[f"recons_loss_l{level + 1}"], recons[level])
        torch.testing.assert_close(metrics[f"spectral_loss_l{level + 1}"], spectral[level])
        torch.testing.assert_close(metrics[f"multispectral_loss_l{level + 1}"], multi[level])
    torch.testing.assert_close(metrics["spectral_convergence"], losses.spectral_convergence(x, outs[0]).mean())
    torch.testing.assert_close(metrics["l1_loss"], losses.reconstruction_loss("l1", x, outs[0], settings))
    assert "usage" not in metrics and not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("spectral, multispectral", [(0.0, 0.0), (0.5, 0.0), (0.0, 2.0)])
def test_spectral_terms_are_reported_whatever_their_weight(spectral: float, multispectral: float) -> None:
    """Terms without weight give no gradient: the gradient is that of a loss in which they do not occur."""
    model = build(spectral=spectral, multispectral=multispectral, commit=0.0, use_bottleneck=False).train()
    hps = hparams()
    x = torch.randn(2, 2048, 1) * 0.5
    _, loss, metrics = model(x, hps, "l2")
    assert metrics["spectral_loss"] > 0 and metrics["multispectral_loss"] > 0
    loss.backward()
    got = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    settings = losses.LossSettings.from_hps(hps)
    expected = torch.zeros(())
    for encoder, decoder in zip(model.encoders, model.decoders, strict=True):
        out = decoder(encoder(x.transpose(1, 2))[-1:]).transpose(1, 2)
        expected = expected + losses.reconstruction_loss("l2", x, out, settings)
        if spectral:
            expected = expected + spectral * losses.spectral_loss(x, out, settings).mean() / 4.0
        if multispectral:
            expected = expected + multispectral * losses.multispectral_loss(x, out, settings).mean() / 4.0
    torch.testing.assert_close(loss, expected)
    expected.backward()
    for a, p in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-5)


def test_a_few_steps_of_training_bring_the_loss_down() -> None:
    model = build(levels=1, downs_t=[2], strides_t=[2], multipliers=None, spectral=0.0, multispectral=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    time = torch.arange(2048) / 2048
    x = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (20.0, 33.0)])[:, :, None] * 0.5
    history: list[float] = []
    for _ in range(60):
        optimizer.zero_grad()
        _, loss, metrics = model(x, hparams(), "l2")
        loss.backward()
        optimizer.step()
        history.append(float(metrics["recons_loss"]))
    assert history[-1] < 0.3 * history[0]
    assert {"fit", "pn", "entropy", "used_curr", "usage", "dk"} <= set(metrics)


def test_all_zero_lmix_is_refused_before_anything_runs() -> None:
    model = build().train()
    with pytest.raises(UserError, match="lmix_l1, lmix_l2 and lmix_linf all 0"):
        model(torch.randn(1, 2048, 1), hparams(lmix_l1=0.0, lmix_l2=0.0, lmix_linf=0.0), "lmix")
    assert not model.bottleneck.blocks[0].init


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(strides_t=[2, 3, 2]), "strides must be even"),
        (dict(downs_t=[2, 0, 1]), "at least 1"),
        (dict(downs_t=[2, 1]), "downs_t has 2 entries, levels=3"),
        (dict(multipliers=[1]), "hvqvae_multipliers has 1 entries"),
        (dict(input_shape=(16, 1)), "multiple of 32"),
    ],
)
def test_models_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(**changes)


def test_a_misspelt_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="dept"):
        build(dept=3)


def test_without_a_bottleneck_audio_passes_continuously() -> None:
    model = build(use_bottleneck=False).train()
    x = torch.randn(2, 2048, 1)
    _, loss, metrics = model(x, hparams(), "l2")
    loss.backward()
    assert metrics["commit_loss"] == 0 and metrics["usage"] == 0
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        latents = model.encode(x)
        assert latents[0].shape == (2, 6, 512)
        torch.testing.assert_close(
            model.decode(latents), model.decoders[0](model.encoders[0](x.transpose(1, 2))).transpose(1, 2)
        )
    assert model.state_extra() == []
    model.load_extra([])


def test_the_revival_threshold_reaches_every_codebook() -> None:
    assert [block.threshold for block in build(revival_threshold=0.125).bottleneck.blocks] == [0.125] * 3


def test_a_resumed_run_equals_an_undisturbed_one() -> None:
    batches = [torch.randn(2, 2048, 1) for _ in range(4)]

    def steps(model: VQVAE, some: list[Tensor]) -> list[float]:
        return [model(x, hparams(), "l2")[1].item() for x in some]

    model = build().train()
    torch.manual_seed(1)
    steps(model, batches[:2])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    extra, random = model.state_extra(), torch.get_rng_state()
    expected = steps(model, batches[2:])

    resumed = build().train()
    resumed.load_state_dict(state)
    resumed.load_extra(extra)
    torch.set_rng_state(random)
    assert steps(resumed, batches[2:]) == expected
    for a, b in zip(model.state_extra(), resumed.state_extra(), strict=True):
        assert torch.equal(a["k_sum"], b["k_sum"]) and torch.equal(a["k_elem"], b["k_elem"])
    with pytest.raises(UserError, match="3 codebooks"):
        build(levels=2, downs_t=[2, 1], strides_t=[2, 2], multipliers=None).load_extra(extra)


def test_stereo_models_keep_their_channels() -> None:
    model = build(input_shape=(2048, 2)).train()
    x = torch.randn(2, 2048, 2)
    x_out, _, _ = model(x, hparams(), "l1")
    assert x_out.shape == x.shape
