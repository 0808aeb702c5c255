"""Reconstruction and spectral losses between two pieces of audio.

Change here how a reconstruction is judged. Audio is [N, T, C] in [-1, 1]. Losses are divided by the data's bandwidth,
its mean l1, l2 or spectral size, measured once per data set. So their weights carry over between data sets. Source:
Jukebox (arXiv 2005.00341), section 3.3 and appendix B.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jukebox.utils.audio_utils import StftSettings, stft_magnitude
from jukebox.utils.errors import UserError
from jukebox.vqvae.loss_kinds import check_loss

SILENCE = 2e-3  # a spectrum whose norm is not above this counts as silent
LOG_FLOOR = 1e-4  # added to magnitudes before the logarithm


@dataclass(frozen=True)
class LossSettings:
    """Everything about the losses that is not audio.

    Attributes:
        bandwidth_l1, bandwidth_l2, bandwidth_spec: divisors, all > 0.
        linf_k: largest squared errors per item that `linf` averages.
        lmix_l1, lmix_l2, lmix_linf: weights of the parts of `lmix`.
        multispec: resolutions of the multi-resolution spectral loss.
        nonrelative_spec: divide spectral losses by the data's bandwidth (True) or by each item's own norm (False).
        weights: of the terms in TERMS, by name.
    """

    bandwidth_l1: float = 1.0
    bandwidth_l2: float = 1.0
    bandwidth_spec: float = 1.0
    linf_k: int = 2048
    lmix_l1: float = 0.0
    lmix_l2: float = 0.0
    lmix_linf: float = 0.0
    multispec: tuple[StftSettings, ...] = ()
    nonrelative_spec: bool = True
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_hps(cls, hps: Mapping[str, Any]) -> LossSettings:
        """Reads the settings from hyper-parameters; `bandwidth` (l1, l2, spec) defaults to 1 if it is missing.

        Raises:
            UserError: the lists of the multi-resolution loss differ in length.
        """
        lists = [hps[f"multispec_loss_{name}"] for name in ("n_fft", "hop_length", "window_size")]
        if len({len(values) for values in lists}) != 1:
            raise UserError(
                f"multispec_loss_n_fft, _hop_length and _window_size have {', '.join(str(len(v)) for v in lists)} "
                "entries: give all three the same number"
            )
        bandwidth = hps.get("bandwidth") or {}
        return cls(
            **{f"bandwidth_{name}": float(bandwidth.get(name, 1.0)) for name in ("l1", "l2", "spec")},  # type: ignore[arg-type]
            **{name: hps[name] for name in ("linf_k", "lmix_l1", "lmix_l2", "lmix_linf")},
            multispec=tuple(StftSettings(*values) for values in zip(*lists, strict=True)),
            nonrelative_spec=hps.get("use_nonrelative_specloss", True),
            weights={name: hps.get(name, 0.0) for name in TERMS},
        )

    @property
    def spec_unit(self) -> float:
        """What training divides spectral losses by."""
        return self.bandwidth_spec if self.nonrelative_spec else 1.0


# ------------------------------------------------------------------------------------------------ reconstruction


def reconstruction_loss(loss_fn: str, x_target: Tensor, x_pred: Tensor, settings: LossSettings) -> Tensor:
    """Mean error between target and prediction [N, T, C] over the batch, in units of the data's bandwidth.

    Args:
        loss_fn: `l1` mean absolute, `l2` mean squared, `linf` mean of the largest squared errors of each item, or
            `lmix`, their weighted sum.
        x_target, x_pred: audio [N, T, C].
        settings: bandwidths and weights.

    Returns:
        A scalar.

    Raises:
        UserError: an unknown loss, or `lmix` without any weight.
    """
    check_loss(loss_fn, vars(settings))
    return RECONSTRUCTION[loss_fn](x_pred - x_target, settings)


def _linf(error: Tensor, settings: LossSettings) -> Tensor:
    squares = error.square().reshape(error.shape[0], -1)
    largest = torch.topk(squares, min(settings.linf_k, squares.shape[1]), dim=1, sorted=False).values
    return largest.mean() / settings.bandwidth_l2  # the l2 bandwidth: both are squared errors


def _lmix(error: Tensor, settings: LossSettings) -> Tensor:
    weights = {"l1": settings.lmix_l1, "l2": settings.lmix_l2, "linf": settings.lmix_linf}
    return torch.stack([w * RECONSTRUCTION[kind](error, settings) for kind, w in weights.items() if w]).sum()


# How each of LOSS_KINDS is computed from the error [N, T, C], a scalar.
RECONSTRUCTION: dict[str, Callable[[Tensor, LossSettings], Tensor]] = {
    "l1": lambda error, settings: error.abs().mean() / settings.bandwidth_l1,
    "l2": lambda error, settings: error.square().mean() / settings.bandwidth_l2,
    "linf": _linf,
    "lmix": _lmix,
}


# ------------------------------------------------------------------------------------------------------ spectral


def magnitudes(x: Tensor, stft: StftSettings) -> Tensor:
    """Spectral magnitudes of audio, channels averaged first.

    Args:
        x: audio [N, T, C] or mono [N, T].
        stft: resolution; T must exceed n_fft // 2, for the edges are reflected.

    Returns:
        [N, n_fft // 2 + 1, T // hop_length + 1].

    Raises:
        UserError: audio too short for the resolution.
    """
    if x.dim() == 3:
        x = x.mean(-1)
    if x.shape[-1] <= stft.n_fft // 2:
        raise UserError(
            f"{x.shape[-1]} samples are too few for a spectrum of n_fft {stft.n_fft}: "
            f"use a sample_length above {stft.n_fft // 2} or smaller multispec_loss_n_fft"
        )
    return stft_magnitude(x, stft.n_fft, stft.hop_length, stft.window_size)


def item_norms(spectra: Tensor) -> Tensor:
    """Frobenius norm of each item, [N, F, frames] -> [N]."""
    return torch.linalg.vector_norm(spectra.reshape(spectra.shape[0], -1), dim=-1)


class SpectralTarget:
    """Compares predictions with one target whose spectra are computed once, for several levels and losses.

    Args:
        x_target: audio [N, T, C] or [N, T].
        settings: resolutions.
    """

    def __init__(self, x_target: Tensor, settings: LossSettings):
        self.settings = settings
        self.x = x_target.detach()

    @cached_property
    def _default(self) -> Tensor:
        return magnitudes(self.x, StftSettings())

    @cached_property
    def _multi(self) -> list[Tensor]:
        return [magnitudes(self.x, stft) for stft in self.settings.multispec]

    def _difference(self, target: Tensor, prediction: Tensor) -> Tensor:
        """[N]: norm of the difference, relative to the target if the settings say so."""
        residual = item_norms(target - prediction)
        if self.settings.nonrelative_spec:
            return residual
        return residual / item_norms(target).clamp_min(SILENCE)

    def spectral_loss(self, x_pred: Tensor) -> Tensor:
        """[N]: norm of the difference of magnitudes at the default resolution."""
        return self._difference(self._default, magnitudes(x_pred, StftSettings()))

    def multispectral_loss(self, x_pred: Tensor) -> Tensor:
        """[N]: mean of such norms over the settings' resolutions."""
        pairs = zip(self._multi, self.settings.multispec, strict=True)
        losses = [self._difference(target, magnitudes(x_pred, stft)) for target, stft in pairs]
        return torch.stack(losses).mean(0)

    def spectral_convergence(self, x_pred: Tensor) -> Tensor:
        """[N]: norm of the difference over the norm of the target; 0 for silent targets."""
        residual = item_norms(self._default - magnitudes(x_pred, StftSettings()))
        norms = item_norms(self._default)
        return torch.where(norms > SILENCE, residual / norms.clamp_min(SILENCE), torch.zeros_like(norms))


# Terms that training adds to the reconstruction loss: of the target and a prediction [N, T, C], a scalar. The weight is
# the hyper-parameter of the same name; a term of weight 0 is reported, and gives no gradient.
TERMS: dict[str, Callable[[SpectralTarget, Tensor], Tensor]] = {
    "spectral": lambda target, x_pred: target.spectral_loss(x_pred).mean() / target.settings.spec_unit,
    "multispectral": lambda target, x_pred: target.multispectral_loss(x_pred).mean() / target.settings.spec_unit,
}


def spectral_loss(x_target: Tensor, x_pred: Tensor, settings: LossSettings) -> Tensor:
    """[N]: Frobenius norm of the difference of spectral magnitudes at the default resolution, for audio [N, T, C]."""
    return SpectralTarget(x_target, settings).spectral_loss(x_pred)


def multispectral_loss(x_target: Tensor, x_pred: Tensor, settings: LossSettings) -> Tensor:
    """[N]: mean of such norms over the settings' resolutions (paper, section 3.3), for audio [N, T, C]."""
    return SpectralTarget(x_target, settings).multispectral_loss(x_pred)


def spectral_convergence(x_target: Tensor, x_pred: Tensor) -> Tensor:
    """[N]: norm of the spectral difference over the norm of the target's spectrum, for audio [N, T, C].

    0 is perfect, 1 as bad as silence. Items whose target is silent give 0.
    """
    return SpectralTarget(x_target, LossSettings()).spectral_convergence(x_pred)


def decibels(convergence: Tensor | float) -> float:
    """Mean spectral convergence in dB, 20 log10; the paper's table 1 reports it so (lower is better)."""
    mean = float(torch.as_tensor(convergence, dtype=torch.float64).mean())
    return 20.0 * math.log10(mean) if mean > 0 else -math.inf


def log_magnitude_loss(x_target: Tensor, x_pred: Tensor, stft: StftSettings | None = None) -> Tensor:
    """Mean absolute difference of log magnitudes, a scalar, for audio [N, T, C]."""
    stft = stft or StftSettings()
    pair: Sequence[Tensor] = [(magnitudes(x, stft) + LOG_FLOOR).log() for x in (x_target, x_pred)]
    return (pair[0] - pair[1]).abs().mean()
