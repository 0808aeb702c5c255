"""Imports run one way, models import little, and no module of ours hides another. Reads the source; runs none of it.

A new top-level module or package of `jukebox` gets a line in MAY_IMPORT; the fewer names in it, the better.
"""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
JUKEBOX = ROOT / "jukebox"

# From the ground up: hparams, utils and the page; transformer, vqvae and data side by side; native; prior; make_models;
# sampling, training, align and represent; the command lines.
_MODELS = {"utils", "hparams", "transformer", "vqvae", "data", "native", "prior", "make_models"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "__init__": {"version", "utils", "api", "music"},
    "hparams": {
        *(f"utils.{name}" for name in ("errors", "flag_values", "float32", "gone", "json_text", "levels")),
        "vqvae.loss_kinds",
    },
    "utils": {"version"},
    "page": {"utils"},
    "save_html": {"utils", "page"},
    "transformer": {"utils"},
    "vqvae": {"utils"},
    "data": {"utils", "hparams"},
    "native": {"utils", "transformer"},
    "prior": {"utils", "transformer", "vqvae.config", "vqvae.cpu", "native"},
    "weights": {"utils", "prior"},
    "make_models": _MODELS - {"make_models"} | {"weights"},
    "loaders": _MODELS | {"weights"},
    "sampling": _MODELS | {"loaders", "save_html", "version"},
    "align": _MODELS | {"weights", "loaders", "save_html", "sampling"},
    "features": _MODELS | {"loaders"},
    "represent": _MODELS | {"loaders", "features"},
    "reconstruction": _MODELS | {"page"},
    "reconstruct": _MODELS | {"loaders", "reconstruction"},
    "training": _MODELS | {"page", "reconstruction"},
    "sample": {"utils", "hparams", "make_models", "sampling"},
    "music": {"sampling", "utils"},
    "api": _MODELS | {"weights", "loaders", "sampling", "features", "reconstruction", "music"},
    "train": {"utils", "hparams", "training", "compat"},
    "compat": _MODELS | {"weights", "training"},
}
# Names that other people's code imports, thin over the real thing. Nothing of ours imports them.
COMPAT = {"compat.py", "checkpoints.py", "utils/ema.py", "utils/fp16.py"}
# These run on any box that has torch and numpy: they import nothing else, wherever in the file.
PURE = {"transformer", "vqvae", "native", "prior"}
# What a module may import while it is itself imported. All else (audio, plots, command lines) waits in the functions.
AT_MODULE_LEVEL = {"torch", "numpy"}
DYNAMIC = ("importlib.import_module", "import_module", "__import__")
# Installed where people want them: never required, so in neither list of requirements.
OPTIONAL = {"apex", "triton", "transformers", "cutlet", "huggingface_hub", "wandb"}


class Import(NamedTuple):
    """One imported name: `module` is dotted, `line` its place, `lazy` inside a function or only for type checkers."""

    module: str
    line: int
    lazy: bool


def read_imports(source: str) -> list[Import]:
    """All imports of a module's source; `from a import b` counts as `a` and as `a.b`, which may be a module."""
    return list(_walk(ast.parse(source), lazy=False))


def _walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield Import(module, node.lineno, lazy)
        yield from (Import(f"{module}.{alias.name}", node.lineno, lazy) for alias in node.names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in DYNAMIC:
        if node.args and isinstance(node.args[0], ast.Constant):
            yield Import(str(node.args[0].value), node.lineno, lazy)
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, inside or (typing_only and child in node.body))  # type: ignore[attr-defined]


def room(path: Path) -> str:
    """Top-level module or package of `jukebox` that a file belongs to; "compat" for all of COMPAT."""
    if path.relative_to(JUKEBOX).as_posix() in COMPAT:
        return "compat"
    return path.relative_to(JUKEBOX).parts[0].removesuffix(".py")


def top(module: str) -> str:
    return module.split(".")[0]


FILES = sorted(JUKEBOX.rglob("*.py"))
IMPORTS = {path: read_imports(path.read_text(encoding="utf-8")) for path in FILES}


def offences(allowed_by_file: dict[Path, list[Import]], why: str) -> str:
    return "\n".join(
        f"{path.relative_to(ROOT)}:{imported.line}: {imported.module} {why}"
        for path, found in allowed_by_file.items()
        for imported in found
    )


def against(where: str, imports: list[Import]) -> list[Import]:
    """The imports of our own modules that a room may not have."""
    allowed = [f"jukebox.{name}." for name in {where, *MAY_IMPORT.get(where, set())}]
    return [
        i
        for i in imports
        if i.module.startswith("jukebox.")
        and not any(f"{i.module}.".startswith(name) for name in allowed)
        # `from jukebox.vqvae import encdec` counts as both; the package itself holds nothing
        and not any(name.startswith(f"{i.module}.") and name.count(".") > 2 for name in allowed)
    ]


def third_party(imports: list[Import]) -> list[Import]:
    return [i for i in imports if top(i.module) not in sys.stdlib_module_names and top(i.module) not in ("jukebox", "")]


# ------------------------------------------------------------------------------------------------------------- tests


def test_every_room_has_its_place() -> None:
    missing = {room(path) for path in FILES} - set(MAY_IMPORT)
    assert not missing, f"say in MAY_IMPORT what {', '.join(sorted(missing))} may import"


def test_no_name_of_old_code_is_used() -> None:
    old = {f"jukebox.{path.removesuffix('.py').replace('/', '.')}" for path in COMPAT}
    ours = {path: found for path, found in IMPORTS.items() if room(path) != "compat"}
    ours[JUKEBOX / "train.py"] = [i for i in ours[JUKEBOX / "train.py"] if not i.lazy]  # hands them on
    used = {path: [i for i in found if i.module in old] for path, found in ours.items()}
    text = offences(used, "is for code outside of the package")
    assert not text, f"\n{text}"


def test_the_directions_hold_no_circle() -> None:
    done: set[str] = set()
    while waiting := set(MAY_IMPORT) - done:
        free = {name for name in waiting if {top(other) for other in MAY_IMPORT[name]} <= done}
        assert free, f"a circle among {', '.join(sorted(waiting))}"
        done |= free


def test_imports_run_one_way() -> None:
    text = offences({path: against(room(path), found) for path, found in IMPORTS.items()}, "runs against MAY_IMPORT")
    assert not text, f"\n{text}"


@pytest.mark.parametrize(
    ("where", "source", "refused"),
    [
        ("prior", "from jukebox.vqvae.cpu.tiling import TiledDecoderConvBlock", []),
        ("prior", "from jukebox.vqvae import cpu", []),
        ("prior", "from jukebox.vqvae import vqvae", ["jukebox.vqvae.vqvae"]),
        ("prior", "def f():\n    import jukebox.data.labels", ["jukebox.data.labels"]),
        ("utils", "from jukebox import hparams", ["jukebox.hparams"]),
        ("utils", "import jukebox.utils.files", []),
        ("sampling", "import jukebox.sample", ["jukebox.sample"]),
        ("sample", "import jukebox.sampling.windows, jukebox.hparams", []),
    ],
)
def test_the_reader_of_directions(where: str, source: str, refused: list[str]) -> None:
    assert [i.module for i in against(where, read_imports(source))] == refused


def test_imports_are_absolute() -> None:
    text = offences({p: [i for i in found if i.module.startswith(".")] for p, found in IMPORTS.items()}, "is relative")
    assert not text, f"\n{text}"


def test_models_import_torch_and_numpy_alone() -> None:
    wrong = {
        path: [i for i in third_party(imports) if top(i.module) not in ("torch", "numpy", *["apex"] * i.lazy)]
        for path, imports in IMPORTS.items()
        if room(path) in PURE
    }
    text = offences(wrong, "is more than torch and numpy")
    assert not text, f"\n{text}"


def test_heavy_libraries_wait_in_functions() -> None:
    wrong = {
        path: [i for i in third_party(imports) if not i.lazy and top(i.module) not in AT_MODULE_LEVEL]
        for path, imports in IMPORTS.items()
    }
    text = offences(wrong, "belongs inside the function that uses it")
    assert not text, f"\n{text}"


def test_hyperparameters_need_no_torch() -> None:
    """`--help` and refusals read them, and torch takes seconds to import."""
    modules = "jukebox, jukebox.hparams, jukebox.utils.errors, jukebox.utils.command_line, " + ", ".join(
        f"jukebox.{command}" for command in ("sample", "train", "align", "represent", "reconstruct")
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert not third_party(IMPORTS[JUKEBOX / "hparams.py"])


def test_no_name_hides_a_module() -> None:
    """`python jukebox/sample.py` puts `jukebox/` first on the path, where a name of ours would win."""
    ours = {
        path.name.removesuffix(".py")
        for path in JUKEBOX.iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    } - {"__init__"}
    assert ours >= {"hparams", "utils", "vqvae"}
    installed = {
        name: distributions
        for name, distributions in importlib.metadata.packages_distributions().items()
        if set(distributions) != {"jukebox"}
    }
    hidden = {
        name: installed.get(name, "the standard library") for name in ours & {*sys.stdlib_module_names, *installed}
    }
    assert not hidden, f"modules of jukebox/ that hide others: {hidden}"


def test_apex_stands_alone() -> None:
    files = sorted((ROOT / "apex").rglob("*.py"))
    assert len(files) > 3
    allowed = {"torch", "triton", "apex", "setuptools"}
    wrong = {p: [i for i in third_party(read_imports(p.read_text())) if top(i.module) not in allowed] for p in files}
    wrong_own = {p: [i for i in read_imports(p.read_text()) if top(i.module) == "jukebox"] for p in files}
    text = offences(wrong, "is foreign to apex/") + offences(wrong_own, "is imported by apex/")
    assert not text, f"\n{text}"


def test_tensorboardx_vendors_nothing() -> None:
    assert [path.name for path in (ROOT / "tensorboardX").rglob("*.py")] == ["setup.py"]


def test_third_party_modules_are_required() -> None:
    """What jukebox imports is pinned in requirements.txt."""
    distributions = importlib.metadata.packages_distributions()
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_normal(line.split("==")[0]) for line in lines if "==" in line}
    wrong = {}
    for path, imports in IMPORTS.items():
        candidates = [i for i in third_party(imports) if top(i.module) not in OPTIONAL]
        wrong[path] = [
            i
            for i in candidates
            if not {_normal(d) for d in distributions.get(top(i.module), [top(i.module)])} & pinned
        ]
    text = offences(wrong, "is not in requirements.txt")
    assert not text, f"\n{text}"


def _normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b", [("a.b", False)]),
        ("from a import b", [("a", False), ("a.b", False)]),
        ("from . import b", [(".", False), ("..b", False)]),
        ("def f():\n    import a", [("a", True)]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", [("a", True), ("b", False)]),
        ("class C:\n    import a", [("a", False)]),
        ("m = importlib.import_module('a.b')", [("a.b", False)]),
    ],
)
def test_the_reader_of_imports(source: str, expected: list[tuple[str, bool]]) -> None:
    assert [(i.module, i.lazy) for i in read_imports(source)] == expected
