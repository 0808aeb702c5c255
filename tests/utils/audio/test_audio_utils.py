"""Batches of audio before a model sees them, and the loudness estimate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jukebox.utils import audio_utils
from jukebox.utils.audio_utils import audio_postprocess, audio_preprocess, calculate_bandwidth, stft_magnitude

PLAIN = SimpleNamespace(aug_blend=False)


def test_stereo_is_mixed_evenly_and_mono_kept() -> None:
    x = torch.randn(3, 50, 2)
    assert torch.allclose(audio_preprocess(x, PLAIN), (x[..., :1] + x[..., 1:]) / 2)
    assert audio_preprocess(x[..., :1], PLAIN).equal(x[..., :1])
    assert audio_postprocess(x, PLAIN).equal(x)


def test_blending_draws_one_weight_for_each_item() -> None:
    x = torch.randn(4, 50, 2)
    mix = torch.tensor([[0.0], [1.0], [0.25], [0.5]])
    out = audio_preprocess(x, PLAIN, mix=mix)
    assert torch.allclose(out[0], x[0, :, 1:]) and torch.allclose(out[1], x[1, :, :1])
    assert torch.allclose(out[2], 0.25 * x[2, :, :1] + 0.75 * x[2, :, 1:])
    blend = SimpleNamespace(aug_blend=True)
    torch.manual_seed(0)
    drawn = audio_preprocess(x, blend)
    torch.manual_seed(0)
    assert drawn.equal(audio_preprocess(x, blend, mix=torch.rand(4, 1)))
    assert not drawn.equal(audio_preprocess(x, blend))


@pytest.mark.parametrize("shape", [(4, 50), (4, 50, 3), (50,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        audio_preprocess(torch.zeros(shape), PLAIN)


def test_magnitudes_equal_a_plain_fourier_sum() -> None:
    n_fft, hop, window = 64, 16, 48
    x = torch.randn(2, 200, dtype=torch.float64)
    got = stft_magnitude(x, n_fft, hop, window).numpy()
    hann = np.zeros(n_fft)
    hann[8:56] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    padded = np.pad(x.numpy(), ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    frames = [np.abs(np.fft.rfft(padded[:, i * hop : i * hop + n_fft] * hann)) for i in range(1 + 200 // hop)]
    assert np.allclose(got, np.stack(frames, axis=2))


class Data:
    """A data set of noise of growing loudness that keeps a list of what was read."""

    def __init__(self, n: int, length: int = 3000) -> None:
        generator = torch.Generator().manual_seed(0)
        self.items = [0.01 * (i + 1) * torch.randn(length, 2, generator=generator) + 0.1 for i in range(n)]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> torch.Tensor:
        self.asked.append(i)
        return self.items[i]


def slow_bandwidth(items: list[torch.Tensor]) -> dict[str, float]:
    x = torch.cat(items).double().numpy()
    spec = [stft_magnitude(item.mean(1)[None], 2048, 256, 1536).square().sum().sqrt().item() for item in items]
    return dict(l2=float(x.var()), l1=float(np.abs(x).mean()), spec=float(np.mean(spec)))


@pytest.mark.parametrize(("n", "duration", "asked"), [(100, 1.0, [0, 16]), (3, 1.0, [0, 1]), (3, 60.0, [0, 1, 2])])
def test_bandwidth(n: int, duration: float, asked: list[int]) -> None:
    data = Data(n)
    got = calculate_bandwidth(data, SimpleNamespace(sr=8000), duration=duration)
    assert data.asked == asked
    expected = slow_bandwidth([data.items[i] for i in asked])
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, rel=1e-5)


def test_bandwidth_over_ranks_reads_other_items_on_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sums: list[Any] = []
    for rank in range(2):
        data = Data(40)
        monkeypatch.setattr(audio_utils.dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(audio_utils.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(audio_utils.dist, "all_reduce", lambda tensor: sums.append(tensor.clone()))
        calculate_bandwidth(data, SimpleNamespace(sr=8000), duration=1.0)
        assert data.asked == [rank, rank + 16]
        data = Data(5)
        calculate_bandwidth(data, SimpleNamespace(sr=8000), duration=60.0)
        assert data.asked == [[0, 2, 4], [1, 3]][rank]
    assert len(sums) == 4


def test_bandwidth_of_nothing_and_of_short_items() -> None:
    with pytest.raises(ValueError, match="no items"):
        calculate_bandwidth(Data(0), SimpleNamespace(sr=8000))
    assert calculate_bandwidth(Data(2, length=100), SimpleNamespace(sr=8000))["spec"] > 0


@pytest.mark.parametrize(("n_fft", "hop", "window"), [(2048, 256, 1536), (512, 50, 240)])
def test_magnitudes_are_those_of_librosa(n_fft: int, hop: int, window: int) -> None:
    import librosa

    x = np.random.default_rng(0).standard_normal((2, 4000)).astype(np.float32)
    theirs = np.abs(librosa.stft(x, n_fft=n_fft, hop_length=hop, win_length=window, pad_mode="reflect"))
    np.testing.assert_allclose(stft_magnitude(torch.from_numpy(x), n_fft, hop, window), theirs, atol=2e-4)
