"""Runs the commands of this package one after the other, each shown as a user would type it."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LATEST = "checkpoint_latest.pth.tar"


def run(command: str) -> None:
    """Runs `python COMMAND` in the repository; its failure ends this script with its status."""
    print(f"\n$ python {command}", flush=True)
    status = subprocess.run([sys.executable, *shlex.split(command)], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def run_all(commands: Mapping[str, str], start: float) -> None:
    """Runs commands under their titles, with the seconds since `start` (of `time.monotonic`)."""
    for i, (title, command) in enumerate(commands.items(), 1):
        print(f"\n[{i}/{len(commands)}] {title}  ({time.monotonic() - start:.0f} s)", flush=True)
        run(command)
