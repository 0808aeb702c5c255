"""JSON that comes from files: whatever is wrong with it is a ValueError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or it is nested too deeply for Python's own reader.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: str | Path) -> Any:
    """The value in a JSON file, which is UTF-8.

    Raises:
        OSError, ValueError: it cannot be read, or is not JSON.
    """
    return parse_json(Path(path).read_text(encoding="utf-8"))
