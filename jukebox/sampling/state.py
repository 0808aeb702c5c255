"""What a run knows about itself on the disk, so that nothing is lost when it dies.

`DIR/state.pth.tar` is replaced after every window: the codes so far, which levels are written out, and the settings
that the tokens depend on. A run that goes on reads it, checks that it was started with the same settings, and makes
the next window just as the dead run would have: draws are functions of position (`streams.py`), so there is no random
state to keep.

    {"version": 1, "settings": {...}, "zs": [int32 [N, T_level], ...], "done": [levels],
     "sampling_kwargs": [{...}, ...]}

Change here what is kept; bump VERSION when an older file can no longer be gone on with.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, save_torch

VERSION = 1
STATE_FILE = "state.pth.tar"


@dataclass
class RunState:
    """A run between two windows.

    Attributes:
        folder: where the run writes.
        settings: plain values that the tokens depend on; a run only goes on with equal ones.
        zs: codes per level, low to high, int64 [N, T_level].
        done: levels whose audio and page are written.
        sampling_kwargs: per level, with the batch and chunk sizes in use: other sizes may round differently.
    """

    folder: Path
    settings: dict[str, Any]
    zs: list[Tensor]
    done: list[int] = field(default_factory=list)
    sampling_kwargs: list[dict[str, Any]] = field(default_factory=list)

    def save(self) -> None:
        """Writes the state; Ctrl-C waits until it is on the disk.

        Raises:
            UserError: the disk is full; the state of the window before is kept.
        """
        content = {
            "version": VERSION,
            "settings": self.settings,
            "zs": [z.to("cpu", torch.int32) for z in self.zs],
            "done": list(self.done),
            "sampling_kwargs": [dict(kwargs) for kwargs in self.sampling_kwargs],
        }
        with uninterrupted():
            save_torch(content, self.folder / STATE_FILE)

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Reads the state of a folder.

        Raises:
            UserError: there is none, or it is damaged or of another version.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise UserError(f"--resume: {folder} holds no interrupted run; leave --resume out to start one")
        content = load_torch(path)
        if not isinstance(content, dict) or content.get("version") != VERSION:
            raise UserError(f"--resume: {path} is of another version of this program; start anew without --resume")
        return cls(
            folder=folder,
            settings=content["settings"],
            zs=[z.long() for z in content["zs"]],
            done=content["done"],
            sampling_kwargs=content["sampling_kwargs"],
        )


def check_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to go on with other settings than a run was started with.

    Raises:
        UserError: names the first setting that differs and both values.
    """
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            raise UserError(
                f"--resume: the run was started with {key}={_short(old.get(key))}, not {_short(new.get(key))}; "
                "repeat its command, or choose another --name"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the block is left.

    Signals come to the main thread alone; in others there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in _signals()}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, signal.SIG_DFL if handler is None else handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _signals() -> Sequence[signal.Signals]:
    return (signal.SIGINT, signal.SIGTERM)
