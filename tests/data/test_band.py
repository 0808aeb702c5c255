"""Songs that end far below what a model can hear are told, others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jukebox.data.band import band_end, narrow_songs
from jukebox.data.data_processor import DataProcessor
from jukebox.hparams import setup_hparams
from jukebox.utils.audio.write import write_audio

SR = 22050


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(-0.5, 0.5, round(seconds * SR)).astype(np.float32))


@pytest.mark.parametrize("end", [1000.0, 5000.0, 9000.0])
def test_the_end_of_a_band(end: float) -> None:
    spectrum = np.fft.rfft(noise(2.0).numpy())
    spectrum[np.fft.rfftfreq(2 * SR, 1 / SR) > end] = 0
    assert band_end(np.fft.irfft(spectrum).astype(np.float32), SR) == pytest.approx(end, abs=150)
    assert band_end(noise(2.0).numpy(), SR) > 0.99 * SR / 2
    assert band_end(np.zeros(SR, np.float32), SR) == 0.0 and band_end(np.zeros(10, np.float32), SR) == 0.0


def test_narrow_songs_are_told_when_training_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        write_audio(tmp_path / f"wide{i}.wav", noise(3.0, i), SR)
    hps = setup_hparams("", dict(audio_files_dir=str(tmp_path), sr=SR, sample_length=8192, labels=False, nworkers=0))
    DataProcessor(hps)
    assert "looked at" not in capsys.readouterr().out
    write_audio(tmp_path / "phone.wav", noise(3.0)[: 3 * 8000], 8000)  # a recording of 8 kHz
    DataProcessor(hps)
    said = capsys.readouterr().out
    assert "nothing above 6,615 Hz in 1 of 4 songs looked at" in said and "phone.wav ends at 4," in said


def test_a_few_songs_are_looked_at_and_broken_ones_passed_over(tmp_path: Path) -> None:
    files = []
    for i in range(30):
        files.append(str(tmp_path / f"{i}.wav"))
        if i:
            write_audio(files[-1], torch.zeros(SR // 4), SR)
    lines = narrow_songs(files, files, [0.25] * 30, SR)  # silence has no band
    assert lines == []
    for file in files[1:]:
        write_audio(file, noise(0.5)[:4000], 8000)
    (line,) = narrow_songs(files, files, [0.5] * 30, SR)
    assert "in 11 of 12 songs looked at" in line
