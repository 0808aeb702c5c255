"""What is known about the audio files of a folder, so that tens of thousands are opened once and not at every start.

One JSON file for a folder and all below it: `.jukebox_index.json` in the folder if that can be written, else in the
user's cache. An entry holds for a file as long as its size and time of change do. Change here what is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from jukebox.utils.audio.read import EXTENSIONS, probe_audio
from jukebox.utils.audio.reader import AudioError
from jukebox.utils.audio.scan import AudioEntry, probe_files, read_entry, stamp
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.json_text import read_json
from jukebox.utils.progress import progress_bar

INDEX_NAME = ".jukebox_index.json"
VERSION = 3
QUIET_BELOW = 200  # new files; a shorter scan shows no progress bar


def find_audio_files(folder: str | os.PathLike[str]) -> tuple[list[str], dict[str, int], list[str]]:
    """All files with an audio ending in a folder and below, hidden ones left out.

    Returns:
        Their paths relative to the folder, with slashes, sorted (the same on every machine); how many other files
        there are of each ending; and a line for each folder that cannot be read, which a command says and counts.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(folder)
    if not os.fspath(folder) or not root.is_dir():
        raise UserError(
            f"audio_files_dir={os.fspath(folder)!r} is not a folder: give the one that holds your audio files"
        )
    names: list[str] = []
    others: dict[str, int] = {}
    visited: set[tuple[int, int]] = set()

    failed: list[OSError] = []
    for path, folders, files in os.walk(root, followlinks=True, onerror=failed.append):
        try:
            folder_itself = os.stat(path)
        except OSError as error:  # it has gone meanwhile
            failed.append(error)
            continue
        if (folder_itself.st_dev, folder_itself.st_ino) in visited:  # by way of a link: its songs count once
            folders.clear()
            continue
        visited.add((folder_itself.st_dev, folder_itself.st_ino))
        below = "" if Path(path) == root else Path(path).relative_to(root).as_posix()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if name.startswith("."):
                continue
            ending = os.path.splitext(name)[1].lower().lstrip(".")
            if ending in EXTENSIONS:
                names.append(f"{below}/{name}" if below else name)
            else:
                others[ending] = others.get(ending, 0) + 1
    unread = [f"cannot read the folder {error.filename}: {error.strerror}" for error in failed]
    return sorted(names), others, sorted(unread)


class AudioIndex:
    """The index of one folder.

    Args:
        folder: what the names of files are relative to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder, self._folder = Path(folder), os.fspath(folder)
        digest = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:24]
        self._places = [self.folder / INDEX_NAME, _cache_folder() / "audio_index" / f"{digest}.json"]
        self._entries: dict[str, AudioEntry] = {}
        for place in reversed(self._places):
            self._entries.update(_read(place))

    def look_up(self, names: Iterable[str], workers: int | None = None) -> dict[str, AudioEntry]:
        """What is known about files; those that are new or changed are opened, many at a time, and remembered.

        Args:
            names: relative to the folder.
            workers: files opened at a time; None: chosen by the number of processors.

        Returns:
            name -> entry, in the given order.
        """
        found: dict[str, AudioEntry] = {}
        fresh: list[str] = []
        for name in names:
            known = self._entries.get(name)
            if known is not None and not known.error and stamp(self._path(name)) == (known.size, known.mtime_ns):
                found[name] = known
            else:
                found[name] = AudioEntry(0, 0)
                fresh.append(name)
        if fresh:
            total, quiet = len(fresh), len(fresh) < QUIET_BELOW
            entries = probe_files([self._path(name) for name in fresh], workers)
            bar = progress_bar(entries, desc="scanning audio files", total=total, unit="file", disable=quiet)
            try:
                for name, entry in zip(fresh, bar, strict=True):
                    found[name] = self._entries[name] = entry
            finally:  # what is known when the scan is interrupted is kept
                entries.close()
                self._save()
        return found

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _save(self) -> None:
        """Writes what is known; broken files are looked at again each time, and files that are gone are forgotten."""
        kept = {
            name: asdict(entry)
            for name, entry in sorted(self._entries.items())
            if not entry.error and os.path.exists(self._path(name))
        }
        text = json.dumps(dict(version=VERSION, files=kept), ensure_ascii=False)
        for place in self._places:
            try:
                with atomic_write(place, "w") as file:
                    file.write(text)
                return
            except (UserError, OSError):
                continue  # a folder that cannot be written, then a cache that cannot: it will be scanned again


def _cache_folder() -> Path:
    from jukebox.utils.remote_utils import cache_folder

    return cache_folder()


def _read(place: Path) -> dict[str, AudioEntry]:
    """Entries of an index file; none if it is missing, damaged (which is told) or of another version: it is remade."""
    try:
        stored = read_json(place)
        if stored["version"] != VERSION:
            return {}
        return {name: read_entry(entry) for name, entry in stored["files"].items()}
    except OSError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        print(f"{place} is damaged: it is made again", file=sys.stderr, flush=True)
        return {}


def get_duration_sec(file: str | os.PathLike[str], cache: bool = True) -> float:
    """Duration of an audio file in seconds.

    Args:
        cache: look it up in, and add it to, the index of its folder.

    Raises:
        AudioError: the file cannot be opened, or has no audio.
    """
    if not cache:
        return probe_audio(file)[0]
    folder, name = os.path.split(os.path.abspath(os.fspath(file)))
    entry = AudioIndex(folder).look_up([name])[name]
    if entry.error:
        raise AudioError(entry.error)
    return entry.seconds
