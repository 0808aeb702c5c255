"""Writes docs/licences.md, the licences of all that is installed with this package: python tools/licences.py

They are read from the packages themselves. Rows of packages that are not installed here, for another Python or system,
stay as they are on the page.
"""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
# Where a package has no short name of its licence.
SAID = {
    "axe-playwright-python": "MIT, with axe-core: MPL-2.0",
    "jupyterlab-pygments": "BSD-3-Clause",
    "triton": "MIT",
}
# Long words of old metadata -> the short name.
SHORT = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD",
    "bsd license": "BSD",
    "bsd 3-clause license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "isc": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "gplv2+": "GPL-2.0-or-later",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
}
HEAD = """\
# Licences

This project is MIT. What it is installed with has licences of its own, as each package states it; written by `python
tools/licences.py`. Packages with a copyleft licence are marked with *: whoever ships them along has duties. Unidecode
(GPL) makes ASCII of lyrics and names, and is needed. The wheels of `av` hold FFmpeg's libraries, under FFmpeg's own
licences. PyTorch's build for CUDA brings libraries of NVIDIA (`nvidia-*`, `cuda-*`), under NVIDIA's licences.
"""
# What only some builds of PyTorch ask for; triton is a package of the tests, too.
BUILD = ("nvidia-", "cuda-", "triton")
COPYLEFT = re.compile(r"\bA?GPL|LGPL|MPL", re.I)


def setup_requirements(file: str, extra: str = "") -> list[str]:
    """Requirements of a setup.py, or of one of its extras."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    call = next(n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "setup")
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    found = ast.literal_eval(given["extras_require" if extra else "install_requires"])
    return list(found[extra] if extra else found)


def file_requirements(file: str) -> list[str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def groups() -> dict[str, list[str]]:
    """Heading -> requirements, in the order of the page."""
    return {
        "Always": file_requirements("requirements.txt"),
        "TensorBoard, by `make venv` or `pip install ./tensorboardX`": setup_requirements("tensorboardX/setup.py"),
        "The extra `analysis`": setup_requirements("setup.py", "analysis"),
        "The extra `japanese`": setup_requirements("setup.py", "japanese"),
        "Tests": file_requirements("requirements-dev.txt"),
    }


def closure(requirements: list[str]) -> set[str]:
    """Names of packages that requirements bring in, as far as they are installed here; direct ones in any case."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in needs:
            needed = Requirement(text)
            if canonicalize_name(needed.name).startswith(BUILD):
                continue
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(Requirement(str(needed).partition(";")[0]))
    return found


def licence(name: str) -> str:
    """The licence of an installed package by its short name, "" for one that is not installed."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    classified = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License :: ")]
    classified = [text for text in classified if text != "OSI Approved"]
    stated = about.get("License-Expression") or SAID.get(canonicalize_name(name)) or ""
    text = (about.get("License") or "").strip()
    if not stated and text and len(text) < 60 and "\n" not in text and text.lower() != "unknown":
        stated = text
    stated = stated or " AND ".join(classified) or text.splitlines()[0][:60] if (stated or classified or text) else "?"
    return SHORT.get(stated.lower(), stated)


def on_page() -> dict[str, dict[str, str]]:
    """Heading -> package -> licence, as the page has it."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    parts = re.split(r"^## (.*)$", text, flags=re.M)[1:]
    rows = [dict(re.findall(r"^\| `([\w.-]+)`\*? \| (.+?) \|$", part, re.M)) for part in parts[1::2]]
    return dict(zip(parts[::2], rows, strict=True))


def render() -> str:
    """The page; a package is in the first group that brings it."""
    before, seen, text = on_page(), set[str](), HEAD
    for heading, requirements in groups().items():
        known = before.get(heading, {})
        names = closure(requirements) - seen
        rows = {name: licence(name) or known.get(name, "?") for name in names}
        rows.update({name: value for name, value in known.items() if not licence(name) and name not in seen})
        seen |= set(rows)
        text += f"\n## {heading}\n\n| package | licence |\n| --- | --- |\n"
        for name, value in sorted(rows.items()):
            text += f"| `{name}`{'*' if COPYLEFT.search(value) else ''} | {value} |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
