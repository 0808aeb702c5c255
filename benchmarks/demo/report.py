"""Measures the demo model: python benchmarks/demo/report.py [--model=demo] [--samples=128] [--seed=0]

Everything is measured on songs that training never used and on songs that the model makes of new lyrics, and every
figure has its 95 % interval and, where something is recognised, the chance level. Writes the figures to
`benchmarks/results/demo.json` and the tables into `docs/demo.md`, between its markers, and prints them. The whole chain
is in `chain.py`, what is measured in `measures.py`, who listens in `classifiers.py`, the tables are in
`tables.py`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from jukebox.utils.command_line import Flag, run_command  # noqa: E402
from jukebox.utils.errors import UserError  # noqa: E402

TEST_SEED = 50_000_000  # training uses seeds below 1_100_000, the classifiers those from 60_000_000 on
SECONDS = 10.04  # of the songs that the priors of the demo model learn from: their labels say how long a song is
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"

DESCRIPTION = """\
Measures the demo model, or another one that was trained on the synthesiser's songs, on held-out songs and on songs that
it makes of new lyrics: about ten minutes on one core for 128 songs.

  python benchmarks/demo/report.py                                          all figures of docs/demo.md
  python benchmarks/demo/report.py --model=logs/V,logs/U0,logs/U1,logs/P    runs; parts that are missing are left out
  python benchmarks/demo/report.py --quick                                  a few songs, to try it"""

FLAGS = [
    Flag("model", "demo", "key of MODELS, or runs, as for sample.py; a VQ-VAE without priors is measured, too"),
    Flag("samples", 128, "held-out songs, and as many made by the model; a multiple of 16 has all pairs equally often"),
    Flag("seed", 0, "of the draws; the songs stay the same"),
    Flag("seconds", SECONDS, "length of a song; the model makes the first window of it"),
    Flag("temp", (0.95, 0.95, 0.95), "temperature; one value, or one per level, low to high"),
    Flag("top_k", 0, "draw among the k likeliest codes only; 0: all. One value or one per level"),
    Flag("top_p", 0.0, "draw among the likeliest codes that have this much probability; 0: all"),
    Flag("hop_fraction", (0.5, 0.5, 0.5), "per level, low to high: new codes of a window as a fraction of the context"),
    Flag("batch", 32, "songs made at a time"),
    Flag("keep", "", "folder for the songs that were made, as FLAC files"),
    Flag("out", "", "file for the figures; benchmarks/results/demo.json for the demo model without --quick"),
    Flag("page", "", "page whose tables are renewed; docs/demo.md for the demo model without --quick"),
    Flag("quick", False, "16 songs and hardly trained classifiers: figures that say little, in little time"),
]


def main(
    model: str,
    samples: int,
    seed: int,
    seconds: float,
    temp: Any,
    top_k: Any,
    top_p: Any,
    hop_fraction: Any,
    batch: int,
    keep: str,
    out: str,
    page: str,
    quick: bool,
) -> int:
    """Carries out one command line; see FLAGS.

    Raises:
        UserError: something given cannot work.
    """
    from demo.chain import Parts
    from demo.tables import tables

    from jukebox.utils.files import atomic_write
    from jukebox.utils.flag_values import number, per_level, whole

    samples = 16 if quick else whole("samples", samples, least=2)
    official = model == "demo" and not quick
    out = out or (str(ROOT / "benchmarks/results/demo.json") if official else "")
    page = page or (str(ROOT / "docs/demo.md") if official else "")
    if page and os.path.exists(page):
        put_between(Path(page).read_text(encoding="utf-8"), "", page)  # refuse now what would fail after ten minutes
    parts = Parts(model, number("seconds", seconds, above=0))
    levels = len(parts.samples_per_code)
    temps, ks, ps, hops = (
        per_level(name, value[:levels] if isinstance(value, (list, tuple)) else value, levels)
        for name, value in (("temp", temp), ("top_k", top_k), ("top_p", top_p), ("hop_fraction", hop_fraction))
    )
    shared = {"fp16": False, "max_batch_size": whole("batch", batch, least=1), "seed": whole("seed", seed, least=0)}
    options = [
        {"temp": number("temp", t, above=0), "top_k": whole("top_k", k, least=0), "top_p": number("top_p", p, least=0)}
        | shared
        for t, k, p in zip(temps, ks, ps, strict=True)
    ]
    start = time.monotonic()
    results = measure(parts, samples, options, hops, quick, keep)
    results["settings"] = {
        "model": model,
        "samples": samples,
        "seed": seed,
        "song_seconds": seconds,
        "made_seconds": parts.length / parts.sr,
        "temp": temps,
        "top_k": ks,
        "top_p": ps,
        "hop_fraction": hops,
        "minutes": (time.monotonic() - start) / 60,
    }
    text = tables(results)
    print("\n" + text)
    if out:
        from common import machine

        with atomic_write(out, "w") as file:
            file.write(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")
        print(f"written to {out}")
    if page and os.path.exists(page):
        renewed = put_between(Path(page).read_text(encoding="utf-8"), text, page)
        with atomic_write(page, "w") as file:
            file.write(renewed)
        print(f"tables of {page} renewed")
    return 0


def put_between(page: str, text: str, name: str) -> str:
    """The page with the text between its markers in place of what was there.

    Raises:
        UserError: the page does not have both markers, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{name} has no place for the figures: write the lines {BEGIN} and {END} where they should be")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


def measure(
    parts: Any, samples: int, options: Sequence[dict[str, Any]], hop_fraction: Sequence[float], quick: bool, keep: str
) -> dict[str, Any]:
    """All figures that the parts of a model allow, by chapter.

    Args:
        parts: see `chain.Parts`; samples: how many songs.
        options: sampling_kwargs per level; hop_fraction: per level.
        quick: measure and train little.
        keep: folder for the songs that are made, or "".
    """
    from demo import measures as m
    from demo.chain import Heard, confusion, listen, make_songs, sounds, step, train_ears, true_times
    from demo.classifiers import stack

    from jukebox.data.synthesizer import ARTISTS, GENRES, make_song

    pairs = [(artist, genre) for artist in ARTISTS for genre in GENRES]
    levels = range(len(parts.samples_per_code))
    with step("held-out songs and their codes"):
        songs = [make_song(TEST_SEED + i, parts.sr, parts.seconds, *pairs[i % len(pairs)]) for i in range(samples)]
        audio = stack(songs)[:, : parts.total]
        zs = m.encode(parts.vqvae, audio)
        again = [m.decode(parts.vqvae, zs[i], i) for i in levels]
        bins = parts.model.vqvae_hps.l_bins
        codes = [m.codec_figures(audio, again[i], zs[i], bins, parts.samples_per_code[i], parts.sr) for i in levels]
    results: dict[str, Any] = {"codes": codes, "bits": {}}
    top = parts.priors[-1]
    for level in reversed(levels):
        prior = parts.priors[level]
        if prior is not None:
            with step(f"likelihoods, level {level}"):
                found = m.label_bits(prior, zs, songs) if prior is top else m.upsampler_bits(prior, zs, songs, 4)
                results["bits"][str(level)] = found
    real = audio[:, : parts.length]
    true = {"true": true_times(songs)}
    heard = [Heard("real songs", real, dict(true))]
    heard += [Heard(f"VQ-VAE, level {i}", again[i][:, : parts.length], true) for i in reversed(levels)]
    if parts.aligns:
        with step("lit characters of held-out songs"):
            times = parts.lit(zs, songs)
            results["lit"] = m.lit_figures(songs, times, parts.per_code)
            heard[0].times["lit"] = [(t.starts, t.ends) for t in times]
            few = slice(None, 4 if quick else 32)
            results["head"] = m.named_head(top, [z[few] for z in zs], songs[few])
    with step("training classifiers"):
        ears = train_ears(parts, *((48, 40) if quick else (400, 500)))
    if top is not None:
        made = make_songs(parts, songs, options, hop_fraction)
        scored = {"score": true["true"]}
        if parts.aligns:
            with step("lit characters of the songs that were made"):
                scored["lit"] = [(t.starts, t.ends) for t in parts.lit(made, songs)]
        reached = [i for i in reversed(levels) if made[i].shape[1]]
        heard += [Heard(f"made, level {i}", m.decode(parts.vqvae, made[i], i), scored) for i in reached]
        results["sound"] = sounds(songs, real, heard[-1].audio, parts.sr)
        results["confusion"] = {
            kind: confusion(ears["codec"], kind, heard[-1].audio, songs, parts.sr) for kind in ("artist", "genre")
        }
        if keep:
            keep_songs(keep, heard[-1].audio, songs, parts.sr)
    with step("listening"):
        results["heard"] = listen(ears, heard, songs, parts.sr)
    return results


def keep_songs(folder: str, audio: Any, songs: Sequence[Any], sr: int) -> None:
    """Writes songs as FLAC files that are named after what was asked for, with their lyrics."""
    from jukebox.utils.audio.write import write_audio

    for i, (x, song) in enumerate(zip(audio, songs, strict=True)):
        name = f"{i:03d}_{song.artist}_{song.genre}.flac".replace(" ", "_")
        tags = {"artist": song.artist, "genre": song.genre, "lyrics": song.lyrics}
        write_audio(Path(folder) / name, x[:, None], sr, tags=tags)
    print(f"{len(songs)} songs are in {folder}")


if __name__ == "__main__":
    run_command(main, FLAGS, DESCRIPTION)
