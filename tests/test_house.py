"""The house as it is built: files that import each other in a circle are a room that cannot be read by itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
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
    found = circles(file_imports())
    assert not found, "\n" + "\n".join(" <-> ".join(group) for group in found)


def test_the_finder_of_circles() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


# --------------------------------------------------------------------------------------------------- constructors

MOST_ARGUMENTS = 12
SHORT = {"transformer", "prior", "vqvae"}  # rooms whose constructors must be short; configurations are dataclasses


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


# ------------------------------------------------------------------------------------------------ hyper-parameters

# Functions that whole hyper-parameters go through from train.py on. It was 108 before parts got options of their own.
MOST_FUNCTIONS = 54
MAKERS = {"Hyperparams", "all_defaults", "read_hps", "resolve", "resolve_for_data", "setup_hparams", "take_hparams"}


def named_functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Qualified names and definitions, methods and inner functions included."""
    for node in ast.iter_child_nodes(tree):
        inner = f"{prefix}{node.name}." if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else prefix
        if isinstance(node, ast.FunctionDef):
            yield f"{prefix}{node.name}", node
        yield from named_functions(node, inner)


def is_hps(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression is whole hyper-parameters: a name that holds them, `x.hps`, a copy, a call of a maker."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("copy", "frozen") and is_hps(node.func.value, names)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in MAKERS
    return node.id in names if isinstance(node, ast.Name) else isinstance(node, ast.Attribute) and node.attr == "hps"


def holders(function: ast.FunctionDef) -> set[str]:
    """The names in a function that hold hyper-parameters."""
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    names = {a.arg for a in given if a.arg == "hps" or (a.annotation and "Hyperparams" in ast.unparse(a.annotation))}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and is_hps(node.value, names):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def walk_of_hps(sources: dict[str, str], start: str) -> list[str]:
    """All functions that hyper-parameters get to by calls from a module, called functions being told only by name.

    Args:
        sources: module -> its source.
        start: the module whose functions are where the walk begins.
    """
    functions = {f"{m}:{name}": f for m, source in sources.items() for name, f in named_functions(ast.parse(source))}
    by_name: dict[str, list[str]] = {}
    for name in functions:
        parts = name.partition(":")[2].split(".")
        by_name.setdefault(parts[-2] if parts[-1] == "__init__" else parts[-1], []).append(name)
    found: set[str] = set()
    waiting = [name for name in functions if name.startswith(f"{start}:")]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        held = holders(functions[name])
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Call):
                if any(is_hps(value, held) for value in (*node.args, *(keyword.value for keyword in node.keywords))):
                    waiting += by_name.get(ast.unparse(node.func).rpartition(".")[2], [])
            elif isinstance(node, ast.Attribute) and node.attr == "hps" and isinstance(node.ctx, ast.Store):
                owner = name.rpartition(".")[0]  # the object keeps them: its methods that read them
                readers = [n for n in functions if n.rpartition(".")[0] == owner]
                waiting += [n for n in readers if any(is_hps(x, set()) for x in ast.walk(functions[n]))]
    return sorted(found)


def test_hyper_parameters_pass_through_few_functions() -> None:
    imports, reached, waiting = file_imports(), set[str](), ["jukebox.train"]
    while waiting:
        if (module := waiting.pop()) not in reached and module in imports:
            reached.add(module)
            waiting += imports[module]
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in FILES if module_name(path) in reached}
    found = walk_of_hps(sources, "jukebox.train")
    assert {"jukebox.make_models:build_prior", "jukebox.training.checks:_check_attention"} <= set(found)
    assert len(found) <= MOST_FUNCTIONS, "\n".join(found)


def test_the_walk_of_hyper_parameters() -> None:
    source = """
def main(): a(setup_hparams("", {})); unused(1)
def a(hps):
    mine = hps.copy()
    b(1, settings=mine); c(hps.bs); d(pick(Options, hps)); Keeper(Hyperparams(hps, bs=2))
def b(n, settings: Hyperparams): pass
def c(bs): pass
def d(options): pass
def unused(n): e(hps)
class Keeper:
    def __init__(self, hps): self.hps = hps
    def reads(self): return self.hps.bs
    def does_not(self): pass
"""
    found = walk_of_hps({"start": "def go(hps): main(hps)", "m": source}, "start")
    assert found == ["m:Keeper.__init__", "m:Keeper.reads", "m:a", "m:b", "m:main", "start:go"]


# --------------------------------------------------------------------------------------------------- label columns


def numbered_columns(source: str) -> list[str]:
    """Expressions that read columns of `y` or `ys` by number, the first axis left out."""
    found = []
    for node in (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Subscript)):
        inside = isinstance(node.slice, ast.Tuple) and isinstance(node.value, ast.Name) and node.value.id in ("y", "ys")
        columns = node.slice.elts[1:] if isinstance(node.slice, ast.Tuple) else []
        if inside and any(isinstance(n, ast.Constant) and n.value is not None for c in columns for n in ast.walk(c)):
            found.append(ast.unparse(node))
    return found


def test_no_file_knows_the_number_of_a_column() -> None:
    found = [f"{path.relative_to(ROOT)}: {use}" for path in FILES for use in numbered_columns(path.read_text())]
    assert not found, "read them by the names of LabelRow:\n" + "\n".join(found)


def test_the_finder_of_numbered_columns() -> None:
    source = "y[:, 3:4]; y[i, :2]; ys[:, 0]; y[:, row.artist]; y[0]; x[:, 1]; y[:4, row.times]; y[:, :n]"
    assert numbered_columns(source) == ["y[:, 3:4]", "y[i, :2]", "ys[:, 0]"]


# --------------------------------------------------------------------------------------------------- types of parts

PARTS = {"hps", "prior", "priors", "vqvae", "model", "training", "labeller", "optimizer", "opt", "schedule", "scaler"}
PARTS |= {"average", "ema", "wrapped", "car", "kv", "vqvae_hps"}


def untyped_parts(source: str) -> list[str]:
    """Parameters, fields and variables with the name of a part of the model whose type is Any, or a list of Any."""
    found = []
    for node in ast.walk(ast.parse(source)):
        name, annotation = "", None
        if isinstance(node, ast.arg):
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign):
            name, annotation = ast.unparse(node.target).rpartition(".")[2], node.annotation
        inner: ast.AST | None = annotation
        while isinstance(inner, (ast.BinOp, ast.Subscript)):  # `Any | None`, `Sequence[Any]`
            inner = inner.left if isinstance(inner, ast.BinOp) else inner.slice
        if name.strip("_") in PARTS and isinstance(inner, ast.Name) and inner.id == "Any":
            found.append(f"line {node.lineno}: {name}: {ast.unparse(annotation)}")  # type: ignore[arg-type]
    return found


def test_parts_of_the_model_have_types() -> None:
    found = [f"{path.relative_to(ROOT)}, {use}" for path in FILES for use in untyped_parts(path.read_text())]
    assert not found, "give a class, a protocol or object:\n" + "\n".join(found)


def test_the_finder_of_untyped_parts() -> None:
    source = """
def f(prior: Any, hps: Mapping[str, Any], priors: Sequence[Any | None], n: Any, *, vqvae: VQVAE): pass
class C:
    model: Any = None
    def __init__(self, **hps: int): self._vqvae: Any = 1
"""
    found = {use.partition(": ")[2] for use in untyped_parts(source)}
    assert found == {"prior: Any", "priors: Sequence[Any | None]", "model: Any", "_vqvae: Any"}
