"""Files that cannot be read to their end, for tests of what commands say of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jukebox.utils.audio.source import Source
from jukebox.utils.audio.write import write_audio


def break_disk(monkeypatch: pytest.MonkeyPatch, beyond: int, name: str = "") -> None:
    """Lets reads beyond a place fail, as on a drive that goes away, of files with `name` in their path."""
    read = Source.read

    def broken(source: Source, n: int = -1) -> bytes:
        if name in str(source._file.name) and source._file.tell() + max(n, 0) > beyond:
            source.error = OSError(5, "Input/output error")
            raise source.error
        return read(source, n)

    monkeypatch.setattr(Source, "read", broken)


def lock_folder(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Lets a folder's list be refused, as to users without a right to it; root has all rights."""
    scan = os.scandir

    def refuse(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)


def make_bad_folder(folder: Path, sr: int = 8000, seconds: float = 6.0) -> list[str]:
    """Songs of 8 kHz: a good one, one that breaks off half way, one of text, and one for `break_disk`; their names."""
    x = 0.3 * np.sin(np.arange(round(seconds * sr)) / 9)
    for name in ("good.wav", "cut.wav", "eio.wav"):
        write_audio(folder / name, x, sr)
    whole = (folder / "cut.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("no music\n" * 99)
    return ["good.wav", "cut.wav", "text.wav", "eio.wav"]
