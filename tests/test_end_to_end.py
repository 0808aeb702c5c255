"""From a folder of audio files to new music, through the commands as users type them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jukebox.data.synthesizer import make_song
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import write_audio

ROOT = Path(__file__).parents[1]
SR = 8000
FORMATS = ["mp3", "m4a", "opus", "ogg", "flac", "wav"]
# The sets of the quick start, smaller still.
VQVAE = f"--sr={SR} --width=8 --depth=2 --emb_width=8 --l_bins=32"
ATTENTION = "--n_ctx=64 --prior_width=16 --prior_depth=3 --blocks=8 --cond_width=8 --cond_depth=2"
COMMON = "--train --test --bs=4 --nworkers=0 --epochs=2 --lr=0.003 --lr_warmup=5 --device=cpu"


def run(command: str, folder: Path, status: int = 0) -> str:
    """Runs `python COMMAND` in a folder and returns what it printed; another exit status shows it."""
    program, *arguments = shlex.split(command)
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    words = [sys.executable, str(ROOT / program), *arguments]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One song in each format, mono and stereo, at rates that are not the model's."""
    folder = tmp_path_factory.mktemp("songs")
    for i, extension in enumerate(FORMATS * 2):
        sr = 48000 if extension == "opus" else (22050, 44100)[i % 2]
        audio = make_song(i, sr=sr, seconds=3.0).audio[:, None]
        write_audio(folder / f"song {i}.{extension}", audio.repeat(1 + i % 2, axis=1), sr)
    (folder / "broken.mp3").write_bytes(b"this is no audio" * 100)
    return folder


@pytest.mark.slow
def test_from_audio_files_to_new_music(songs: Path, tmp_path: Path) -> None:
    data = f"--audio_files_dir='{songs}'"
    vqvae = "--restore_vqvae=logs/v/checkpoint_latest.pth.tar"
    printed = run(f"jukebox/train.py --hps=tiny_vqvae --name=v {VQVAE} {COMMON} {data} --labels=False "
                  "--sample_length=2048 --aug_shift", tmp_path, status=1)  # fmt: skip
    assert "broken.mp3" in printed  # left out, which the exit status says too
    prior = f"jukebox/train.py {VQVAE} {ATTENTION} {COMMON} {data} --prior --labels=False {vqvae}"
    run(f"{prior} --hps=tiny_vqvae,tiny_prior --name=top --sample_length=4096", tmp_path, status=1)
    run(f"{prior} --hps=tiny_vqvae,tiny_upsampler --name=up --sample_length=1024", tmp_path, status=1)
    for name in ("v", "top", "up"):
        checkpoint = torch.load(tmp_path / f"logs/{name}/checkpoint_latest.pth.tar", weights_only=True)
        assert checkpoint["step"] > 0
        assert list((tmp_path / f"logs/{name}/logs").glob("events.*"))

    run("jukebox/sample.py --model=logs/v,logs/up,logs/top --name=out --n_samples=2 --sample_length_in_seconds=1 "
        "--seed=3 --device=cpu", tmp_path)  # fmt: skip
    left: dict[int, Any] = {
        level: torch.load(tmp_path / f"out/level_{level}/data.pth.tar", weights_only=True) for level in (0, 1)
    }
    assert [z.shape for z in left[1]["zs"]] == [(2, 0), (2, 125)]
    assert [z.shape for z in left[0]["zs"]] == [(2, 500), (2, 125)]
    for level, item in ((1, 0), (0, 0), (0, 1)):
        audio, sr = load_audio(str(tmp_path / f"out/level_{level}/item_{item}.wav"), sr=SR, offset=0, duration=8000)
        assert audio.shape[-1] == 8000
        torch.testing.assert_close(
            torch.from_numpy(audio[0]), left[level]["x"][item, :, 0].clamp(-1, 1), atol=1e-4, rtol=0
        )
    page = (tmp_path / "out/level_0/index.html").read_text(encoding="utf-8")
    assert "item_1" in page
