"""The house as it is built: files that import each other in a circle are a room nobody can read alone."""

from __future__ import annotations

import ast
from pathlib import Path

from test_imports import FILES, IMPORTS, ROOT, room


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def file_imports() -> dict[str, set[str]]:
    """Module -> the modules of ours that its file imports, lazy imports and imports for type checkers included."""
    names = {module_name(path) for path in FILES}
    found = {}
    for path in FILES:
        own = module_name(path)
        found[own] = {i.module for i in IMPORTS[path] if i.module in names and i.module != own}
    packages = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    return {name: targets - packages for name, targets in found.items()}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (strongly connected components of more than one)."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in imports.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reached = {name: reach(name) for name in imports}
    groups = {
        frozenset({other for other in reached[name] if name in reached[other]})
        for name in imports
        if name in reached[name]
    }
    return sorted(sorted(group) for group in groups)


def test_no_files_import_each_other_in_a_circle() -> None:
    found = [group for group in circles(file_imports()) if "jukebox.vqvae.encdec" not in group]
    assert not found, "\n" + "\n".join(" <-> ".join(group) for group in found)


def test_the_finder_of_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


# --------------------------------------------------------------------------------------------------- constructors

MOST_ARGUMENTS = 12
SHORT = {"transformer", "prior"}  # rooms whose constructors must be short; configurations are dataclasses


def long_constructors(source: str) -> dict[str, int]:
    """Class -> arguments of its `__init__`, self left out, where they are too many."""
    found = {}
    for cls in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)):
        for init in (f for f in cls.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"):
            given = init.args
            names = [*given.posonlyargs, *given.args[1:], *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
            found[cls.name] = len(names)
    return {name: n for name, n in found.items() if n > MOST_ARGUMENTS}


def test_constructors_are_short() -> None:
    found = {path.name: long_constructors(path.read_text()) for path in FILES if room(path) in SHORT}
    assert len(found) > 10 and not {name: classes for name, classes in found.items() if classes}


def test_the_counter_of_arguments() -> None:
    names = ", ".join(f"a{i}" for i in range(10))
    assert long_constructors(f"class A:\n  def __init__(self, {names}, *, b, **c): 0") == {}
    assert long_constructors(f"class A:\n  def __init__(self, {names}, *b, c, **d): 0") == {"A": 13}
