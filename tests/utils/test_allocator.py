"""Freed memory stays with the process and goes back when asked; other systems are left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jukebox.utils import allocator

FAULTS = """
import resource, sys, torch
from jukebox.utils.allocator import give_back, keep_freed_blocks
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
print(keep_freed_blocks(sys.argv[1] == "on"))
def step():
    x = torch.ones(16, 2**20)  # 64 MiB
    y = x + x
    del x, y
for _ in range(10):  # until the heap has its shape
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
kept = resident()
give_back()
print(kept - resident())
"""


def faults(mode: str) -> tuple[int, float]:
    """Page faults of some steps, and MiB given back after them."""
    command = [sys.executable, "-c", FAULTS, mode]
    taken, count, returned = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if taken != "True":
        pytest.skip("this C library has no such thresholds")
    return int(count), float(returned)


def test_freed_blocks_are_used_again() -> None:
    (few, returned), (many, _) = faults("on"), faults("off")
    assert 3 * few + 100 < many  # 5 steps of 128 MiB: 163,840 pages of 4 KiB, or 320 of 2 MiB
    assert returned > 60


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "_c_library", lambda: None)
    assert not allocator.keep_freed_blocks()
    allocator.give_back()
