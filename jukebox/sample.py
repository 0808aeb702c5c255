"""Makes music: python jukebox/sample.py --model=M --name=DIR [flags]

The command line, and the functions that notebooks import. What happens is in `jukebox/sampling/`: `command.py` has the
order of things, `flags.py` every check. The walk along a song is in `windows.py`, the files of a run in `levels.py`.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if not __package__:  # as a script, whose folder would hide installed packages
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from jukebox.utils.command_line import Flag, import_lazily, run_command
from jukebox.utils.float32 import TF32_HELP
from jukebox.utils.gone import sample_flag
from jukebox.utils.label_row import SIGNALS

if TYPE_CHECKING:
    from jukebox.make_models import make_model
    from jukebox.sampling.modes import _sample, ancestral_sample, continue_sample, primed_sample, upsample
    from jukebox.sampling.prompts import load_codes, load_prompts
    from jukebox.sampling.windows import sample_level, sample_partial_window, sample_single_window
else:
    __getattr__ = import_lazily(__name__, "make_models", "sampling.modes", "sampling.prompts", "sampling.windows")

__all__ = [
    "_sample",
    "ancestral_sample",
    "continue_sample",
    "load_codes",
    "load_prompts",
    "make_model",
    "primed_sample",
    "sample_level",
    "sample_partial_window",
    "sample_single_window",
    "upsample",
]

DESCRIPTION = """\
Makes music with a trained model, level by level, and writes each level to NAME/level_L as soon as it is done: audio,
codes and a page to listen to. Start it under mpiexec -n N to split the songs over N processes. Ctrl-C keeps what is
made; the same command with --resume continues.

  to hear it       --model=demo --name=out/demo
  from nothing     --model=1b_lyrics --name=out/new --sample_length_in_seconds=20 --artist=... --genre=... --lyrics=...
  from a file      --model=1b_lyrics --name=out/primed --mode=primed --audio_file=a.mp3 --prompt_length_in_seconds=12
  from a run       --mode=continue --codes_file=out/new/level_0/data.pth.tar --sample_length_in_seconds=40 ...
  only upsample    --mode=upsample --codes_file=out/new/level_2/data.pth.tar ...
  your own model   --model=logs/my_upsampler,logs/my_prior --name=out/mine"""

FLAGS = [
    Flag(
        "model",
        "",
        "demo, 5b, 5b_lyrics, 1b_lyrics, another key of MODELS, or runs: logs/RUN[,logs/RUN2,...]",
        "what",
        kind="paths",
    ),
    Flag(
        "weights_from",
        "",
        "folder, or OWNER/NAME of the hub, with weights in the Hugging Face layout; --model left out: its config.json",
        "what",
        "path",
    ),
    Flag("name", "", "folder to write to", "what", "path"),
    Flag(
        "mode", "ancestral", "ancestral (from nothing), primed (from audio), continue or upsample (from codes)", "what"
    ),
    Flag("levels", None, "number of levels; the model's", "what"),
    Flag("sr", None, "sample rate in Hz; the model's", "what"),
    Flag(
        "n_samples",
        None,
        "songs made side by side; if left out, as many as there are prompts, saved songs or --metas",
        "what",
    ),
    Flag("sample_length_in_seconds", 24, "seconds of a finished song, the prompt included", "lengths"),
    Flag(
        "total_sample_length_in_seconds",
        240,
        "length of the imagined whole song, for the timing labels; never under the sample's",
        "lengths",
    ),
    Flag("prompt_length_in_seconds", None, "how much of the prompts or saved codes to keep", "lengths"),
    Flag(
        "hop_fraction",
        (0.5, 0.5, 0.125),
        "per level, low to high: new tokens of a window as a fraction of the context; cut to the levels",
        "lengths",
    ),
    Flag(
        "audio_file",
        "",
        "prompts for --mode=primed, any format: separated by commas, repeated, or a pattern such as 't*.wav'",
        "given",
        "files",
    ),
    Flag(
        "damaged", "refuse", "prompts that cannot be read to their end: refuse them, or keep what can be read", "given"
    ),
    Flag("codes_file", "", "data.pth.tar of an earlier run, for --mode=continue and --mode=upsample", "given", "path"),
    Flag("artist", "", "artist of all songs; a demo text if left out, as genre and lyrics", "labels"),
    Flag("genre", "", "genre of all songs", "labels"),
    Flag("lyrics", "", r"lyrics of all songs; \n, \r\n and a backslash are line ends", "labels"),
    Flag("lyrics_file", "", "the same from a text file in UTF-8, with or without times", "labels", "path"),
    Flag("lyric_line", 1, "which of several lines of lyrics on the same stamp is sung", "labels"),
    *(Flag(name, "", signal.description, "labels") for name, signal in SIGNALS.items()),
    Flag(
        "metas",
        "",
        "JSON file with a list of {artist, genre, lyrics, total_length_in_seconds, offset_in_seconds}, one per song",
        "labels",
        "path",
    ),
    Flag(
        "unknown_labels",
        "stop",
        "ok: an artist or genre that is asked for and that the model does not know counts as unknown",
        "labels",
    ),
    Flag(
        "list_artists",
        None,
        "print the artists that the model knows and stop; =PART for those with that in the name",
        "labels",
        "text",
    ),
    Flag("list_genres", None, "the same for genres", "labels", "text"),
    Flag("temp", 0.99, "temperature; one value, or one per level, low to high", "drawing"),
    Flag("top_k", 0, "draw among the k likeliest codes only; 0: all. One value or one per level", "drawing"),
    Flag(
        "top_p",
        0.0,
        "draw among the likeliest codes that have this much probability; 0: all. Not with top_k",
        "drawing",
    ),
    Flag("seed", 0, "song number i of a seed is always drawn alike, however many are made at once", "drawing"),
    Flag("device", "", "cuda, cuda:1, mps or cpu; the best there is", "machine"),
    Flag("dtype", "", "fp16, bf16, fp32 or on a CPU int8; fp16 on CUDA, else fp32", "machine"),
    Flag(
        "engine",
        "auto",
        "who draws tokens: native (C++ on a CPU), fused (kernels of apex on CUDA), graph (PyTorch in a CUDA "
        "graph), eager (PyTorch), or auto, the fastest",
        "machine",
    ),
    Flag("tf32", False, TF32_HELP, "machine"),
    Flag("max_batch_size", None, "songs at a time, one value or one per level; chosen from free memory", "machine"),
    Flag(
        "chunk_size", None, "given tokens in one pass, one value or one per level; as many as memory allows", "machine"
    ),
    Flag("port", 29500, "where processes under mpiexec meet", "machine"),
    Flag("resume", False, "resume an interrupted run of the same name and flags", "run"),
    Flag("again", "", "make the songs of a run again: one of its songs, or the item_N.json beside it", "run", "path"),
    Flag("overwrite", False, "replace the songs of an earlier run of the same name", "run"),
    Flag("open", False, "open the page of the finished songs, where there is a desktop", "run"),
    Flag(
        "dry_run",
        False,
        "print windows, tokens, memory and time of each level, and stop before any weight is read",
        "run",
    ),
    Flag("format", "wav", "wav, flac or mp3 for the items", "run"),
    Flag("bit_rate", 192, "kbit/s of mp3 files, 32 to 320", "run"),
    Flag("title", "", "what the songs are called, in tags and file names; artist and genre if left out", "labels"),
]


def main(**flags: Any) -> int:
    """Carries out one command line; see `FLAGS`."""
    from jukebox.sampling.command import run

    return run(flags)


def command() -> NoReturn:
    """Runs `jukebox-sample`."""
    run_command(main, FLAGS, DESCRIPTION, only_given=True, instead=sample_flag)


if __name__ == "__main__":
    command()
