"""Shards as `torch.distributed.checkpoint` wrote them for earlier runs, read without it.

Its index, `.metadata`, is a pickle: it is read as plain records (`utils/safe_load.py`), so that nothing in it can run.
Remove this file when no such run is left to resume.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jukebox.utils.errors import UserError
from jukebox.utils.files import path_inside
from jukebox.utils.safe_load import load_pickled, read_records

OLD_INDEX = ".metadata"
_DCP = "torch.distributed.checkpoint."
_KNOWN = frozenset(
    [
        *(f"{_DCP}metadata.{name}" for name in ("Metadata", "MetadataIndex", "TensorStorageMetadata", "StorageMeta")),
        *(f"{_DCP}metadata.{name}" for name in ("ChunkStorageMetadata", "TensorProperties", "_MEM_FORMAT_ENCODING")),
        f"{_DCP}filesystem._StorageInfo",
        "torch.Size",
        "torch.serialization._get_layout",
        *(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64")),
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.WindowsPath",
    ]
)


class OldShards:
    """Reads rows of tensors; has the methods of `saved_shards.SavedShards`.

    Args:
        folder: with `.metadata` and `__R_0.distcp` of each process R.

    Raises:
        Exception: of any kind, if files are missing, damaged or hold something else.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        with open(self.folder / OLD_INDEX, "rb") as file:
            found = _fields(read_records(file, _KNOWN))
        self._shapes = {key: _numbers(_fields(entry)["size"]) for key, entry in found["state_dict_metadata"].items()}
        chunks = {  # sizes of the parts of tensors, by their offsets
            (key, _numbers(_fields(chunk)["offsets"])): _numbers(_fields(chunk)["sizes"])
            for key, entry in found["state_dict_metadata"].items()
            for chunk in _fields(entry)["chunks"]
        }
        self._pieces: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
        for index, info in found["storage_data"].items():
            of = _fields(index)
            offsets = _numbers(of["offset"])
            count = chunks[of["fqn"], offsets][0]
            self._pieces.setdefault(of["fqn"], []).append((offsets[0], count, _fields(info)))

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key]

    def pieces(self, key: str) -> Iterator[tuple[int, int, Any]]:
        """First row, number of rows, and a function that reads them, of each part of a tensor."""
        for first, count, info in self._pieces[key]:
            yield first, count, lambda info=info: self._read(info)

    def _read(self, info: dict[str, Any]) -> torch.Tensor:
        with open(path_inside(self.folder, info["relative_path"]), "rb") as file:
            file.seek(int(info["offset"]))
            length = min(int(info["length"]), os.fstat(file.fileno()).st_size)
            tensor = load_pickled(io.BytesIO(file.read(length)))
        if not isinstance(tensor, torch.Tensor):
            raise UserError(f"{info['relative_path']} holds something else than tensors")
        return tensor


def _fields(record: Any) -> dict[str, Any]:
    return {key: value for key, value in record.parts if isinstance(key, str)}


def _numbers(size: Any) -> tuple[int, ...]:
    """A `torch.Size` as numbers."""
    return tuple(int(number) for number in size.parts[0][1])
