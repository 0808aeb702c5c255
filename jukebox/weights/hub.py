"""Weights from the Hugging Face hub: `--weights_from=OWNER/NAME[@REVISION]` becomes a folder in the cache.

`huggingface_hub`, an extra, does the transfer. A file gets its place only when its size and digest are those that the
hub gives. The folder is used only when it is complete, and later damage is noticed. Change here which files of a
repository are taken.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.json_text import read_json
from jukebox.utils.remote_utils import cache_folder, damage, file_digest, locked

NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
OLD_WEIGHTS = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?")
COMPLETE = "complete.json"  # names and digests of the files; written last


def weights_folder(weights_from: str) -> str:
    """The folder that holds the weights: the one given, or that of a name of the hub, fetched at first use.

    Raises:
        UserError: the repository cannot be fetched, or it holds no weights.
    """
    found = NAME.fullmatch(weights_from)
    if os.path.exists(weights_from) or found is None:
        return weights_from
    name, revision = found["id"], found["revision"] or "main"
    folder = cache_folder() / "hub" / f"{name}@{revision}".replace("/", "--")
    with locked(folder):
        if not _is_complete(folder):
            _fetch(name, revision, folder)
    return str(folder)


def _is_complete(folder: Path) -> bool:
    """Whether all files of a folder are there and as they came."""
    try:
        digests = read_json(folder / COMPLETE)
        return all(not damage(folder / file, sha256=digest) for file, digest in digests.items())
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _fetch(name: str, revision: str, folder: Path) -> None:
    """Downloads what is missing or damaged of a repository, then says that the folder is complete."""
    page = f"https://huggingface.co/{name}/tree/{revision}"
    by_hand = f"download the files of {page} by hand into a folder and give --weights_from=FOLDER"
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            f"--weights_from={name}: there is no such folder, and the Hugging Face hub needs huggingface_hub, which is "
            f"not installed: pip install huggingface_hub; or {by_hand}"
        ) from error
    try:
        endpoint = os.environ.get("HF_ENDPOINT") or None
        api = huggingface_hub.HfApi(endpoint=endpoint)
        info = api.model_info(name, revision=revision, files_metadata=True)
        digests = {}
        for file in _wanted({sibling.rfilename: sibling for sibling in info.siblings or ()}):
            digests[file.rfilename] = _fetch_file(api, name, info.sha or revision, file, folder)
        if len(digests) < 2:
            raise UserError(f"{name} holds no model.safetensors and no pytorch_model.bin")
    except Exception as error:  # the library's errors have no common class that all its versions know
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--weights_from={name}: there is no such folder, and it cannot be fetched from the Hugging Face hub "
            f"({said[:200]}). {by_hand[0].upper()}{by_hand[1:]}"
        ) from error
    with atomic_write(folder / COMPLETE, "w") as out:
        json.dump(digests, out, indent=1)


def _wanted(files: dict[str, Any]) -> list[Any]:
    """The configuration and the weights of a repository, in safetensors where it has them."""
    weights = next((kind for kind in (WEIGHTS, OLD_WEIGHTS) if any(map(kind.fullmatch, files))), WEIGHTS)
    return [file for name, file in files.items() if name == "config.json" or weights.fullmatch(name)]


def _fetch_file(api: Any, name: str, revision: str, file: Any, folder: Path) -> str:
    """Downloads one file unless it is there as the hub describes it, twice where it came wrong. Returns its digest."""
    path, problem = folder / file.rfilename, "missing"
    expected = file.lfs.sha256 if file.lfs else None
    for again in (False, True):
        if path.is_file() and not (problem := damage(path, file.size, expected)):
            return file_digest(path)
        path.unlink(missing_ok=True)
        api.hf_hub_download(name, file.rfilename, revision=revision, local_dir=str(folder), force_download=again)
    if problem := damage(path, file.size, expected):
        path.unlink(missing_ok=True)
        raise UserError(f"{file.rfilename}: {problem}")
    return file_digest(path)
