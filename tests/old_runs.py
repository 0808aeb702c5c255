"""Runs that an earlier version of the program was stopped in the middle of, and their commands.

`tests/fixtures/old_runs.tar.xz` holds them as commit 7caabaa left them: in `expected.pth.tar` how they ended there, in
`codes.pth.tar` the codes of a top level. It was written by `python tests/old_runs.py FILE` with that commit checked
out; only a change of a promised file is a reason to write it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

ARCHIVE = Path(__file__).with_name("fixtures") / "old_runs.tar.xz"
SR = 2000

_MODEL: dict[str, Any] = dict(
    audio_files_dir="music",
    sr=SR,
    levels=2,
    downs_t=[5, 2],
    strides_t=[2, 2],
    emb_width=4,
    l_bins=8,
    width=4,
    depth=1,
    multispec_loss_n_fft=[128, 64],
    multispec_loss_hop_length=[32, 16],
    multispec_loss_window_size=[64, 32],
    linf_k=16,
    sample_length=2048,
    device="cpu",
    nworkers=0,
    bs=2,
    epochs=2,
    lr=0.001,
    lr_warmup=2,
    sample_iters=-1,
    mu=0.9,
    train=True,
)
_PRIOR: dict[str, Any] = dict(
    _MODEL,
    prior=True,
    restore_vqvae="logs/vqvae/checkpoint_latest.pth.tar",
    labels_v3=True,
    labels_dir="tables",
    y_bins=[3, 3],
    max_bow_genre_size=1,
    min_duration=2,
    max_duration=60,
    t_bins=4,
    heads=2,
    prior_width=8,
    init_scale=3.0,
    seed=5,
)
_TOP: dict[str, Any] = dict(
    _PRIOR,
    level=1,
    n_ctx=16,
    blocks=4,
    prior_depth=4,
    attn_order=6,
    use_tokens=True,
    n_tokens=8,
    n_vocab=80,
    prime_width=8,
    prime_depth=1,
    align_loss=0.1,
)
_UPSAMPLER: dict[str, Any] = dict(
    _PRIOR, level=0, n_ctx=64, blocks=8, prior_depth=3, attn_order=2, cond_width=4, cond_depth=1
)
# In the order in which they are started: priors need the VQ-VAE.
TRAINING: dict[str, dict[str, Any]] = {
    "vqvae": dict(_MODEL, labels=False, aug_shift=True, aug_blend=True),
    "top": _TOP,  # seed, alignment head and labels are noted in its checkpoint
    "half": dict(_TOP, hps="all_fp16,cpu_ema", cpu_ema_freq=2, iters_before_update=2, align_loss=0.0),
    "upsampler": dict(_UPSAMPLER, codes_dir="codes", ema_fused=False),
    "sharded": dict(_UPSAMPLER, fsdp=True, epochs=3),  # of two processes; it resumes in one
}
STOPS = {"half": 1, "sharded": 3}  # the question about stopping, after a step or an epoch, that was answered with yes
STEPS = {"half": (1, 4), "sharded": (2, 6)}  # where a run was stopped, and where it ends
SAMPLING: dict[str, Any] = dict(
    model="logs/top,logs/upsampler",
    name="samples/run",
    sample_length_in_seconds=2.048,
    hop_fraction=(0.5, 0.5),
    seed=7,
    n_samples=2,
    artist="artist 1",
    genre="genre 1",
    lyrics="la la la, the end",
    device="cpu",
)


def unpack(folder: Path) -> Path:
    """Unpacks the runs into a folder and returns it; commands are to be given there."""
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11.2, as Debian 12 has it, has no filters yet; the archive is our own.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


def train(name: str, **other: Any) -> int:
    """Gives the training command of a run, with some flags otherwise."""
    from jukebox.train import main

    return main(name=name, **{**TRAINING[name], **other})


def make_music() -> None:
    """Four short songs with labels and timed lyrics, and label tables."""
    import soundfile

    os.makedirs("music")
    for i in range(4):
        t = np.arange(2 * SR + 600 * (i + 1)) / SR
        song = [0.4 * np.sin(2 * np.pi * f * t * (1 + 0.1 * np.sin(t))) for f in (40 * (i + 2), 30 * (i + 3))]
        soundfile.write(f"music/song{i}.wav", np.stack(song, 1), SR)
        labels = {"artist": f"artist {i % 2 + 1}", "genre": f"genre {i // 2 + 1}", "lyrics": "la la la"}
        Path(f"music/song{i}.json").write_text(json.dumps(labels), encoding="utf-8")
        Path(f"music/song{i}.lrc").write_text("[00:00.20]la la\n[00:01.10]la\n", encoding="utf-8")
    os.makedirs("tables")
    for kind in ("artist", "genre"):
        Path(f"tables/{kind}_ids.txt").write_text(f"unknown;0\n{kind} 1;1\n{kind} 2;2\n", encoding="utf-8")


@contextlib.contextmanager
def stopped_at(question: int) -> Iterator[None]:
    """Answers a training run's n-th question about stopping with yes, as Ctrl-C does."""
    from jukebox.training.interrupt import StopRequest

    asked = 0

    def agree(self: StopRequest, device: torch.device) -> bool:
        nonlocal asked
        asked += 1
        self.asked = 2 if asked >= question else 0
        return bool(self.asked)

    with mock.patch.object(StopRequest, "agree", agree):
        yield


def sample_until(saves: int) -> None:
    """A sampling run that dies as soon as its state was written that many times."""
    from jukebox.sample import main
    from jukebox.sampling.state import RunState

    save, done = RunState.save, 0

    def save_and_die(state: RunState) -> None:
        nonlocal done
        save(state)
        done += 1
        if done == saves:
            raise KeyboardInterrupt

    with mock.patch.object(RunState, "save", save_and_die), contextlib.suppress(KeyboardInterrupt, SystemExit):
        main(**SAMPLING)


def weights_of(name: str) -> dict[str, torch.Tensor]:
    """What a run has learned so far: averaged weights, and the last ones where they are in the file."""
    checkpoint = torch.load(f"logs/{name}/checkpoint_latest.pth.tar", weights_only=True)
    parts = {"model": checkpoint["model"], "raw": checkpoint.get("raw_model", {})}
    return {f"{part}/{key}": value.float() for part, found in parts.items() for key, value in found.items()}


def write(path: Path) -> None:
    """Writes the archive."""
    root = Path(__file__).parents[1]
    os.environ["JUKEBOX_CACHE"] = os.path.join(tempfile.mkdtemp(), "cache")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "tests")])
    os.chdir(tempfile.mkdtemp())
    make_music()
    for name in TRAINING:
        ranks = ["mpiexec", "-n", "2"] if TRAINING[name].get("fsdp") else []
        code = f"import old_runs\nwith old_runs.stopped_at({STOPS.get(name, 2)}): old_runs.train({name!r})"
        status = subprocess.run([*ranks, sys.executable, "-c", code]).returncode
        assert os.path.isfile(f"logs/{name}/checkpoint_latest.pth.tar"), status
    sample_until(2)
    with tarfile.open(path, "w:xz", preset=9) as archive:
        for folder in ("music", "tables", "codes", "logs", "samples"):
            archive.add(folder, filter=lambda info: None if "/logs/" in info.name else info)  # no charts
        expected = dict[str, Any]()
        from jukebox.sample import main

        main(**SAMPLING, resume=True)
        expected["samples"] = torch.load("samples/run/level_0/data.pth.tar", weights_only=True)["zs"]
        archive.add("samples/run/level_1/data.pth.tar", "codes.pth.tar")
        for name in reversed(TRAINING):  # the VQ-VAE last: priors need it as it was
            train(name)
            expected[name] = weights_of(name)
        torch.save(expected, "expected.pth.tar")
        archive.add("expected.pth.tar")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    write(Path(sys.argv[1]).resolve())
