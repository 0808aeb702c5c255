"""No access outside of any buffer: the library is built with AddressSanitizer and fed with shapes at random."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_access_outside(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    found = subprocess.run([compiler or "false", "-print-file-name=libasan.so"], capture_output=True, text=True)
    library = found.stdout.strip()
    if found.returncode or not os.path.isabs(library):
        pytest.skip("g++ with its AddressSanitizer is needed")
    (tmp_path / "cxx").write_text(f'#!/bin/sh\nexec {compiler} "$@" -fsanitize=address -O1 -g\n', encoding="utf-8")
    (tmp_path / "cxx").chmod(0o755)
    environment = {
        **os.environ,
        "CXX": str(tmp_path / "cxx"),
        "JUKEBOX_CACHE": str(tmp_path / "cache"),
        "LD_PRELOAD": os.path.realpath(library),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "25", "0"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "rounds 25" in done.stdout, done.stderr[-4000:]
