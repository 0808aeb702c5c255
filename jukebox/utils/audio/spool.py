"""Audio or codes of any length, of which no more than a piece has to be in memory.

A `Spool` is sliced like a tensor [T]. What is long is kept in a file without a name, which the system removes when its
process ends, however it ends. Change here how much stays in memory.
"""

from __future__ import annotations

import io
import os
import tempfile
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from jukebox.utils.files import write_error

IN_MEMORY = 1 << 25  # bytes: three minutes of mono audio at 44.1 kHz
PIECE = 1 << 18  # numbers that are looked at together


class Spool:
    """Numbers one after the other.

    Args:
        folder: where the file is if there are many; None: where the system keeps temporary files.
        dtype: of the numbers.

    Raises:
        UserError: of each method that adds numbers, if the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, dtype: type[np.generic] = np.float32) -> None:
        self._folder = os.fspath(folder or tempfile.gettempdir())
        self._dtype, self._length = np.dtype(dtype), 0
        self._file: IO[bytes] = io.BytesIO()

    def __len__(self) -> int:
        return self._length

    @property
    def shape(self) -> tuple[int]:
        return (self._length,)

    def __getitem__(self, part: slice) -> Tensor:
        """The numbers of a slice of step 1, [n]."""
        start, stop, _ = part.indices(self._length)
        size = self._dtype.itemsize
        self._file.seek(start * size)
        content = bytearray(self._file.read(max(0, stop - start) * size))
        return torch.from_numpy(np.frombuffer(content, self._dtype))

    def append(self, x: Any) -> None:
        """Takes more numbers [n], an array or a tensor on the CPU."""
        content = np.ascontiguousarray(x, self._dtype).tobytes()
        try:
            if isinstance(self._file, io.BytesIO) and self._length * self._dtype.itemsize + len(content) > IN_MEMORY:
                self._to_disk(self._file)
            self._file.seek(self._length * self._dtype.itemsize)
            self._file.write(content)
            self._file.flush()  # here the disk says that it is full
        except OSError as error:
            where = os.path.join(self._folder, "a temporary file")
            raise write_error(error, where, "it was to hold a long song") from error
        self._length += len(content) // self._dtype.itemsize

    def resize(self, length: int) -> None:
        """Leaves out what is after a length, or adds zeros up to it."""
        self._length = min(self._length, length)
        while self._length < length:
            self.append(np.zeros(min(PIECE, length - self._length), self._dtype))

    def _to_disk(self, memory: io.BytesIO) -> None:
        os.makedirs(self._folder, exist_ok=True)
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it ends with this object
        file.write(memory.getbuffer()[: self._length * self._dtype.itemsize])
        self._file = file


Samples = Tensor | Spool  # mono audio [T], or codes


def filled(x: Samples, start: int, stop: int) -> Tensor:
    """Numbers [start, stop), with zeros after the end."""
    part = x[start:stop]
    return torch.nn.functional.pad(part, (0, stop - start - len(part)))
