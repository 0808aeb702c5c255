"""Numbers with their nouns, and that no message writes the plural by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jukebox.utils.plural import counted

SOURCES = sorted((Path(__file__).parents[2] / "jukebox").rglob("*.py"))


@pytest.mark.parametrize(
    "n, noun, text",
    [
        (1, "song", "1 song"),
        (0, "song", "0 songs"),
        (1200, "entry", "1,200 entries"),
        (2, "process", "2 processes"),
        (2, "batch", "2 batches"),
        (2, "day", "2 days"),
        (3, "more file", "3 more files"),
    ],
)
def test_counted(n: int, noun: str, text: str) -> None:
    assert counted(n, noun) == text


def test_the_plural_has_one_home() -> None:
    own = re.compile(r"""\{'s' if |"s" if \w+ [!=>]|if len\(\w+\) == 1 else f"\{len""")
    found = [str(path) for path in SOURCES if path.name != "plural.py" and own.search(path.read_text(encoding="utf-8"))]
    assert SOURCES and found == []
