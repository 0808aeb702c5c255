"""From nothing to your own model in a few minutes on a laptop's processor: `make quickstart`

Makes songs by rule, trains a very small VQ-VAE, top-level prior and upsampler on them with the ordinary commands (each
is printed before it runs), measures what they learned, and samples. Everything lands in
`logs/quickstart_*` and `samples/quickstart/`; the same command resumes a stopped run.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from steps import LATEST, ROOT, run, run_all

sys.path.insert(0, str(ROOT))

SONGS, SECONDS, SR = 12, 6, 11025
DATA = "logs/quickstart_songs"
VQVAE, PRIOR, UPSAMPLER = (f"logs/quickstart_{part}" for part in ("vqvae", "prior", "upsampler"))
OUT = "samples/quickstart"

COMMON = f"--audio_files_dir={DATA} --train --nworkers=0 --save_iters=100000 --lr=0.001 --lr_warmup=50 --mu=0.99"
# Priors read codes that are computed once; chunks begin at any code.
CODES = f"{COMMON} --bs=8 --prior --restore_vqvae={VQVAE}/{LATEST} --codes_dir=logs/quickstart_codes --aug_shift"
COMMANDS = {
    "a minute of music: 12 songs with artist, genre and lyrics": (
        f"-m jukebox.data.synthesizer --out={DATA} --songs={SONGS} --seconds={SECONDS} --sr={SR} --format=flac"
    ),
    "tables of their artists and genres": f"-m jukebox.data.labels build --audio_files_dir={DATA} --sr={SR}",
    "VQ-VAE": (
        f"jukebox/train.py --hps=tiny_vqvae --name=quickstart_vqvae {COMMON} --labels=False --sample_length=8192 "
        "--bs=4 --epochs=28 --lr_use_linear_decay --lr_start_linear_decay=350 --lr_decay=250"
    ),
    "top-level prior, conditioned on artist and genre": (
        f"jukebox/train.py --hps=tiny_vqvae,tiny_prior --name=quickstart_prior {CODES} --labels_dir={DATA} "
        "--sample_length=32768 --epochs=400"
    ),
    "upsampler": (
        f"jukebox/train.py --hps=tiny_vqvae,tiny_upsampler --name=quickstart_upsampler {CODES} --sample_length=8192 "
        "--epochs=60"
    ),
    "two new songs": (
        f"jukebox/sample.py --model={VQVAE},{UPSAMPLER},{PRIOR} --name={OUT} --n_samples=2 "
        "--sample_length_in_seconds=6 --total_sample_length_in_seconds=6 --artist='anna bell' --genre=blues "
        "--temp=0.8,0.9 --overwrite"
    ),
}


def measure() -> None:
    """Prints what the models make of the songs they were trained on, and of new ones.

    A minute of music is little: the priors know it nearly by heart, and new songs are news to them.
    """
    import torch

    from jukebox.data.synthesizer import make_song
    from jukebox.hparams import Hyperparams
    from jukebox.make_models import load_checkpoint, make_prior, make_vqvae
    from jukebox.vqvae.losses import spectral_convergence

    def audio(songs: list[Any]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(song.audio[: SR * SECONDS // 4096 * 4096]) for song in songs])[..., None]

    groups = {
        "its own songs": [make_song(seed, sr=SR, seconds=SECONDS) for seed in range(SONGS)],
        "new songs": [make_song(seed, sr=SR, seconds=SECONDS) for seed in range(1000, 1016)],
    }
    hps = Hyperparams(load_checkpoint(ROOT / VQVAE / LATEST)["hps"], train=False)
    vqvae = make_vqvae(Hyperparams(hps, restore_vqvae=str(ROOT / VQVAE / LATEST)), "cpu")
    with torch.no_grad():
        codes = {name: vqvae.encode(audio(songs)) for name, songs in groups.items()}
        for level in range(vqvae.levels):
            db = {}
            for name, songs in groups.items():
                heard = vqvae.decode(codes[name][level:], start_level=level)
                db[name] = 20 * spectral_convergence(audio(songs), heard).log10().mean()
            used = len(torch.cat([zs[level].flatten() for zs in codes.values()]).unique())
            rate = SR / vqvae.hop_lengths[level] * math.log2(vqvae.l_bins)
            print(
                f"level {level}: spectral convergence {db['its own songs']:.1f} dB on its own songs, "
                f"{db['new songs']:.1f} dB on new ones (0 dB is silence); {used} of {vqvae.l_bins} codes used, "
                f"at most {rate / 1000:.2f} kbit/s"
            )
        for run_folder in (PRIOR, UPSAMPLER):
            checkpoint = ROOT / run_folder / LATEST
            hps = Hyperparams(load_checkpoint(checkpoint)["hps"], train=False, restore_prior=str(checkpoint))
            prior = make_prior(hps, vqvae, "cpu")
            bits: dict[str, float] = {}
            for name, songs in groups.items():
                total = 0.0
                for i, song in enumerate(songs):
                    y = None
                    if hps.labels:
                        meta = dict(artist=song.artist, genre=song.genre, lyrics=song.lyrics)
                        meta.update(total_length=SECONDS * SR, offset=0)
                        y = prior.get_y(prior.labeller.get_batch_labels([meta], "cpu"), 0)
                    zs = [z[i : i + 1] for z in codes[name]]
                    above = prior.get_z_conds(zs, 0, prior.n_ctx) or ()
                    total += prior.z_forward(zs[prior.level][:, : prior.n_ctx], above, y)[1]["bpd"].item()
                bits[name] = total / len(songs)
            print(
                f"prior of level {prior.level}: {bits['its own songs']:.2f} bits per code on its own songs, "
                f"{bits['new songs']:.2f} on new ones; knowing nothing takes {math.log2(prior.l_bins):.0f}"
            )


def main() -> None:
    start = time.monotonic()
    sampling = COMMANDS.pop("two new songs")
    run_all(COMMANDS, start)
    measure()
    run(sampling)
    print(f"\nDone in {time.monotonic() - start:.0f} s. Listen: {OUT}/level_0/index.html")


if __name__ == "__main__":
    main()
