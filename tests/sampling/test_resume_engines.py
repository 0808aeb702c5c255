"""A run that is killed and resumed has the tokens of an undisturbed one with every engine, and says who made them.

Triton's interpreter has to be switched on before Triton is first imported, so the fused engine runs in a process of its
own: this file, run as a script with a folder.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox.native import build
from jukebox.prior import engine as engines
from jukebox.prior.fixed_steps import FixedSteps
from jukebox.sample import main
from jukebox.sampling.state import RunState

ROOT = Path(__file__).parents[2]
# 12 tokens of the top level, in three windows of 8.
RUN: dict[str, Any] = dict(
    sample_length_in_seconds=0.768,
    total_sample_length_in_seconds=2.304,
    hop_fraction=0.25,
    lowest_level=2,
    seed=7,
    n_samples=2,
    lyrics="la la",
    device="cpu",
)


def data(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "level_2" / "data.pth.tar", weights_only=True)


def killed(patch: pytest.MonkeyPatch, after: int = 2, **flags: Any) -> None:
    """A run that dies when its state was written for the `after`th time, first before any window."""
    save, left = RunState.save, [after]

    def dies(self: RunState) -> None:
        save(self)
        left[0] -= 1
        if not left[0]:
            raise SystemExit

    with patch.context() as inner:
        inner.setattr(RunState, "save", dies)
        with pytest.raises(SystemExit):
            main(**flags)


def resumed(model: str, folder: Path, engine: str, patch: pytest.MonkeyPatch) -> torch.Tensor:
    """Tokens [N, T] of a run by an engine that was killed, and resumed without a word of the engine."""
    given = dict(model=model, **RUN, name=str(folder))
    killed(patch, **given, engine=engine)
    state = RunState.load(folder)
    assert (state.zs[2].shape, state.options[2].made_by) == ((2, 8), [engine])
    assert main(**given, resume=True) == 0
    made = data(folder)
    assert (made["sampling_kwargs"][2]["made_by"], made["hps"]["engine"]) == ([engine], engine)
    return made["zs"][2]


def make_model(folder: Path) -> str:
    return make_tiny_runs(folder, n_ctx=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def wanted(model: str, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The tokens of an undisturbed run by PyTorch."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(model=model, **RUN, name=str(folder), engine="eager") == 0
    return data(folder)["zs"][2]


@pytest.fixture(autouse=True)
def _no_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_failed", {})


@pytest.mark.parametrize("engine", ["native", "graph", "eager"])
def test_killed_and_resumed(
    engine: str, model: str, wanted: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "native" and not build.find_compiler():
        pytest.skip("there is no C++ compiler")
    assert torch.equal(resumed(model, tmp_path / "run", engine, monkeypatch), wanted)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed, so no kernel can run")
def test_killed_and_resumed_by_fused_kernels(wanted: torch.Tensor, tmp_path: Path) -> None:
    paths = os.pathsep.join(str(ROOT / part) for part in ("apex", "", "tests", "tests/apex"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.equal(data(tmp_path / "run")["zs"][2], wanted)


def breaks_in_window(number: int, patch: pytest.MonkeyPatch) -> None:
    """The graph engine fails in its `number`th window."""
    right, made = FixedSteps.__init__, [0]

    def broken(self: FixedSteps, *args: Any) -> None:
        made[0] += 1
        if made[0] >= number:
            raise RuntimeError("no such instruction")
        right(self, *args)

    patch.setattr(FixedSteps, "__init__", broken)


def test_state_and_page_name_the_engine_that_took_over(
    model: str,
    wanted: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also when the run is resumed by a process in which nothing has failed yet: it stays with the engine."""
    flags = dict(model=model, **RUN, name=str(tmp_path / "run"))
    with monkeypatch.context() as patch:
        breaks_in_window(2, patch)
        with pytest.warns(RuntimeWarning, match="engine=graph does not work"):
            killed(patch, after=3, **flags, engine="graph")
    state = RunState.load(tmp_path / "run")
    assert state.options[2].made_by == ["graph", "eager"] and {one.engine for one in state.options} == {"eager"}
    engines._failed.clear()
    assert main(**flags, resume=True) == 0
    made = data(tmp_path / "run")
    assert made["hps"]["engine"] == "graph, then eager" and made["hps"]["again"]["engine"] == "eager"
    page = (tmp_path / "run" / "level_2" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"Engine</dt>\s*<dd[^>]*>graph, then eager<", page)
    assert torch.equal(made["zs"][2], wanted)
    said = capsys.readouterr()
    assert "drew the tokens so far" not in said.out + said.err


@pytest.mark.parametrize("asked", ["auto", "eager"])
def test_a_resumed_run_says_that_its_engine_changes(
    asked: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = dict(model=model, **RUN, name=str(tmp_path / "run"))
    killed(monkeypatch, **flags, engine="graph")
    state = RunState.load(tmp_path / "run")
    for one in state.options:  # as it was made on another machine
        one.engine, one.made_by = "fused", ["fused"]
    state.save()
    monkeypatch.setattr(engines, "why_not_fused", lambda device: "no kernels here")
    monkeypatch.setattr(build, "why_not", lambda: "no compiler")
    assert main(**flags, resume=True, engine=asked) == 0
    said = capsys.readouterr()
    because = {"auto": "no kernels here", "eager": "as --engine asks"}[asked]
    line = (
        f"engine=fused drew the tokens so far and engine=eager draws the rest, which may round differently: {because}"
    )
    assert line in said.out + said.err
    assert data(tmp_path / "run")["hps"]["engine"] == "fused, then eager"


if __name__ == "__main__":
    from test_decode import patch_once

    patch_once()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch_context:
        resumed(make_model(Path(sys.argv[1])), Path(sys.argv[1], "run"), "fused", patch_context)
