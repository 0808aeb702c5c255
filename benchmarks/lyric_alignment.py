"""How far the lit character is from the one being sung, in milliseconds, on songs whose character times are known.

    python benchmarks/lyric_alignment.py                    # the demo model's top-level prior
    python benchmarks/lyric_alignment.py --train            # a smaller one, trained first in some minutes

Both priors are trained with the guided-attention term (`align_loss`) on synthesised songs. Aligns new songs as
`sample.py` does and compares with the truth, beside the guess that lyrics run evenly through the song. Also asks
`rank_heads`, as `align.py --find` does, which head it would choose.
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

DATA, VQVAE, PRIOR = "logs/alignment_songs", "logs/alignment_vqvae", "logs/alignment_prior"
SECONDS = 10.04  # as the songs that the demo model was trained on
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


def train(songs: int, epochs: int) -> str:
    """Trains a VQ-VAE of `tiny_vqvae` and a prior of `tiny_lyrics_prior` by the usual commands. Returns `--model`."""
    common = f"--audio_files_dir={DATA} --train --bs=8 --nworkers=1 --lr=0.001 --lr_warmup=100 --mu=0.99"
    run(f"-m jukebox.data.synthesizer --out={DATA} --songs={songs} --seconds={SECONDS} --sr=11025 --format=wav")
    run(f"-m jukebox.data.labels build --audio_files_dir={DATA} --sr=11025")
    run(
        f"jukebox/train.py --hps=tiny_vqvae --name=alignment_vqvae {common} --labels=False --sample_length=8192 "
        "--epochs=1"
    )
    run(
        f"jukebox/train.py --hps=tiny_vqvae,tiny_lyrics_prior --name=alignment_prior {common} --prior "
        f"--sample_length=32768 --labels_dir={DATA} --restore_vqvae={VQVAE}/{LATEST} --epochs={epochs} --aug_shift"
    )
    return f"{VQVAE},{PRIOR}"


def align(model_name: str, tests: int) -> dict[str, float]:
    """Aligns songs of seeds that no model was trained on, and compares with the truth."""
    import numpy as np
    import torch

    from jukebox.align import get_alignment
    from jukebox.data.synthesizer import make_song
    from jukebox.hparams import Hyperparams
    from jukebox.loaders import find_model
    from jukebox.page.times import character_times
    from jukebox.sampling.alignment import rank_heads

    model = find_model(model_name)
    sr, top = model.sr, model.samples_per_code[-1]
    n = int(SECONDS * sr) // top
    vqvae = model.vqvae(n * top, "cpu")
    lazy = model.prior(len(model.levels) - 1, vqvae, torch.device("cpu"))
    assert lazy is not None
    prior = lazy.load()
    hps = lazy.of.hps
    run_hps = Hyperparams(levels=len(model.levels), hop_fraction=[0.5] * len(model.levels))
    distances: list[float] = []
    even_errors: list[float] = []
    votes: list[bool] = []
    for seed in range(60_000_000, 60_000_000 + tests):
        song = make_song(seed, sr, SECONDS)
        x = torch.from_numpy(song.audio[: n * top])[None, :, None]
        zs = [torch.zeros(1, 0)] * (len(model.levels) - 1) + vqvae.encode(x, start_level=len(model.levels) - 1)
        meta = dict(artist=song.artist, genre=song.genre, lyrics=song.lyrics, total_length=int(SECONDS * sr), offset=0)
        labels = prior.labeller.get_batch_labels([meta], "cpu")
        alignment = get_alignment(None, zs, labels, prior, False, run_hps)[0]
        times = character_times(alignment, top / sr, shift=hps.alignment_shift)
        ranking = rank_heads(zs, labels, prior, False, run_hps)
        votes.append((ranking[0].layer, ranking[0].head) == (hps.alignment_layer, hps.alignment_head))
        errors, even = lit_errors(song, times.lit.tolist(), top / sr)
        distances += errors
        even_errors += even
    return {
        "steps": prior.step,
        "tests": tests,
        "lit_character_mean_error_ms": 1000 * float(np.mean(distances)),
        "lit_character_median_error_ms": 1000 * float(np.median(distances)),
        "lit_character_exact": float(np.mean(np.array(distances) == 0.0)),
        "even_guess_mean_error_ms": 1000 * float(np.mean(even_errors)),
        "find_names_the_guided_head": float(np.mean(votes)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="demo", help="a model of three levels or two, as for sample.py")
    parser.add_argument("--train", action="store_true", help="train a smaller model first and take that")
    parser.add_argument("--songs", type=int, default=600, help="songs to train on")
    parser.add_argument("--prior_epochs", type=int, default=6)
    parser.add_argument("--tests", type=int, default=32, help="new songs to align")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    start = time.monotonic()
    model = train(args.songs, args.prior_epochs) if args.train else args.model
    results = {"model": model, "training_seconds": round(time.monotonic() - start), **align(model, args.tests)}
    for name, value in results.items():
        print(f"{name:34} {value:.3g}" if isinstance(value, float) else f"{name:34} {value}")
    save("lyric_alignment", results)


if __name__ == "__main__":
    main()
