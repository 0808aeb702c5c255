"""The script that proves a GPU runs without one, in its short form, and needs only torch and numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CODE = """
import sys
sys.path.insert(0, "benchmarks")
import gpu
%s
status = gpu.main()
print("LOADED", sorted({"av", "scipy", "matplotlib", "huggingface_hub"} & set(sys.modules)))
sys.exit(status)
"""
WRONG = """
right = gpu.generate
def wrong(*args, engine, **more):
    tokens, logits = right(*args, engine=engine, **more)
    return tokens, logits + 0.5 * (engine == "graph")
gpu.generate = wrong
gpu.golden = gpu.passes = gpu.tokens = gpu.training = lambda device, short: {}
"""

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a card gets the long form: make gpu")


def run(change: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE % change], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_short_form_passes_and_writes_nothing() -> None:
    before = set((ROOT / "benchmarks" / "results").iterdir())
    done = run("")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all agree" in done.stdout and "LOADED []" in done.stdout
    assert set((ROOT / "benchmarks" / "results").iterdir()) == before


BROKEN = """
def broken(*given):
    raise ValueError("no such kernel")
gpu._token = broken
gpu.golden = gpu.twins = gpu.passes = gpu.training = lambda device, short: {}
"""


def test_a_row_that_fails_does_not_end_the_others() -> None:
    done = run(BROKEN)
    assert done.returncode == 1 and done.stdout.count("ValueError: no such kernel") >= 3, done.stdout + done.stderr
    assert "3 failures" in done.stdout, done.stdout


def test_a_wrong_engine_fails_it() -> None:
    done = run(WRONG)
    assert done.returncode == 1 and "graph, order 2" in done.stdout, done.stdout + done.stderr
