"""Single values of flags: what type and range they have, and what is said if they have another.

All commands read their flags with these, before PyTorch is imported. What the flags of a command mean together is
checked where the command is carried out.
"""

from __future__ import annotations

import glob
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jukebox.utils.errors import UserError

LONGEST = 1_000_000_000  # seconds that are taken for a time at all
UNKNOWN_LABELS = ("stop", "ok")  # what to do about a name that a model does not know
FORMATS = ("wav", "flac", "mp3")
DAMAGED = ("refuse", "keep")  # what becomes of a file that cannot be read to its end
DAMAGED_HELP = "files that cannot be read to their end: refuse leaves them out, keep uses what can be read"
_LARGEST = sys.float_info.max


def choice(flag: str, value: str, allowed: Sequence[str]) -> str:
    """Returns the value if it is one of those allowed, else raises UserError."""
    if value not in allowed:
        raise UserError(f"--{flag}={value}: choose {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def whole(flag: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Returns a whole number from `least` to `most`, else raises UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value % 1 != 0:
        raise UserError(f"--{flag}={value}: give a whole number")
    if least is not None and value < least:
        raise UserError(f"--{flag}={value}: must be {least} or more")
    if most is not None and value > most:
        raise UserError(f"--{flag}={value}: must be {most} or less")
    return int(value)


def whole_numbers(flag: str, value: Any, hint: str, least: int, most: int | None = None) -> list[int]:
    """Returns whole numbers from `least` to `most`, ascending and each once, else raises UserError with the hint.

    Args:
        value: one number or several; None if the flag is left out, which is refused.
        hint: what to give, for the end of the message.
    """
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if value is None or not values or not all(_in_range(number, least, most) for number in values):
        given = " is missing" if value is None else f"={','.join(map(str, values))}"
        raise UserError(f"--{flag}{given}: {hint}")
    return sorted(set(values))


def _in_range(value: Any, least: int, most: int | None) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value and (most is None or value <= most)


def level_numbers(value: Any, levels: int) -> list[int]:
    """Returns the numbers of several levels, all if the value is None, else raises UserError."""
    hint = f"give numbers from 0, the finest, to {levels - 1}, such as --levels=0"
    return whole_numbers("levels", list(range(levels)) if value is None else value, hint, least=0, most=levels - 1)


def layer_numbers(value: Any) -> list[int]:
    """Returns the numbers of layers, counted from 1, else raises UserError."""
    return whole_numbers("layers", value, "give layers counted from 1, such as --layers=36 or --layers=24,36", least=1)


def level_number(value: str, levels: int) -> int:
    """Returns the number of a level, "top" being the highest, else raises UserError."""
    if value == "top":
        return levels - 1
    if not value.isdecimal():
        raise UserError(f"--level={value}: choose top or a number from 0 to {levels - 1}")
    return int(value)


def port_number(value: Any) -> int:
    """Returns the value of --port, 1 to 65535, else raises UserError."""
    return whole("port", value, least=1, most=65535)


def device_name(value: Any) -> str:
    """Returns the value of --device if it has the form of one, else raises UserError; "" is the best there is."""
    name = str(value or "")
    if not re.fullmatch(r"|cpu|mps|cuda(:[0-9]+)?", name):
        raise UserError(f"--device={name}: choose cuda, cuda:0 (the number of a GPU), mps or cpu")
    return name


def number(
    flag: str, value: Any, least: float | None = None, above: float | None = None, below: float | None = None
) -> float:
    """Returns a finite number inside the limits, else raises UserError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
        raise UserError(f"--{flag}={value}: give a number")
    if least is not None and value < least:
        raise UserError(f"--{flag}={value}: must be {least:g} or more")
    if above is not None and value <= above:
        hint = "; for the likeliest token every time use --top_k=1" if flag == "temp" else ""
        raise UserError(f"--{flag}={value}: must be above {above:g}{hint}")
    if below is not None and value >= below:
        raise UserError(f"--{flag}={value}: must be below {below:g}")
    return float(value)


def expand_path(text: str) -> str:
    """A path with `~` and `$VAR` put in; one that exists as it is, and an address, stay as they are."""
    if not text or "://" in text or os.path.lexists(text):
        return text
    return os.path.expandvars(os.path.expanduser(text))


def find_files(flag: str, given: str | Sequence[str]) -> list[str]:
    """The files that a flag names, in order.

    Args:
        given: once or several times: a path, a pattern such as `t*.wav`, or several of them with commas between them. A
            name that exists as it is is not cut at its commas and is not a pattern.

    Raises:
        UserError: there is no such file.
    """
    files: list[str] = []
    for text in [given] if isinstance(given, str) else given:
        parts = os.fspath(text).split(",")
        while parts:
            for end in range(len(parts), 0, -1):
                name = ",".join(parts[:end])
                if found := _matches(name) or _matches(name.strip()):
                    break
            else:
                end = 1
                if parts[0].strip():
                    raise UserError(f"--{flag}={parts[0].strip()}: there is no such file")
            files += found
            parts = parts[end:]
    return files


def _matches(name: str) -> list[str]:
    path = expand_path(name)
    if os.path.isfile(path):
        return [path]
    return sorted(filter(os.path.isfile, glob.glob(path))) if glob.has_magic(path) else []


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


def enough(samples: int, sr: int) -> str:
    """The shortest time of whole milliseconds, in seconds, that is that many samples or more when it is read back."""
    n = max(0, math.ceil(samples / sr * 1000) - 1)
    while int(float(f"{n / 1000:.3f}") * sr) < samples:
        n += 1
    return f"{n / 1000:.3f}"


def at_most(samples: int, sr: int) -> str:
    """The longest time of whole milliseconds, in seconds, that is at most that many samples when it is read back."""
    n = math.floor(samples / sr * 1000) + 1
    while n > 0 and float(f"{n / 1000:.3f}") * sr > samples:
        n -= 1
    return f"{n / 1000:.3f}"


def seconds_of(flags: Mapping[str, Any], flag: str) -> float | None:
    """The value of a flag in seconds, None if it is left out."""
    if flags.get(flag) is None:
        return None
    seconds = number(flag, flags[flag], above=0.0)
    if seconds > LONGEST:
        raise UserError(f"--{flag}={flags[flag]}: must be {LONGEST:,} or less")
    return seconds
