"""The versions that a record of a run or a song names."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from jukebox.version import __version__


def versions() -> dict[str, str]:
    """The versions of all that decides on the numbers; `commit` where the program runs from its repository."""
    import numpy
    import torch

    found = {"jukebox": __version__, "torch": str(torch.__version__), "numpy": numpy.__version__}
    found["python"] = platform.python_version()
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        words = ["git", "-C", str(root), "rev-parse", "HEAD"]
        try:
            found["commit"] = subprocess.run(words, capture_output=True, text=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return {key: value for key, value in found.items() if value}
