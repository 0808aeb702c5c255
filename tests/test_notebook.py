"""The notebook, run from top to bottom in a kernel of this interpreter, then looked at in a real browser.

Parameters get other values where a test says so; every other line runs as it is committed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
import torch
from browser import launched
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from tiny_models import ARTISTS, GENRES, SR, make_tiny_runs

from jukebox import sample
from jukebox.utils.audio.index import get_duration_sec
from jukebox.utils.command_line import parse_flags

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "jukebox" / "Interacting_with_Jukebox.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook: Any, text: str) -> Any:
    """The one code cell that holds a piece of text."""
    found = [cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source]
    assert len(found) == 1, f"{len(found)} cells with {text}"
    return found[0]


def change(notebook: Any, old: str, new: str) -> None:
    """Gives a parameter another value."""
    cell = code(notebook, old)
    cell.source = cell.source.replace(old, new)


def execute(notebook: Any, folder: Path, cwd: Path) -> Path:
    """Runs all cells in a kernel of this interpreter, whatever kernels the machine has; returns what was filled."""
    output = folder / "out"
    change(notebook, 'output = "samples/notebook"', f"output = {output.as_posix()!r}")
    change(notebook, 'device_name = ""', 'device_name = "cpu"')
    specs = folder / "kernels"
    (specs / "python3").mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python", "env": {"IPYTHONDIR": str(folder / "ipy")}}
    (specs / "python3" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(specs)], ensure_native_kernel=False),
        connection_file=str(folder / "connection.json"),
    )
    NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(cwd)}}).execute()
    return output


def printed(notebook: Any, text: str) -> str:
    """What the cell with a piece of text printed."""
    return "".join(output.text for output in code(notebook, text).outputs if output.output_type == "stream")


def displays(notebook: Any, tag: str) -> list[int]:
    """For each cell that displays such HTML elements, how many."""
    counts = []
    for cell in notebook.cells:
        shown = "".join(out.data.get("text/html", "") for out in cell.get("outputs", []) if "data" in out)
        counts.append(len(re.findall(rf"<{tag}\b", shown)))
    return [count for count in counts if count]


def load(folder: Path) -> Any:
    return torch.load(folder / "data.pth.tar", weights_only=True)


# ------------------------------------------------------------------------------------------------- as committed


def test_committed_without_outputs() -> None:
    notebook = read()
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in cells:
        assert cell.outputs == [] and cell.execution_count is None and not cell.metadata, cell.source
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    # The switch is the first line of the first cell.
    assert cells[0].source.splitlines()[0] == 'model = "demo"  # or "5b_lyrics", "1b_lyrics"'


def test_badge_of_colab_and_a_clone_beside_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read().cells[0].source
    assert "[![Open in Colab](attachment:colab.svg)](https://colab.research.google.com/github/)" in first
    assert list(read().cells[0].attachments) == ["colab.svg"]  # a page without a network shows it, too
    assert f"`{NOTEBOOK.relative_to(ROOT).as_posix()}`" in first
    for folder in ("repository/jukebox", "elsewhere/deep"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "repository" / "jukebox" / "sample.py").touch()
    finder = code(read(), "sys.path.insert").source
    monkeypatch.setattr(sys, "path", [*sys.path])
    for start in (".", "repository", "repository/jukebox"):
        monkeypatch.chdir(tmp_path / start)
        names: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # what comes after the search is not there
            exec(finder, names)
        assert names["root"] == tmp_path / "repository", start


def test_commands_at_the_end_are_accepted() -> None:
    block = re.findall(r"```sh\n(.*?)```", read().cells[-1].source, re.S)[0].replace("\\\n", " ")
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 2
    for words in commands:
        assert words[:2] == ["python", "jukebox/sample.py"]
        parse_flags(words[2:], sample.FLAGS)


# ------------------------------------------------------------------------------------------------- the demo model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The notebook after a run in jukebox/, where Jupyter starts it, and the folder that it filled."""
    notebook = read()
    return notebook, execute(notebook, tmp_path_factory.mktemp("notebook"), NOTEBOOK.parent)


@pytest.mark.slow
def test_demo_model_from_top_to_bottom(made: tuple[Any, Path]) -> None:
    notebook, folder = made
    songs = {
        "from_nothing/level_2": 2,
        "from_recording/level_2": 1,
        "composed/level_2": 1,
        "composed/level_1": 1,
        "composed/level_0": 1,
    }
    for name, count in songs.items():
        items = sorted((folder / name).glob("*.wav"))
        assert [item.name for item in items] == [f"item_{i}.wav" for i in range(count)], name
        assert "<audio" in (folder / name / "index.html").read_text(encoding="utf-8")
        for item in items:
            assert get_duration_sec(item, cache=False) == pytest.approx(4, abs=0.02)
    draft, finished = load(folder / "composed/level_2"), load(folder / "composed/level_0")
    codes = draft["zs"][2].shape[1]
    assert [z.shape for z in draft["zs"]] == [(1, 0), (1, 0), (1, codes)]
    assert [z.shape for z in finished["zs"]] == [(1, 16 * codes), (1, 4 * codes), (1, codes)]
    assert torch.equal(draft["zs"][2], finished["zs"][2])
    # The alignment is found at the top and handed down.
    assert torch.equal(finished["alignments"][0], load(folder / "composed/level_1")["alignments"][0])
    assert len(json.loads((folder / "composed/level_0/item_0/align.json").read_text())["lit"]) == codes

    assert printed(notebook, "unknown_names(artist") == ""  # the demo model knows the names
    assert printed(notebook, "the song is {") == f"the song is {codes * 128 / 11025:.2f} s long\n"
    assert "[ar:anna bell]" in printed(notebook, "alignment_picture(")
    assert displays(notebook, "audio") == [3, 3]  # two rounds of three candidates
    assert displays(notebook, "iframe") == [1, 1, 1, 1]


@pytest.mark.slow
def test_seen_in_a_browser(made: tuple[Any, Path], tmp_path: Path) -> None:
    # Without the libraries that this export would fetch from elsewhere; the notebook needs none of them.
    body, _ = HTMLExporter(mathjax_url="", require_js_url="", mermaid_js_url="").from_notebook_node(made[0])
    file = tmp_path / "notebook.html"
    file.write_text(body, encoding="utf-8")
    errors: list[str] = []
    with launched() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if urlsplit(request.url).netloc else None)
        page.goto(file.as_uri())
        length = """(all) => Promise.all(all.map((audio) => new Promise((done) => {
          if (audio.readyState) done(audio.duration); else audio.onloadedmetadata = () => done(audio.duration);
        })))"""
        assert page.locator("audio").evaluate_all(length) == pytest.approx([2, 2, 2, 4, 4, 4], abs=0.02)
        frames = page.frames[1:]
        assert [len(frame.locator("audio").evaluate_all(length)) for frame in frames] == [2, 1, 1, 1]
        assert "level 0" in frames[-1].locator("header").inner_text()

        # The page inside the notebook plays, and its lyrics light up as it does.
        play = """async (audio) => {
          const lyrics = document.querySelector(".lyrics"), lit = [];
          await audio.play();
          while (!audio.ended) {
            lit.push(Number(lyrics.dataset.lit));
            await new Promise((done) => requestAnimationFrame(done));
          }
          return lit;
        }"""
        lit = frames[-1].locator("audio").evaluate(play)
        shown = set(json.loads((made[1] / "composed/level_0/item_0/align.json").read_text())["lit"])
        assert len(set(lit)) >= min(5, len(shown)) and set(lit) <= shown | {-1}
        for picture in frames[-1].locator(".alignment img").all() + page.locator("img").all():
            assert picture.evaluate("(image) => image.naturalWidth") > 100
        page.get_by_text("Listen to the continuations").evaluate("(text) => text.scrollIntoView()")
        page.screenshot(path=str(tmp_path / "notebook.png"))
    assert errors == []


# ------------------------------------------------------------------------------------------------- the switch

# A tiny model in the place of the released one; it also makes sure that no two priors are in memory at once.
REGISTER = """
import weakref
from jukebox import make_models
from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams

for name in ("vq", "up0", "up1", "top"):
    path = f"{FOLDER}/logs/{name}/checkpoint_latest.pth.tar"
    found = Hyperparams(make_models.load_checkpoint(path)["hps"], train=False, labels_dir=FOLDER)
    found["restore_vqvae" if name == "vq" else "restore_prior"] = path
    HPARAMS_REGISTRY[f"tiny_{name}"] = found
make_models.MODELS["1b_lyrics"] = ("tiny_vq", "tiny_up0", "tiny_up1", "tiny_top")
alive, loaded, original = weakref.WeakSet(), [], make_models.make_prior

def make_prior(hps, vqvae, device):
    assert not alive, "the prior before it is still in memory"
    prior = original(hps, vqvae, device)
    alive.add(prior)
    loaded.append(hps.level)
    return prior

make_models.make_prior = make_prior
"""


@pytest.mark.slow
def test_switch_to_a_released_model(tmp_path: Path) -> None:
    make_tiny_runs(tmp_path, max_duration=600.0)
    for name, table in (("artist_ids.txt", ARTISTS), ("genre_ids.txt", GENRES)):
        (tmp_path / name).write_text("".join(f"{key};{value}\n" for key, value in table.items()), encoding="utf-8")
    notebook = read()
    change(notebook, 'model = "demo"  #', 'model = "1b_lyrics"  #')
    change(notebook, 'begin_with = ""', 'begin_with = folder / "from_nothing" / f"level_{top}" / "item_1.wav"')
    change(notebook, "choice = 1\nkeep_seconds = None", "choice = 1\nkeep_seconds = 8")
    place = next(i for i, cell in enumerate(notebook.cells) if "sys.path.insert" in cell.source)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(f"FOLDER = {tmp_path.as_posix()!r}\n{REGISTER}"))
    step_3 = code(notebook, "unknown_names(artist")
    # To compose again; and a cell may run twice.
    notebook.cells += [nbformat.v4.new_code_cell(step_3.source) for _ in range(2)]
    notebook.cells.append(nbformat.v4.new_code_cell("print(loaded, len(alive))"))
    folder = execute(notebook, tmp_path, ROOT)  # started in the repository, this time

    assert printed(notebook, "print(loaded") == "[2, 1, 0, 2, 2] 1\n"
    assert "artist 'Alan Jackson' is not known to the model" in step_3.outputs[0].text
    assert load(folder / "from_recording/level_2")["zs"][2].shape == (1, 20 * SR // 16)
    finished = load(folder / "composed/level_0")
    assert [z.shape[1] for z in finished["zs"]] == [4 * 125, 2 * 125, 125]  # 8 s of 2 and two pieces of 4
    lyrics = finished["labels"][2]["info"][0]["lyrics"]
    assert lyrics.startswith("I met a traveller") and finished["labels"][2]["y"][0, 0] == 180 * SR
    assert displays(notebook, "audio") == [3, 3] and displays(notebook, "iframe") == [1, 1, 1, 1]
