"""Losses against definitions written out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jukebox.hparams import setup_hparams
from jukebox.utils.errors import UserError
from jukebox.vqvae.loss_kinds import LOSS_KINDS
from jukebox.vqvae.losses import (
    RECONSTRUCTION,
    LossSettings,
    SpectralTarget,
    StftSettings,
    decibels,
    log_magnitude_loss,
    magnitudes,
    multispectral_loss,
    reconstruction_loss,
    spectral_convergence,
    spectral_loss,
)


def settings(**changes: Any) -> LossSettings:
    hps = setup_hparams("small_vqvae", {})
    return LossSettings.from_hps({**hps, "bandwidth": {"l1": 0.5, "l2": 0.25, "spec": 4.0}, **changes})


def pair(samples: int = 3000, channels: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, samples, channels) * 0.3, torch.randn(2, samples, channels) * 0.3


def spectrum_by_hand(x: Tensor, stft: StftSettings) -> np.ndarray:
    """Frame by frame with numpy's FFT: reflected edges, periodic Hann window in the middle of each frame."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(stft.window_size) / stft.window_size)
    left = (stft.n_fft - stft.window_size) // 2
    window = np.pad(window, (left, stft.n_fft - stft.window_size - left))
    padded = np.pad(x.double().numpy(), stft.n_fft // 2, mode="reflect")
    starts = range(0, len(x) + 1, stft.hop_length)
    frames = [np.abs(np.fft.rfft(window * padded[s : s + stft.n_fft])) for s in starts]
    return np.stack(frames, axis=1)


@pytest.mark.parametrize("stft", [StftSettings(), StftSettings(512, 50, 240), StftSettings(64, 10, 33)])
def test_magnitudes_are_those_of_a_windowed_fourier_transform(stft: StftSettings) -> None:
    x, _ = pair(2000, channels=2)
    got = magnitudes(x, stft)
    for item, spectrum in zip(x, got, strict=True):
        np.testing.assert_allclose(spectrum.numpy(), spectrum_by_hand(item.mean(-1), stft), atol=2e-4)


def test_default_resolution() -> None:
    assert StftSettings() == StftSettings(n_fft=2048, hop_length=256, window_size=1536)


def test_spectral_losses_are_norms_of_differences() -> None:
    x, y = pair()
    expected = [
        np.linalg.norm(spectrum_by_hand(a[:, 0], StftSettings()) - spectrum_by_hand(b[:, 0], StftSettings()))
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(spectral_loss(x, y, settings()).numpy(), expected, rtol=1e-4)
    several = [StftSettings(2048, 240, 1200), StftSettings(1024, 120, 600), StftSettings(512, 50, 240)]
    parts = [(magnitudes(x, stft) - magnitudes(y, stft)).square().sum((1, 2)).sqrt() for stft in several]
    torch.testing.assert_close(multispectral_loss(x, y, settings()), torch.stack(parts).mean(0))


def test_relative_spectral_losses_divide_by_each_items_own_norm() -> None:
    x, y = pair()
    relative = settings(use_nonrelative_specloss=False)
    norms = magnitudes(x, StftSettings()).square().sum((1, 2)).sqrt()
    torch.testing.assert_close(spectral_loss(x, y, relative), spectral_loss(x, y, settings()) / norms)
    assert torch.isfinite(multispectral_loss(0 * x, y, relative)).all()


def test_spectral_convergence_and_its_decibels() -> None:
    x, _ = pair()
    torch.testing.assert_close(spectral_convergence(x, 0.9 * x), torch.tensor([0.1, 0.1]))
    assert decibels(spectral_convergence(x, 0.9 * x)) == pytest.approx(-20.0, abs=1e-3)
    assert decibels(1.0) == 0.0 and decibels(0.0) == -math.inf
    x[0] = 0
    assert spectral_convergence(x, x + 0.1)[0] == 0  # silent
    torch.testing.assert_close(spectral_convergence(x, 0 * x), torch.tensor([0.0, 1.0]))


def test_log_magnitudes() -> None:
    x, y = pair()
    a, b = (torch.log(magnitudes(v, StftSettings()) + 1e-4) for v in (x, y))
    torch.testing.assert_close(log_magnitude_loss(x, y), (a - b).abs().mean())


def test_reconstruction_losses() -> None:
    x, y = pair(50, channels=2)
    error = (x - y).numpy()
    s = settings(linf_k=7, lmix_l1=0.5, lmix_l2=2.0, lmix_linf=0.1)
    largest = np.sort(np.square(error).reshape(2, -1), axis=1)[:, -7:]
    expected = {"l1": np.abs(error).mean() / 0.5, "l2": np.square(error).mean() / 0.25, "linf": largest.mean() / 0.25}
    expected["lmix"] = 0.5 * expected["l1"] + 2.0 * expected["l2"] + 0.1 * expected["linf"]
    assert LOSS_KINDS == list(RECONSTRUCTION) == list(expected)
    for kind, value in expected.items():
        assert reconstruction_loss(kind, x, y, s).item() == pytest.approx(value, rel=1e-5)


def test_linf_of_a_short_item_averages_all_of_it() -> None:
    x, y = pair(50)
    assert reconstruction_loss("linf", x, y, settings()) == pytest.approx(reconstruction_loss("l2", x, y, settings()))


def test_parts_of_lmix_without_weight_are_skipped() -> None:
    x, y = pair(50)
    only = settings(lmix_l1=3.0, lmix_l2=0.0, lmix_linf=0.0)
    assert reconstruction_loss("lmix", x, y, only) == pytest.approx(3 * reconstruction_loss("l1", x, y, only).item())


@pytest.mark.parametrize("kind, message", [("lmix", "--lmix_l2"), ("l3", "l1, l2, linf, lmix")])
def test_losses_that_cannot_be_computed_are_refused(kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reconstruction_loss(kind, *pair(50), settings(lmix_l1=0.0, lmix_l2=0.0, lmix_linf=0.0))


def test_short_audio_and_uneven_lists_are_refused() -> None:
    with pytest.raises(UserError, match="above 1024"):
        spectral_loss(*pair(1024), settings())
    with pytest.raises(UserError, match="3, 1, 3"):
        settings(multispec_loss_hop_length=[5])


def test_one_target_serves_several_predictions() -> None:
    x, y = pair()
    target = SpectralTarget(x, settings())
    for prediction in (y, 0.5 * y):
        torch.testing.assert_close(target.spectral_loss(prediction), spectral_loss(x, prediction, settings()))
        torch.testing.assert_close(target.multispectral_loss(prediction), multispectral_loss(x, prediction, settings()))
        torch.testing.assert_close(target.spectral_convergence(prediction), spectral_convergence(x, prediction))


def test_a_perfect_silent_prediction_has_finite_gradients() -> None:
    x = torch.zeros(1, 3000, 1, requires_grad=True)
    multispectral_loss(torch.zeros(1, 3000, 1), x, settings()).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
