"""examples/features.py: at most forty lines, and the numbers of represent.py, for a folder, in batches over songs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import SR, make_tiny_runs

from jukebox import represent
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams
from jukebox.loaders import find_model
from jukebox.make_models import MODELS
from jukebox.utils.audio.write import write_audio

EXAMPLE = Path(__file__).parents[1] / "examples" / "features.py"


def test_forty_lines_of_public_names() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    imports = {line.split()[1] for line in lines if line.startswith("from jukebox")}
    assert imports == {"jukebox.hparams", "jukebox.make_models", "jukebox.utils.io"}


def test_equal_to_represent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """A top level as that of 5b: labels, no lyrics, a merged decoder; songs of less and more than a window."""
    model = make_tiny_runs(tmp_path, lyrics=False, merged_decoder=True, prior_depth=4)
    found, rng = find_model(model), np.random.default_rng(0)
    (tmp_path / "music").mkdir()
    for name, seconds in {"a.wav": 1.0, "b.flac": 5.3, "c.wav": 2.048, "d.wav": 12.0}.items():
        noise = torch.from_numpy(rng.standard_normal((round(seconds * SR), 1)) * 0.2).float()
        write_audio(tmp_path / "music" / name, noise, SR)
    out = tmp_path / "theirs"
    flags = {flag.name: flag.default for flag in represent.FLAGS}
    settings = dict(model=model, audio_files_dir=str(tmp_path / "music"), out=str(out), layers=3, device="cpu")
    assert represent.main(**{**flags, **settings}) == 0
    sets = {"tiny_5b_vqvae": found.vqvae_hps, "tiny_5b_top": found.levels[2].hps}  # type: ignore[union-attr]
    for name, hps in sets.items():
        monkeypatch.setitem(HPARAMS_REGISTRY, name, Hyperparams(hps))
    monkeypatch.setitem(MODELS, "tiny_5b", ("tiny_5b_vqvae", "tiny_5b_top"))
    ours = tmp_path / "ours"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "music"), str(ours), "tiny_5b", "3"])
    try:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    finally:
        torch.set_grad_enabled(True)
    assert "layers 1 to 3 of 4 are loaded" in capsys.readouterr().out
    for file in (tmp_path / "music").glob("?.*"):
        (expected,) = np.load(out / f"{file.name}.npy")
        got = np.load(ours / f"{file.stem}.npy")
        assert got.dtype == np.float32 and got.shape == (16,)
        np.testing.assert_allclose(got, expected, atol=2e-5)
