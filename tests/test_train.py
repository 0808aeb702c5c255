"""The command line of training, as users type it, on real audio files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from utils.test_dist import free_port, mpiexec

from jukebox.hparams import all_defaults
from jukebox.utils.files import load_torch

ROOT = Path(__file__).parents[1]
SCRIPT = str(ROOT / "jukebox" / "train.py")
SR = 8000

TINY = (
    "--sr=8000 --levels=2 --downs_t=5,2 --strides_t=2,2 --emb_width=8 --l_bins=16 --width=8 --depth=1 --hps= "
    "--multispec_loss_n_fft=128,64 --multispec_loss_hop_length=32,16 --multispec_loss_window_size=64,32 "
    "--device=cpu --nworkers=0 --bs=2 --lr_warmup=2 --log_steps=2 --sample_iters=-1 --aug_shift --aug_blend"
).split()
VQVAE = [*TINY, "--sample_length=4096", "--labels=False", "--train"]
PRIOR = [
    *TINY,
    *"--prior --n_ctx=32 --sample_length=4096 --level=1 --prior_width=16 --prior_depth=2 --blocks=4".split(),
    *"--attn_order=2 --restore_vqvae=logs/vqvae/checkpoint_latest.pth.tar --train".split(),
]
UPSAMPLER = [
    *TINY,
    *"--prior --n_ctx=128 --sample_length=4096 --level=0 --prior_width=16 --prior_depth=2 --blocks=8".split(),
    *"--attn_order=2 --cond_width=8 --cond_depth=1 --restore_vqvae=logs/vqvae/checkpoint_latest.pth.tar".split(),
    *"--train --labels=False".split(),
]


def command(folder: Path, *words: str, ranks: int = 1) -> list[str]:
    launcher = [mpiexec(), "-n", str(ranks)] if ranks > 1 else []
    return [*launcher, sys.executable, SCRIPT, *words, f"--audio_files_dir={folder / 'music'}"]


def run(folder: Path, *words: str, ranks: int = 1, status: int = 0) -> Any:
    """Runs train.py in a folder, from an environment that knows nothing of the repository."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment.update(OMP_NUM_THREADS="1", JUKEBOX_CACHE=str(folder / "cache"))
    done = subprocess.run(
        command(folder, *words, ranks=ranks), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with music of six short songs, labels beside them and a trained tiny VQ-VAE."""
    import soundfile

    folder = tmp_path_factory.mktemp("train")
    (folder / "music").mkdir()
    for i in range(6):
        t = np.arange(3 * SR) / SR
        left, right = (0.4 * np.sin(2 * np.pi * f * t * (1 + 0.1 * np.sin(t))) for f in (110 * (i + 2), 70 * (i + 3)))
        soundfile.write(folder / "music" / f"song{i}.wav", np.stack([left, right], 1), SR)
        labels = f'{{"artist": "artist {i % 2}", "genre": "genre {i % 3}", "lyrics": "la la la number {i}"}}'
        (folder / "music" / f"song{i}.json").write_text(labels, encoding="utf-8")
    run(folder, *VQVAE, "--name=vqvae", "--epochs=1")
    return folder


def test_help_lists_every_hyper_parameter_at_once() -> None:
    words = [sys.executable, "-X", "importtime", SCRIPT, "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for key in ["hps", *all_defaults()]:
        assert f"\n  --{key}=" in done.stdout, key
    assert "small_vqvae" in done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said == [] and "| torch\n" not in done.stderr and " numpy\n" not in done.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--hps=smal_vqvae", "--name=x"], "unknown hyper-parameter set 'smal_vqvae'; did you mean small_vqvae"),
        (["--sampel_length=1"], "unknown flag --sampel_length; did you mean --sample_length"),
        (["--name=x", "--train", "song.mp3"], "'song.mp3' belongs to no flag"),
        (["--name=x", "--bs=many"], "bs='many' is a str: expected a int"),
        (["--name=x", "--train", "--sample_length=1"], "sample_length=1"),
        (["--name=x"], "nothing to do"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, words: list[str], error: str) -> None:
    (tmp_path / "music").mkdir()
    done = run(tmp_path, *words, status=2)
    assert done.stderr.startswith("error: ") and error in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "logs").exists()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    done = run(tmp_path, *VQVAE, "--name=x", status=2)
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


def test_vqvae_top_level_and_upsampler(songs: Path) -> None:
    assert load_torch(songs / "logs/vqvae/checkpoint_latest.pth.tar")["step"] > 0
    top = run(songs, *PRIOR, "--labels=False", "--test", "--name=top", "--epochs=2", "--weight_decay=0.01")
    assert "prior of level 1" in top.stdout and "held-out songs: loss" in top.stdout and "bpd" in top.stdout
    up = run(songs, *UPSAMPLER, "--name=up", "--epochs=1", "--cpu_ema", "--ema_fused=False", "--cpu_ema_freq=2")
    assert "prior of level 0" in up.stdout
    for name in ("top", "up"):
        checkpoint = load_torch(songs / "logs" / name / "checkpoint_latest.pth.tar")
        assert checkpoint["step"] > 0 and checkpoint["hps"]["name"] == name
        assert f"--name={name}" in checkpoint["command"]
    again = run(songs, *PRIOR, "--labels=False", "--test", "--name=top", "--epochs=3", "--weight_decay=0.01")
    assert "resuming from logs/top/checkpoint_latest.pth.tar" in again.stdout.replace(os.sep, "/")


def test_a_prior_with_labels_and_lyrics(songs: Path) -> None:
    tables = songs / "tables"
    tables.mkdir()
    (tables / "artist_ids.txt").write_text("unknown;0\nartist 0;1\nartist 1;2\n", encoding="utf-8")
    (tables / "genre_ids.txt").write_text("unknown;0\ngenre 0;1\ngenre 1;2\ngenre 2;3\n", encoding="utf-8")
    labels = (
        "--labels=True --labels_v3 --y_bins=4,3 --max_bow_genre_size=1 --min_duration=1 --max_duration=60 --t_bins=8 "
        "--use_tokens --n_tokens=16 --n_vocab=80 --prime_loss_fraction=0.4 --prime_width=8 --prime_depth=1 "
        "--prime_blocks=4 --attn_order=8 --prior_depth=4"
    ).split()
    done = run(songs, *PRIOR, *labels, f"--labels_dir={tables}", "--name=lyrics", "--epochs=1", "--bf16")
    checkpoint = load_torch(songs / "logs/lyrics/checkpoint_latest.pth.tar")
    assert "bf16 on cpu" in done.stdout
    assert checkpoint["labels"]["artist_ids"] and any(key.startswith("prime_") for key in checkpoint["model"])


@pytest.mark.slow
def test_half_matrices_outside_of_the_layers_are_sharded_too(songs: Path) -> None:
    """Such as the one where a lyric encoder meets the music."""
    lyrics = (
        "--labels=True --labels_v3 --y_bins=4,3 --max_bow_genre_size=1 --min_duration=1 --max_duration=60 --t_bins=8 "
        "--use_tokens --n_tokens=16 --n_vocab=80 --prime_width=8 --prime_depth=1 --prime_blocks=4 --attn_order=8 "
        "--prior_depth=4 --hps=all_fp16 --fsdp --name=lyrics_half --epochs=1"
    ).split()
    (songs / "own").mkdir()
    (songs / "own" / "artist_ids.txt").write_text("unknown;0\nartist 0;1\nartist 1;2\n", encoding="utf-8")
    (songs / "own" / "genre_ids.txt").write_text("unknown;0\ngenre 0;1\ngenre 1;2\ngenre 2;3\n", encoding="utf-8")
    run(songs, *PRIOR, *lyrics, f"--labels_dir={songs / 'own'}", f"--port={free_port()}", ranks=2)
    checkpoint = load_torch(songs / "logs/lyrics_half/checkpoint_latest.pth.tar")
    assert checkpoint["step"] > 0 and checkpoint["model"]["prime_state_proj.w"].dtype == torch.float16
    shards = checkpoint["shards"]
    assert "prime_state_proj.w" in shards["scales"] and "prime_state_proj.b" in shards["steps"]


def test_the_half_precision_recipe(songs: Path) -> None:
    done = run(songs, *PRIOR, "--labels=False", "--hps=all_fp16,cpu_ema", "--name=half", "--epochs=1")
    assert "fp16 on cpu" in done.stdout and "half-precision moments" in done.stdout
    checkpoint = load_torch(songs / "logs/half/checkpoint_latest.pth.tar")
    assert {v.dtype for v in checkpoint["model"].values()} == {torch.float16, torch.float32}
    assert checkpoint["scaler"]["scale"] > 2.0**16


@pytest.mark.faults("a killed run resumes as if undisturbed", "train.py as a command: SIGKILL twice")
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not of Windows")
def test_killed_at_any_step_and_started_again_it_ends_the_same(songs: Path) -> None:
    """The weights of a run that was killed twice are those of an undisturbed one, bit for bit."""
    words = [*VQVAE, "--epochs=2", "--save_iters=2"]
    run(songs, *words, "--name=undisturbed")
    draw = random.Random(os.getpid())
    killed = [*words, "--name=killed"]
    folder = songs / "logs" / "killed"
    total = load_torch(songs / "logs/undisturbed/checkpoint_latest.pth.tar")["step"]
    for _ in range(2):
        present = [int(p.name.split("_")[2].split(".")[0]) for p in folder.glob("checkpoint_step_*.tar")]
        goal = max(present, default=0) + draw.choice([2, 4, 6])
        process = subprocess.Popen(
            command(songs, *killed),
            cwd=songs,
            env={**os.environ, "OMP_NUM_THREADS": "1", "JUKEBOX_CACHE": str(songs / "cache")},
            stdout=subprocess.DEVNULL,
        )
        while not (folder / f"checkpoint_step_{goal}.pth.tar").exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert load_torch(folder / "checkpoint_latest.pth.tar")["step"] <= total
    run(songs, *killed)
    one, two = (load_torch(songs / "logs" / n / "checkpoint_latest.pth.tar") for n in ("undisturbed", "killed"))
    assert one["step"] == two["step"] == total
    for part in ("model", "raw_model"):
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), (part, key)
    for a, b in zip(one["codebook"], two["codebook"], strict=True):
        assert torch.equal(a["k_sum"], b["k_sum"]) and torch.equal(a["k_elem"], b["k_elem"])


@pytest.mark.faults("a signal ends a command in order", "train.py with workers, {ranks} ranks: {sign}")
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(("ranks", "sign"), [(1, "SIGINT"), (2, "SIGINT"), (1, "SIGTERM"), (2, "SIGTERM")])
def test_interrupted_with_workers(songs: Path, ranks: int, sign: str) -> None:
    """Ctrl-C and batch systems signal every process, loader workers too: it saves, says how to resume, and ends."""
    name = f"interrupted{ranks}{sign}"
    words = [*VQVAE, f"--name={name}", "--epochs=1000", "--nworkers=1", "--save_iters=2", f"--port={free_port()}"]
    process = subprocess.Popen(
        command(songs, *words, ranks=ranks),
        cwd=songs,
        env={**os.environ, "OMP_NUM_THREADS": "1", "JUKEBOX_CACHE": str(songs / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    latest = songs / "logs" / name / "checkpoint_latest.pth.tar"
    while not latest.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, sign))
    out, err = process.communicate(timeout=300)
    assert "stopped: the same command resumes from there" in out, out + err
    assert err.count("stopping after this step") == 1 and "Traceback" not in err
    assert process.returncode == 128 + getattr(signal, sign)
    assert load_torch(latest)["step"] >= 2


@pytest.mark.slow
def test_under_mpiexec(songs: Path) -> None:
    """Two processes: one checkpoint, one line for each thing said, the same weights everywhere, and resuming."""
    port = f"--port={free_port()}"
    done = run(songs, *VQVAE, "--name=ranks", "--epochs=1", "--test", port, ranks=2)
    assert done.stdout.count("2 processes") == 1 and done.stdout.count("done") == 1
    checkpoint = load_torch(songs / "logs/ranks/checkpoint_latest.pth.tar")
    assert not any(key.startswith("module.") for key in checkpoint["model"])
    again = run(songs, *VQVAE, "--name=ranks", "--epochs=2", "--test", port, ranks=2)
    assert again.stdout.count("resuming from") == 1
    assert load_torch(songs / "logs/ranks/checkpoint_latest.pth.tar")["step"] == 2 * checkpoint["step"]


SHARDED = {
    "vqvae": VQVAE,
    "prior": [*PRIOR, "--labels=False", "--bf16=False"],
    "half": [*PRIOR, "--labels=False", "--hps=all_fp16,cpu_ema", "--cpu_ema_freq=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SHARDED))
def test_a_sharded_run_goes_on_in_every_form(kind: str, songs: Path) -> None:
    """Two processes with sharded weights: resumed as undisturbed; its checkpoint resumes whole in one process."""
    words = [*SHARDED[kind], "--fsdp", "--test", "--sample_iters=3", "--save_iters=3"]
    port = f"--port={free_port()}"
    logs, again = songs / "logs", songs / "logs" / f"again_{kind}"
    run(songs, *words, f"--name=sharded_{kind}", "--epochs=2", port, ranks=2)
    run(songs, *words, f"--name={again.name}", "--epochs=1", port, ranks=2)
    done = run(songs, *words, f"--name={again.name}", "--epochs=2", port, ranks=2)
    assert done.stdout.count("resuming from") == 1
    one, two = (load_torch(folder / "checkpoint_latest.pth.tar") for folder in (logs / f"sharded_{kind}", again))
    assert one["step"] == two["step"] > 3 and one["opt"] is None
    assert set(one["shards"]["steps"].values()) == {one["step"]}
    for key, value in one["model"].items():
        assert type(value) is torch.Tensor and torch.equal(value, two["model"][key]), key
    assert {v.dtype for v in one["model"].values()} == {torch.float32} | ({torch.float16} if kind == "half" else set())
    assert one["scaler"] == two["scaler"] and (one["scaler"]["scale"] > 1.0) == (kind == "half")
    for a, b in zip(one.get("codebook", ()), two.get("codebook", ()), strict=True):
        assert torch.equal(a["k_sum"], b["k_sum"]) and torch.equal(a["k_elem"], b["k_elem"])
    kept = {load_torch(p)["shards"]["folder"] for p in again.glob("checkpoint_*.pth.tar")}
    assert {p.name for p in again.glob("shards_*")} == kept
    whole = [*words, "--fsdp=False", f"--name={again.name}", "--epochs=3", "--bs=4"]  # one process, the same batches
    run(songs, *whole)
    three = load_torch(again / "checkpoint_latest.pth.tar")
    assert three["step"] == one["step"] // 2 * 3 and not three.get("shards") and three["opt"]["state"]
    kinds = {state["exp_avg"].dtype for state in three["opt"]["state"].values()}
    assert (torch.float16 in kinds) == (kind == "half")
    assert not list(again.glob(f"shards_{one['step']}"))
    done = run(songs, *words, f"--name={again.name}", "--epochs=4", port, ranks=2)
    assert f"steps {three['step']} to" in done.stdout
    four = load_torch(again / "checkpoint_latest.pth.tar")
    assert set(four["shards"]["steps"].values()) == {four["step"]} == {one["step"] * 2}


def test_a_mistake_under_mpiexec_is_said_once(songs: Path) -> None:
    done = run(songs, *VQVAE, "--name=x", "--sample_length=4097", ranks=2, status=2)
    assert done.stderr.count("error: sample_length=4097") == 1 and "Traceback" not in done.stderr
