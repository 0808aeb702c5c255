"""Flags as `fire` reads them, help, and errors without tracebacks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from jukebox import align, represent, sample
from jukebox.hparams import setup_hparams
from jukebox.utils.command_line import Flag, help_text, parse_flags, run_command, this_program
from jukebox.utils.errors import UserError
from jukebox.utils.signals import SIGNALS
from jukebox.version import __version__

FLAGS = [
    Flag("name", "", "name of the run", "script"),
    Flag("train", False, "train", "script"),
    Flag("labels", True, "condition on labels", "data"),
    Flag("bs", 1, "batch size", "data"),
    Flag("lr", 0.0003, "learning rate", "opt"),
    Flag("y_bins", 0, "sizes of the label tables", "opt"),
    Flag("top_p", 0.0, "nucleus", "opt"),
    Flag("metas", None, "file of labels", "opt"),
    Flag("fp16", None, "half precision", "opt", "bool"),
    Flag("list", None, "names to list", "opt", "text"),
]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--train", "--bs=4"], {"train": True, "bs": 4}),
        (["--labels=False"], {"labels": False}),
        (["--labels=false", "--train=1"], {"labels": False, "train": True}),
        (["--nolabels"], {"labels": False}),
        (["--labels=no", "--train", "YES", "--fp16=0"], {"labels": False, "train": True, "fp16": False}),
        (["--fp16", "--bs=2"], {"fp16": True, "bs": 2}),
        (["--nofp16"], {"fp16": False}),
        (["--list"], {"list": True}),
        (["--list=0"], {"list": "0"}),
        (["--list=1e3"], {"list": "1e3"}),
        (["--list="], {"list": ""}),
        (["--labels", "False", "--bs", "8"], {"labels": False, "bs": 8}),
        (["--y_bins=10,100"], {"y_bins": (10, 100)}),
        (["--y_bins=[10,100]"], {"y_bins": [10, 100]}),
        (["--y-bins=3"], {"y_bins": 3}),
        (["--lr=3e-4"], {"lr": 0.0003}),
        (["--lr", "-1"], {"lr": -1}),
        (["--name=1e3"], {"name": "1e3"}),
        (["--name", "with several words"], {"name": "with several words"}),
        (["--name=a=b,c"], {"name": "a=b,c"}),
        (["--name="], {"name": ""}),
        (["--metas=None"], {"metas": None}),
        (["--metas=a.json"], {"metas": "a.json"}),
        (["--bs=1", "--bs=2"], {"bs": 2}),
        ([], {}),
    ],
)
def test_values(words: list[str], values: dict[str, Any]) -> None:
    assert parse_flags(words, FLAGS) == values


def test_values_are_those_of_fire() -> None:
    """The same words through `fire` itself, for flags whose default is not text."""
    import fire

    words = ["--bs=4", "--lr=1e-4", "--y_bins=1,2", "--metas=[1,'a']", "--top_p", "0.9"]
    assert parse_flags(words, FLAGS) == fire.Fire(lambda **kwargs: dict(kwargs), command=words)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--lables=False"], "unknown flag --lables; did you mean --labels"),
        (["--zzzzz"], "unknown flag --zzzzz; --help lists all flags"),
        (["logs/x"], "'logs/x' belongs to no flag"),
        (["--train", "song.mp3"], "'song.mp3' belongs to no flag"),
        (["--train=maybe"], "--train=maybe: choose true or false"),
        (["--labels=2"], "--labels=2: choose true or false"),
        (["--fp16=None"], "--fp16=None: choose true or false"),
        (["--train="], "--train=: choose true or false"),
        (["--name"], "--name needs a value"),
        (["--name", "--train"], "--name needs a value"),
    ],
)
def test_mistakes_are_refused(words: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        parse_flags(words, FLAGS)


def test_help_lists_every_flag_with_default_and_meaning() -> None:
    text = help_text(FLAGS, "Trains.", "train.py")
    for flag in FLAGS:
        line = next(line for line in text.splitlines() if line.startswith(f"  --{flag.name}="))
        assert flag.help in line
    assert '--name=""' in text and "--labels=True" in text and "--bs=1" in text
    assert max(map(len, text.splitlines())) <= 120


def _status(main: Any, words: list[str], **options: Any) -> int:
    with pytest.raises(SystemExit) as end:
        run_command(main, FLAGS, "Trains.", argv=words, **options)
    return 0 if end.value.code is None else int(end.value.code)


def test_defaults_are_handed_over_or_left_out() -> None:
    seen: dict[str, Any] = {}
    assert _status(lambda **values: seen.update(values), ["--bs=2"]) == 0
    assert seen == {**{flag.name: flag.default for flag in FLAGS}, "bs": 2}
    seen.clear()
    assert _status(lambda **values: seen.update(values), ["--bs=2"], only_given=True) == 0
    assert seen == {"bs": 2}
    assert _status(lambda **values: 3, []) == 3


def test_errors_of_users_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(**_: Any) -> None:
        raise UserError("bs=0: must be at least 1")

    assert _status(wrong, []) == 2
    assert capsys.readouterr().err == "error: bs=0: must be at least 1\n"
    assert _status(lambda **values: setup_hparams("smal_vqvae", {}), []) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown hyper-parameter set 'smal_vqvae'") and "Traceback" not in error
    assert _status(lambda **_: None, ["--bz=2"]) == 2
    assert "did you mean --bs?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "Permission denied"),
        (errno.ENAMETOOLONG, "File name too long"),
        (errno.ENOSPC, "No space left on device"),
        (errno.ENOENT, "No such file or directory"),
    ],
)
def test_what_the_system_says_of_a_file_is_one_line(
    number: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, shown in (("a/b", "a/b"), (b"a/\xff", "a/"), ("y" * 5000, "y" * 197 + "...")):

        def closed(path: Any = path, **_: Any) -> None:
            raise OSError(number, os.strerror(number), path)

        assert _status(closed, []) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {shown}") and told.count("\n") == 1 and f": {words}; give another path" in told
    with pytest.raises(OSError):  # of no file, so a fault of ours
        run_command(lambda **_: os.close(-1), FLAGS, "Trains.", argv=[])


def test_a_killed_loader_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for said in (
        "DataLoader worker (pid 7) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 7) exited unexpectedly",
    ):

        def killed(said: str = said, **_: Any) -> None:
            raise RuntimeError(said)

        assert _status(killed, []) == 2
        assert capsys.readouterr().err.startswith("error: a process that loads songs was killed, perhaps for want of")


def test_our_own_faults_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(lambda **_: 1 // 0, FLAGS, "Trains.", argv=[])


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(**_: Any) -> None:
        raise KeyboardInterrupt

    assert _status(stopped, []) == 130
    told = "stopped by SIGINT: what is complete stays, and the same command continues from it or starts again\n"
    assert capsys.readouterr().err == told


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_signal_that_ends_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(signal, name)
    handlers = [signal.getsignal(other) for other in SIGNALS]

    def told(**_: Any) -> None:
        signal.raise_signal(number)

    def told_in_an_import(**_: Any) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as stop:
            raise ImportError("could not be initialized") from stop

    before = signal.signal(number, signal.default_int_handler)  # a shell may have started us deaf to it
    try:
        for main in (told, told_in_an_import):
            assert _status(main, []) == 128 + number
            assert capsys.readouterr().err.startswith(f"stopped by {name}: ")
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        assert _status(told, []) == 0
    finally:
        signal.signal(number, before)
    assert handlers == [signal.getsignal(other) for other in SIGNALS]


def test_help_stops_before_main(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("-h", "--help"):
        assert _status(lambda **_: 1, ["--train", word]) == 0
        assert "name of the run" in capsys.readouterr().out
    assert _status(lambda **_: 1, ["--train", "--version"]) == 0
    assert capsys.readouterr().out == f"jukebox {__version__}\n"


@pytest.mark.parametrize(
    ("script", "shown"),
    [("jukebox/sample.py", "python jukebox/sample.py"), ("/a b/jukebox-sample", "jukebox-sample")],
)
def test_how_to_start_this_program(script: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--bs=2"])
    assert this_program() == shown


def test_lazy_names_are_those_of_all() -> None:
    for module in (align, represent, sample):
        for name in module.__all__:
            assert getattr(module, name).__module__.startswith("jukebox.")
        with pytest.raises(AttributeError, match="has no attribute 'Tensor'"):
            module.Tensor  # noqa: B018


SWALLOWED = """
import os, signal, sys
sys.argv[0] = "jukebox-swallowed"
from jukebox.utils.command_line import run_command
assert "torch" not in sys.modules

def main():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError
    except BaseException as error:  # as some libraries do while they are imported
        assert isinstance(error, KeyboardInterrupt)
    signal.pause()

if len(sys.argv) > 1:
    os.kill(os.getpid(), signal.SIGHUP)  # before the command runs
run_command(main, [], "Waits.", argv=[])
"""


@pytest.mark.faults("a signal ends a command in order", "{name}, swallowed or before the command runs")
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("words", "name"), [([], "SIGTERM"), (["early"], "SIGHUP")])
def test_a_signal_counts_at_any_moment(words: list[str], name: str) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", SWALLOWED, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 128 + getattr(signal, name), done.stderr
    assert done.stderr.startswith(f"stopped by {name}: ") and done.stderr.count("\n") == 1
    assert time.monotonic() - started < 30
