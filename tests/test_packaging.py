"""What gets installed by `pip install .`, `./apex` and `./tensorboardX`, and that the lists of requirements agree."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import jukebox
from jukebox import sample
from jukebox.utils.command_line import parse_flags

ROOT = Path(__file__).parents[1]


COMMANDS = ("sample", "train", "align", "represent", "reconstruct")


def install(folder: Path, target: Path) -> None:
    """Builds a wheel of a copy of a folder and installs it into a target folder, without requirements or network."""
    pip, wheels = [sys.executable, "-m", "pip", "--quiet"], target.with_name(f"{target.name}_wheel")
    offline = ["--no-deps", "--no-index"]
    run([*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(wheels), str(folder)])
    (wheel,) = wheels.glob("*.whl")
    run([*pip, "install", *offline, "--target", str(target), str(wheel)])


def run(words: list[str], cwd: Path | None = None, path: Path | None = None) -> str:
    """Runs a command, with `path` before all that is installed, and returns what it prints."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pins(file: str) -> dict[str, list[Requirement]]:
    """Requirements of a file by name; a name may have several, for several Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            found.setdefault(requirement.name.lower(), []).append(requirement)
    return found


def setup_arguments(file: str) -> dict[str, ast.expr]:
    """Arguments of the call of `setup` in a setup.py, unread."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setup"]
    return {keyword.arg or "": keyword.value for keyword in calls[0].keywords}


PINNED_FOR_TESTS = ("huggingface_hub", "librosa")
UNTESTED = {"japanese"}  # extras of which the tests know only a stand-in


def ranges(file: str) -> list[Requirement]:
    """The requirements of a setup.py, those of its tested extras included."""
    arguments = setup_arguments(file)
    texts = list(ast.literal_eval(arguments["install_requires"]))
    if "extras_require" in arguments:
        extras = ast.literal_eval(arguments["extras_require"])
        texts += [text for name, extra in extras.items() if name not in UNTESTED for text in extra]
    return [Requirement(text) for text in texts]


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is no pin"
    return specifier.version


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_all_versions_are_pinned(file: str) -> None:
    for requirements in pins(file).values():
        for requirement in requirements:
            assert version(requirement)


def test_torch_is_pinned_first() -> None:
    """`make venv` reads the line, and installs it before all others."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")][0] == "torch==2.13.0"


def test_ranges_hold_the_tested_versions_and_nothing_else() -> None:
    """The extras for analysis and for the hub are not a part of what runs; tests pin them."""
    tested, wanted = pins("requirements.txt"), {r.name.lower(): r for r in ranges("setup.py")}
    analysis = {
        name: requirements for name, requirements in pins("requirements-dev.txt").items() if name in PINNED_FOR_TESTS
    }
    tested |= analysis
    assert set(tested) == set(wanted) and "librosa" not in pins("requirements.txt")
    for name, requirement in wanted.items():
        for pin in tested[name]:
            assert requirement.specifier.contains(version(pin)), f"{pin} lies outside of {requirement}"


def test_the_monitor_pins_what_training_was_tested_with() -> None:
    monitor = {r.name.lower(): version(r) for r in ranges("tensorboardX/setup.py")}
    assert monitor["tensorboardx"] == version(pins("requirements.txt")["tensorboardx"][0])


def test_the_lock_holds_every_pin_with_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^(\S.*?) \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert "".join(f"{requirement} \\\n{hashes}" for requirement, hashes in entries) == text  # no index, no options
    locked = {(r.name.lower().replace("_", "-"), version(r)) for r, _ in ((Requirement(e), h) for e, h in entries)}
    for file in ("requirements.txt", "requirements-dev.txt"):
        wanted = {(name.replace("_", "-"), version(pin)) for name, several in pins(file).items() for pin in several}
        assert not wanted - locked, "run `make lock`"


@pytest.mark.parametrize("locked", ["", "1"])
def test_ci_installs_by_the_lock(locked: str, tmp_path: Path) -> None:
    plan = make_plan("dev", f"LOCKED={locked}", venv=tmp_path / "venv")
    assert ("--require-hashes --no-deps -r" in plan) == bool(locked)
    assert ("-r requirements.txt" in plan) != bool(locked) and ("-r requirements-dev.txt" in plan) != bool(locked)
    assert ("--no-build-isolation" in plan) == bool(locked)  # which would fetch a setuptools that nothing compared


def test_the_oldest_versions_are_those_of_the_ranges(tmp_path: Path) -> None:
    plan = make_plan("lowest", f"VENV={tmp_path}/venv", venv=tmp_path / "venv")
    (line,) = [line for line in plan.splitlines() if line.startswith("sed ")]
    found = run(["sh", "-c", line.rsplit(">", 1)[0]], cwd=ROOT).split()
    install_requires = ast.literal_eval(setup_arguments("setup.py")["install_requires"])
    assert found == [text.replace(">=", "==") for text in install_requires]


def make_plan(*words: str, venv: Path) -> str:
    """What `make` would type."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "CPU"}
    words = ("make", "--dry-run", *words, f"VENV={venv}")
    return subprocess.run(words, cwd=ROOT, env=clean, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("words", "cpu", "monitor"),
    [
        (["sample"], "auto", False),
        (["sample", "CPU=0"], "0", False),
        (["sample", "CPU=1"], "1", False),
        (["venv"], "", True),
        (["venv", "CPU=1"], "1", True),
        (["tests"], "", False),
    ],
)
def test_make_chooses_the_build_of_torch(words: list[str], cpu: str, monitor: bool, tmp_path: Path) -> None:
    plan = make_plan(*words, venv=tmp_path / "venv")
    (line,) = [line for line in plan.splitlines() if "tools/install-torch.sh" in line]
    assert line.split()[-1] == (cpu or "requirements.txt)")
    assert ("./tensorboardX" in plan) is monitor


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
@pytest.mark.parametrize(
    ("cpu", "driver", "index_is_there", "tries"),
    [
        ("0", False, True, ["usual"]),
        ("", False, True, ["usual"]),
        ("1", False, True, ["processors"]),
        ("1", False, False, ["processors", "usual"]),
        ("auto", True, True, ["usual"]),
    ],
)
def test_installing_torch(cpu: str, driver: bool, index_is_there: bool, tries: list[str], tmp_path: Path) -> None:
    log, packages = tmp_path / "log", tmp_path / "packages"
    for part in ("test", "bin"):
        (packages / "torch" / part).mkdir(parents=True)
    (packages / "torch" / "bin" / "torch_shm_manager").touch()
    fake = tmp_path / "python"
    fake.write_text(
        f'''#!/bin/sh
[ "$1" = -c ] && {{ echo "{packages}"; exit 0; }}
echo "$@" >> "{log}"
case "$*" in *--index-url*) exit {0 if index_is_there else 1} ;; esac
'''
    )
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    for file in (fake, tmp_path / "nvidia-smi"):
        file.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}" if driver else os.environ["PATH"]
    script = [str(ROOT / "tools" / "install-torch.sh"), str(fake), "torch==2.13.0", *([cpu] if cpu else [])]
    subprocess.run(["sh", *script], env={**os.environ, "PATH": path}, check=True, capture_output=True)
    calls = log.read_text().splitlines()
    assert ["processors" if "--index-url" in call else "usual" for call in calls] == tries
    assert all(call.endswith("torch==2.13.0") for call in calls)
    assert (packages / "torch" / "test").exists() is (tries[0] == "usual") and (
        packages / "torch" / "bin" / "torch_shm_manager"
    ).exists()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="older Pythons have pins of their own")
def test_licences_are_those_of_the_packages() -> None:
    sys.path.append(str(ROOT / "tools"))
    import licences

    page = licences.PAGE.read_text(encoding="utf-8")
    assert page == licences.render(), "type: python tools/licences.py"
    rows = {name: value for group in licences.on_page().values() for name, value in group.items()}
    assert "?" not in rows.values() and rows["unidecode"] == "GPL" and "| `unidecode`* |" in page
    direct = {name for file in ("requirements.txt", "requirements-dev.txt") for name in pins(file)}
    assert {name.replace("_", "-") for name in direct} <= set(rows)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's packages, since building leaves files; `installed/NAME` beside them."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("pip and setuptools are needed to build packages (requirements-dev.txt has the latter)")
    copy = tmp_path_factory.mktemp("packages")
    ignore = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    for name in ("jukebox", "apex", "tensorboardX"):
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    (copy / "tests").mkdir()  # a package beside ours, which must stay out
    (copy / "tests" / "__init__.py").touch()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    for name, folder in {"jukebox": copy, "apex": copy / "apex", "monitor": copy / "tensorboardX"}.items():
        install(folder, copy / "installed" / name)
    return copy / "installed"


def top_level(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".dist-info"))


def test_installing_brings_our_package_alone(folders: Path) -> None:
    assert top_level(folders / "jukebox") == ["bin", "jukebox"]
    scripts = {path.name for path in (folders / "jukebox" / "bin").iterdir() if path.is_file()}
    assert scripts == {f"jukebox-{command}" for command in COMMANDS}
    assert top_level(folders / "apex") == ["apex"]
    assert top_level(folders / "monitor") == []


def test_everything_in_the_package_is_installed(folders: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {str(path.relative_to(folder)) for path in found}

    assert files(ROOT / "jukebox") == files(folders / "jukebox" / "jukebox")
    assert files(ROOT / "apex" / "apex") == files(folders / "apex" / "apex")


def test_installed_packages_import_from_anywhere(folders: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import jukebox.hparams, apex.optimizers, tensorboardX\n"
        "print(jukebox.hparams.__file__, apex.optimizers.__file__, tensorboardX.__file__, sep=chr(10))"
    )
    command = [sys.executable, "-c", code, *(str(folders / name) for name in ("jukebox", "apex", "monitor"))]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    assert found[0].startswith(str(folders / "jukebox")) and found[1].startswith(str(folders / "apex"))
    assert "site-packages" in found[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_from_anywhere(folders: Path, command: str, tmp_path: Path) -> None:
    """As `jukebox-sample`, as `python -m jukebox.sample` and as a script."""
    installed = folders / "jukebox"
    by_name = [str(installed / "bin" / f"jukebox-{command}")]
    ways = [by_name, [sys.executable, "-m", f"jukebox.{command}"]]
    ways.append([sys.executable, str(installed / "jukebox" / f"{command}.py")])
    for words in ways:
        assert run([*words, "--version"], tmp_path, installed) == f"jukebox {jukebox.__version__}\n"
    assert run([*by_name, "--help"], tmp_path, installed).startswith(f"usage: jukebox-{command} [")


def test_the_version_has_one_home(folders: Path) -> None:
    (found,) = (folders / "jukebox").glob("jukebox-*.dist-info")
    assert found.name == f"jukebox-{jukebox.__version__}.dist-info"


def test_the_index_wins_in_the_repository() -> None:
    """From the root, folders called apex and tensorboardX must not answer for the installed packages."""
    code = "import tensorboardX; print(tensorboardX.SummaryWriter.__name__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "SummaryWriter"


def docker_steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile and their arguments, lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_docker_file_is_sound() -> None:
    """It is built in no test: what a linter would say, and that what it copies and runs is there."""
    steps = docker_steps()
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "CMD"}
    assert steps[0][0] == "FROM" and {name for name, _ in steps} == known
    image, _, tag = steps[0][1].partition(":")
    assert image == "python" and tag.endswith("-slim") and (3, 10) <= tuple(map(int, tag[:4].split("."))) <= (3, 13)
    for name, words in steps:
        if name == "COPY":
            assert all((ROOT / source).exists() for source in words.split()[:-1]), words
        if "apt-get install" in words:
            assert "--no-install-recommends" in words and words.endswith("rm -rf /var/lib/apt/lists/*")
        if "pip install" in words:
            assert "--no-cache-dir" in words
    copied = {source for name, words in steps if name == "COPY" for source in words.split()[:-1]}
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignore[0] == "*" and {line[1:] for line in ignore if line.startswith("!")} == copied
    command = ast.literal_eval(steps[-1][1])
    assert steps[-1][0] == "CMD" and command[0] == "python" and (ROOT / command[1]).is_file()
    parse_flags(command[2:], sample.FLAGS)
