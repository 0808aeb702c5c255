"""How long the index of a folder of songs takes, the first time and again: python benchmarks/audio_index.py

Makes short WAV files, each one of its own, since opening a file is what takes time. Prints seconds for the first scan,
by one thread and by all processors, and for the second, which only looks whether files have changed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import save

from jukebox.utils.audio.index import INDEX_NAME, AudioIndex, find_audio_files
from jukebox.utils.audio.scan import probe_files
from jukebox.utils.audio.write import write_audio


def make_files(folder: Path, count: int) -> None:
    write_audio(folder / "song.wav", np.sin(np.arange(8000) / 9), 8000)
    content = (folder / "song.wav").read_bytes()
    (folder / "song.wav").unlink()
    for i in range(count):
        path = folder / f"{i // 500:04d}" / f"song {i:06d}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def scan(folder: Path) -> float:
    start = time.perf_counter()
    names, _, _ = find_audio_files(folder)
    found = AudioIndex(folder).look_up(names)
    assert all(entry.seconds == 1.0 for entry in found.values())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=5000, help="100000 for the full form")
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_files(folder, count)
        sample = [str(path) for path in sorted(folder.rglob("*.wav"))[:500]]
        start = time.perf_counter()
        list(probe_files(sample, workers=1))
        one = (time.perf_counter() - start) * count / len(sample)
        first = scan(folder)
        again = min(scan(folder) for _ in range(3))
        size = (folder / INDEX_NAME).stat().st_size
    results = {
        "files": count,
        "one_thread_seconds": round(one, 2),
        "first_seconds": round(first, 2),
        "again_seconds": round(again, 3),
        "first_over_again": round(first / again, 1),
        "index_bytes": size,
    }
    for name, value in results.items():
        print(f"{name:22} {value}")
    save("audio_index", results)


if __name__ == "__main__":
    main()
