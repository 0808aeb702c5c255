"""Builds the native library with the machine's C++ compiler, once, and loads it.

The result is kept in the user's cache, under a name made from sources and flags. A library is loaded only from folders
that other users cannot write to. JUKEBOX_NATIVE=0 switches it off. `python -m jukebox.native.build` builds in advance.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from jukebox.utils.remote_utils import cache_folder

FOLDER = Path(__file__).parent
SOURCES = ("step.cpp", "kernels.h")
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-fPIC", "-shared", "-pthread"]
COMPILERS = ("c++", "g++", "clang++")
LONGEST = 300  # seconds for the compiler


class NotBuiltError(Exception):
    """There is no library; the message says why in a few words."""


@functools.cache
def library(flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The library, built now if it was not before.

    Args:
        flags: further ones for the compiler.

    Raises:
        NotBuiltError: the reason.
    """
    if os.environ.get("JUKEBOX_NATIVE") == "0":
        raise NotBuiltError("JUKEBOX_NATIVE=0 switches it off")
    if os.name != "posix":
        raise NotBuiltError(f"it is not built on {platform.system()}")
    path = _built([*FLAGS, *flags])
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise NotBuiltError(f"{path} cannot be loaded: {error}") from error
    found.jukebox_draw.restype = found.jukebox_sizes.restype = found.jukebox_best_level.restype = ctypes.c_int64
    return found


@functools.cache
def why_not() -> str:
    """Why there is no native library; empty where there is one."""
    try:
        library()
    except NotBuiltError as error:
        return str(error)
    return ""


def find_compiler() -> str:
    """The C++ compiler of this machine: $CXX, else a usual one; empty if there is none."""
    named = os.environ.get("CXX")
    return next((name for name in ([named] if named else COMPILERS) if shutil.which(name)), "")


def _built(flags: list[str]) -> Path:
    digest = hashlib.sha256(repr([flags, platform.machine(), platform.system()]).encode())
    try:
        for name in SOURCES:
            digest.update((FOLDER / name).read_bytes())
        path = cache_folder() / "native" / f"step_{digest.hexdigest()[:24]}.so"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(path.parent)
        if not path.exists():
            _compile(flags, path)
        _check_private(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise NotBuiltError(f"the cache cannot be used: {error}") from error
    return path


def _check_private(path: Path) -> None:
    """Refuses a path that others could have written, or replaced by another one."""
    for part in (path, *path.absolute().parents):
        found = part.stat()
        others = stat.S_IWOTH if _own_group(found.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        if found.st_uid not in (0, os.getuid()) or (found.st_mode & others and not found.st_mode & stat.S_ISVTX):
            raise NotBuiltError(f"others can write to {part}: set JUKEBOX_CACHE to a folder of your own")


def _own_group(number: int) -> bool:
    """Whether a group has the user as its only member, as many systems make one for each user."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return (group.gr_name, number) == (user.pw_name, user.pw_gid) and set(group.gr_mem) <= {user.pw_name}


def _compile(flags: list[str], path: Path) -> None:
    compiler = find_compiler()
    if not compiler:
        raise NotBuiltError("there is no C++ compiler, such as g++")
    print("building the native sampler for this machine, once", file=sys.stderr)
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        words = [compiler, *flags, str(FOLDER / SOURCES[0]), "-o", temporary]
        done = subprocess.run(words, capture_output=True, text=True, timeout=LONGEST)
        if done.returncode:
            said = (done.stderr.strip() or "nothing was said").splitlines()
            raise NotBuiltError(f"{compiler} failed: {next((line for line in said if 'error' in line), said[0])}")
        os.chmod(temporary, 0o700)
        os.replace(temporary, path)
    except subprocess.TimeoutExpired as error:
        raise NotBuiltError(f"{compiler} took more than {LONGEST} s") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


if __name__ == "__main__":
    print(f"no native sampler, PyTorch does its work: {why_not()}" if why_not() else "the native sampler is built")
