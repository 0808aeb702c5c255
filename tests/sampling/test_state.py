"""The state of a run: what is kept, what is refused, and that Ctrl-C waits for it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
import torch

from jukebox.prior.logits import SamplingOptions
from jukebox.sampling.options import LevelOptions
from jukebox.sampling.state import STATE_FILE, RunState, check_same, difference, uninterrupted
from jukebox.utils.errors import UserError


def state(folder: Path) -> RunState:
    zs = [torch.zeros(2, 0, dtype=torch.long), torch.randint(0, 2048, (2, 9))]
    options = [LevelOptions(SamplingOptions(0.9, top_k=3), songs=[0, 1]), LevelOptions(seed=2)]
    return RunState(folder, {"seed": 1, "temp": [0.9, 1.0]}, zs, [1], options, [0, 3], [0, 1])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    written = state(tmp_path / "run")
    written.save()
    read = RunState.load(tmp_path / "run")
    assert (read.settings, read.done, read.options) == (written.settings, [1], written.options)
    assert (read.given, read.levels, read.begun, read.finished) == ([0, 3], [0, 1], True, False)
    assert all(torch.equal(a, b) and a.dtype == torch.int64 for a, b in zip(read.zs, written.zs, strict=True))


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no interrupted run"):
        RunState.load(tmp_path)
    torch.save({"version": 99}, tmp_path / STATE_FILE)
    with pytest.raises(UserError, match="another version of this program, .*: choose another --name, or delete"):
        RunState.load(tmp_path)
    (tmp_path / STATE_FILE).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="damaged"):
        RunState.load(tmp_path)


def test_settings_must_be_the_same() -> None:
    check_same({"seed": 1, "metas": [{"a": 1}]}, {"metas": [{"a": 1}], "seed": 1})
    with pytest.raises(UserError, match="started with seed=1, not 2; repeat its command, or choose another --name"):
        check_same({"seed": 1}, {"seed": 2})
    with pytest.raises(UserError, match=r"temp=None, not \[1.0\]"):
        check_same({}, {"temp": [1.0]})


def test_the_differing_part_is_in_view() -> None:
    old = {"metas": [{"artist": "a", "lyrics": "la " * 80 + "end"}], "mode": "primed", "a": 1, "b": 1, "seed": 1}
    new = {"metas": [{"artist": "a", "lyrics": "la " * 80 + "end, and more"}], "mode": "primed", "a": 2, "b": 2}
    assert difference(old, dict(old)) == ""
    found = difference(old, new)
    assert found.startswith("a=1, not 2; b=1, not 2; metas[0].lyrics='...") and found.endswith("; and 1 more")
    assert "la end', not '..." in found and "la end, and more'" in found
    assert difference({"metas": old["metas"]}, {"metas": old["metas"] * 3}) == "1 metas, not 3"
    assert difference({"x": 1}, {"x": "y" * 100}) == f"x='1', not '{'y' * 60}...'"


def test_ctrl_c_waits_for_the_write() -> None:
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us deaf to Ctrl-C
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("written")
    assert done == ["written"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # the handler is back
    signal.signal(signal.SIGINT, before)


def test_other_threads_write_undisturbed(tmp_path: Path) -> None:
    thread = threading.Thread(target=lambda: state(tmp_path).save())
    thread.start()
    thread.join()
    assert RunState.load(tmp_path).done == [1]
