"""Batches of audio on their way into and out of the VQ-VAE, and how loud a data set is.

Audio in a batch is [N, T, C] float in [-1, 1] everywhere. Reading and writing files is in `io.py`; the names that other
people's code expects here (`load_audio`, `save_wav`) are handed on. Change here what happens to raw audio before a
model sees it. Losses are in `jukebox/vqvae/losses.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from jukebox.utils import dist_adapter as dist
from jukebox.utils.audio.index import get_duration_sec
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import save_wav, write_audio

__all__ = [
    "audio_postprocess",
    "audio_preprocess",
    "calculate_bandwidth",
    "get_duration_sec",
    "load_audio",
    "save_wav",
    "stft_magnitude",
    "write_audio",
]

BANDWIDTH_STRIDE = 16  # the bandwidth estimate reads every 16th item, or every Nth with N > 16 ranks


class HasRate(Protocol):
    """Hyper-parameters of any class that have a sample rate, in Hz."""

    @property
    def sr(self) -> int: ...


@dataclass(frozen=True)
class StftSettings:
    """One resolution of a short-time Fourier transform, all in samples; the default is that of single losses."""

    n_fft: int = 2048
    hop_length: int = 256
    window_size: int = 6 * 256


def audio_preprocess(x: torch.Tensor, hps: object, mix: torch.Tensor | None = None) -> torch.Tensor:
    """Mixes a batch to mono for the VQ-VAE.

    Args:
        x: [N, T, C], C = 1 or 2.
        hps: `aug_blend`: mix two channels with one random factor per item instead of 0.5.
        mix: share of the first channel per item, [N, 1] in [0, 1]; given, it is used whatever `aug_blend` says.

    Returns:
        [N, T, 1], the same dtype and device.

    Raises:
        ValueError: another shape than [N, T, 1] or [N, T, 2].
    """
    if x.dim() != 3 or x.shape[-1] not in (1, 2):
        raise ValueError(f"audio of shape {list(x.shape)}: expected [N, T, 1] or [N, T, 2]")
    if x.shape[-1] == 1:
        return x
    if mix is None:
        if not getattr(hps, "aug_blend", False):
            return x.mean(dim=2, keepdim=True)
        mix = torch.rand((x.shape[0], 1), device=x.device, dtype=x.dtype)
    mix = mix.to(device=x.device, dtype=x.dtype).view(-1, 1)
    return (mix * x[:, :, 0] + (1 - mix) * x[:, :, 1]).unsqueeze(2)


def audio_postprocess(x: torch.Tensor, hps: object) -> torch.Tensor:
    """What a decoder gave, ready to be written: the identity, since models work on plain samples.

    Args:
        x: [N, T, C].
        hps: not needed by the identity; here so that both directions are called alike.
    """
    return x


def stft_magnitude(x: torch.Tensor, n_fft: int, hop_length: int, window_size: int) -> torch.Tensor:
    """Magnitudes of the short-time Fourier transform: periodic Hann window, centred frames, reflected edges.

    Args:
        x: [N, T] with T > n_fft / 2.
        n_fft, hop_length, window_size: in samples; the window is centred in the FFT.

    Returns:
        [N, n_fft / 2 + 1, 1 + T // hop_length].
    """
    window = torch.hann_window(window_size, device=x.device, dtype=x.dtype)
    spectrum = torch.stft(
        x,
        n_fft,
        hop_length,
        win_length=window_size,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    return spectrum.abs()


def calculate_bandwidth(dataset: Any, hps: HasRate, duration: float = 600) -> dict[str, float]:
    """Estimates how loud a data set is, so that losses can be divided by it.

    Reads items rank, rank + s, rank + 2s, ... with s = max(16, number of ranks) until sr * duration samples (all
    channels counted) have been seen, and reduces over ranks. If there are fewer such items, all of them are used, then
    the items between them (rank + 1, ...) once each. So a handful of songs gives an estimate too.

    Args:
        dataset: `dataset[i]` is audio [T, C], or (audio, labels, ...).
        hps: `sr`; `n_fft` settings are not used, the estimate has its own fixed STFT.
        duration: seconds of audio to look at on each rank.

    Returns:
        `l2`: variance of the samples; `l1`: their mean absolute value; `spec`: mean over items of the Frobenius norm of
        the magnitudes of the channels' mean.
    """
    wanted = int(hps.sr * duration)
    stride = max(BANDWIDTH_STRIDE, dist.get_world_size())
    n_seen = n_items = 0
    total = total_square = total_abs = total_spec = 0.0
    for index in _spread(len(dataset), dist.get_rank(), stride):
        item = dataset[index]
        x = torch.as_tensor(item[0] if isinstance(item, (tuple, list)) else item).to(torch.float64)
        n_seen += x.numel()
        n_items += 1
        total += x.sum().item()
        total_square += x.square().sum().item()
        total_abs += x.abs().sum().item()
        total_spec += _spec_norm(x.mean(dim=1).to(torch.float32))
        if n_seen >= wanted:
            break
    # Sums meet in float32, the precision in which collectives of all backends agree.
    sums = torch.tensor([n_seen, n_items, total, total_square, total_abs, total_spec], dtype=torch.float32)
    device = "cuda" if dist.is_available() and torch.distributed.get_backend() == "nccl" else "cpu"
    sums = sums.to(device)
    dist.all_reduce(sums)
    n_seen_all, n_items_all, s, s2, s1, spec = sums.tolist()
    if n_seen_all == 0:
        raise ValueError("calculate_bandwidth: the data set has no items")
    mean = s / n_seen_all
    return dict(l2=s2 / n_seen_all - mean**2, l1=s1 / n_seen_all, spec=spec / n_items_all)


def _spread(n_items: int, rank: int, stride: int) -> list[int]:
    """Every stride-th item from `rank` on, then the rest in the same manner: each item once over one pass of a rank."""
    world = dist.get_world_size()
    starts = range(rank, max(stride, rank + 1), world)  # other ranks start at the offsets between
    return [i for start in starts for i in range(start, n_items, stride)]


def _spec_norm(x: torch.Tensor) -> float:
    stft = StftSettings()
    if x.numel() <= stft.n_fft // 2:  # too short to be reflected
        x = torch.nn.functional.pad(x, (0, stft.n_fft // 2 + 1 - x.numel()))
    return stft_magnitude(x[None], stft.n_fft, stft.hop_length, stft.window_size).norm().item()
