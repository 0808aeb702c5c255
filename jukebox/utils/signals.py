"""Signals that end a command: Ctrl-C, SIGTERM of batch systems, SIGHUP of a closed terminal, all in one way.

A command that is told to end raises `Stopped` where it is, and its exit status is 128 plus the signal's number.
Training, which ends between two steps, has its own handlers (`training/interrupt.py`), for the same signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

TYPE_CHECKING = False  # the first thing that a command imports does without `typing`
if TYPE_CHECKING:
    from typing import Any, NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


AGAIN = 1.0  # seconds until a signal that some library's `except:` has swallowed is raised once more


class Stopped(KeyboardInterrupt):
    """A signal came: whatever handles Ctrl-C handles it. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop_status(stop: KeyboardInterrupt) -> int:
    """The exit status after a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP; `stop` is not raised again."""
    _again(0.0)
    return 128 + getattr(stop, "number", signal.SIGINT)


def tell_stop(stop: KeyboardInterrupt) -> str:
    """One line about a command that ended before it could say more."""
    name = signal.Signals(stop_status(stop) - 128).name
    return f"stopped by {name}: what is complete stays, and the same command continues from it or starts again"


def is_ignored(number: int) -> bool:
    """Whether whoever started us wants the signal to pass, as `nohup` does with SIGHUP."""
    return signal.getsignal(number) is signal.SIG_IGN


def is_command() -> bool:
    """Whether this process runs one of our commands; the signals of others who import the package stay."""
    place, name = os.path.split(os.path.abspath(sys.argv[0]))
    ours = place == os.path.dirname(os.path.dirname(os.path.abspath(__file__))) or name.startswith("jukebox-")
    return ours or (sys.argv[0] == "-m" and any(word.startswith("jukebox.") for word in sys.orig_argv))


def start_quietly() -> None:
    """While a command's imports run, a signal ends it with one line; to be called first of all."""

    def end(number: int, _: Any) -> None:
        os.write(2, f"{tell_stop(Stopped(number))}\n".encode())
        os._exit(128 + number)

    _handle(end)


def end_stopped(status: int) -> NoReturn:
    """Ends a command after a signal; one of ours at once, without what libraries do for seconds at Python's end."""
    if is_command():
        loaders = sys.modules.get("multiprocessing")
        for child in loaders.active_children() if loaders else ():
            child.terminate()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


@contextlib.contextmanager
def heeding_signals() -> Iterator[None]:
    """Raises `Stopped` in the block when a signal comes that would end the process.

    Whatever else comes of it counts as that: imports of libraries may turn it into errors of their own.
    """
    process = os.getpid()
    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        if os.getpid() != process:  # a child that was forked and has no handlers of its own yet
            os._exit(128 + number)
        came.append(number)
        _again(AGAIN)
        raise Stopped(came[0])

    before = _handle(stop)
    if is_command() and hasattr(signal, "SIGALRM"):
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    except Exception as error:
        if came:
            raise Stopped(came[0]) from error
        raise
    finally:
        _again(0.0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _again(seconds: float) -> None:
    """Lets SIGALRM come in a command; 0: not at all."""
    if is_command() and hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _handle(handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Sets a handler for all signals that are not ignored; returns those that there were."""
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        return {}
    return {number: signal.signal(number, handler) for number in SIGNALS if not is_ignored(number)}
