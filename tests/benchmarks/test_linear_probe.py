"""The linear probe: it finds what is there and not what is not, and the page has the figures of the results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from demo import linear_probe as probe  # noqa: E402

PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "linear_probe.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("signal", "least", "most"), [(1.0, 0.9, 1.0), (0.0, 0.1, 0.45)])
def test_it_finds_what_is_there_and_nothing_else(signal: float, least: float, most: float) -> None:
    torch.manual_seed(0)
    centres = torch.randn(4, 12, dtype=torch.double) * 3 * signal
    y, held_y = torch.randint(4, (60,)), torch.randint(4, (200,))
    x, held_x = (centres[labels] + torch.randn(len(labels), 12) for labels in (y, held_y))
    right = probe.probe_accuracy(x * 100 + 7, y, held_x * 100 + 7, held_y, 4)  # scale and place do not matter
    assert least <= right / 200 <= most


def test_held_out_songs_are_others() -> None:
    assert probe.LABELLED_SEED + RESULTS["labelled"] < probe.HELD_OUT_SEED and RESULTS["labelled"] == 200


def test_the_page_has_the_figures() -> None:
    assert f"{probe.BEGIN}\n\n{probe.table(RESULTS)}\n\n{probe.END}" in PAGE
    middle = f"layer {RESULTS['depth'] // 2}"
    for what in probe.WHAT:  # far above chance
        assert RESULTS["right"][what][middle] / RESULTS["held_out"] > 0.4 + RESULTS["chance"][what]
