"""README's five training lines: one can hear the result. `make heard`; docs/average.md has the figures.

The VQ-VAE trains for 5 epochs of README's 20; nothing else is shorter. A folder in `JUKEBOX_HEARD` is resumed.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from heard import FIVE, heard_figures
from readme_commands import Workplace

FOLDER = os.environ.get("JUKEBOX_HEARD", "")
BEHIND = ["", "", "--epochs=5 --nworkers=0 --device=cpu", "--nworkers=0 --device=cpu", "--n_samples=4 --overwrite"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FOLDER, reason="takes half an hour: `make heard`")]


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    folder = Path(FOLDER).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    work = Workplace.__new__(Workplace)  # needs none of the files that other commands of the README read
    work.folder = folder
    for line, more in zip(FIVE, BEHIND, strict=True):
        print(work.run_words([*shlex.split(line), *shlex.split(more)]))
    found = heard_figures(folder)
    print(found)
    return found


def test_reconstruction(figures: dict[str, float]) -> None:
    assert figures["reconstruction"] < -6


@pytest.mark.xfail(reason="4.35 on 27 November 2026, and rising since 4.29", strict=True)
def test_held_out_bits(figures: dict[str, float]) -> None:
    assert figures["bits"] < 4  # half of knowing nothing


@pytest.mark.xfail(reason="0.46 on 27 November 2026: songs of the top level are duller than real ones")
def test_flatness(figures: dict[str, float]) -> None:
    assert 0.5 < figures["flatness"] < 2
