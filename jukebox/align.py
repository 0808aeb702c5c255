"""Lyric-to-music alignment of a finished run: python jukebox/align.py --model=M --logdir=DIR [--find]

Recomputes which character of the lyrics the music attends to, and rewrites the pages of the run with it. `--find`
judges every head that looks at lyrics. The arithmetic is in `sampling/alignment.py`; the command line is here.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if not __package__:  # as a script, whose folder would hide installed packages
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from jukebox.utils.command_line import Flag, import_lazily, run_command
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import choice, device_name
from jukebox.utils.float32 import TF32_HELP, keep_float32
from jukebox.utils.precision import DTYPES, check_dtype, torch_dtype, usual_dtype

if TYPE_CHECKING:
    import numpy as np

    from jukebox.hparams import Hyperparams
    from jukebox.loaders import Model
    from jukebox.prior.prior import SimplePrior
    from jukebox.sampling.alignment import HeadScore, get_alignment, rank_heads
else:
    __getattr__ = import_lazily(__name__, "sampling.alignment")

__all__ = ["get_alignment", "rank_heads"]

DESCRIPTION = """\
Computes when which character of the lyrics is sung, by the attention of the prior, and rewrites the pages of a
finished run with it.

  --find judges every attention head that looks at the lyrics, prints the table, draws the best one to
  LOGDIR/alignment.png, and keeps it in the prior's checkpoint, so that sampling uses it from then on:

    linear   correlation of time and place in the lyrics under the attention; 1 on one rising line
    sharp    1 - entropy of the attention at a moment, as a share of that of an even spread
    mass     share of the attention that goes to characters
    score    linear x sharp x mass"""

FLAGS = [
    Flag("model", "", "the model that made the run, as for sample.py", kind="paths"),
    Flag("weights_from", "", "folder with its weights in the Hugging Face layout, as for sample.py", kind="path"),
    Flag("logdir", "", "folder of the run, which holds level_0, level_1, ...", kind="path"),
    Flag("find", False, "judge all heads that look at lyrics, and keep the best one"),
    Flag("device", "", "cuda, cuda:1, mps or cpu; the best there is"),
    Flag("dtype", "", "fp16, bf16, fp32 or on a CPU int8; fp16 on CUDA, else fp32"),
    Flag("tf32", False, TF32_HELP),
]


def main(
    model: str = "",
    logdir: str = "",
    find: bool = False,
    device: str = "",
    dtype: str = "",
    weights_from: str = "",
    tf32: bool = False,
) -> int:
    """Carries out one command line; see FLAGS.

    Raises:
        UserError: something given cannot work.
    """
    if not model and not weights_from:
        raise UserError("--model is missing: give the model that made the run, such as --model=1b_lyrics")
    device, dtype = device_name(device), choice("dtype", dtype, list(DTYPES)) if dtype else ""
    levels = finished_levels(logdir)
    from jukebox.hparams import Hyperparams
    from jukebox.loaders import find_model, use_prior
    from jukebox.prior.lyrics import READABLE_FROM
    from jukebox.sampling.alignment import get_alignment, rank_heads
    from jukebox.utils.dist_utils import pick_device
    from jukebox.utils.files import load_torch, only_writer

    found = find_model(model, weights_from)
    model = found.name
    top = found.top
    if top is None or not top.n_tokens:
        raise UserError(f"--model={model} has no top-level prior that reads lyrics, so there is nothing to align")
    if not find and None in (top.hps.alignment_layer, top.hps.alignment_head):
        raise UserError(f"--model={model} does not say which head shows the alignment: add --find to look for it")
    torch_device = pick_device(0, 1, device)
    dtype = dtype or usual_dtype(torch_device)
    check_dtype(dtype, torch_device)

    saved = load_torch(levels[0] / "data.pth.tar")
    if misfit := what_does_not_fit(saved, found):
        raise UserError(f"{levels[0]} was not made by --model={model}, it holds {misfit}: give the model that made it")
    labels, z = saved["labels"][-1], saved["zs"][-1].to(torch_device)
    if not any(len(info.get("full_tokens") or ()) > int(find) for info in labels["info"]):
        raise UserError(f"no song of {logdir} has {'two letters of ' * find}lyrics, so there is nothing to align")
    count = len(found.levels)
    hps = Hyperparams({"hop_fraction": [0.5] * count, **saved.get("hps", {})}, levels=count)
    labels["y"] = labels["y"].to(torch_device)
    lazy = found.prior(count - 1, found.vqvae(z.shape[1] * top.samples_per_code, "meta"), torch_device, dtype)
    zs, kind = [z] * count, torch_dtype(dtype)

    assert lazy is not None

    def work(prior: "SimplePrior") -> tuple["HeadScore | None", list["np.ndarray"]]:
        best = None
        if find:
            scores = rank_heads(zs, labels, prior, False, hps, kind)
            print(table(scores))
            best = scores[0]
        head = None if best is None else (best.layer, best.head)
        return best, get_alignment(None, zs, labels, prior, False, hps, kind, head, one_window=True)

    with keep_float32(tf32):
        best, alignments = use_prior(lazy, torch_device, work)
    shift = top.hps.get("alignment_shift") or 0
    hps["alignment_shift"] = READABLE_FROM if find else shift
    with only_writer(logdir, "logdir"):
        for folder in levels:
            rewrite(folder, alignments, hps)
    print(f"wrote the pages of {', '.join(str(folder) for folder in levels)}")
    if best is not None:
        picture = draw(Path(logdir) / "alignment.png", alignments)
        print(f"layer {best.layer}, head {best.head} is drawn in {picture}; {keep(model, top.hps.restore_prior, best)}")
    return 0


def finished_levels(logdir: str) -> list[Path]:
    """The level folders of a run that hold data, the finest first."""
    if not logdir:
        raise UserError("--logdir is missing: give the folder of a finished run, such as --logdir=out/new")
    levels = sorted(path.parent for path in Path(logdir).glob("level_*/data.pth.tar"))
    if not levels:
        raise UserError(f"--logdir={logdir} holds no finished level: give the folder that --name of sample.py named")
    return levels


def what_does_not_fit(saved: object, model: "Model") -> str:
    """What of the data of a level is of another model than the one given, or damaged; "" if all fits."""
    try:
        return _misfit(saved, model)
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError, NotImplementedError):
        return "damaged codes or labels"


def _misfit(saved: object, model: "Model") -> str:
    saved = saved if isinstance(saved, dict) else {}
    assert model.top is not None
    zs, labels = saved.get("zs"), saved.get("labels") or [None]
    if not zs or zs[-1].shape[1] == 0 or not labels[-1]:
        return "no codes and labels of the top level"
    hps, row = model.top.hps, model.top.labeller.row
    if not isinstance(saved.get("hps", {}), dict):
        raise ValueError("hps is not a dict")
    y, tokens = labels[-1]["y"], [token for info in labels[-1]["info"] for token in info.get("full_tokens") or []]
    if len(zs) != len(model.levels):
        return f"codes of {len(zs)} levels, not {len(model.levels)}"
    if y.shape[1] != row.size:
        return f"label rows of {y.shape[1]} numbers, not {row.size}"
    for what, values, end in (
        ("code", zs[-1], hps.l_bins),
        ("genre", y[:, row.genre], hps.y_bins[0]),
        ("artist", y[:, row.artist], hps.y_bins[1]),
        ("character", tokens, hps.n_vocab),
    ):
        numbers = values if isinstance(values, list) else values.flatten().tolist()
        largest = max(numbers, default=0)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError(f"a {what} is not a whole number")
        if largest >= end:
            return f"{what} {largest}, which are 0 to {end - 1} there"
    return ""


def table(scores: list["HeadScore"]) -> str:
    """The ranking of heads, the best first."""
    lines = [f"{'layer':>5} {'head':>5} {'score':>7} {'linear':>7} {'sharp':>7} {'mass':>7}"]
    for s in scores:
        lines.append(f"{s.layer:>5} {s.head:>5} {s.score:>7.4f} {s.linear:>7.4f} {s.sharp:>7.4f} {s.mass:>7.4f}")
    return "\n".join(lines)


def rewrite(folder: Path, alignments: list["np.ndarray"], hps: "Hyperparams") -> None:
    """Puts alignments into a level's data file and page."""
    import torch

    from jukebox.save_html import save_html
    from jukebox.utils.files import load_torch, save_torch

    data = load_torch(folder / "data.pth.tar")
    data["alignments"] = [torch.from_numpy(alignment) for alignment in alignments]
    save_torch(data, folder / "data.pth.tar")
    save_html(folder, data["x"], data["zs"], data["labels"][-1], alignments, hps)


def draw(path: Path, alignments: list["np.ndarray"]) -> Path:
    """Draws the alignment of the first song that has lyrics: time to the right, lyrics downwards."""
    from jukebox.save_html import alignment_picture
    from jukebox.utils.files import atomic_write

    with atomic_write(path) as file:
        file.write(alignment_picture(next(a for a in alignments if a.size)))
    return path


def keep(model: str, checkpoint: str, best: "HeadScore") -> str:
    """Writes the choice into the hyper-parameters of the prior's checkpoint; returns what to say about it."""
    from jukebox.hparams import setup_hparams
    from jukebox.make_models import MODELS
    from jukebox.prior.lyrics import READABLE_FROM
    from jukebox.utils.files import load_torch, only_writer, save_torch
    from jukebox.utils.remote_utils import is_remote
    from jukebox.weights.huggingface import split_part

    if model in MODELS and setup_hparams(MODELS[model][-1], {}).alignment_layer is not None:
        return f"the set {MODELS[model][-1]} names a head: change alignment_layer and alignment_head there to use it"
    if is_remote(checkpoint) or split_part(checkpoint):
        return "a released checkpoint stays as it is"
    with only_writer(Path(checkpoint).parent, "model"):  # a training may be writing it
        content = load_torch(checkpoint)
        if not isinstance(content.get("hps"), dict):
            return f"{checkpoint} holds no hyper-parameters: set alignment_layer and alignment_head in its set"
        found = {"alignment_layer": best.layer, "alignment_head": best.head, "alignment_shift": READABLE_FROM}
        content["hps"] = {**content["hps"], **found}
        save_torch(content, checkpoint)
    return f"{checkpoint} says so from now on"


def command() -> NoReturn:
    """Runs `jukebox-align`."""
    run_command(main, FLAGS, DESCRIPTION)


if __name__ == "__main__":
    command()
