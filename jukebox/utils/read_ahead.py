"""Reads a file that will be needed soon from the disk, while other work runs: the system keeps it in its page cache.

The file's mapped tensors are then there at once. The system drops such pages when programs need the memory.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from jukebox.utils.memory import free_bytes

CHUNK = 1 << 20  # bytes that are held at a time
SHARE = 0.5  # of the host's available memory, which a file may fill


class Reader(threading.Thread):
    """Reads a file from beginning to end, or until it is told to stop; errors end it, since nothing depends on it.

    Attributes:
        done: bytes read so far.
    """

    def __init__(self, path: str) -> None:
        super().__init__(name="read ahead", daemon=True)
        self.path, self.done, self.stopped = path, 0, threading.Event()

    def run(self) -> None:
        buffer = bytearray(CHUNK)
        with contextlib.suppress(OSError), open(self.path, "rb", buffering=0) as file:
            while not self.stopped.is_set() and (count := file.readinto(buffer)):
                self.done += count


@contextlib.contextmanager
def read_ahead(path: str) -> Iterator[Reader | None]:
    """Reads a file in a thread while the block runs, and stops when it is left, however that happens.

    Args:
        path: a file; "" or one that is not there for none.

    Yields:
        The thread; None if there is no file, or half of the host's available memory is less than it.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if not 0 < size <= SHARE * free_bytes("cpu"):
        yield None
        return
    reader = Reader(path)
    reader.start()
    try:
        yield reader
    finally:
        reader.stopped.set()
        reader.join()
