"""Features of audio: python jukebox/represent.py --model=M --audio_files_dir=D --out=DIR --layers=36 [flags]

Activations of chosen layers of a prior, as `.npy` files. The command line is here; what a window gives is in
`features/activations.py`, the order of things in `features/feature_writer.py`, what is written in
`features/results.py`.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if not __package__:  # as a script, whose folder would hide installed packages
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from jukebox.utils.command_line import Flag, import_lazily, run_command
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import (
    DAMAGED,
    DAMAGED_HELP,
    UNKNOWN_LABELS,
    choice,
    device_name,
    layer_numbers,
    level_number,
    number,
    port_number,
    whole,
)
from jukebox.utils.float32 import TF32_HELP, keep_float32
from jukebox.utils.plural import counted
from jukebox.utils.progress import progress_bar, write_line
from jukebox.utils.signals import stop_status

if TYPE_CHECKING:
    import torch

    from jukebox.features.activations import AudioWindow, Extractor
    from jukebox.features.feature_writer import FeatureWriter
    from jukebox.loaders import Model
else:
    __getattr__ = import_lazily(__name__, "features.activations", "features.feature_writer")

__all__ = ["AudioWindow", "Extractor", "FeatureWriter"]

DESCRIPTION = """\
Writes what layers of a prior make of audio files: OUT/NAME.npy for each file NAME of the folder and below, float32
[layers, D] with --pool=mean or [layers, positions, D] with --pool=none, and a note beside it, OUT/NAME.json, with
sample rate, samples per position, model and layers. Layers are counted from 1: 36 is what the 36th hands on to the
37th. Position i knows the codes before it. A file longer than a context is run in windows; the last one is moved back
to end with the file, and every position is taken from one window.

Files that are done are skipped, so the same command resumes an interrupted job; files that cannot be read are
named and left out, and those that break off are named; then the exit status is 1. Start it under mpiexec -n N to split
the files over N processes.

  python jukebox/represent.py --model=5b --audio_files_dir=music --out=features --layers=36"""

FLAGS = [
    Flag("model", "", "demo, 5b, 1b_lyrics, another key of MODELS, or runs, as for sample.py", "what", kind="paths"),
    Flag(
        "weights_from",
        "",
        "folder with the model's weights in the Hugging Face layout, as for sample.py",
        "what",
        "path",
    ),
    Flag("audio_files_dir", "", "folder of audio files, searched with all below it", "what", "path"),
    Flag("out", "", "folder to write to", "what", "path"),
    Flag("damaged", DAMAGED[0], DAMAGED_HELP, "what"),
    Flag("layers", None, "layers, counted from 1, separated by commas; half the depth is a good first choice", "what"),
    Flag("pool", "mean", "mean over all positions, or none: every position", "what"),
    Flag("level", "top", "level of the prior: top, or a number, 0 the finest", "what"),
    Flag("artist", "", "artist of all files; unknown if left out", "labels"),
    Flag("genre", "", "genre of all files; unknown if left out", "labels"),
    Flag("unknown_labels", "stop", "ok: an artist or genre that the model does not know counts as unknown", "labels"),
    Flag(
        "hop_fraction",
        1.0,
        "new positions of a window as a fraction of the context; with 0.5 all but the first know half a context",
        "windows",
    ),
    Flag("batch_size", None, "windows at a time, across files; chosen from free memory", "machine"),
    Flag("fp16", None, "run the prior in half precision; on CUDA unless --nofp16", "machine", "bool"),
    Flag("device", "", "cuda, cuda:1, mps or cpu; the best there is", "machine"),
    Flag("tf32", False, TF32_HELP, "machine"),
    Flag("port", 29500, "where processes under mpiexec meet", "machine"),
]


def main(**flags: Any) -> int:
    """Carries out one command line; see FLAGS.

    Returns:
        Exit status: 0, 1 if files were left out or cut, 128 plus the number of a signal: 130 after Ctrl-C.

    Raises:
        UserError: something given cannot work.
    """
    for flag, example in (("audio_files_dir", "music"), ("out", "features")):
        if not flags[flag]:
            raise UserError(f"--{flag} is missing: give a folder, such as --{flag}={example}")
    if not flags["model"] and not flags["weights_from"]:
        raise UserError("--model is missing: give a model, such as --model=5b, or a run, such as --model=logs/RUN")
    layers = layer_numbers(flags["layers"])
    pool = choice("pool", flags["pool"], ("mean", "none"))
    batch = None if flags["batch_size"] is None else whole("batch_size", flags["batch_size"], least=1)
    hop_fraction = number("hop_fraction", flags["hop_fraction"])
    damaged = choice("damaged", flags["damaged"], DAMAGED)
    port, wanted = port_number(flags["port"]), device_name(flags["device"])

    from jukebox.features.activations import check_layers
    from jukebox.features.feature_writer import remove_stale, split_done, window_hop
    from jukebox.loaders import find_model
    from jukebox.utils.audio.index import find_audio_files
    from jukebox.utils.dist_utils import failing_together, only_job, pick_device, setup_dist_from_mpi, shutdown
    from jukebox.utils.files import try_folder
    from jukebox.utils.precision import usual_dtype

    model = find_model(str(flags["model"]), str(flags["weights_from"]))
    level = level_number(flags["level"], len(model.levels))
    check_layers(model, level, layers)
    if choice("unknown_labels", flags["unknown_labels"], UNKNOWN_LABELS) == "stop" and (
        flags["artist"] or flags["genre"]
    ):
        model.check_names([(flags["artist"], flags["genre"])])
    window_hop(hop_fraction, 1, 1)
    folder, out = Path(flags["audio_files_dir"]), Path(flags["out"])
    names, _, unread = find_audio_files(folder)
    if not names:
        raise UserError("; ".join([f"--audio_files_dir={folder}: there is no audio file in it or below", *unread]))
    half = flags["fp16"]
    dtype = usual_dtype(pick_device(wanted=wanted)) if half is None else "fp16" if half else "fp32"
    settings = {
        "model": flags["model"],
        "weights_from": flags["weights_from"],
        "level": level,
        "layers": layers,
        "pool": pool,
        "hop_fraction": hop_fraction,
        "artist": flags["artist"],
        "genre": flags["genre"],
        "dtype": dtype,
        **({"tf32": True} if flags["tf32"] else {}),
    }
    try_folder(out, "out")
    todo, done = split_done(names, folder, out, settings)
    remove_stale(out)
    rank, _, device = setup_dist_from_mpi(port=port, device=wanted, backend="gloo")
    try:
        with failing_together(), only_job(out, "out"), keep_float32(flags["tf32"]):
            return make_features(model, settings, folder, out, todo, done, unread, batch, rank, device, damaged)
    finally:
        shutdown()


def make_features(
    model: "Model",
    settings: dict[str, Any],
    folder: Path,
    out: Path,
    todo: list[str],
    done: dict[str, str],
    unread: list[str],
    batch: int | None,
    rank: int,
    device: "torch.device",
    damaged: str,
) -> int:
    """Makes the features of one process's share of the files, and says at the end what became of them."""
    from jukebox.features.activations import Extractor
    from jukebox.features.feature_writer import FeatureWriter
    from jukebox.utils.audio.index import AudioIndex
    from jukebox.utils.dist_adapter import get_world_size
    from jukebox.utils.dist_utils import gather_objects

    share = todo[rank :: get_world_size()]
    say = write_line if rank == 0 else (lambda line: None)
    if done:
        say(f"done already: {len(done)} of {counted(len(done) + len(todo), 'file')}")
    was_cut = [(name, cut) for name, cut in done.items() if cut]
    if not todo:
        return print_end(0, len(done), unread, was_cut, out, rank)
    for notice in model.notices:
        say(notice)
    seconds = {name: entry.seconds for name, entry in AudioIndex(folder).look_up(share).items()}
    extractor = Extractor(
        model,
        settings["level"],
        settings["layers"],
        device,
        settings["dtype"],
        settings["artist"],
        settings["genre"],
    )
    for notice in extractor.notices:
        say(notice)
    window = extractor.n_ctx * extractor.samples_per_code / extractor.sr
    with progress_bar(
        total=sum(seconds.values()),
        unit="s",
        disable=rank > 0,
        bar_format="{desc}{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]",
    ) as bar:

        def advance(done: float) -> None:
            bar.update(max(0.0, min(done, bar.total - bar.n)))  # headers and samples differ by moments

        job = FeatureWriter(extractor, folder, out, settings, batch, advance, say, damaged)
        say(
            f"{counted(len(share), 'file')}, {sum(seconds.values()) / 60:.1f} min, in windows of {window:.2f} s, "
            f"{job.batch} at a time, on {device}"
        )
        try:
            outcome = job.run(share)
            bar.update(bar.total - bar.n)
        except KeyboardInterrupt as stop:
            if get_world_size() > 1:
                raise
            bar.close()
            print(
                f"\nstopped: {counted(job.outcome.made, 'more file')} complete; the same command resumes",
                file=sys.stderr,
            )
            return stop_status(stop)
    results = gather_objects(outcome) if get_world_size() > 1 else [outcome]
    broken = unread + [f"{name}: {why}" for result in results for name, why in result.broken]
    cut = was_cut + [item for result in results for item in result.cut]
    return print_end(sum(result.made for result in results), len(done), broken, cut, out, rank)


def print_end(made: int, n_done: int, broken: list[str], cut: list[tuple[str, str]], out: Path, rank: int) -> int:
    """The one end: how many files have features, which have none, and which lack their end. Returns the status."""
    lines = [f"{counted(made, 'file')} made, {n_done} there before: {out} holds features of {made + n_done}"]
    for what, whys in (("left out", broken), ("without their end", [f"{name}: {why}" for name, why in cut])):
        if whys:
            lines[0] += f"; {len(whys)} {what}"
            lines += [f"  {why}" for why in whys]
    if rank == 0:
        print("\n".join(lines), flush=True)
    return 1 if broken or cut else 0


def command() -> NoReturn:
    """Runs `jukebox-represent`."""
    run_command(main, FLAGS, DESCRIPTION)


if __name__ == "__main__":
    command()
