"""Compares this project with the reference's numbers.

    python tests/golden.py FOLDER [PATTERN ...] [--device=cuda]

runs every `*.pt` and `manifest_*.json` of the folder (those whose name fits a pattern, if any is given), prints a line
each (ok | FAIL | skip, name, device of the tensors that were compared, how many, largest error, tolerance) and a
summary. Exit status 1 on any failure or unknown case, 2 if there is no such device. The mapping of cases to classes is
in `golden_cases/`; pytest runs the same code (`test_golden.py`).
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import os
import pkgutil
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import golden_cases  # noqa: E402
import torch  # noqa: E402
from golden_cases.checks import Check, Skip, find  # noqa: E402

from jukebox.utils.dist_utils import pick_device  # noqa: E402
from jukebox.utils.errors import UserError  # noqa: E402
from jukebox.utils.flag_values import device_name  # noqa: E402
from jukebox.utils.float32 import keep_float32  # noqa: E402

for _module in pkgutil.iter_modules(golden_cases.__path__):
    importlib.import_module(f"golden_cases.{_module.name}")


def cases(folder: Path) -> list[Path]:
    """The golden files of a folder, in order of name."""
    return sorted([*folder.glob("*.pt"), *folder.glob("manifest_*.json")])


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return torch.load(path, weights_only=True, map_location=device)


def run(path: Path, device: torch.device | str = "cpu") -> tuple[str, str]:
    """Runs one case on a device, float32 exact. Returns ("ok" | "FAIL" | "skip", what to print about it)."""
    function = find(path.stem)
    if function is None:
        return "FAIL", "unknown case: no function is registered for this name"
    check = Check()
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    # The reference ran on one thread. Its VQ-VAE cases reach magnitudes of 1e5, where the order of a sum, which depends
    # on the number of threads, moves small elements by more than the tolerance.
    torch.set_num_threads(1)
    try:
        with keep_float32():
            function(load(path, device), check)
    except Skip as reason:
        return "skip", str(reason)
    except ModuleNotFoundError as error:
        if torch.device(device).type == "cpu" or (error.name or "").startswith("jukebox"):
            return "FAIL", f"{error}"
        return "skip", f"this machine has a card but not {error.name}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "FAIL", f"on {device}: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    finally:
        torch.set_num_threads(threads)
    if check.failures:
        worst = "; ".join(check.failures[:4])
        return "FAIL", f"on {check.places()}: {len(check.failures)} of {check.compared} differ: {worst}"
    if not check.compared:
        return "FAIL", "nothing was compared"
    _, what, error, tolerance = check.worst
    found = f"{check.compared} compared, largest error {error:.2g} in {what}, tolerance {tolerance}"
    return "ok", f"on {check.places()}: {found}"


def main(arguments: list[str]) -> int:
    wanted = [word.removeprefix("--device=") for word in arguments if word.startswith("--device=")]
    arguments = [word for word in arguments if not word.startswith("--device=")]
    try:
        device = pick_device(0, 1, device_name(wanted[-1] if wanted else "cpu"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if device.type != "cpu":  # cases make tensors of their own
        torch.set_default_device(device)
    if not arguments or not Path(arguments[0]).is_dir():
        print(__doc__)
        return 2
    for near in Path(arguments[0]).resolve().parents:  # the released label tables may be beside the cases
        if (near / "ids" / "v2_artist_ids.txt").is_file():
            os.environ.setdefault("JUKEBOX_IDS", str(near / "ids"))
    counts = {"ok": 0, "FAIL": 0, "skip": 0}
    for path in cases(Path(arguments[0])):
        if len(arguments) > 1 and not any(fnmatch.fnmatchcase(path.stem, p) for p in arguments[1:]):
            continue
        status, text = run(path, device)
        counts[status] += 1
        print(f"{status:4} {path.stem:45} {text}", flush=True)
    print(f"{counts['ok']} passed, {counts['FAIL']} failed, {counts['skip']} skipped")
    if not sum(counts.values()):
        print(f"no case of that name is in {arguments[0]}" if arguments[1:] else f"no case is in {arguments[0]}")
    return 1 if counts["FAIL"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
