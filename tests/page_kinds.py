"""One page of every kind that users get, written to a folder, for tests that hold over all of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from jukebox.page.pictures import png
from jukebox.reconstruction.figures import Figures
from jukebox.reconstruction.page import ReconstructedSong, Version, page
from jukebox.save_html import save_html, save_joined_page
from jukebox.utils.audio.write import write_audio

SR, SECONDS, LYRICS = 8000, 6, "la la la\nle lu"


def write_pages(folder: Path) -> dict[str, Path]:
    """The pages by kind, with all that they need beside them."""
    x = 0.3 * np.sin(np.arange(2 * SR * SECONDS)).reshape(2, -1, 1)
    alignment = np.kron(np.eye(len(LYRICS)), np.ones((10, 1)))
    infos = [{"artist": "Ada", "genre": "jazz", "lyrics": LYRICS}, {"title": "Two", "artist": "n/a", "lyrics": LYRICS}]
    labels = {"y": np.array([[240 * SR, 0, 1000, 1, 1]] * 2), "info": infos}
    hps = {
        "sr": SR, "name": "run", "seed": 0, "model": "demo", "mode": "primed", "temp": 0.9, "prompt_seconds": 2.0,
        "prompt_length_in_seconds": 2.0, "sample_length_in_seconds": 6.0, "total_sample_length_in_seconds": 240.0,
        "audio_file": "a.wav", "hop_fraction": 0.5, "engine": "eager", "dtype": "fp32", "top_k": 3, "top_p": 0.5,
        "codes_file": "b.pth.tar", "again": {"model": "demo", "seed": 0},
    }  # fmt: skip
    for level in (1, 0):
        zs = [np.zeros((2, 4), int)]
        save_html(folder / "run" / f"level_{level}", x, zs, labels, [alignment, None], hps)
    songs = [(f"Song {i}", f"../run/level_0/item_{i}.wav", "../run/level_0/index.html") for i in range(2)]
    place = folder / "reconstruction"
    place.mkdir()
    write_audio(place / "a.wav", torch.from_numpy(x[0]).float(), SR)
    (place / "a.png").write_bytes(png(np.zeros((4, 4), np.uint8), bytes(768)))
    figures = [Figures(level, 8 * 4**level, SR, torch.arange(16), (0.2,)) for level in range(2)]
    versions = [Version("a.wav", "a.png", each) for each in (None, *figures)]
    heard = [ReconstructedSong(name, float(SECONDS), 2.0 * i, versions) for i, name in enumerate(("a.wav", "b.wav"))]
    (place / "index.html").write_text(page("out", "logs/vqvae", 700, SR, heard, figures), encoding="utf-8")
    return {
        "player": folder / "run" / "level_0" / "index.html",
        "joined": save_joined_page(folder / "joined", songs),
        "reconstruction": place / "index.html",
    }
