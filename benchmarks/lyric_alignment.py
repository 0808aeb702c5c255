"""How far the lit character is from the one being sung, in milliseconds, on songs whose character times are known.

    python benchmarks/lyric_alignment.py [--songs=600] [--prior_epochs=6] [--vqvae=RUN]

Synthesises songs, trains a VQ-VAE and a small prior with the guided-attention term (`tiny_lyrics_prior`) by the usual
commands, then aligns new songs as `sample.py` does and compares with the truth, beside the guess that lyrics run evenly
through the song. Also asks `rank_heads` which head it would choose.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from common import ROOT, save

DATA, PRIOR = "logs/alignment_songs", "alignment_prior"
SR, SECONDS = 11025, 12
LATEST = "checkpoint_latest.pth.tar"


def run(command: str) -> None:
    print(f"$ python {command}", flush=True)
    subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT, check=True)


def distance(character: int, now: float, times: list[tuple[float, float]]) -> float:
    """Seconds between a moment and the interval in which a character is sung; 0 within it."""
    start, end = times[character]
    return max(start - now, now - end, 0.0)


def lit_errors(song: Any, lit: Sequence[int], per_code: float) -> tuple[list[float], list[float]]:
    """How far the lit character is from the one being sung, at the middle of every code between first and last one.

    Args:
        song: with `lyrics` and the true `char_times`.
        lit: the lit character of each code, -1 for none, which counts as a whole song's length.
        per_code: seconds of a code.

    Returns:
        Seconds for each such code: of the lit character, and of the guess that the lyrics run evenly through the song.
    """
    sung = [i for i, character in enumerate(song.lyrics) if not character.isspace()]
    if not sung:
        return [], []
    seconds = len(song.audio) / song.sr
    first, last = song.char_times[sung[0]][0], song.char_times[sung[-1]][1]
    errors, even_errors = [], []
    for row, character in enumerate(lit):
        now = (row + 0.5) * per_code
        if not first <= now < last:
            continue
        even = min(len(song.lyrics) - 1, int(len(song.lyrics) * now / seconds))
        even_errors.append(distance(even, now, song.char_times))
        errors.append(distance(character, now, song.char_times) if character >= 0 else seconds)
    return errors, even_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--songs", type=int, default=600)
    parser.add_argument("--vqvae", default="", help="run folder of a VQ-VAE of tiny_vqvae; empty: train one")
    parser.add_argument("--prior_epochs", type=int, default=6)
    parser.add_argument("--tests", type=int, default=16, help="new songs to align")
    args = parser.parse_args()
    common = (
        f"--audio_files_dir={DATA} --train --bs=8 --nworkers=1 --lr=0.001 --lr_warmup=100 --mu=0.99 --save_iters=100000"
    )
    start = time.monotonic()
    run(f"-m jukebox.data.synthesizer --out={DATA} --songs={args.songs} --seconds={SECONDS} --sr={SR} --format=wav")
    run(f"-m jukebox.data.labels build --audio_files_dir={DATA} --sr={SR}")
    vqvae_run = args.vqvae or "logs/alignment_vqvae"
    if not args.vqvae:
        run(
            f"jukebox/train.py --hps=tiny_vqvae --name=alignment_vqvae {common} --labels=False --sample_length=8192 "
            "--epochs=1 --mu=0.99"
        )
    run(
        f"jukebox/train.py --hps=tiny_vqvae,tiny_lyrics_prior --name={PRIOR} {common} --prior --sample_length=32768 "
        f"--labels_dir={DATA} --restore_vqvae={vqvae_run}/{LATEST} --epochs={args.prior_epochs} --aug_shift"
    )
    trained = time.monotonic() - start

    import numpy as np
    import torch

    from jukebox.align import get_alignment
    from jukebox.data.synthesizer import make_song
    from jukebox.hparams import Hyperparams
    from jukebox.make_models import load_checkpoint, make_prior, make_vqvae
    from jukebox.page.times import character_times
    from jukebox.sampling.alignment import rank_heads

    checkpoint = load_checkpoint(ROOT / "logs" / PRIOR / LATEST)
    hps = Hyperparams(checkpoint["hps"], train=False, restore_prior=str(ROOT / "logs" / PRIOR / LATEST))
    vqvae = make_vqvae(Hyperparams(hps, restore_vqvae=str(ROOT / vqvae_run / LATEST), sample_length=0), "cpu")
    prior = make_prior(hps, vqvae, "cpu")
    run_hps = Hyperparams(levels=2, hop_fraction=[0.5, 0.5])
    per_code = prior.raw_to_tokens / SR
    distances: list[float] = []
    even_errors: list[float] = []
    votes: list[bool] = []
    for seed in range(10_000, 10_000 + args.tests):
        song = make_song(seed, SR, SECONDS)
        n = len(song.audio) // prior.raw_to_tokens
        x = torch.from_numpy(song.audio[: n * prior.raw_to_tokens])[None, :, None]
        zs = [torch.zeros(1, 0), vqvae.encode(x, start_level=1)[0]]
        meta = dict(artist=song.artist, genre=song.genre, lyrics=song.lyrics, total_length=SECONDS * SR, offset=0)
        labels = prior.labeller.get_batch_labels([meta], "cpu")
        alignment = get_alignment(None, zs, labels, prior, False, run_hps)[0]
        times = character_times(alignment, per_code, shift=hps.alignment_shift)
        ranking = rank_heads(zs, labels, prior, False, run_hps)
        votes.append((ranking[0].layer, ranking[0].head) == (hps.alignment_layer, hps.alignment_head))
        errors, even = lit_errors(song, times.lit.tolist(), per_code)
        distances += errors
        even_errors += even
    results = {
        "songs": args.songs,
        "steps": checkpoint["step"],
        "training_seconds": round(trained),
        "lit_character_mean_error_ms": 1000 * float(np.mean(distances)),
        "lit_character_median_error_ms": 1000 * float(np.median(distances)),
        "lit_character_exact": float(np.mean(np.array(distances) == 0.0)),
        "even_guess_mean_error_ms": 1000 * float(np.mean(even_errors)),
        "find_names_the_guided_head": float(np.mean(votes)),
    }
    for name, value in results.items():
        print(f"{name:34} {value:.3g}" if isinstance(value, float) else f"{name:34} {value}")
    save("lyric_alignment", results)


if __name__ == "__main__":
    main()
