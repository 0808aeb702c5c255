"""What `python jukebox/sample.py` does with its flags, from top to bottom.

    flags -> settings (all checks) -> plan -> [--dry_run ends here] -> labels, prompts (prepare.py) -> levels

Change here the order of things; each step is in a file of its own.
"""

from __future__ import annotations

import itertools
import os
import shlex
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jukebox.loaders import Model, find_model
from jukebox.sampling.flags import read_settings
from jukebox.sampling.levels import remove_levels
from jukebox.sampling.plan import make_plan
from jukebox.sampling.prepare import prepare, with_engine
from jukebox.sampling.record import read_again
from jukebox.sampling.report import Bars, Silent
from jukebox.sampling.settings import Settings
from jukebox.sampling.state import STATE_FILE, RunState, check_same, difference
from jukebox.save_html import save_joined_page
from jukebox.utils.command_line import this_program
from jukebox.utils.dist_utils import failing_together, pick_device, read_launch, setup_dist_from_mpi, shutdown
from jukebox.utils.errors import UserError
from jukebox.utils.files import WriteError, only_writer, try_folder
from jukebox.utils.flag_values import port_number
from jukebox.utils.float32 import keep_float32
from jukebox.utils.precision import check_dtype, usual_dtype
from jukebox.utils.signals import stop_status


def run(flags: Mapping[str, Any]) -> int:
    """Carries out one command line.

    Args:
        flags: the flags that were given, by name.

    Returns:
        Exit status: 0, or 128 plus the number of a signal: 130 after Ctrl-C.

    Raises:
        UserError: something given cannot work.
    """
    if flags.get("again"):
        repeated = read_again(str(flags["again"]))
        weights = str({**repeated, **flags}.get("weights_from") or "")
        if weights and not flags.get("weights_from") and not os.path.isdir(weights):
            raise UserError(
                f"--again={flags['again']} names weights that would be fetched: if you trust them, add "
                f"--weights_from={weights}"
            )
        flags = {**repeated, "name": free_name(repeated["name"]), **flags}
    if not flags.get("model") and not flags.get("weights_from"):
        raise UserError(
            "--model is missing: give a model, such as --model=1b_lyrics, or a run, such as --model=logs/RUN"
        )
    model = find_model(str(flags.get("model", "")), str(flags.get("weights_from", "")))
    port = port_number(flags.get("port", 29500))
    if any(_asks_for_names(flags, flag) for flag in ("list_artists", "list_genres")):
        return list_names(model, flags)
    settings = read_settings(flags, model)
    launch = read_launch()
    if settings.n_samples < launch.size:
        raise UserError(
            f"--n_samples={settings.n_samples} cannot be split over {launch.size} processes: "
            f"use --n_samples={launch.size} or more, or fewer processes"
        )
    if flags.get("dry_run"):
        if launch.rank == 0:
            songs = songs_of_rank(settings.n_samples, 0, launch.size)
            device = pick_device(0, 1, settings.device)
            settings = with_dtype(settings, device)
            folder = run_folder(settings, 0, launch.size)
            try_folder(folder, "name", keep=False)
            state = would_open(settings, folder, songs, flags, Bars())
            settings = with_engine(settings, device, Bars(), state)
            make_plan(settings, songs, state, device, timed=True, report=Bars())
        return 0
    rank, _, device = setup_dist_from_mpi(port=port, device=settings.device, backend="gloo")
    try:
        with failing_together(), keep_float32(settings.tf32):
            return make_songs(settings, flags, rank, launch.size, device)
    finally:
        shutdown()


def _asks_for_names(flags: Mapping[str, Any], flag: str) -> bool:
    """Whether a list is wanted; the value of the flag is text, even if it looks like a number."""
    return flags.get(flag) is not None and flags[flag] is not False


def list_names(model: Model, flags: Mapping[str, Any]) -> int:
    """Prints the artists or genres that a model knows, one a line."""
    level = next((level for level in reversed(model.levels) if level is not None and level.hps.labels), None)
    if level is None:
        raise UserError(f"model {model.name} was trained without labels: it knows no artists and genres")
    names = level.labeller.ag_processor  # type: ignore[union-attr]
    lists = {
        "list_artists": (names.list_artists, names.nearest_artists),
        "list_genres": (names.list_genres, names.nearest_genres),
    }
    for flag, (matching, nearest) in lists.items():
        wanted = flags.get(flag)
        if _asks_for_names(flags, flag):
            found = matching("" if wanted is True else str(wanted))
            if not found:
                like = ", ".join(nearest(str(wanted)))
                raise UserError(f"--{flag}={wanted}: no name has that in it; nearest: {like}. Without =PART: all")
            print("\n".join(found))
    return 0


def songs_of_rank(n_samples: int, rank: int, size: int) -> range:
    """The numbers of a process's songs: neighbours, and as evenly many as possible."""
    return range(n_samples * rank // size, n_samples * (rank + 1) // size)


def run_folder(settings: Settings, rank: int, size: int) -> Path:
    """Where a process writes."""
    return Path(settings.name if size == 1 else f"{settings.name}_rank_{rank}")


def join_folders(settings: Settings, size: int) -> Path:
    """Writes NAME/index.html, which plays the songs in the folders of all processes, those still at work included."""
    songs, level = [], settings.sample_levels[0]
    for rank in range(size):
        of_level = f"../{run_folder(settings, rank, size).name}/level_{level}"
        numbers = songs_of_rank(settings.n_samples, rank, size)
        for i, song in enumerate(numbers):
            audio = f"{of_level}/item_{i}/audio.{settings.format}"
            songs.append((f"Song {song}", audio, f"{of_level}/index.html"))
    return save_joined_page(Path(settings.name), songs)


def make_songs(settings: Settings, flags: Mapping[str, Any], rank: int, size: int, device: torch.device) -> int:
    """Makes the songs of one process, the only one that writes to its folder."""
    folder = run_folder(settings, rank, size)
    try_folder(folder, "name")
    with only_writer(folder, "name"):
        try:
            return make_songs_in(folder, settings, flags, rank, size, device)
        except KeyboardInterrupt as stop:
            if rank == 0:
                saved = f"{folder} holds everything up to the last finished window"
                print(f"\nstopped: {saved}. To resume: {again(size)}", file=sys.stderr)
            return stop_status(stop)
        except WriteError as error:
            go_on = again(size)
            raise UserError(
                f"{error.what}. What was saved before is complete; once this is fixed, resume with: {go_on}"
            ) from error


def make_songs_in(
    folder: Path, settings: Settings, flags: Mapping[str, Any], rank: int, size: int, device: torch.device
) -> int:
    """Makes the songs of one process in its folder."""
    songs = songs_of_rank(settings.n_samples, rank, size)
    settings = with_dtype(settings, device)
    report = Bars() if rank == 0 else Silent()
    state = open_state(settings, folder, songs, flags, report)
    if state is not None and state.finished:
        report.message(f"{folder}: this run is finished, nothing is left to do")
        tell_page(page_of(folder, settings), flags, report)
        return 0
    clean_up(folder)
    maker = prepare(settings, songs, folder, flags, device, report, state)
    if state is None:
        remove_earlier(folder, settings, flags)
        given, levels = [z.shape[1] for z in maker.zs], settings.sample_levels
        maker.state = RunState(folder, settings.fingerprint(songs), maker.zs, [], list(maker.options), given, levels)
        maker.state.save()
    maker.make(settings.sample_levels)
    if rank == 0 and size > 1:
        tell_page(join_folders(settings, size), flags, report)
    else:
        tell_page(page_of(folder, settings), flags, report)
    return 0


def page_of(folder: Path, settings: Settings) -> Path:
    """The page of the finished songs in a folder."""
    return folder / f"level_{settings.sample_levels[0]}" / "index.html"


def tell_page(page: Path, flags: Mapping[str, Any], report: Silent) -> None:
    """Names the page to open, and with --open opens it where there is a desktop."""
    report.message(f"to listen, open {page}")
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if flags.get("open") and desktop and read_launch().rank == 0:
        webbrowser.open(page.resolve().as_uri())


def with_dtype(settings: Settings, device: torch.device) -> Settings:
    """Settings with the type that was asked for, or half precision on GPUs and single precision elsewhere.

    Raises:
        UserError: a type that the device is not made for.
    """
    dtype = settings.dtype or usual_dtype(device)
    check_dtype(dtype, device)
    return replace(settings, dtype=dtype)


def open_state(
    settings: Settings, folder: Path, songs: range, flags: Mapping[str, Any], report: Silent
) -> RunState | None:
    """The state to resume from, None for a new run.

    Raises:
        UserError: --resume with other settings; without it and --overwrite, a folder whose songs would be lost.
    """
    resume = bool(flags.get("resume"))
    if flags.get("overwrite"):
        if resume:
            raise UserError("--resume keeps what a run has made and --overwrite deletes it: give one of them")
        return None
    instead = f"add --overwrite to replace it, or choose another --name, such as --name={free_name(settings.name)}"
    if not (folder / STATE_FILE).is_file():
        if made := made_levels(folder, settings):
            raise UserError(f"{folder} holds songs already, such as {made[0]}: {instead}")
        if resume:
            report.message(f"{folder} holds no interrupted run: starting from the beginning")
        return None
    state = RunState.load(folder)
    new = settings.fingerprint(songs)
    if resume:
        check_same(state.settings, new)
        return state
    if not state.finished and not state.begun:
        return None
    differs = difference(state.settings, new)
    if state.finished:
        what = f"a finished run, with {differs}" if differs else "this run, finished"
        raise UserError(f"{folder} holds {what}: {instead}")
    if differs:
        raise UserError(
            f"{folder} holds an interrupted run, with {differs}: repeat its command with --resume to continue it, "
            f"{instead.replace(', or', ',')}, or delete it"
        )
    raise UserError(f"{folder} holds this run, interrupted: add --resume to continue it, {instead}")


def free_name(name: str) -> str:
    """The name with the first number from 2 on that no run has."""
    return next(
        free
        for free in (f"{name}_{i}" for i in itertools.count(2))
        if not Path(free).exists() and not Path(f"{free}_rank_0").exists()
    )


def would_open(
    settings: Settings, folder: Path, songs: range, flags: Mapping[str, Any], report: Silent
) -> RunState | None:
    """The same for a plan, which only tells that the run itself would be refused."""
    try:
        return open_state(settings, folder, songs, flags, report)
    except UserError as error:
        if flags.get("resume"):
            raise
        report.message(f"would be refused: {error}")
        return None


def made_levels(folder: Path, settings: Settings) -> list[Path]:
    """Data of levels in a folder that a new run would remove; one that it continues from is not among them."""
    read = Path(settings.codes_file).resolve() if settings.codes_file else None
    return [path for path in sorted(folder.glob("level_*/data.pth.tar")) if path.resolve() != read]


def remove_earlier(folder: Path, settings: Settings, flags: Mapping[str, Any]) -> None:
    """Removes what an earlier run has left in the folder, so that nothing of it is among the new songs."""
    inputs = [settings.codes_file, *settings.prompts, *(flags.get(key) for key in ("metas", "lyrics_file"))]
    (folder / STATE_FILE).unlink(missing_ok=True)
    remove_levels(folder, [str(name) for name in inputs if name])


def clean_up(folder: Path) -> None:
    """Removes what writes that were killed have left unfinished."""
    for pattern in (".*.tmp", "level_*/.*.tmp", "level_*/item_*/.*.tmp"):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)


def again(size: int) -> str:
    """The command that resumes this run."""
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--resume=True")]
    launcher = f"mpiexec -n {size} " if size > 1 else ""
    return f"{launcher}{this_program()} {shlex.join(words)} --resume"
