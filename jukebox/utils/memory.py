"""How much memory a device has left, so that batches and chunks can be chosen to fit; and what to say when none is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from jukebox.utils.errors import UserError
from jukebox.utils.torch_utils import empty_cache

Result = TypeVar("Result")


def free_bytes(device: torch.device | str) -> int:
    """Bytes that can still be allocated on the device; on a CPU the host's available memory."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 4 << 30  # a system that does not say: assume a small machine


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(s in str(error) for s in ("out of memory", "can't allocate memory"))
    )


def in_parts(
    total: int, size: int, run: Callable[[int, int], Result], smaller: Callable[[int], int]
) -> Iterator[tuple[int, int, Result]]:
    """Runs a number of things in parts, and in smaller parts from where memory runs out.

    Args:
        total: how many things there are.
        size: how many to run at a time.
        run: runs things [start, end).
        smaller: gets the size of a part that did not fit and returns the next size to try; it raises an error when
            there is none.

    Yields:
        (start, end, what `run` returned) of each part, in order.
    """
    start = 0
    while start < total:
        end = min(total, start + size)
        try:
            result = run(start, end)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            yield start, end, result
            start = end
            continue
        empty_cache()  # outside of `except`, whose traceback would keep the memory
        size = smaller(end - start)


@contextlib.contextmanager
def enough_memory(what: str, advice: str) -> Iterator[None]:
    """Turns lack of memory inside the block into a line for the user.

    Args:
        what: what is being done, for "out of memory while ...".
        advice: what to do instead.

    Raises:
        UserError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory while {what}: {advice}") from error
