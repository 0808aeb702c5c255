"""Data sets with hyper-parameters of another class; items are numpy arrays."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jukebox.data.data_processor import DataProcessor
from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.utils.audio.write import save_wav

SR = 8000
VALUES = dict(
    sr=SR, channels=2, sample_length=4000, min_duration=1.0, max_duration=100.0, aug_shift=False, labels=False,
    labels_v3=False, n_tokens=0, train_test_split=0.5, bs=2, nworkers=0,
)  # fmt: skip


class Keyed(dict):
    """A dict with attributes that raises KeyError for those it lacks."""

    def __getattr__(self, key: str) -> Any:
        return self[key]


class Plain:
    """A class that holds its values as class attributes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    save_wav(str(folder), torch.rand(4, 2 * SR, 1) - 0.5, SR)
    return folder


@pytest.mark.parametrize("kind", [dict, Keyed, Namespace, Plain])
def test_hyper_parameters_of_any_class(kind: type, folder: Path) -> None:
    values = {**VALUES, "audio_files_dir": str(folder)}
    hps = type("Mine", (Plain,), values)() if kind is Plain else kind(**values)
    data = FilesAudioDataset(hps)
    item = data[0]
    assert isinstance(item, np.ndarray) and item.dtype == np.float32 and item.shape == (4000, 2)
    loaders = DataProcessor(hps)
    batch = next(iter(loaders.train_loader))
    assert isinstance(batch, torch.Tensor) and batch.shape == (2, 4000, 2)


def test_labels_are_arrays_too(folder: Path, tmp_path: Path) -> None:
    for name in ("artist", "genre"):
        (tmp_path / f"{name}_ids.txt").write_text("unknown;0\nsomebody;1\n")
    more = dict(
        labels=True, labels_v3=True, labels_dir=str(tmp_path), max_bow_genre_size=1, use_tokens=True, n_tokens=4
    )
    audio, y = FilesAudioDataset(Namespace(**{**VALUES, **more}, audio_files_dir=str(folder)))[0]
    assert isinstance(y, np.ndarray) and y.dtype == np.int64 and y.shape == (4 + 1 + 4,) and audio.shape == (4000, 2)
