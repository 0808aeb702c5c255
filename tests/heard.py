"""How the result of README's five training lines sounds, in figures that its goals are set for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from readme_commands import README, ROOT, fenced

from jukebox.utils.audio.read import read_samples

sys.path.insert(0, str(ROOT / "benchmarks"))
from demo.measures import sound_figures  # noqa: E402

SR = 11025
(BLOCK,) = (text for kind, text in fenced(README) if kind == "sh" and "--name=my_singer" in text)
FIVE = BLOCK.splitlines()  # songs, labels, VQ-VAE, prior, sampling


def held_out(run: Path, name: str) -> float:
    """The last held-out figure of a run's log."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return float([entry[name] for entry in entries if name in entry][-1])


def flatness(files: list[Path]) -> float:
    """Mean spectral flatness of songs; NaN of none."""
    found = [read_samples(str(file), SR, 0, 6 * SR, channels=1, damaged="keep")[0] for file in files]
    return float(
        torch.tensor([sound_figures(torch.from_numpy(x)[None].float(), SR)["flatness"][0] for x in found]).mean()
    )


def heard_figures(folder: Path) -> dict[str, float]:
    """What README's five lines, run in a folder, have come to.

    Returns:
        `reconstruction`: held-out spectral convergence in dB; `bits`: held-out bits a code of the prior; `flatness`:
        of the sampled songs, divided by that of the synthesiser's songs of their genre.
    """
    sung = sorted((folder / "samples" / "sung" / "level_1").glob("item_*.wav"))
    genre = json.loads(sung[0].with_suffix(".json").read_text(encoding="utf-8"))["genre"]
    notes = {path: json.loads(path.read_text(encoding="utf-8")) for path in (folder / "MUSIC").glob("song_*.json")}
    same = [path.with_suffix(".flac") for path, note in sorted(notes.items()) if note["genre"] == genre]
    same = same or sorted((folder / "MUSIC").glob("*.flac"))
    return {
        "reconstruction": held_out(folder / "logs" / "my_vqvae", "test/spectral_convergence"),
        "bits": held_out(folder / "logs" / "my_singer", "test/bpd"),
        "flatness": flatness(sung) / flatness(same),
    }
