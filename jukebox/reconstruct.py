"""Your own music through the VQ-VAE: python jukebox/reconstruct.py --model=M --audio_file=song.mp3 --name=DIR [flags]

The command line; the order of things is in `reconstruction/reconstructor.py`, what is measured in
`reconstruction/figures.py`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

if not __package__:  # as a script, whose folder would hide installed packages
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from jukebox.utils.command_line import Flag, run_command
from jukebox.utils.errors import UserError
from jukebox.utils.flag_values import (
    DAMAGED,
    DAMAGED_HELP,
    FORMATS,
    choice,
    device_name,
    find_files,
    level_numbers,
    number,
    seconds_of,
)
from jukebox.utils.float32 import TF32_HELP, keep_float32
from jukebox.utils.plural import counted
from jukebox.utils.progress import progress_bar, write_line
from jukebox.utils.signals import stop_status

DESCRIPTION = """\
Encodes songs with a VQ-VAE and decodes them again from each single level, to hear and measure what the codes keep. No
prior is needed. Leaves DIR/index.html, a page to compare the original and the levels on, with spectrograms; for each
song DIR/item_0, item_1, ... with original and level_0, level_1, ... as audio and as PNG; and DIR/report.json with all
figures: spectral convergence in dB, codebook use, entropy and bit rate. The table of them is printed as well.

Songs of any length, rate and format; stereo is mixed to mono, as the model hears it. A second run of the same name
replaces files of the same names and no others. Files that cannot be read, or are shorter than one code, are named and
left out, and those that break off are named; then the exit status is 1.

  python jukebox/reconstruct.py --model=demo --audio_file=song.mp3 --name=out/reconstructed"""

FLAGS = [
    Flag(
        "model",
        "",
        "a key of MODELS, or the folder or checkpoint of a training run; only its VQ-VAE is read",
        "what",
        "path",
    ),
    Flag("audio_file", "", "songs: separated by commas, repeated, or a pattern such as 't*.wav'", "what", "files"),
    Flag("audio_files_dir", "", "or a folder of songs, searched with all below it", "what", "path"),
    Flag("damaged", DAMAGED[0], DAMAGED_HELP, "what"),
    Flag("name", "", "folder to write to", "what", "path"),
    Flag("levels", None, "levels to decode from, 0 the finest, such as 0,2; all", "what"),
    Flag("offset", 0.0, "where to start, in seconds of each file", "what"),
    Flag("seconds", None, "how much of each file to take, in seconds; up to its end", "what"),
    Flag("format", "wav", "wav, flac or mp3", "what"),
    Flag("device", "", "cuda, cuda:1, mps or cpu; the best there is", "machine"),
    Flag("tf32", False, TF32_HELP, "machine"),
]


def main(**flags: Any) -> int:
    """Carries out one command line; see FLAGS.

    Returns:
        Exit status: 0, 1 if files were left out or cut, 128 plus the number of a signal: 130 after Ctrl-C.

    Raises:
        UserError: something given cannot work, or no file is left.
    """
    if not flags["name"]:
        raise UserError("--name is missing: give the folder to write to, such as --name=out/reconstructed")
    ending = choice("format", flags["format"], FORMATS)
    offset = number("offset", flags["offset"] or 0.0, least=0.0)
    seconds = seconds_of(flags, "seconds")
    damaged = choice("damaged", flags["damaged"], DAMAGED)
    wanted = device_name(flags["device"])

    from jukebox.utils.launch import read_launch

    if read_launch().size > 1:
        raise UserError("reconstruct.py runs as one process: start it without mpiexec")
    files, unread = find_songs(flags["audio_file"], flags["audio_files_dir"])

    from jukebox.loaders import find_vqvae, load_vqvae
    from jukebox.reconstruction.reconstructor import Reconstructor
    from jukebox.utils.dist_utils import pick_device
    from jukebox.utils.files import only_writer, try_folder

    hps = find_vqvae(flags["model"])
    levels = level_numbers(flags["levels"], hps.levels)
    device = pick_device(0, 1, wanted)
    folder = Path(flags["name"])
    vqvae = load_vqvae(hps, device)
    existed = folder.exists()
    try_folder(folder, "name")
    with only_writer(folder, "name"), keep_float32(flags["tf32"]):
        job = Reconstructor(vqvae, hps.sr, flags["model"], folder, levels, ending, offset, seconds, damaged)
        try:
            return reconstruct(job, files, unread)
        except UserError:
            if not existed and not any(folder.iterdir()):
                folder.rmdir()
            raise


def reconstruct(job: Any, files: list[tuple[str, str]], unread: Sequence[str] = ()) -> int:
    """Takes songs through a job one by one, says what comes out, and at the end what became of them.

    Args:
        job: a Reconstructor.
        files: path and name of each song.
        unread: a line for each folder that cannot be read.

    Returns:
        Exit status, as of `main`.

    Raises:
        UserError: not one of the songs could be taken.
    """
    from jukebox.reconstruction.figures import text_table

    broken: list[UserError] = [*map(UserError, unread)]
    with progress_bar(total=1.0, bar_format="{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]") as bar:

        def advance(name: str, done: float, total: float) -> None:
            if done == 0.0:
                bar.reset(total)
                bar.set_description(name)
            bar.update(done - bar.n)

        job.advance = advance
        for path, name in files:
            try:
                figures = job.run(path, name)
            except UserError as error:
                if not is_about(error, path):
                    raise
                broken.append(error)
                continue
            except KeyboardInterrupt as stop:
                bar.close()
                made = f"{len(job.songs)} of {counted(len(files), 'song')}"
                print(f"\nstopped: {job.folder} holds {made}; the same command makes all", file=sys.stderr)
                return stop_status(stop)
            for remark in job.remarks[-1]:
                write_line(remark)
            write_line(f"{name}, {job.songs[-1].seconds:.1f} s\n{text_table(figures)}\n")
    if not job.songs:
        raise broken[len(unread)]
    if len(job.songs) > 1:
        print(f"all {len(job.songs)} songs\n{text_table(job.totals())}\n")
    print(f"open {job.folder / 'index.html'}" + (f"; {len(broken)} left out:" if broken else ""), flush=True)
    for why in broken:
        print(f"  {why}", flush=True)
    from jukebox.utils.audio.reader import Cut

    cut = [remark for remarks in job.remarks for remark in remarks if isinstance(remark, Cut)]
    return 1 if broken or cut else 0


def is_about(error: UserError, path: str) -> bool:
    """Whether an error is one file's own, so that the others can continue."""
    from jukebox.utils.audio.reader import AudioError

    return isinstance(error, AudioError) or str(error).startswith(path)


def find_songs(audio_file: str | Sequence[str], audio_files_dir: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Path and name of each song, and a line for each folder that cannot be read.

    Raises:
        UserError: none or both are given, or there is no such file or folder.
    """
    if bool(audio_file) == bool(audio_files_dir):
        given = "are both given" if audio_file else "are missing"
        raise UserError(f"--audio_file and --audio_files_dir {given}: give one, such as --audio_file=song.mp3")
    if audio_files_dir:
        from jukebox.utils.audio.index import find_audio_files

        names, _, unread = find_audio_files(audio_files_dir)
        if not names:
            said = f"--audio_files_dir={audio_files_dir}: there is no audio file in it or below"
            raise UserError("; ".join([said, *unread]))
        return [(os.path.join(audio_files_dir, name), name) for name in names], unread
    return [(path, os.path.basename(path)) for path in find_files("audio_file", audio_file)], []


def command() -> NoReturn:
    """Runs `jukebox-reconstruct`."""
    run_command(main, FLAGS, DESCRIPTION)


if __name__ == "__main__":
    command()
