"""How many of something, in words. The one home of the plural, for messages and pages."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """A number and its noun: "1 song", "2 songs", "1,200 entries", "3 processes".

    Args:
        n: how many.
        noun: in the singular; what is before the last word stays.
    """
    if n == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{n:,} {noun[:-1]}ies"
    return f"{n:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"
