"""What is known about one audio file, and the same of very many files by all processors.

A few files are opened by threads. Many are opened by separate processes, since Python holds threads back. A file that
crashes the decoder then ends its process, and is named like any other broken file. Change here what is known of a file,
and how the work is split.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from jukebox.utils.audio.id3 import read_synced_lyrics
from jukebox.utils.audio.read import about_audio
from jukebox.utils.audio.reader import AudioError

KEPT_TAGS = ("artist", "album_artist", "genre", "title")  # and those of lyrics
LYRIC_TAG = re.compile(r"(?:wm/)?(?:un)?(?:sync(?:ed|hroni[sz]ed)?)?[ _-]?lyrics")  # how their names begin
MANY = 1000  # files from which on starting processes pays
SHARE = 25  # files that a process is given at a time
_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class AudioEntry:
    """One file: `seconds` and `tags`, or an `error` if it cannot be decoded.

    If it can be decoded in part, it has an error and the seconds of that part. `cut` says that its end is missing.
    """

    size: int
    mtime_ns: int
    seconds: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)
    error: str = ""
    cut: str = ""

    def refusal(self, damaged: str) -> str:
        """Why the file is left out; "" if it is used. `damaged` as for `load_audio`."""
        return "" if damaged == "keep" and self.seconds else self.error


def stamp(path: str) -> tuple[int, int]:
    """Size and time of change, which an entry holds for; (-1, -1) if there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)


def probe_file(path: str) -> AudioEntry:
    """Opens a file."""
    size, mtime_ns = stamp(path)
    try:
        facts = about_audio(path)
    except AudioError as error:
        return AudioEntry(size, mtime_ns, error=str(error))
    kept = {k: t for k, t in facts.tags.items() if k in KEPT_TAGS or LYRIC_TAG.match(k)}
    if synced := read_synced_lyrics(path):
        kept["syncedlyrics"] = synced
    return AudioEntry(size, mtime_ns, facts.seconds, kept, facts.error, str(facts.cut))


def probe_files(paths: Sequence[str], workers: int | None = None) -> Generator[AudioEntry]:
    """Opens files, many at a time; gives an entry for each, in order.

    Args:
        workers: how many at a time; None: chosen by the number of processors.
    """
    cores = os.cpu_count() or 1
    if len(paths) < MANY:
        with ThreadPoolExecutor(workers or min(16, 2 * cores)) as pool:
            yield from pool.map(probe_file, paths)
        return
    workers = workers or cores
    idle = [_Process() for _ in range(workers)]

    def run(share: Sequence[str]) -> list[AudioEntry]:
        process = idle.pop()
        try:
            return process.probe(share)
        finally:
            idle.append(process)

    pool = ThreadPoolExecutor(workers)
    try:
        for entries in pool.map(run, [paths[i : i + SHARE] for i in range(0, len(paths), SHARE)]):
            yield from entries
    finally:
        pool.shutdown(cancel_futures=True)
        for process in idle:
            process.stop()


class _Process:
    """A process that opens files; lines of JSON go in and out."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[str] | None = None

    def probe(self, paths: Sequence[str]) -> list[AudioEntry]:
        """Entries of files; those that a process dies of are found out one by one."""
        found = self._ask(paths)
        if found is not None:
            return found
        if len(paths) > 1:
            return [entry for path in paths for entry in self.probe([path])]
        return [AudioEntry(*stamp(paths[0]), error=f"cannot decode {paths[0]}: the decoder crashes")]

    def _ask(self, paths: Sequence[str]) -> list[AudioEntry] | None:
        if self._running is None:
            path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._running = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="ascii",
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for us
            )
        assert self._running.stdin is not None and self._running.stdout is not None
        try:
            print(json.dumps(list(paths)), file=self._running.stdin, flush=True)
            return [AudioEntry(*entry) for entry in json.loads(self._running.stdout.readline())]
        except (OSError, ValueError):  # it has gone
            self.stop()
            return None

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None


def read_entry(found: Any) -> AudioEntry:
    """An entry out of a file.

    Raises:
        TypeError, ValueError: it is not one.
    """
    entry = AudioEntry(**found)
    numbers = type(entry.size) is int and type(entry.mtime_ns) is int and type(entry.seconds) in (int, float)
    texts = isinstance(entry.tags, dict) and all(type(t) is str for t in (*entry.tags.values(), entry.error, entry.cut))
    if not (numbers and texts and 0 <= entry.seconds < 1e9):
        raise ValueError("not an entry")
    return entry


def main() -> None:
    """Answers lines of paths with lines of entries, until there are no more."""
    for line in sys.stdin:
        print(json.dumps([astuple(probe_file(path)) for path in json.loads(line)]), flush=True)


if __name__ == "__main__":
    main()
