"""Trains the demo model, MODELS["demo"], from nothing: `make demo-model`, or python examples/demo_model.py

Makes songs by rule and trains the VQ-VAE, two upsamplers and the top-level prior by the ordinary commands, each printed
before it runs. The same command resumes a stopped run. Then writes the averaged weights, in
half precision and without optimizer state, to `jukebox/demo/`, where MODELS["demo"] finds them.

The hyper-parameters are the sets `demo_*` of `jukebox/hparams.py`. The shipped weights came about in a few more steps:
docs/demo.md tells which, and how good they are. `benchmarks/demo/report.py` measures a model that this makes. It takes
some three hours on two processor cores, by the sum of its parts.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from steps import LATEST, ROOT, run_all

sys.path.insert(0, str(ROOT))

SR = 11025
VQVAE_DATA, PRIOR_DATA = "logs/demo_songs", "logs/demo_songs_prior"
VQVAE = f"logs/demo_vqvae/{LATEST}"
COMMON = "--train --nworkers=1 --lr_warmup=100 --mu=0.99 --aug_shift --sample_iters=100000 --save_iters=500"
PRIOR = (
    f"--audio_files_dir={PRIOR_DATA} --labels_dir={PRIOR_DATA} --codes_dir=logs/demo_codes --prior --bs=8 "
    f"--epochs=1000 --restore_vqvae={VQVAE} --restore_prior= {COMMON} --lr=0.001 --lr_use_linear_decay"
)
COMMANDS = {
    "songs for the VQ-VAE": (
        f"-m jukebox.data.synthesizer --out={VQVAE_DATA} --songs=1600 --seconds=13.375 --sr={SR} --format=wav"
    ),
    # One and a half windows long, so that windows often begin where songs do, and where sampling continues.
    "songs for the priors": (
        f"-m jukebox.data.synthesizer --out={PRIOR_DATA} --songs=6000 --seconds=10.04 --sr={SR} --format=wav --seed=1"
    ),
    "tables of artists and genres": f"-m jukebox.data.labels build --audio_files_dir={PRIOR_DATA} --sr={SR}",
    "VQ-VAE": (
        f"jukebox/train.py --hps=demo_vqvae --name=demo_vqvae --audio_files_dir={VQVAE_DATA} --labels=False "
        f"--restore_vqvae= --sample_length=8192 --bs=4 --epochs=1 {COMMON} --lr_warmup=50 --lr=0.0015 "
        "--lr_use_linear_decay --lr_start_linear_decay=2900 --lr_decay=1400"
    ),
    # By now encoders and codebooks have settled. What decoders still learn by spectra, priors need not learn again.
    "the VQ-VAE's decoders, on the codes as they are": (
        f"jukebox/train.py --hps=demo_vqvae --name=demo_decoders --audio_files_dir={VQVAE_DATA} --labels=False "
        f"--restore_vqvae={VQVAE} --finetune_layers=decoders --spectral=10 --multispectral=10 --sample_length=8192 "
        f"--bs=4 --epochs=1 {COMMON} --lr=0.001 --lr_use_linear_decay --lr_start_linear_decay=2000 --lr_decay=2000"
    ),
    "top-level prior, conditioned on artist, genre, timing and timed lyrics": (
        f"jukebox/train.py --hps=demo_vqvae,demo_prior --name=demo_prior {PRIOR} --sample_length=73728 "
        "--lr_start_linear_decay=7000 --lr_decay=3000"
    ),
    "upsampler of level 1": (
        f"jukebox/train.py --hps=demo_vqvae,demo_upsampler_1 --name=demo_upsampler_1 {PRIOR} --sample_length=16384 "
        "--lr_start_linear_decay=1200 --lr_decay=800"
    ),
    "upsampler of level 0": (
        f"jukebox/train.py --hps=demo_vqvae,demo_upsampler_0 --name=demo_upsampler_0 {PRIOR} --sample_length=4096 "
        "--lr_start_linear_decay=4400 --lr_decay=2000"
    ),
}
PARTS = {  # run -> file of the shipped weights
    "demo_decoders": "vqvae",
    "demo_upsampler_0": "prior_level_0",
    "demo_upsampler_1": "prior_level_1",
    "demo_prior": "prior_level_2",
}


def pack() -> None:
    """Writes what sampling needs of each run to `jukebox/demo/`: averaged weights in half precision, and the tables."""
    import torch

    from jukebox.make_models import load_checkpoint, save_checkpoint

    total = 0
    for run_name, part in PARTS.items():
        checkpoint = load_checkpoint(ROOT / "logs" / run_name / LATEST)
        model = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor.clone()
            for name, tensor in checkpoint["model"].items()
        }
        extra: dict[str, Any] = {"labels": checkpoint["labels"]} if checkpoint.get("labels") else {}
        path = ROOT / "jukebox" / "demo" / f"{part}.pth.tar"
        save_checkpoint(path, checkpoint["hps"], model, step=checkpoint["step"], **extra)
        total += os.path.getsize(path)
        print(f"{path.relative_to(ROOT)}: {os.path.getsize(path) / 2**20:.2f} MiB, step {checkpoint['step']}")
    print(f"{total / 2**20:.2f} MiB in all")


if __name__ == "__main__":
    start = time.monotonic()
    run_all(COMMANDS, start)
    pack()
    print(f"\nDone in {(time.monotonic() - start) / 60:.0f} minutes. Hear it: make sample")
