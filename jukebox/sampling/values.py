"""Single values of flags: what type and range they have, and what is said where they have another.

What the flags mean for a run is checked in `settings.py`, `lengths.py` and `songs.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jukebox.utils.errors import UserError


def choice(flag: str, value: str, allowed: Sequence[str]) -> str:
    """Returns the value if it is one of those allowed, else raises UserError."""
    if value not in allowed:
        raise UserError(f"--{flag}={value}: choose {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def whole(flag: str, value: Any, least: int | None = None) -> int:
    """Returns a whole number, `least` or more, else raises UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise UserError(f"--{flag}={value}: give a whole number")
    if least is not None and value < least:
        raise UserError(f"--{flag}={value}: must be {least} or more")
    return int(value)


def number(
    flag: str, value: Any, least: float | None = None, above: float | None = None, below: float | None = None
) -> float:
    """Returns a finite number inside the limits, else raises UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"--{flag}={value}: give a number")
    if least is not None and value < least:
        raise UserError(f"--{flag}={value}: must be {least:g} or more")
    if above is not None and value <= above:
        hint = "; for the likeliest token every time use --top_k=1" if flag == "temp" else ""
        raise UserError(f"--{flag}={value}: must be above {above:g}{hint}")
    if below is not None and value >= below:
        raise UserError(f"--{flag}={value}: must be below {below:g}")
    return float(value)


def per_level(flag: str, value: Any, levels: int) -> list[Any]:
    """One value for all levels, or one per level, low to high."""
    if not isinstance(value, (list, tuple)):
        return [value] * levels
    if len(value) != levels:
        example = ",".join(["..."] * levels)
        raise UserError(
            f"--{flag} has {len(value)} values for {levels} levels: give one, or one per level, --{flag}={example}"
        )
    return list(value)


def seconds_of(flags: Mapping[str, Any], flag: str) -> float | None:
    """The value of a flag in seconds, None where it is left out."""
    return None if flags.get(flag) is None else number(flag, flags[flag], above=0.0)
