"""One way for all scripts to read flags, show help and end with an error.

    def main(name="", bs=1): ...
    run_command(main, [Flag("name", "", "name of the run"), Flag("bs", 1, "batch size")], "Trains a model.")

Flags are read by the rules of the `fire` library: `--k=v`, `--k v`, `--k` for True, `--nok` for False. Dashes are as
good as underscores. Values are read by its parser: `--y_bins=10,100` is a tuple. A flag whose default is text keeps its
value as it was typed. One whose default is True or False takes only these, or yes, no, 1 and 0. Nothing here imports
torch: help and usage errors come at once.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from jukebox.utils.errors import UserError, did_you_mean, user_message
from jukebox.utils.flag_values import expand_path
from jukebox.utils.gone import gone_name
from jukebox.utils.launch import abort_job, leave_job, read_launch
from jukebox.utils.signals import end_stopped, heeding_signals, stop_status, tell_stop
from jukebox.version import __version__

_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


@dataclass(frozen=True)
class Flag:
    """One flag: its name without dashes, its default, one line that says what it is for, and a heading in the help.

    `kind` is for those whose default does not tell: "bool", or "text" for one that may lack a value: True. A "path" may
    have `~` and `$VAR`. "paths" are several with commas between them, and "files" may also be repeated.
    """

    name: str
    default: Any
    help: str
    group: str = ""
    kind: str = ""


Instead = Callable[[str, str], str]


def _nothing(flag: str, value: str) -> str:
    return ""


def parse_flags(arguments: Sequence[str], flags: Sequence[Flag], instead: Instead = _nothing) -> dict[str, Any]:
    """Reads a command line.

    Args:
        arguments: the words after the script's name.
        flags: every flag that may be given.
        instead: gets an unknown flag and its value; returns the end of a sentence that says what to give instead, or
            "".

    Returns:
        The values of the flags that were given, by name; the last one wins if a flag is repeated.

    Raises:
        UserError: an unknown flag, with the nearest known one, or a word that belongs to no flag.
    """
    known = {flag.name: flag for flag in flags}
    values: dict[str, Any] = {}
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not _is_flag(word):
            raise UserError(f"{word!r} belongs to no flag; write values as --flag=value, with quotes around spaces")
        typed, equals, text = word.lstrip("-").partition("=")
        name = typed.replace("-", "_")
        if name not in known and not equals and name.startswith("no") and name[2:] in known:
            values[name[2:]] = False
            continue
        if name not in known:
            if advice := instead(name, text if equals or not words else words[0]):
                raise UserError(f"--{typed}{advice}")
            raise UserError(f"unknown flag --{typed}{did_you_mean(name, known, '--', '; --help lists all flags')}")
        flag = known[name]
        if not equals:
            if not words or _is_flag(words[0]) or (_wants_bool(flag) and words[0].lower() not in _BOOLEANS):
                if isinstance(flag.default, str):
                    raise UserError(f"--{name} needs a value: --{name}=...  ({flag.help})")
                values[name] = True
                continue
            text = words.pop(0)
        if flag.kind != "files":
            values[name] = _parse_value(flag, text)
            continue
        texts = [text]
        while not equals and words and not _is_flag(words[0]):  # as a shell writes out a pattern
            texts.append(words.pop(0))
        before = values.get(name, [])
        texts = [*([before] if isinstance(before, str) else before), *texts]
        values[name] = texts if len(texts) > 1 else text
    return values


def _is_flag(word: str) -> bool:
    """--anything, or -x with a letter: -1 is a number."""
    return word.startswith("--") or (len(word) > 1 and word[0] == "-" and word[1].isalpha())


def _wants_bool(flag: Flag) -> bool:
    return flag.kind == "bool" or isinstance(flag.default, bool)


def _parse_value(flag: Flag, text: str) -> Any:
    if flag.kind == "path":
        return expand_path(text)
    if flag.kind == "paths":
        return ",".join(map(expand_path, text.split(",")))
    if flag.kind == "text" or isinstance(flag.default, str):
        return text
    if _wants_bool(flag):
        if text.lower() not in _BOOLEANS:
            raise UserError(f"--{flag.name}={text}: choose true or false (yes and no, 1 and 0 mean the same)")
        return _BOOLEANS[text.lower()]
    from fire.parser import DefaultParseValue

    return DefaultParseValue(text)


def help_text(flags: Sequence[Flag], description: str, program: str) -> str:
    """What --help prints: the description, then every flag with its default and meaning, under its heading."""
    lines = [f"usage: {program} [--flag=value ...]", "", description.strip(), ""]
    group = ""
    for flag in flags:
        if flag.group != group:
            group = flag.group
            lines += ["", f"{group}:"]
        head = f"  --{flag.name}={_show(flag.default)}"
        if len(head) < 38:
            head, body = f"{head:38}", flag.help
        else:
            lines.append(head)
            head, body = " " * 38, flag.help
        lines += textwrap.wrap(body, 118, initial_indent=head, subsequent_indent=" " * 38) or [head]
    lines += ["", "  -h, --help                            show this text and stop"]
    lines += ["      --version                         show the version and stop"]
    return "\n".join(lines)


def _show(default: Any) -> str:
    if isinstance(default, (list, tuple)):
        return ",".join(map(str, default))
    return '""' if default == "" else str(default)


def run_command(
    main: Callable[..., int | None],
    flags: Sequence[Flag],
    description: str,
    argv: Sequence[str] | None = None,
    only_given: bool = False,
    instead: Instead = _nothing,
) -> NoReturn:
    """Runs a script's main function with its command line, then ends the process.

    Errors that a user can fix (UserError, HyperparamsError) become one `error:` line on stderr and exit status 2,
    without a traceback. Ctrl-C ends with status 130, SIGTERM with 143, SIGHUP with 129, and a line that says so. Other
    exceptions are our faults and keep their traceback.

    Args:
        main: called with the flags as keywords; what it returns is the exit status (None: 0).
        flags: every flag, in the order of the help.
        description: what the script does, for the help.
        argv: words to parse instead of the process's own.
        only_given: hand over only the flags that were given, not the defaults of the others.
        instead: as in `parse_flags`.
    """
    wait_politely()
    if read_launch().size > 1:  # of each process PyTorch would print advice, and pages about a connection that ends
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for stream in (sys.stdout, sys.stderr):  # Windows pipes and LANG=C would die at the first accent
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with heeding_signals():
            _run(main, flags, description, words, only_given, instead)
    except KeyboardInterrupt as stop:
        print(tell_stop(stop), file=sys.stderr)
        end_stopped(stop_status(stop))


def _run(
    main: Callable[..., int | None],
    flags: Sequence[Flag],
    description: str,
    words: list[str],
    only_given: bool,
    instead: Instead,
) -> NoReturn:
    """The same, but for signals."""
    try:
        if "-h" in words or "--help" in words:
            print(help_text(flags, description, os.path.basename(sys.argv[0])), flush=True)
            sys.exit(0)
        if "--version" in words:
            print(f"jukebox {__version__}", flush=True)
            sys.exit(0)
        given = parse_flags(words, flags, instead)
        defaults = {} if only_given else {flag.name: flag.default for flag in flags}
        status = main(**{**defaults, **given}) or 0
        if read_launch().size > 1:
            leave_job(status)
        if status > 128:
            end_stopped(status)
        sys.exit(status)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        launch, message = read_launch(), user_message(error)
        if launch.size > 1:
            _end_job(error, message, launch.rank)
        if not message:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


def this_program() -> str:
    """How this process was started, to be typed again: `python jukebox/sample.py`, or `jukebox-sample`."""
    script = sys.argv[0]
    return f"python {shlex.quote(script)}" if script.endswith(".py") else shlex.quote(os.path.basename(script))


def import_lazily(module: str, *places: str) -> Callable[[str], Any]:
    """A `__getattr__` for a module: what its `__all__` names is imported when it is first asked for.

    Args:
        module: name of the module.
        places: modules of `jukebox` that have the names, such as "sampling.windows".
    """

    def find(name: str) -> Any:
        gone_name(module, name)
        if name in sys.modules[module].__all__:
            for place in places:
                found = importlib.import_module(f"jukebox.{place}")
                if hasattr(found, name):
                    return getattr(found, name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return find


def wait_politely() -> None:
    """Lets threads that wait for each other spin for microseconds only, then sleep; works before PyTorch is imported.

    On a machine that does other work as well, spinning takes the cores that the others need to arrive. Sleeping at once
    costs time if steps are short. A training step of the demo models on two cores, in seconds (VQ-VAE / prior):

        GNU OpenMP's own way     0.22 / 0.16 idle      0.89 / 0.60 beside a busy process
        asleep at once           0.42 / 0.23          0.34 / 0.30
        1000 turns, as here      0.27 / 0.19          0.47 / 0.33

    `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` in the environment decide instead.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _end_job(error: Exception, message: str, rank: int) -> NoReturn:
    """Prints what went wrong on one of several ranks and ends them all, so that none waits for this one."""
    if rank:
        # A wrong flag is wrong on every rank: while the others wait here, rank 0 says so once and ends the job.
        time.sleep(2.0)
    where = f" on rank {rank}" if rank else ""
    if message:
        print(f"error{where}: {message}", file=sys.stderr)
    else:
        print(f"failed{where}:", file=sys.stderr)
        traceback.print_exception(error)
    abort_job(2 if message else 1)
