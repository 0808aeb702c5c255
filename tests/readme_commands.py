"""What is in a README, and a folder in which its commands run one after another.

Commands run as they are written. Flags are put after them (`BEHIND`), so that they take seconds: the last value of a
flag counts. Commands with `--dry_run` get none. In the place of the released models' weights, which are gigabytes,
stand those of `tests/parity/recorded`: three levels, labels and lyrics as well.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import pytest

from jukebox.data.synthesizer import make_song
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams
from jukebox.loaders import find_model
from jukebox.utils.audio.write import write_audio

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECORDED = ROOT / "tests" / "parity" / "recorded" / "merged_lyrics"

# --------------------------------------------------------------------------------------------------- what is there


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def prose(text: str) -> str:
    """All that is outside of fenced blocks."""
    return re.sub(r"^```(\w*)\n(.*?)^```$", "", text, flags=re.M | re.S)


def without_remark(line: str) -> str:
    """A line of a block without what follows two spaces: a comment, or what a file is."""
    return re.sub(r"(?<=\S)  .*", "", line)


COMMANDS = [without_remark(line) for kind, text in fenced(README) if kind == "sh" for line in text.splitlines()]
PYTHON_COMMANDS = [command for command in COMMANDS if not command.startswith("make ")]


def value(command: str, flag: str) -> str:
    """What `--flag=` is in a command, or ""."""
    return next((word.partition("=")[2] for word in shlex.split(command) if word.startswith(f"--{flag}=")), "")


def script(command: str) -> str:
    """The script or module of a command, as it is typed."""
    words = shlex.split(command)
    words = words[words.index("python") + 1 :]
    return words[1] if words[0] == "-m" else words[0]


def makes(command: str) -> str:
    """The folder or file that others need a command for, or ""."""
    if script(command) == "jukebox/train.py":
        return f"logs/{value(command, 'name')}"
    if script(command) == "jukebox.data.labels":
        return f"{value(command, 'audio_files_dir')}/artist_ids.txt"
    return value(command, "name") or value(command, "out")


def needs(command: str) -> list[str]:
    """The folders and files that a command reads and an earlier one of the README makes."""
    given = [part for word in shlex.split(command) for part in word.partition("=")[2].split(",")]
    if tables := value(command, "labels_dir"):
        given.append(f"{tables}/artist_ids.txt")
    makers = [other for other in PYTHON_COMMANDS if other != command and makes(other)]
    return [made for made in map(makes, makers) if any(f"{part}/".startswith(f"{made}/") for part in given)]


# ------------------------------------------------------------------------------------------------- smaller runs

# A model of the registry in a size that trains in a second, for the commands that want a GPU.
_SMALL_VQVAE = "--width=8 --depth=1 --emb_width=8 --l_bins=32 --sample_length=16384"
_SMALL_PRIOR = "--prior_width=16 --prior_depth=2 --n_ctx=64 --blocks=8 --cond_width=8 --cond_depth=1"

# Begun with a prompt that leaves little to make.
PROMPTED = "--mode=primed --audio_file=song.mp3 --prompt_length_in_seconds=1.4"

# Text in a command -> flags after it; all that fit, in this order.
BEHIND = {
    "jukebox.data.synthesizer": "--songs=8",
    "python jukebox/": "--device=cpu",
    "jukebox/train.py": "--nworkers=0 --lr_use_linear_decay --lr_start_linear_decay=1 --lr_decay=2",  # 3 steps
    "--name=my_prior_annealed": "--lr_start_linear_decay=4 --lr_decay=2",
    "--hps=small_vqvae": _SMALL_VQVAE,
    "--hps=small_vqvae,small_prior": _SMALL_PRIOR,
    "--hps=small_vqvae,small_upsampler": f"{_SMALL_PRIOR} --n_ctx=512 --blocks=16",
    "--hps=vqvae,small_prior": f"{_SMALL_PRIOR} --n_ctx=32 --sample_length=512",
    "--model=demo --name": "--sample_length_in_seconds=1.49 --n_samples=1",  # one window of the upsampler of level 1
    "--mode=primed": "--prompt_length_in_seconds=1.4",
    "--mode=continue": "--prompt_length_in_seconds=1.4 --sample_length_in_seconds=1.6",
    "mpiexec -n 2 python jukebox/sample.py": f"--n_samples=2 {PROMPTED}",
    "--name=samples/big": "--sample_length_in_seconds=6",
    "--weights_from": "--sample_length_in_seconds=6",
    "--name=samples/sung": "--sample_length_in_seconds=1",
    "--name=samples/mine": "--sample_length_in_seconds=0.8",
}
# Commands of the released models.
RELEASED = ("--model=1b_lyrics", "--hps=vqvae,small_prior")


def shrunk(command: str) -> list[str]:
    """The words of a command with the flags after it."""
    words = shlex.split(command)
    if "--dry_run" in words:
        return words
    return words + [flag for text, flags in BEHIND.items() if text in command for flag in shlex.split(flags)]


def register_stand_ins(patch: pytest.MonkeyPatch, tables: Path) -> None:
    """Puts small models under the names of the released ones, with weights that are in the repository."""
    found = find_model("", str(RECORDED))
    sets = {"vqvae": found.vqvae_hps}
    for name, level in zip(("upsampler_level_0", "upsampler_level_1", "prior_1b_lyrics"), found.levels, strict=True):
        assert level is not None
        sets[name] = Hyperparams(level.hps, labels_dir=str(tables), max_duration=600.0)
    for name, hps in sets.items():
        patch.setitem(HPARAMS_REGISTRY, name, hps)


# ------------------------------------------------------------------------------------------------- running


class Workplace:
    """A folder where commands run, each once; what a command needs of earlier ones is made before it.

    Beside what commands make are `song.mp3`, `lyrics.txt` and `FOLDER`, weights in the Hugging Face layout.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._printed: dict[str, str] = {}
        self._failed: set[str] = set()
        write_audio(folder / "song.mp3", make_song(5, 44100, 5.0, artist="otto organ").audio, 44100)
        (folder / "lyrics.txt").write_text("mila sola timi\nkalo mesi loki\n", encoding="utf-8")
        shutil.copytree(RECORDED, folder / "FOLDER")
        tables = {"artist_ids": "unknown;0\nella_fitzgerald;1\n", "genre_ids": "unknown;0\njazz;1\n"}
        for name, text in {**tables, "vocab": "aeiklmost"}.items():
            (folder / "tables").mkdir(exist_ok=True)
            (folder / "tables" / f"{name}.txt").write_text(text, encoding="utf-8")

    def run(self, command: str) -> str:
        """Runs a command of the README, unless it was run before, and returns what it printed."""
        if command not in self._printed:
            self.prepare(command)
            self._failed.add(command)
            self._printed[command] = self.run_words(shrunk(command), any(name in command for name in RELEASED))
            self._failed.remove(command)
        return self._printed[command]

    def prepare(self, command: str) -> None:
        """Runs the earlier commands that a command needs, unless they were run before."""
        for other in PYTHON_COMMANDS[: PYTHON_COMMANDS.index(command)]:
            if makes(other) in needs(command):
                assert other not in self._failed, f"not tried, for this failed, which makes what it needs: {other}"
                self.run(other)

    def run_words(self, words: list[str], released: bool = False) -> str:
        """Runs the words of a command and returns what it printed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            if released:
                register_stand_ins(patch, self.folder / "tables")
            status, printed = _run_job(words) if words[0] == "mpiexec" else _run_here(words[1:], patch)
        assert status == 0, f"exit status {status} of: {shlex.join(words)}\n{printed}"
        return printed


def _run_here(words: list[str], patch: pytest.MonkeyPatch) -> tuple[object, str]:
    """Runs `python WORDS` within this process, as the interpreter would; returns exit status and output."""
    printed, is_module = io.StringIO(), words[0] == "-m"
    argv = words[1:] if is_module else [str(ROOT / words[0]), *words[1:]]
    patch.setattr(sys, "argv", argv)
    patch.setattr(sys, "path", [*sys.path])
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* found in sys.modules after import of package", RuntimeWarning)
        try:
            if is_module:
                runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code, printed.getvalue()
        except Exception:
            return traceback.format_exc(), printed.getvalue()
    return "none: it did not end by itself", printed.getvalue()


def _run_job(words: list[str]) -> tuple[int, str]:
    """Runs `mpiexec -n N python SCRIPT ...`; returns exit status and output."""
    from utils.test_dist import free_port, mpiexec

    assert words[0] == "mpiexec" and words[3] == "python"
    job = [mpiexec(), *words[1:3], sys.executable, str(ROOT / words[4]), *words[5:], f"--port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(job, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300)
    return done.returncode, done.stdout + done.stderr
