"""Songs of any length in bounded memory: `Spool`, and the commands that take whole songs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SR, make_tiny_runs

from jukebox import reconstruct, represent
from jukebox.reconstruction import coder, figures
from jukebox.utils.audio import spool, write
from jukebox.utils.audio.read import load_audio, read_into
from jukebox.utils.audio.spool import Spool, filled
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError
from jukebox.utils.files import WriteError

RATE = 8000  # Hz


@pytest.mark.parametrize("most", [0, 100, 10**6])
def test_a_spool_is_sliced_like_a_tensor(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", most)
    x, got = torch.randn(100), Spool(tmp_path / "out")
    for part in x.split(7):
        got.append(part)
    for part in (slice(None), slice(0, 0), slice(3, 50), slice(90, 200), slice(-5, None)):
        assert torch.equal(got[part], x[part])
    assert torch.equal(filled(got, 95, 110), torch.cat([x[95:], torch.zeros(10)])) and got.shape == (100,)
    got.resize(40)
    got.resize(60)
    got.append(torch.ones(3))
    assert torch.equal(got[:], torch.cat([x[:40], torch.zeros(20), torch.ones(3)])) and len(got) == 63
    codes = Spool(tmp_path, np.int64)
    codes.append(torch.tensor([2**40]))
    assert codes[:].tolist() == [2**40]
    assert not [*tmp_path.rglob("*.*")]  # a killed process leaves nothing


def test_reading_to_a_spool_gives_what_reading_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 1000)
    x = np.random.RandomState(0).uniform(-0.5, 0.5, (3 * RATE, 2))
    for name in ("a.wav", "a.mp3", "a.ogg"):
        write_audio(tmp_path / name, x, RATE)
        for sr, offset, duration in ((RATE, 0, None), (RATE // 2, 700, None), (RATE, RATE, 4 * RATE)):
            got = Spool(tmp_path)
            read_into(got, tmp_path / name, sr, offset, duration)
            want, _ = load_audio(tmp_path / name, sr, offset, duration, mono=True)
            assert np.array_equal(got[:].numpy(), want[0])
    with pytest.raises(UserError, match=r"ends before 5\.00 s"):
        read_into(Spool(tmp_path), tmp_path / "a.wav", RATE, 5 * RATE)
    chain = tmp_path / "chain.ogg"
    chain.write_bytes(2 * (tmp_path / "a.ogg").read_bytes())
    read_into(got := Spool(tmp_path), chain, RATE)
    assert np.array_equal(got[:].numpy(), load_audio(chain, RATE, mono=True)[0][0]) and len(got) > 5 * RATE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tiny_runs(tmp_path_factory.mktemp("tiny"))


def flags(of: Any, model: str, songs: Path, out: Path) -> dict[str, Any]:
    given: dict[str, Any] = {"model": model, "audio_files_dir": str(songs), "device": "cpu"}
    given |= {"name": str(out), "model": model.split(",")[0], "levels": (2,)} if of is reconstruct else {}
    given |= {"out": str(out), "layers": 1, "batch_size": 64} if of is represent else {}
    return {flag.name: flag.default for flag in of.FLAGS} | given


@pytest.mark.faults("a long song is never taken as one piece", "{command}: no piece is longer than a window")
@pytest.mark.parametrize("command", ["reconstruct", "represent"])
def test_no_command_takes_a_song_as_one_piece(
    tmp_path: Path, model: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory at a time does not depend on the length; the results are those of a song in memory."""
    of: Any = {"reconstruct": reconstruct, "represent": represent}[command]
    monkeypatch.setattr(coder.Coder.__init__, "__defaults__", (1 << 12,))
    monkeypatch.setattr(figures.spectra, "__defaults__", (8,))
    monkeypatch.setattr(figures, "PIECE", 1 << 12)
    monkeypatch.setattr(write, "PIECE", 1 << 12)
    write_audio(tmp_path / "songs" / "a.wav", 0.5 * np.sin(np.arange(20_000) / 9), SR)
    pieces: list[int] = []
    take = Spool.__getitem__

    def taken(self: Spool, part: slice) -> torch.Tensor:
        pieces.append(len(found := take(self, part)))
        return found

    monkeypatch.setattr(Spool, "__getitem__", taken)
    results = []
    for name, most in (("whole", 1 << 30), ("pieces", 1 << 10)):
        monkeypatch.setattr(spool, "IN_MEMORY", most)
        out = tmp_path / name / "out"
        assert of.main(**flags(of, model, tmp_path / "songs", out)) == 0
        files = [path for path in sorted(out.rglob("*")) if path.suffix in (".wav", ".png", ".npy")]
        results.append([path.read_bytes() for path in files])
    assert results[0] and results[0] == results[1]
    assert max(pieces) < 1 << 13


@pytest.mark.parametrize("command", ["reconstruct", "represent"])
def test_a_disk_that_is_full_of_a_long_song_ends_the_command(
    tmp_path: Path, model: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of: Any = {"reconstruct": reconstruct, "represent": represent}[command]
    write_audio(tmp_path / "songs" / "a.wav", 0.1 * np.ones(SR), SR)
    monkeypatch.setattr(spool, "IN_MEMORY", 100)
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda dir: open("/dev/full", "r+b", buffering=0))
    with pytest.raises(WriteError, match="no space left to write .*out/a temporary file"):
        of.main(**flags(of, model, tmp_path / "songs", tmp_path / "out"))
