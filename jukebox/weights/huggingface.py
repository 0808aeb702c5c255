"""Weights in the Hugging Face layout: a folder that holds the VQ-VAE and all priors under names of its own.

    FOLDER/config.json                                        sizes, see `huggingface_config.py`
    FOLDER/model.safetensors                                  one file, or
    FOLDER/model.safetensors.index.json  model-0000N-of-...   shards and a list of what is in which, or
    FOLDER/pytorch_model.bin, pytorch_model.bin.index.json    the same in PyTorch's format

A part is named by the folder and what it is, `FOLDER#vqvae` or `FOLDER#level_2`, wherever a checkpoint may be named.
Its names come back as ours (`huggingface_names.py`), and its tensors stay on the disk until they are read. A name that
no rule knows keeps its own, so that it shows up as unexpected where the weights are restored. Change here which files
are read and what is said of damaged ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, path_inside
from jukebox.utils.json_text import read_json
from jukebox.weights.huggingface_names import count_downs, prior_name, vqvae_name

SINGLE = ("model.safetensors", "pytorch_model.bin")  # in the order in which they are looked for
CONFIG = "config.json"
_PART = re.compile(r"(?P<folder>.+)#(?P<part>vqvae|level_\d+)$", re.DOTALL)

Part = str | int  # "vqvae", or the level of a prior, 0 the finest


# ------------------------------------------------------------------------------------------------- names of parts


def part_path(folder: str | os.PathLike[str], part: Part) -> str:
    """What names a part where a checkpoint may be named: `FOLDER#vqvae`, `FOLDER#level_2`."""
    return f"{os.fspath(folder)}#{part if part == 'vqvae' else f'level_{part}'}"


def split_part(path: str | os.PathLike[str]) -> tuple[str, Part] | None:
    """(folder, part) of a name that `part_path` gave; None for any other path."""
    found = _PART.match(os.fspath(path))
    if found is None or os.path.isfile(os.fspath(path)):
        return None
    part = found["part"]
    return found["folder"], part if part == "vqvae" else int(part.removeprefix("level_"))


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds weights in this layout."""
    return any(os.path.isfile(os.path.join(path, name + end)) for name in SINGLE for end in ("", ".index.json"))


# ------------------------------------------------------------------------------------------------- files


class HuggingFaceWeights(Mapping[Part, dict[str, Tensor]]):
    """The parts of a folder: `weights["vqvae"]`, `weights[2]`; each is read when it is asked for, by our names.

    Args:
        folder: in the layout above.

    Attributes:
        files: name of each tensor -> the file that holds it.

    Raises:
        UserError: no such folder, files that are missing or damaged, or another model.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.files = _tensor_files(self.folder)
        self._levels = 1 + max(_numbers(self.files, "vqvae.encoders."), default=-1)
        self._priors = _numbers(self.files, "priors.")
        if not self._levels:
            some = ", ".join(sorted(self.files)[:3])
            raise UserError(
                f"{self.folder} holds no model of this family: expected names such as vqvae.encoders.0..., found {some}"
            )
        strays = [key for key in self.files if not re.match(r"vqvae\.|priors\.\d+\.", key)]
        beyond = [f"priors.{number}" for number in sorted(self._priors) if number >= self._levels]
        if strays or beyond:
            more = [*strays, *beyond]
            raise UserError(
                f"{self.folder}: {len(more)} names belong to no part of the model: {', '.join(more[:3])}"
                + (f" and {len(more) - 3} more" if len(more) > 3 else "")
            )

    def __iter__(self) -> Iterator[Part]:
        yield "vqvae"
        yield from sorted(self._levels - 1 - number for number in self._priors)

    def __len__(self) -> int:
        return 1 + len(self._priors)

    def __getitem__(self, part: Part) -> dict[str, Tensor]:
        if part not in list(self):
            raise KeyError(part)
        prefix = "vqvae." if part == "vqvae" else f"priors.{self._levels - 1 - int(part)}."
        by_file: dict[Path, list[str]] = {}
        for key, file in self.files.items():
            if key.startswith(prefix):
                by_file.setdefault(file, []).append(key)
        theirs: dict[str, Tensor] = {}
        for file, keys in by_file.items():
            theirs.update({key.removeprefix(prefix): tensor for key, tensor in _read(file, keys).items()})
        downs = count_downs(theirs)
        state: dict[str, Tensor] = {}
        for key, tensor in theirs.items():
            name = (vqvae_name(key, downs) if part == "vqvae" else prior_name(key)) or prefix + key
            if name in state:
                raise UserError(f"{self.folder}: two tensors would both be {name}; one of them is {prefix}{key}")
            state[name] = tensor
        return state


def load_huggingface(folder: str | os.PathLike[str]) -> HuggingFaceWeights:
    """The parts of a folder in the Hugging Face layout: {"vqvae": state dict, 0: state dict, ...}, read when asked for.

    Raises:
        UserError: see `HuggingFaceWeights`.
    """
    return HuggingFaceWeights(folder)


def load_part(folder: str | os.PathLike[str], part: Part) -> dict[str, Tensor]:
    """The state dict of one part, by our names.

    Raises:
        UserError: as `HuggingFaceWeights`, or there is no such part.
    """
    weights = HuggingFaceWeights(folder)
    if part not in list(weights):
        have = ", ".join("the VQ-VAE" if p == "vqvae" else f"level {p}" for p in weights)
        raise UserError(f"{os.fspath(folder)} holds no prior of level {part}: it holds {have}")
    return weights[part]


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What config.json says; an empty dict if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = Path(folder) / CONFIG
    return _read_json(path) if path.is_file() else {}


def _numbers(keys: Mapping[str, Any], prefix: str) -> set[int]:
    """The numbers that follow a prefix."""
    return {
        int(number) for key in keys if key.startswith(prefix) and (number := key[len(prefix) :].split(".")[0]).isdigit()
    }


def _tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds which tensor."""
    if not folder.is_dir():
        raise UserError(f"--weights_from={folder}: there is no such folder")
    for name in SINGLE:
        if (folder / name).is_file():
            return {key: folder / name for key in _keys(folder / name)}
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _indexed(folder, index)
    raise UserError(
        f"--weights_from={folder} holds no weights: expected {SINGLE[0]} or {SINGLE[1]}, or their shards with "
        f"{SINGLE[0]}.index.json"
    )


def _indexed(folder: Path, index: Path) -> dict[str, Path]:
    """All tensors of the shards that an index names; what it lists must be there."""
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{index} is not an index of shards: it has no weight_map")
    shards = sorted({str(name) for name in listed.values()})
    missing = [name for name in shards if not os.path.isfile(path_inside(folder, name))]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:3])}; download the rest"
        )
    found = {key: folder / name for name in shards for key in _keys(folder / name)}
    lost = [key for key in listed if key not in found]
    if lost:
        raise UserError(f"{index} lists {len(lost)} tensors that its shards do not hold, such as {lost[0]}")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object; download it again")
    return content


def _keys(file: Path) -> list[str]:
    """Names of the tensors in a file."""
    if file.suffix != ".safetensors":
        return list(_load_bin(file))
    with _safetensors(file) as content:
        return list(content.keys())


def _read(file: Path, keys: list[str]) -> dict[str, Tensor]:
    """Some tensors of a file, mapped into memory."""
    if file.suffix != ".safetensors":
        content = _load_bin(file)
        return {key: content[key] for key in keys}
    with _safetensors(file) as content:
        return {key: content.get_tensor(key) for key in keys}


def _load_bin(file: Path) -> dict[str, Tensor]:
    content = load_torch(file, mmap=True)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{file} is not a dict of tensors")
    return content


def _safetensors(file: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is damaged or not a safetensors file ({file.stat().st_size:,} bytes): download it again ({error})"
        ) from error
