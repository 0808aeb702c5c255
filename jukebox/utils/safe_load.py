"""The one door for pickled files: nothing that is read can run code.

PyTorch's `weights_only` reader builds tensors and plain types. `SAFE` adds types that are harmless, each by its name,
with a substitute if the type itself could do more than hold values. `find_refused` names what is refused, with its
place. `read_records` reads a pickle of named record classes without those classes. Change here which types a file may
hold.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import decimal
import fractions
import io
import pickle
import types
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

MOST_PICKLED = 1 << 28  # bytes of a file's pickle, tensors aside, that are looked at for what it holds
_KINDS = "biufcSU"  # NumPy's kinds of plain numbers and strings
OBJECTS = "NumPy values of other kinds than numbers and strings"


class _Dict:
    """Substitute of dicts with behaviour, such as `Hyperparams`: builds a plain dict."""

    def __new__(cls, *content: Any) -> Any:
        return dict(*content)


class _DefaultDict:
    """Substitute of `defaultdict`, whose factory is left out."""

    def __new__(cls, *_: Any) -> Any:
        return {}


class _List:
    """Substitute of `deque`; its items follow."""

    def __new__(cls, *_: Any) -> Any:
        return []


class _Name:
    """Substitute of a built-in type that is named but may not be called."""


class _Dtype:
    """Substitute of `numpy.dtype`: `real` is one of plain numbers or strings."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.real = np.dtype(_text(name))
        if self.real.kind not in _KINDS:
            raise pickle.UnpicklingError(OBJECTS)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if len(state) < 5 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError(OBJECTS)
        self.real = np.dtype(_text(state[1]).strip("|") + self.real.str[1:])


class _Array:
    """Substitute of `numpy.ndarray` while it is read; `_finished` puts the array in its place."""

    def __init__(self, *_: Any) -> None:
        self.real: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        order = "F" if fortran else "C"
        self.real = np.frombuffer(_bytes(data), dtype.real).reshape(shape, order=order).copy(order=order)  # type: ignore[call-overload]


def _scalar(dtype: _Dtype, data: Any = b"") -> Any:
    """A NumPy scalar as the plain Python value."""
    return np.frombuffer(_bytes(data), dtype.real)[0].item()


def _text(value: Any) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    return value.encode("latin-1") if isinstance(value, str) else bytes(value)


# Name in the file -> what is built. Each may be called with anything.
SAFE: dict[str, Any] = {
    "collections.defaultdict": _DefaultDict,
    "collections.deque": _List,
    "jukebox.hparams.Hyperparams": _Dict,
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": types.SimpleNamespace,
    "fractions.Fraction": fractions.Fraction,
    "decimal.Decimal": decimal.Decimal,
    **{f"datetime.{name}": getattr(datetime, name) for name in ("date", "datetime", "time", "timedelta", "timezone")},
    **{f"builtins.{name}": _Name for name in ("bool", "int", "float", "str", "bytes", "list", "tuple", "dict", "set")},
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Name,
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _Array for core in ("core", "_core")},
}


def load_pickled(file: str | IO[bytes], mmap: bool = False) -> Any:
    """What `torch.save` wrote, of tensors, plain types and those of `SAFE`; raises whatever PyTorch does."""
    import torch

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.serialization.safe_globals([(kind, name) for name, kind in SAFE.items()]))
        if isinstance(file, str) and file.encode(errors="ignore").decode() != file:  # PyTorch opens UTF-8 names only
            file, mmap = stack.enter_context(open(file, "rb")), False
        content = torch.load(file, map_location="cpu", mmap=mmap, weights_only=True)
    return _finished(content, {})


def _finished(value: Any, seen: dict[int, Any]) -> Any:
    """Puts arrays in place of their substitutes, in dicts, lists and tuples."""
    if isinstance(value, _Array):
        return value.real
    if not isinstance(value, (dict, list, tuple)) or id(value) in seen:
        return value
    seen[id(value)] = value
    if isinstance(value, tuple):
        return tuple(_finished(item, seen) for item in value) if type(value) is tuple else value
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        finished = _finished(item, seen)
        if finished is not item:
            value[key] = finished
    return value


# ---------------------------------------------------------------------------------------------- what was refused


class _Object:
    """An object of a pickle, whatever its class: the parts that it was made of, by name or number; calls nothing."""

    kind = ""
    parts: list[tuple[Any, Any]]

    def __new__(cls, *arguments: Any, **more: Any) -> Any:
        made = super().__new__(cls)
        made.parts = [(None, argument) for argument in arguments] + list(more.items())
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        self.parts.append((key, value))

    def append(self, value: Any) -> None:
        self.parts.append((len(self.parts), value))

    add = append

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)

    def __setstate__(self, state: Any) -> None:
        self.parts += list(state.items()) if isinstance(state, dict) else [(None, state)]

    def __hash__(self) -> int:
        return id(self)


class _Reader(pickle._Unpickler):  # type: ignore[name-defined]  # in Python: its memory only grows with the file
    """Reads a pickle into `_Object`s. `known` names the classes that it may hold; None: any."""

    def __init__(self, file: IO[bytes], known: frozenset[str] | None = None) -> None:
        super().__init__(file, encoding="latin-1")
        self._known, self._kinds = known, dict[str, type]()

    def find_class(self, module: str, name: str) -> type:
        full = f"{module}.{name}"
        if self._known is not None and full not in self._known:
            raise pickle.UnpicklingError(f"it names {full}")
        return self._kinds.setdefault(full, type(name, (_Object,), {"kind": full}))

    def persistent_load(self, pid: Any) -> Any:
        """The class of a module in a legacy file, where its source code comes with it; None for a tensor's numbers."""
        return pid[1] if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) > 1 else None

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError(f"extension {code}")


def read_records(file: IO[bytes], known: frozenset[str]) -> Any:
    """A pickle of record classes as objects with `kind` and `parts`; other classes than those known are refused.

    Raises:
        pickle.UnpicklingError, or another error: the file is not such a pickle.
    """
    return _Reader(file, known).load()


def find_refused(path: str) -> tuple[list[str], int]:
    """What a file holds that is not read, each with its place: `opt.state.3.step: some.module.Class`.

    Returns:
        The objects, and the version of the pickle protocol.

    Raises:
        Exception: of any kind, if the file is damaged.
    """
    from torch._weights_only_unpickler import _get_allowed_globals, _get_user_allowed_globals

    known = {*SAFE, *_get_allowed_globals(), *_get_user_allowed_globals()}
    with open(path, "rb") as file:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(file) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as packed:
                    content = packed.read(MOST_PICKLED)
            reader = _Reader(io.BytesIO(content))
            found = reader.load()
        else:  # magic number, protocol and system, each pickled by itself, come first
            for _ in range(4):
                reader = _Reader(file)
                found = reader.load()
    refused = [f"{place or 'the file'}: {kind}" for place, kind in _places(found) if kind not in known]
    named = [f"somewhere: {kind}" for kind in reader._kinds if kind not in known]
    return refused or named, getattr(reader, "proto", 0)


def _places(content: Any) -> Iterator[tuple[str, str]]:
    """The place and class of every object in what a `_Reader` gave."""
    waiting: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    while waiting:
        place, value = waiting.pop()
        if id(value) in seen or not isinstance(value, (dict, list, tuple, set, frozenset, _Object, type)):
            continue
        seen.add(id(value))
        parts: list[tuple[Any, Any]]
        if isinstance(value, type):
            if issubclass(value, _Object):
                yield place, value.kind
            continue
        if isinstance(value, _Object):
            yield place, value.kind
            parts = value.parts
        elif isinstance(value, dict):
            parts = list(value.items())
        else:
            parts = list(enumerate(value))
        for key, item in reversed(parts):
            inside = place if key is None else f"{place}.{key}" if place else str(key)
            waiting.append((inside[:200], item))
