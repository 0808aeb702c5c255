"""Building the native library: without a compiler, with a broken one, in a folder of others, and twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jukebox.native import build

ROOT = Path(__file__).parents[2]
ONE_TOKEN = """
import torch
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.engine import generate, pick_engine
torch.manual_seed(0)
model = ConditionalAutoregressive2D((8,), 16, width=16).eval()
print(pick_engine("auto", torch.device("cpu"), torch.float32), generate(model, 1, 8)[0].shape)
"""


def run(tmp_path: Path, code: str = ONE_TOKEN, **environment: str) -> str:
    """Output of Python code with a cache of its own."""
    words = {**os.environ, "JUKEBOX_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_compiler_pytorch_draws(tmp_path: Path) -> None:
    out = run(tmp_path, PATH=str(tmp_path))
    assert out.startswith("('eager', 'there is no C++ compiler, such as g++') torch.Size([1, 8])")


def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2\nexit 1\n", encoding="utf-8")
    (tmp_path / "bad").chmod(0o755)
    out = run(tmp_path, CXX=str(tmp_path / "bad"))
    assert "eager" in out and "error: no such thing" in out and "torch.Size([1, 8])" in out
    assert not list((tmp_path / "cache" / "native").iterdir()), "nothing half made stays"


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    assert "('eager', 'JUKEBOX_NATIVE=0 switches it off')" in run(tmp_path, JUKEBOX_NATIVE="0")


def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    if not build.find_compiler():
        pytest.skip("there is no C++ compiler")
    assert build.why_not() == ""
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("built again"))
    assert build._built(build.FLAGS).is_file()


def test_folders_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compile", lambda *_: pytest.fail("built where others can write"))
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "open" / "cache"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(build.NotBuiltError, match="others can write to .*open: set JUKEBOX_CACHE"):
        build._built(build.FLAGS)


def test_a_group_that_is_only_the_users_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_compile", lambda flags, path: path.touch())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    monkeypatch.setattr(build, "_own_group", lambda number: True)
    assert build._built([]).exists()
    monkeypatch.setattr(build, "_own_group", lambda number: False)
    with pytest.raises(build.NotBuiltError, match="others can write to .*cache: set JUKEBOX_CACHE"):
        build._built([])


def test_missing_sources_and_homes_are_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    with pytest.raises(build.NotBuiltError, match="step.cpp"):
        build._built([])
    monkeypatch.undo()

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(build, "cache_folder", no_home)
    with pytest.raises(build.NotBuiltError, match="home directory"):
        build._built([])


def test_a_change_of_the_source_is_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    made: list[Path] = []

    def compile_(flags: list[str], path: Path) -> None:
        path.touch()
        made.append(path)

    monkeypatch.setattr(build, "_compile", compile_)
    for name in build.SOURCES:
        (tmp_path / name).write_text("a", encoding="utf-8")
    build._built([])
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    build._built([])
    (tmp_path / "kernels.h").write_text("b", encoding="utf-8")
    build._built([])
    build._built([])
    assert len(set(made)) == len(made) == 3
