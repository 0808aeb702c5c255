"""All files that could hold code are read through one door, `utils/safe_load.py`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "pandas"}
CALLS = {"exec", "eval", "compile", "__import__"}
METHODS = {  # module or its usual short name, function
    *((name, "load") for name in ("torch", "t", "th", "jit", "hub", "pickle", "dcp", "yaml")),
    *((name, "load_state_dict") for name in ("dcp", "checkpoint")),
    ("os", "system"),
    ("format", "read_array"),
}
# What each file may do; a line here says that somebody has thought about it.
DOORS = {
    "jukebox/utils/safe_load.py": {"import pickle", "torch.load"},
    "jukebox/data/metadata_hook.py": {"exec", "compile"},  # a Python file that the user named on the command line
}


def uses(path: Path) -> set[str]:
    """Everything in a file that could run what it reads."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            names = []
        for name in names:
            if name.split(".")[0] in MODULES:
                found.add(f"import {name.split('.')[0]}")
            if "distributed.checkpoint" in name:
                found.add("torch.distributed.checkpoint")
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in CALLS:
            found.add(function.id)
        if isinstance(function, ast.Attribute) and isinstance(function.value, (ast.Name, ast.Attribute)):
            of = function.value.id if isinstance(function.value, ast.Name) else function.value.attr
            if (of, function.attr) in METHODS:
                found.add(f"{of}.{function.attr}")
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg in ("allow_pickle", "shell") and not (isinstance(value, ast.Constant) and not value.value):
                found.add(f"{keyword.arg}=")
            if keyword.arg == "weights_only" and not (isinstance(value, ast.Constant) and value.value is True):
                found.add("weights_only=")
    return found


def test_one_door() -> None:
    files = [path for folder in ("jukebox", "tools", "benchmarks", "apex") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    found = {path.relative_to(ROOT).as_posix(): uses(path) for path in files}
    assert {name: what for name, what in found.items() if what} == DOORS


def test_the_test_finds_them(tmp_path: Path) -> None:
    """Each reader that the table names is found, however it is imported."""
    lines = {
        "import pickle as p": "import pickle",
        "from pickle import loads": "import pickle",
        "from torch.distributed import checkpoint as dcp": "",
        "from torch.distributed.checkpoint import load": "torch.distributed.checkpoint",
        "torch.load(f)": "torch.load",
        "torch.jit.load(f)": "jit.load",
        "np.load(f, allow_pickle=True)": "allow_pickle=",
        "torch.load(f, weights_only=False)": "weights_only=",
        "eval(text)": "eval",
        "import yaml": "import yaml",
        "subprocess.run(x, shell=True)": "shell=",
    }
    for line, wanted in lines.items():
        (tmp_path / "a.py").write_text(line)
        found = uses(tmp_path / "a.py")
        assert wanted in found if wanted else "torch.distributed.checkpoint" in found, line


def test_one_reader_of_json() -> None:
    """`utils/json_text.py`: JSON that is nested 100,000 deep is no other kind of fault than JSON that is cut off."""
    calls = {path.name for path in (ROOT / "jukebox").rglob("*.py") if "json.load" in path.read_text(encoding="utf-8")}
    assert calls == {"json_text.py", "scan.py"}  # the second one reads what a process of its own writes
