"""A file is read while a block runs, stops with it, and only if the host has the memory."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_tiny_runs

from jukebox import loaders
from jukebox.sample import main
from jukebox.utils import read_ahead as module
from jukebox.utils.read_ahead import Reader, read_ahead


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "weights"
    path.write_bytes(bytes(5_000_000))
    return str(path)


def test_the_whole_file_is_read_and_not_kept(file: str) -> None:
    tracemalloc.start()
    with read_ahead(file) as reader:
        assert reader is not None
        reader.join()
        assert reader.done == 5_000_000 and reader.daemon
    assert tracemalloc.get_traced_memory()[1] < 2 * module.CHUNK
    tracemalloc.stop()


def test_an_interruption_stops_it(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1)
    with pytest.raises(KeyboardInterrupt), read_ahead(file) as reader:
        raise KeyboardInterrupt
    assert isinstance(reader, Reader) and not reader.is_alive() and reader.done < 5_000_000


def test_no_file_and_no_memory(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("", file + "_not_there", str(Path(file).parent)):
        with read_ahead(path) as reader:
            assert reader is None
    monkeypatch.setattr(module, "free_bytes", lambda device: 9_999_998)
    with read_ahead(file) as reader:
        assert reader is None
    reader = Reader(file + "_not_there")  # it was there a moment ago
    reader.run()
    assert reader.done == 0


def test_a_run_reads_the_next_level_while_it_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    begin, load = Reader.start, loaders.LazyPrior.load

    def starts(self: Reader) -> None:
        seen.append(Path(self.path).parent.name)
        begin(self)

    def loads(self: loaders.LazyPrior) -> Any:
        assert not [thread for thread in threading.enumerate() if isinstance(thread, Reader)]
        seen.append(self.level)
        return load(self)

    monkeypatch.setattr(Reader, "start", starts)
    monkeypatch.setattr(loaders.LazyPrior, "load", loads)
    model = make_tiny_runs(tmp_path, lyrics=False)
    run = dict(sample_length_in_seconds=1.024, total_sample_length_in_seconds=2.304, n_samples=1, device="cpu")
    assert main(model=model, name=str(tmp_path / "run"), **run) == 0
    assert seen == [2, "up1", 1, "up0", 0]
