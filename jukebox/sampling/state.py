"""What a run knows about itself on the disk, so that nothing is lost when it dies.

`DIR/state.pth.tar` is replaced after every window: the codes so far, which levels are written out, and the settings
that the tokens depend on. A resumed run reads it and checks that it was started with the same settings. It makes the
next window as the interrupted run would have. Draws are functions of position (`streams.py`), so there is no random
state to keep.

    {"version": 2, "settings": {...}, "zs": [int32 [N, T_level], ...], "done": [levels],
     "sampling_kwargs": [{...}, ...], "given": [tokens per level], "levels": [levels]}

Change here what is kept; bump VERSION when an older file can no longer be resumed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jukebox.sampling.options import LevelOptions
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, save_torch
from jukebox.utils.signals import SIGNALS

VERSION = 2
STATE_FILE = "state.pth.tar"
SHORT = 60  # characters of a value in a message


@dataclass
class RunState:
    """A run between two windows.

    Attributes:
        folder: where the run writes.
        settings: plain values that the tokens depend on; a run is only resumed with equal ones.
        zs: codes per level, low to high, int64 [N, T_level].
        done: levels whose audio and page are written.
        options: per level, with the batch and chunk sizes in use: other sizes may round differently.
        given: tokens per level that the run began with; levels: those that it makes.
    """

    folder: Path
    settings: dict[str, Any]
    zs: list[Tensor]
    done: list[int] = field(default_factory=list)
    options: list[LevelOptions] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether all levels are written."""
        return set(self.levels) <= set(self.done)

    @property
    def begun(self) -> bool:
        """Whether there is something to lose: tokens were made."""
        return [z.shape[1] for z in self.zs] != self.given

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
            "sampling_kwargs": [options.kwargs() for options in self.options],
            "given": list(self.given),
            "levels": list(self.levels),
        }
        with uninterrupted():
            save_torch(content, self.folder / STATE_FILE)

    def keep_asked_sizes(self, batch: Sequence[int | None], chunk: Sequence[int | None]) -> None:
        """Batch and chunk sizes stay those of the interrupted run, unless the user asks for others."""
        for options, songs, tokens in zip(self.options, batch, chunk, strict=True):
            options.max_batch_size = options.max_batch_size if songs is None else songs
            options.chunk_size = options.chunk_size if tokens is None else tokens

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Reads the state of a folder.

        Raises:
            UserError: there is none, or it is damaged or of another version.
        """
        path = folder / STATE_FILE
        if not path.is_file():
            raise UserError(f"--resume: {folder} holds no interrupted run; leave --resume out to start one")
        instead = "the run cannot be resumed: choose another --name, or delete the folder"
        try:
            content = load_torch(path)
        except UserError as error:
            raise UserError(f"{path} is damaged, {instead}") from error
        version = content.get("version") if isinstance(content, dict) else None
        if type(version) is not int or version != VERSION:
            raise UserError(f"{path} is of another version of this program, {instead}")
        if odd := _odd_part(content):
            raise UserError(f"{path} is damaged ({odd} is not as runs write it), {instead}")
        try:
            options = [LevelOptions.from_kwargs(kwargs) for kwargs in content["sampling_kwargs"]]
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise UserError(f"{path} is damaged (sampling_kwargs is not as runs write it), {instead}") from error
        return cls(
            folder=folder,
            settings=content["settings"],
            zs=[z.long() for z in content["zs"]],
            done=content["done"],
            options=options,
            given=content["given"],
            levels=content["levels"],
        )


def _odd_part(content: Mapping[str, Any]) -> str:
    """The first part of a state that has another type or size than runs write; "" if all have theirs."""
    zs, kwargs = content.get("zs"), content.get("sampling_kwargs")
    if not isinstance(content.get("settings"), dict):
        return "settings"
    if not isinstance(zs, list) or not zs or not all(_is_codes(z) and len(z) == len(zs[0]) for z in zs):
        return "zs"
    if not isinstance(kwargs, list) or len(kwargs) != len(zs) or not all(isinstance(entry, dict) for entry in kwargs):
        return "sampling_kwargs"
    for key in ("done", "given", "levels"):
        values = content.get(key)
        if not isinstance(values, list) or not all(type(value) is int and value >= 0 for value in values):
            return key
        if key != "given" and any(value >= len(zs) for value in values):
            return key
    return ""


def _is_codes(z: Any) -> bool:
    """Whether something is a dense tensor of whole numbers from 0 up, [songs, codes]."""
    if not isinstance(z, Tensor) or z.layout != torch.strided or z.is_meta or z.dim() != 2:
        return False
    whole = not (z.is_floating_point() or z.is_complex() or z.dtype == torch.bool)
    return whole and (not z.numel() or int(z.min()) >= 0)


def check_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume with other settings than a run was started with.

    Raises:
        UserError: names the settings that differ and both values.
    """
    differs = difference(old, new)
    if differs:
        raise UserError(f"--resume: the run was started with {differs}; repeat its command, or choose another --name")


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs, as `KEY=OLD, not NEW` with the differing part of long values in view, or ""; three of many."""
    found = [_part(key, old.get(key), new.get(key)) for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _part(key: str, old: Any, new: Any) -> str:
    """`KEY=OLD, not NEW` of the smallest part of two values that holds the first difference and is short."""
    if max(len(repr(old)), len(repr(new))) <= SHORT:
        return f"{key}={old!r}, not {new!r}"
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(k for k in sorted({*old, *new}) if old.get(k) != new.get(k))
        return _part(f"{key}.{inner}", old.get(inner), new.get(inner))
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        if len(old) != len(new):
            return f"{len(old)} {key}, not {len(new)}"
        i = next(i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b)
        return _part(f"{key}[{i}]", old[i], new[i])
    texts = [value if isinstance(value, str) else repr(value) for value in (old, new)]
    start = max(0, len(os.path.commonprefix(texts)) - SHORT // 4)
    shown = [f"{'...' * (start > 0)}{t[start : start + SHORT]}{'...' * (len(t) > start + SHORT)}" for t in texts]
    return f"{key}={shown[0]!r}, not {shown[1]!r}"


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds signals that end a command back until the block is left.

    Signals come only to the main thread; in others there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in SIGNALS}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, signal.SIG_DFL if handler is None else handler)
        for number in came[:1]:
            signal.raise_signal(number)
