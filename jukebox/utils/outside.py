"""Functions of ours that code outside of the package replaces: what it has put in their place is what runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def current(module: str, function: Function) -> Function:
    """The function under a public name, `jukebox.sample` for instance: `function`, unless a user set another."""
    return vars(sys.modules.get(module, sys)).get(function.__name__, function)
