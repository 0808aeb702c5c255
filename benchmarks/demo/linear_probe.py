"""What features of a prior tell: python benchmarks/demo/linear_probe.py [--model=demo] [--labelled=200]

A linear probe reads the mean of a layer over a song and says its genre and its artist. It learns from some labelled
songs of the synthesiser, and is judged on others. The model is not told the labels. The same probe reads the mean and
the spread of a log-mel spectrogram, for comparison. Writes `benchmarks/results/linear_probe.json` and the table of
`docs/features.md`, between its markers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from common import machine  # noqa: E402
from demo.classifiers import CLASSES, log_mel  # noqa: E402
from demo.intervals import wilson  # noqa: E402
from demo.report import BEGIN, END, SECONDS, TEST_SEED  # noqa: E402

import jukebox  # noqa: E402
from jukebox.data.synthesizer import Song, make_song  # noqa: E402
from jukebox.loaders import find_model  # noqa: E402
from jukebox.utils.command_line import Flag, run_command  # noqa: E402
from jukebox.utils.progress import progress_bar  # noqa: E402

LABELLED_SEED, HELD_OUT_SEED = TEST_SEED + 1_000_000, TEST_SEED + 2_000_000  # songs that nothing was trained on
WHAT = ("genre", "artist")
DECAYS = (0.001, 0.01, 0.1)  # of the probe's weights; the labelled songs choose one
FOLDS = 5
FEW = 16  # labelled songs of a second probe, since many tell everything

FLAGS = [
    Flag("model", "demo", "key of MODELS, or runs, as for sample.py"),
    Flag("labelled", 200, "songs that the probe learns from"),
    Flag("held_out", 400, "songs that it is judged on"),
    Flag("out", "", "file for the figures; the results of the demo model where left out"),
    Flag("page", "", "page whose table is renewed; docs/features.md for the demo model"),
]


def fit(x: Tensor, y: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Logistic regression with weight decay, to its optimum.

    Args:
        x: float [N, D]; y: int64 [N].

    Returns:
        Weights [D, classes] and biases [classes].
    """
    w = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    b = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ w + b, y) + decay * w.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return w.detach(), b.detach()


def right(x: Tensor, y: Tensor, probe: tuple[Tensor, Tensor]) -> int:
    """How many rows a probe names rightly."""
    return int(((x @ probe[0] + probe[1]).argmax(1) == y).sum())


def probe_accuracy(x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, classes: int) -> int:
    """Held-out rows that are named rightly by a probe of (x, y), whose decay is chosen by parts of (x, y) itself."""
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-8)
    x, held_x = (x - mean) / spread, (held_x - mean) / spread
    part = torch.arange(len(x)) % FOLDS

    def score(decay: float) -> int:
        folds = [part == fold for fold in range(FOLDS)]
        return sum(right(x[out], y[out], fit(x[~out], y[~out], classes, decay)) for out in folds)

    best = max(DECAYS, key=score)
    return right(held_x, held_y, fit(x, y, classes, best))


def features(model: Any, songs: Sequence[Song], layers: Sequence[int]) -> dict[str, Tensor]:
    """Per name of a feature the songs' rows, float64 [N, D]."""
    rows = [model.represent(song.audio, layers=list(layers)) for song in progress_bar(songs, unit="song")]
    found = {f"layer {layer}": np.stack([row[i] for row in rows]) for i, layer in enumerate(layers)}
    mels = torch.cat([log_mel(torch.from_numpy(song.audio)[None], song.sr) for song in songs])
    found["log-mel"] = torch.cat([mels.mean(2), mels.std(2)], dim=1).numpy()
    return {name: torch.from_numpy(x).double() for name, x in found.items()}


def measure(model: Any, depth: int, labelled: int, held_out: int) -> dict[str, Any]:
    """Accuracies of all layers and of the spectrogram, with the chance level."""
    layers = range(1, depth + 1)
    songs = [
        [make_song(seed + i, sr=model.sr, seconds=SECONDS) for i in range(count)]
        for seed, count in ((LABELLED_SEED, labelled), (HELD_OUT_SEED, held_out))
    ]
    of = [features(model, group, layers) for group in songs]
    results: dict[str, Any] = {"labelled": labelled, "held_out": held_out, "depth": depth, "chance": {}}
    results.update(right={}, right_of_few={})
    for what in WHAT:
        names = CLASSES[what]
        y, held_y = (torch.tensor([names.index(getattr(song, what)) for song in group]) for group in songs)
        results["chance"][what] = float(torch.bincount(held_y).max()) / held_out  # always naming the commonest
        for key, count in (("right", labelled), ("right_of_few", FEW)):
            results[key][what] = {
                name: probe_accuracy(x[:count], y[:count], of[1][name], held_y, len(names)) for name, x in of[0].items()
            }
    return results


def table(results: dict[str, Any]) -> str:
    """The accuracies as Markdown."""
    total, columns = results["held_out"], [("right", results["labelled"]), ("right_of_few", FEW)]
    head = [f"{what} from {count}" for _, count in columns for what in WHAT]
    lines = [f"| features | {' | '.join(head)} |", "| --- " * (1 + len(head)) + "|"]
    for name in results["right"][WHAT[0]]:
        cells = []
        for right_of in (results[key][what][name] for key, _ in columns for what in WHAT):
            low, high = wilson(right_of, total)
            cells.append(f"{100 * right_of / total:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
        half = name == f"layer {results['depth'] // 2}"
        lines.append(f"| {f'**{name}**, the middle' if half else name} | {' | '.join(cells)} |")
    chance = [f"{100 * results['chance'][what]:.1f} %" for what in WHAT] * len(columns)
    lines.append(f"| chance: always the commonest | {' | '.join(chance)} |")
    return "\n".join(lines)


def main(model: str, labelled: int, held_out: int, out: str, page: str) -> int:
    """Carries out one command line; see FLAGS."""
    torch.set_num_threads(1)
    top = find_model(model).levels[-1]
    assert top is not None
    results = measure(jukebox.load(model, device="cpu"), top.hps.prior_depth, int(labelled), int(held_out))
    results.update(model=model, machine=machine())
    text = table(results)
    print(text)
    if model == "demo":
        out = out or str(ROOT / "benchmarks/results/linear_probe.json")
        page = page or str(ROOT / "docs/features.md")
    if out:
        Path(out).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if page:
        before, _, rest = Path(page).read_text(encoding="utf-8").partition(BEGIN)
        Path(page).write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_command(main, FLAGS, __doc__ or "")
