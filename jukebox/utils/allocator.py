"""Keeps memory that one operator frees for the next one, where the C library would give it back to the system.

PyTorch's operators on a CPU allocate their results anew each time. From 32 MiB on the GNU C library maps such a block
from the system and unmaps it when it is freed, so that every page of it is zeroed and faulted in again at each step: a
tenth of a training step on a quiet machine, most of the time on others. With higher thresholds blocks stay with the
process. The numbers do not change, nor does the peak of memory; `give_back` returns what is free.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters, malloc.h
_KEPT, _USUAL = 1 << 30, 32 << 20  # bytes; the usual threshold grows up to 32 MiB by itself


@cache
def _c_library() -> Any:
    """The GNU C library, or None on systems that have another."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return (
        library if all(hasattr(library, name) for name in ("mallopt", "malloc_trim", "gnu_get_libc_version")) else None
    )


def keep_freed_blocks(on: bool = True) -> bool:
    """Lets freed blocks of less than 1 GiB stay with the process; `on=False` puts the usual thresholds back.

    Returns:
        Whether this C library took it.
    """
    library = _c_library()
    if library is None:
        return False
    taken = library.mallopt(_MMAP_THRESHOLD, _KEPT if on else _USUAL)
    return bool(taken and library.mallopt(_TRIM_THRESHOLD, 2**31 - 1 if on else 2 * _USUAL))


def give_back() -> None:
    """Gives free memory back to the system."""
    library = _c_library()
    if library is not None:
        library.malloc_trim(0)
