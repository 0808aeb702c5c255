"""Every kind of training that the README and `train.py --help` name, run by its own command line.

The commands are those that users type; only flags appended after them make models, songs and runs small. Later rows
stand on the checkpoints that earlier ones left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from utils.test_dist import free_port, mpiexec

from jukebox.data import build_labels
from jukebox.data.synthesizer import write_songs
from jukebox.hparams import setup_hparams
from jukebox.make_models import make_vqvae, save_checkpoint
from jukebox.train import flags, main, read_hps
from jukebox.utils.command_line import parse_flags
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch

ROOT = Path(__file__).parents[1]
SR = 22050

VQVAE = (
    "--hps=small_vqvae --name=small_vqvae --sample_length=262144 --bs=4 --audio_files_dir=D --labels=False --train "
    "--aug_shift --aug_blend"
)
ON_SMALL = (
    "--bs=4 --audio_files_dir=D --labels=False --train --test --aug_shift --aug_blend "
    "--restore_vqvae=logs/small_vqvae/checkpoint_latest.pth.tar --prior --levels=2 --weight_decay=0.01 "
    "--save_iters=1000"
)
TOP = f"--hps=small_vqvae,small_prior,all_fp16,cpu_ema --name=small_prior --sample_length=2097152 --level=1 {ON_SMALL}"
UPSAMPLER = (
    "--hps=small_vqvae,small_upsampler,all_fp16,cpu_ema --name=small_upsampler --sample_length=262144 --level=0 "
    f"{ON_SMALL}"
)
ON_RELEASED = (
    "--audio_files_dir=D --train --test --aug_shift --aug_blend --prior --levels=3 --level=2 --weight_decay=0.01 "
    "--save_iters=1000"
)
RELEASED = (
    "--hps=vqvae,small_prior,all_fp16,cpu_ema --name=on_released --sample_length=1048576 --bs=4 --labels=False "
    f"{ON_RELEASED}"
)
LABELLED = (
    "--hps=vqvae,small_labelled_prior,all_fp16,cpu_ema --name=labelled --sample_length=1048576 --bs=4 --labels=True "
    f"{ON_RELEASED}"
)
ONE_SEQUENCE = (
    "--hps=vqvae,small_single_enc_dec_prior,all_fp16,cpu_ema --name=single_enc_dec --sample_length=786432 --bs=4 "
    f"--labels=True {ON_RELEASED}"
)
ENCODER = (
    "--hps=vqvae,small_sep_enc_dec_prior,all_fp16,cpu_ema --name=sep_enc_dec --sample_length=786432 --bs=4 "
    f"--labels=True {ON_RELEASED}"
)
FINE_TUNE = (
    "--hps=vqvae,prior_1b_lyrics,all_fp16,cpu_ema --name=finetuned --sample_length=1048576 --bs=1 --labels=True "
    f"{ON_RELEASED}"
)

# What makes them small.
ANY = "--device=cpu --nworkers=0 --epochs=1 --sample_iters=-1 --lr_warmup=2"
NET = "--width=8 --depth=1 --emb_width=8 --l_bins=32"
ATTENTION = "--n_ctx=64 --prior_width=16 --prior_depth=3 --blocks=8 --heads=2 --m_attn=0.5"
ON_SMALL_SHRUNK = f"{ANY} {NET} {ATTENTION} --cpu_ema_freq=2"
ON_RELEASED_SHRUNK = f"{ON_SMALL_SHRUNK} --restore_vqvae=released.pth.tar --sample_length=8192"
LABELS = "--labels_dir=D --y_bins=5,5 --min_duration=0.5"
LYRICS = "--n_tokens=16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with songs in D and a small stand-in for the released VQ-VAE."""
    folder = tmp_path_factory.mktemp("commands")
    write_songs(str(folder / "D"), songs=8, seconds=1.5, sr=SR, format="wav")
    build_labels.build(audio_files_dir=str(folder / "D"), sr=SR, sample_length=0)
    hps = setup_hparams("vqvae", {**parse_flags(NET.split(), flags()), "restore_vqvae": "", "sample_length": 8192})
    hps.train = True
    torch.manual_seed(0)
    model = make_vqvae(hps, "cpu")
    with torch.no_grad():
        latents = [encoder(0.3 * torch.randn(2, 1, 8192))[-1] for encoder in model.encoders]
        model.bottleneck(latents)  # a codebook of the encoders' outputs
    save_checkpoint(folder / "released.pth.tar", dict(hps), model)
    return folder


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every command runs in the folder, and nothing may be fetched."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JUKEBOX_CACHE", str(folder / "cache"))
    monkeypatch.setenv("JUKEBOX_MIRROR", "http://127.0.0.1:9")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    assert not (folder / "cache").exists()


def train(command: str, *shrunk: str) -> dict[str, Any]:
    """Runs a command with more flags after it; returns the checkpoint it leaves."""
    given = parse_flags([*command.split(), *" ".join(shrunk).split()], flags())
    assert main(**given) == 0
    return load_torch(f"{given.get('local_logdir', 'logs')}/{given['name']}/checkpoint_latest.pth.tar")


@pytest.fixture(scope="module")
def small_vqvae(folder: Path) -> dict[str, Any]:
    """The checkpoint of the first row, which the small priors build on."""
    return train(VQVAE, ANY, NET, f"--sample_length=8192 --audio_files_dir={folder}/D --local_logdir={folder}/logs")


def test_a_flag_that_is_given_twice_takes_the_last_value(folder: Path) -> None:
    given = parse_flags([*TOP.split(), *"--bs=2 --notrain --n_ctx=16 --sample_length=4096 --bs=3".split()], flags())
    assert given["bs"] == 3 and given["train"] is False and given["sample_length"] == 4096
    assert given["hps"] == "small_vqvae,small_prior,all_fp16,cpu_ema"  # and what was given once stays


@pytest.mark.slow
def test_a_vqvae_a_top_level_an_upsampler_and_an_anneal(
    small_vqvae: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The chain of the paper's small models: each builds on the checkpoint of the one before."""
    assert small_vqvae["step"] > 0 and small_vqvae["hps"]["sr"] == SR and small_vqvae["codebook"]
    top = train(TOP, ON_SMALL_SHRUNK, "--sample_length=16384")
    said = capfd.readouterr().out
    assert "prior of level 1" in said and "fp16 on cpu" in said and "half-precision moments" in said
    assert "held-out songs: loss" in said
    assert top["step"] > 0 and top["scaler"]["scale"] > 2**15
    assert {v.dtype for v in top["model"].values()} == {torch.float16, torch.float32}
    up = train(UPSAMPLER, ON_SMALL_SHRUNK, "--n_ctx=256 --sample_length=8192 --cond_width=8 --cond_depth=2")
    assert up["step"] > 0 and any(key.startswith("conditioner_blocks.") for key in up["model"])

    steps = 2
    anneal = (
        f"{TOP.replace('--name=small_prior', '--name=annealed')} "
        "--restore_prior=logs/small_prior/checkpoint_latest.pth.tar --lr_use_linear_decay "
        f"--lr_start_linear_decay={top['step']} --lr_decay={steps}"
    )
    annealed = train(anneal, ON_SMALL_SHRUNK, "--sample_length=16384 --epochs=100")
    assert annealed["step"] == top["step"] + steps and annealed["opt"]["param_groups"][0]["lr"] == 0.0
    assert f"steps {top['step']} to {top['step'] + steps}" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", [RELEASED, LABELLED, ONE_SEQUENCE, ENCODER])
def test_top_levels_on_the_released_vqvae(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    more = [LABELS if "--labels=True" in command else "", LYRICS if "enc_dec" in command else ""]
    if "single_enc_dec" in command:
        more.append("--prior_depth=16")  # its pattern reads lyrics in layer 15
    if "sep_enc_dec" in command:
        more.append("--prior_depth=10 --prime_width=16 --prime_depth=2 --prime_blocks=4")  # and here in layer 9
    checkpoint = train(command, ON_RELEASED_SHRUNK, *more)
    said = capfd.readouterr().out
    assert checkpoint["step"] > 0 and "prior of level 2" in said and "held-out songs: loss" in said
    names = set(checkpoint["model"])
    assert any(name.startswith("y_emb.") for name in names) == ("--labels=True" in command)
    assert any(name.startswith("prime_prior.") for name in names) == ("sep_enc_dec" in command)
    assert ("labels" in checkpoint and bool(checkpoint["labels"])) == ("--labels=True" in command)
    if "single_enc_dec" in command:
        assert len(checkpoint["model"]["prior.x_emb.weight"]) == 79 + 32  # characters and codes in one vocabulary


def test_the_1b_model_as_written_is_refused_with_the_right_number(folder: Path) -> None:
    with pytest.raises(UserError, match="n_ctx=6144 tokens of level 2 are 786432 samples.*use --sample_length=786432"):
        read_hps(parse_flags(FINE_TUNE.split(), flags()))
    hps = read_hps(parse_flags([*FINE_TUNE.split(), "--sample_length=786432"], flags()))
    assert hps.restore_prior.endswith("1b_lyrics/prior_level_2.pth.tar") and hps.fp16_params and hps.labels_v3


@pytest.mark.slow
def test_fine_tuning_the_1b_model(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """From only averaged weights, as released files hold them, into custom label tables."""
    shrunk = f"{ON_RELEASED_SHRUNK} {LABELS} {LYRICS} --prior_depth=16 --train_test_split=0.3"
    start = train(FINE_TUNE, shrunk, "--restore_prior= --name=released_1b --fp16=False --fp16_params=False --bs=4")
    labels = start["labels"]
    artists = {f"{name} of old" if name == "anna bell" else name: i for name, i in labels["artist_ids"].items()}
    assert artists != labels["artist_ids"]
    released = {"model": start["model"], "step": start["step"], "labels": {**labels, "artist_ids": artists}}
    torch.save(released, "released_1b.pth.tar")
    capfd.readouterr()
    tuned = train(FINE_TUNE, shrunk, "--restore_prior=released_1b.pth.tar")
    said = capfd.readouterr().out
    assert "artist names: 3 of 4 known to the checkpoint" in said and "steps 0 to" in said
    assert tuned["step"] > 0 and tuned["model"]["prior.transformer._attn_mods.0.mlp.c_fc.w"].dtype == torch.float16


@pytest.mark.slow
def test_all_fp16_under_mpiexec(small_vqvae: dict[str, Any]) -> None:
    """The script itself, as two processes with half weights and half optimizer state."""
    script = [mpiexec(), "-n", "2", sys.executable, str(ROOT / "jukebox" / "train.py")]
    shrunk = f"{ON_SMALL_SHRUNK} --sample_length=16384 --name=ranks --bs=2 --port={free_port()}"
    done = subprocess.run(
        [*script, *TOP.split(), *shrunk.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 processes") == 1 and "fp16 on cpu" in done.stdout
    assert "Warning" not in done.stderr  # PyTorch's advice on unused parameters is not for the user
    checkpoint = load_torch("logs/ranks/checkpoint_latest.pth.tar")
    assert checkpoint["step"] > 0
    kinds = {state["exp_avg"].dtype for state in checkpoint["opt"]["state"].values()}
    assert kinds == {torch.float16, torch.float32}
