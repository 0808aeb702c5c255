"""Folders of synthesised songs in all formats, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from jukebox.data.synthesizer import write_songs

FORMATS = ("wav", "flac", "mp3", "m4a", "opus", "ogg")
SR = 16000


@pytest.fixture(scope="session")
def song_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two songs of 6 s at 16 kHz in each format, with sidecars, in one folder for each format. Not to be changed."""
    root = tmp_path_factory.mktemp("songs")
    for i, extension in enumerate(FORMATS):
        write_songs(str(root / extension), songs=2, seconds=6.0, sr=SR, format=extension, seed=i + 1)
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
