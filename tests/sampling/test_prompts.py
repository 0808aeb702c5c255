"""Prompts of any format and length, and saved codes, cut and tiled to the songs of a process."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sampling_fakes import FakePrior

from jukebox.hparams import Hyperparams
from jukebox.sampling.prompts import cut_codes, load_codes, load_prompts, split_prompts, tile_songs
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError

SR = 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    t = np.arange(44100) / 44100
    stereo = np.stack([0.5 * np.sin(2 * np.pi * 200 * t), 0.25 * np.sin(2 * np.pi * 300 * t)], axis=1)
    write_audio(folder / "stereo.flac", stereo, 44100)
    write_audio(folder / "with, comma.wav", stereo[:22050, :1], 44100)
    return folder


def test_files_are_resampled_mixed_and_tiled(folder: Path) -> None:
    files = [str(folder / "stereo.flac"), str(folder / "with, comma.wav")]
    x = load_prompts(files, 3000, Hyperparams(sr=SR, n_samples=3))
    assert x.shape == (3, 3000, 1) and x.dtype == torch.float32
    expected = load_audio(folder / "stereo.flac", SR, duration=3000)[0].mean(axis=0)
    assert np.allclose(x[0, :, 0], expected, atol=1e-6) and torch.equal(x[0], x[2])
    assert not torch.equal(x[0], x[1])
    t = np.arange(3000) / SR
    clean = 0.25 * np.sin(2 * np.pi * 200 * t) + 0.125 * np.sin(2 * np.pi * 300 * t)
    assert np.abs(x[0, 100:-100, 0].numpy() - clean[100:-100]).max() < 0.01


def test_songs_of_this_process_get_their_own_file(folder: Path) -> None:
    files = [str(folder / "stereo.flac"), str(folder / "with, comma.wav")]
    everything = load_prompts(files, 1000, Hyperparams(sr=SR, n_samples=4))
    second = load_prompts(files, 1000, Hyperparams(sr=SR, n_samples=2, songs=[1, 2]))
    assert torch.equal(second, everything[1:3])
    assert tile_songs("ab", Hyperparams(n_samples=3)) == ["a", "b", "a"]


def test_a_short_file_gets_silence_in_front(folder: Path) -> None:
    with pytest.warns(UserWarning, match="0.50 s long: 0.50 s of silence were put in front of it, to fill .* 1.00 s"):
        x = load_prompts([str(folder / "with, comma.wav")], SR, Hyperparams(sr=SR, n_samples=1))
    assert x.shape == (1, SR, 1) and not x[0, :4000].any() and x[0, 4000:].abs().max() > 0.4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = load_prompts([str(folder / "with, comma.wav")], 4000, Hyperparams(sr=SR, n_samples=1))
    assert torch.allclose(exact[0], x[0, 4000:])


def test_samples_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    x = np.zeros(4000, np.float32)
    x[100:103] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "nan.wav", x, SR, subtype="FLOAT")
    with pytest.raises(UserError, match="nan.wav: 3 of its samples are not finite"):
        load_prompts([str(tmp_path / "nan.wav")], 2000, Hyperparams(sr=SR, n_samples=1))


def test_names_with_commas(folder: Path) -> None:
    name = str(folder / "with, comma.wav")
    assert split_prompts(name) == [name]
    both = [name.replace("with, comma.wav", "stereo.flac")] * 2
    assert split_prompts(", ".join(both)) == both
    with pytest.raises(UserError, match="there is no such file"):
        load_prompts("nothing.wav", 10, Hyperparams(sr=SR, n_samples=1))
    with pytest.raises(UserError, match="names no file"):
        load_prompts(" , ", 10, Hyperparams(sr=SR, n_samples=1))


def test_load_codes(tmp_path: Path) -> None:
    zs = [torch.arange(2 * n).view(2, n) for n in (40, 10)]
    torch.save({"zs": zs}, tmp_path / "data.pth.tar")
    priors, hps = [FakePrior(0, 2), FakePrior(1, 2)], Hyperparams(n_samples=3, sr=SR)  # 4 and 16 samples a token
    whole = load_codes(tmp_path / "data.pth.tar", None, priors, hps)
    assert all(torch.equal(z, saved[[0, 1, 0]]) for z, saved in zip(whole, zs, strict=True))
    cut = load_codes(str(tmp_path), 5 * 16 + 7, priors, hps)  # a folder will do
    assert [z.shape for z in cut] == [(3, 21), (3, 5)] and torch.equal(cut[1], zs[1][[0, 1, 0], :5])
    assert load_codes(tmp_path, None, [None, None], hps)[0].shape == (3, 40)
    with pytest.raises(UserError, match="holds 160 samples, not 176"):
        load_codes(tmp_path, 176, priors, hps)
    with pytest.raises(UserError, match="codes of 2 levels, the model has 3"):
        load_codes(tmp_path, None, [None, *priors], hps)
    assert [z.shape for z in cut_codes(zs, [4, 16], 32, Hyperparams(n_samples=1, songs=[5]))] == [(1, 8), (1, 2)]


def test_samples_are_prompts_too(folder: Path) -> None:
    """Arrays and tensors, mono or not, at the rate of the model."""
    hps = Hyperparams(sr=SR, n_samples=3)
    read = load_prompts(str(folder / "stereo.flac"), 2000, hps)[0, :, 0]
    stereo = torch.stack([2 * read, 0 * read], dim=1)
    x = load_prompts([str(folder / "stereo.flac"), read.numpy(), stereo], 2000, hps)
    assert all(torch.allclose(row[:, 0], read) for row in x)
    for wrong, what in {"shape": np.zeros((2, 3, 4)), "not finite": np.full(9, np.nan)}.items():
        with pytest.raises(UserError, match=wrong):
            load_prompts([what], 10, hps)
