"""The pages of docs/ say what the code does: links lead somewhere, tables and drawings are in step, examples run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_runs
from tiny_training import CPU, TinyData, tiny_hps, tiny_model

from jukebox import represent, sample, train
from jukebox.data import build_labels
from jukebox.hparams import DEFAULTS, DESCRIPTIONS, HPARAMS_REGISTRY, setup_hparams
from jukebox.make_models import MODELS
from jukebox.prior import logits
from jukebox.training.checkpoint import run_files, save_training
from jukebox.training.codes import CodesDataset
from jukebox.training.planning import plan
from jukebox.training.step import make_training
from jukebox.transformer.patterns import KINDS, ORDERS
from jukebox.transformer.products import PRODUCTS
from jukebox.utils.command_line import parse_flags
from jukebox.utils.files import load_torch
from jukebox.utils.label_row import SIGNALS, LabelRow
from jukebox.utils.launch import read_launch
from jukebox.utils.sample_utils import schedule
from jukebox.vqvae.bottleneck import QUANTIZERS
from jukebox.vqvae.loss_kinds import LOSS_KINDS
from jukebox.vqvae.losses import RECONSTRUCTION, TERMS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINKING = [*PAGES, *sorted(ROOT.glob("README*.md")), ROOT / "CONTRIBUTING.md"]
OWN = [
    DOCS / f"{name}.md" for name in ("README", "architecture", "hparams", "formats", "extend", "cluster", "training")
]
sys.path.append(str(ROOT / "tools"))
import hparams_reference  # noqa: E402
import pattern_drawings  # noqa: E402


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(DOCS / page), re.S | re.M)


def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```$", "", read(path), flags=re.S | re.M)


# ------------------------------------------------------------------------------------------------------------ links


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(path), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)|`", lambda m: m[1] or "", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        result.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return result


@pytest.mark.parametrize("page", LINKING, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", lambda m: m[0] if "](" not in m[0] else "", prose(page))
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong, f"{page.name} links to what is not there: {wrong}"


@pytest.mark.parametrize("page", OWN, ids=lambda p: p.name)
def test_files_and_sets_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:jukebox|tools|tests|examples)/[\w./]+\.(?:py|md|pth\.tar))`", prose(page))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"{page.name} names files that are not there: {missing}"
    for names in re.findall(r"--hps=([\w,]+)", read(page)):
        setup_hparams(names, {})


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\]\((\w+\.md)\)", read(DOCS / "README.md")))
    assert {page.name for page in PAGES if page.name != "README.md"} <= listed


# -------------------------------------------------------------------------------------------------------- generated


def test_hyper_parameter_reference_is_in_step() -> None:
    assert read(hparams_reference.PAGE) == hparams_reference.render(), "type: python tools/hparams_reference.py"


def test_hyper_parameter_reference_knows_types() -> None:
    page = read(hparams_reference.PAGE)
    for row in (
        "| `y_bins` | int or list | `0` |",
        "| `blocks` | int or None | `None` |",
        "| `bf16` | bool or None | `None` |",
        "| `lr` | float | `0.0003` |",
        "| `downs_t` | list | `[1, 1]` |",
    ):
        assert row in page
    assert set(hparams_reference.SETS) <= set(HPARAMS_REGISTRY), "SETS of tools/hparams_reference.py names unknown sets"


def test_sets_on_the_page_add_up() -> None:
    """Whoever follows a set's base and its table gets exactly the values of the set."""
    for name, own in HPARAMS_REGISTRY.items():
        base = hparams_reference.nearest_earlier(name)
        values = HPARAMS_REGISTRY[base] if base else {}
        assert {**values, **hparams_reference.changes(own, values)} == own, name


def test_drawings_are_those_of_the_definition() -> None:
    page = read(pattern_drawings.PAGE)
    assert page == pattern_drawings.fill(page), "type: python tools/pattern_drawings.py"
    assert read(pattern_drawings.PICTURE) == pattern_drawings.picture(), "type: python tools/pattern_drawings.py"


def test_drawings_show_what_they_should() -> None:
    """A few marks by hand, so that the drawing is checked by something else than itself."""
    rows = {kind: pattern_drawings.rows(kind) for kind in KINDS}
    assert rows[0][2] == "###............."
    assert rows[1][6] == "....###........."
    assert rows[2][9] == ".#...#...#......"
    assert rows[3][3] == "................" and rows[3][4] == "####............"
    assert rows[4][8] == "0...#...#........"
    assert rows[5][6] == "00..##..#........."
    assert rows[6][0] == "LLLLLL"
    assert rows[7][4] == "LLLLL..........." and rows[7][15] == "LLLLLL##........"
    assert pattern_drawings.known_orders() == list(range(13))


def test_pictures_are_well_formed() -> None:
    from xml.etree import ElementTree

    for picture in DOCS.glob("*.svg"):
        root = ElementTree.parse(picture).getroot()
        assert root.tag.endswith("svg") and root.get("viewBox") and root.find("{*}title") is not None, picture.name


def test_window_drawing_is_the_schedule() -> None:
    drawing = next(block for block in blocks("architecture.md", "text") if "window 0" in block)
    drawn = re.findall(r"^window \d +(.*?) +start +(\d+), known (\d+), new (\d+)$", drawing, re.M)
    margin = drawing.index("01234567890123456789") - drawing.rindex("\n", 0, drawing.index("0123456789012345678")) - 1
    lines = [line[margin : margin + 20].rstrip() for line in drawing.splitlines() if line.startswith("window")]
    windows = schedule(20, 8, 5)
    assert [tuple(map(int, numbers)) for _, *numbers in drawn] == [(w.start, w.known, w.new) for w in windows]
    assert lines == [" " * w.start + "p" * w.known + "#" * w.new for w in windows]


def test_rates_of_the_models() -> None:
    page = read(DOCS / "architecture.md")
    for name, hops, rates in re.findall(r"^\| `(\w+_?vqvae|vqvae)`.*? \| ([\d /]+) \| ([\d,./ ]+) \|$", page, re.M):
        hps, found = setup_hparams(name, {}), [1]
        for stride, down in zip(hps.strides_t, hps.downs_t, strict=True):
            found.append(found[-1] * stride**down)
        assert [int(per_code) for per_code in hops.split(" / ")] == found[1:], name
        assert rates == " / ".join(f"{hps.sr / per_code:,.1f}" for per_code in found[1:]), name
    top = dict(re.findall(r"`(5b|1b_lyrics)`.*? \| (\d{4}) \| ([\d.]+) \|", page)[i][:2] for i in range(2))
    assert top == {name: str(setup_hparams(MODELS[name][-1], {}).n_ctx) for name in top} and len(top) == 2


# --------------------------------------------------------------------------------------------------------- examples


@pytest.fixture
def tables() -> Any:
    """What examples add to the tables of the package is taken out again."""
    filled: list[Any] = [
        HPARAMS_REGISTRY,
        MODELS,
        KINDS,
        ORDERS,
        PRODUCTS,
        QUANTIZERS,
        TERMS,
        RECONSTRUCTION,
        DESCRIPTIONS,
    ]
    filled += [SIGNALS, DEFAULTS["vqvae"]]
    known = [(table, dict(table)) for table in filled]
    options, flags, kinds = logits.SamplingOptions, list(sample.FLAGS), list(LOSS_KINDS)
    yield
    logits.SamplingOptions, sample.FLAGS[:], LOSS_KINDS[:] = options, flags, kinds
    for table, before in known:
        table.clear()
        table.update(before)


@pytest.mark.parametrize("page", ["extend.md", "hparams.md"])
def test_python_examples_run(page: str, tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {"__name__": "example"}
    found = blocks(page, "python")
    assert found
    for example in found:
        file = re.match(r"# file: (\S+)\n", example)
        if file:
            Path(file[1]).write_text(example, encoding="utf-8")
        else:
            exec(compile(example, page, "exec", dont_inherit=True), names)
    if page == "extend.md":
        assert load_torch("logs/tones/checkpoint_latest.pth.tar")["step"] == 5
        trained = load_torch("logs/recent/checkpoint_latest.pth.tar")
        assert trained["step"] > 5 and trained["hps"]["attn_order"] == 13
        assert load_torch("samples/recent/level_2/data.pth.tar")["zs"][2].shape == (1, 43)
        made = load_torch("samples/moody/level_2/data.pth.tar")
        assert made["zs"][2].shape == (1, 43)
        row = LabelRow(1, signals="mood,tempo")
        assert [made["labels"][2]["y"][0, row.signal(name)].item() for name in row.signal_names] == [2, 13]


COMMANDS = [
    (page.name, line) for page in OWN for block in blocks(page.name, "sh") for line in block.splitlines() if line
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_accepted(page: str, command: str) -> None:
    words = shlex.split(command.replace("torchrun --nproc-per-node 8", "python"))
    if words[0] == "mpiexec":
        words = words[words.index("python") :]
    assert words[0] == "python"
    if words[1] == "-m":
        assert words[2:4] == ["jukebox.data.labels", "build"]
        parse_flags(words[4:], build_labels.FLAGS)
        return
    assert (ROOT / words[1]).is_file()
    known = {"train.py": train.flags(), "sample.py": sample.FLAGS, "represent.py": represent.FLAGS}
    given = parse_flags(words[2:], known[Path(words[1]).name])
    if words[1] == "jukebox/train.py":
        train.read_hps({**given, "dry_run": True})  # checked but for its files


def test_slurm_scripts_are_shell_and_their_commands_are_accepted() -> None:
    scripts = blocks("cluster.md", "bash")
    assert len(scripts) == 3
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        flat = script.replace("\\\n", " ")
        command = next(line for line in flat.splitlines() if "jukebox/train.py" in line)
        words = shlex.split(command.split("jukebox/train.py")[1])
        train.read_hps({**parse_flags(words, train.flags()), "dry_run": True})


def test_the_plan_on_the_page_is_the_plan() -> None:
    page = read(DOCS / "cluster.md")
    shown = re.findall(r"^```sh\n(python jukebox/train.py .*--dry_run)\n```\n\n```text\n(.*?)^```$", page, re.S | re.M)
    assert shown
    for command, output in shown:
        hps = train.read_hps(parse_flags(shlex.split(command)[2:], train.flags()))
        assert "\n".join(plan(hps)) == output.strip("\n"), f"run it again and paste: {command}"


def test_launchers_on_the_page() -> None:
    rows = re.findall(r"^\| ([\w ]+) \| `(\w+)`, `(\w+)` \| `(\w+)` \|$", read(DOCS / "cluster.md"), re.M)
    assert len(rows) == 5
    for launcher, rank, size, local in rows:
        launch = read_launch({rank: "3", size: "8", local: "1"})
        assert (launch.launcher, launch.rank, launch.size, launch.local_rank) == (launcher, 3, 8, 1)


# ---------------------------------------------------------------------------------------------------------- formats


def keys(section: str) -> dict[str, str]:
    """The first table below a heading (or a line of a file's name) of formats.md: key -> second column."""
    text = read(DOCS / "formats.md")
    begin = re.search(rf"^(?:#+ {re.escape(section)}|`{re.escape(section)}`:)$", text, re.M)
    assert begin, section
    table = re.search(r"^\| key \|.*?\n\| --- .*?\n((?:\|.*\n)+)", text[begin.end() :], re.M)
    assert table, section
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table[1], re.M))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run of a tiny model with lyrics, and the model."""
    folder = tmp_path_factory.mktemp("formats")
    model = make_tiny_runs(folder)
    words = dict(sample_length_in_seconds=2.304, hop_fraction=(1.0, 1.0, 0.5), lyrics="la la la, the end")
    assert sample.main(model=model, name=str(folder / "run"), **words) == 0
    return folder, model


def test_keys_of_a_run(run: tuple[Path, str]) -> None:
    folder = run[0] / "run"
    data, state = load_torch(folder / "level_1/data.pth.tar"), load_torch(folder / "state.pth.tar")
    assert set(data) == set(keys("data.pth.tar"))
    assert set(state) == set(keys("state.pth.tar"))
    assert [z.dtype for z in data["zs"]] == [torch.int64] * 3 and data["zs"][0].shape == (1, 0)
    assert data["x"].shape == (1, 576, 1) and data["x"].dtype == torch.float32
    assert set(data["labels"][2]) == {"y", "info"}
    assert set(data["labels"][2]["info"][0]) == {"artist", "genre", "lyrics", "full_tokens"}
    assert data["alignments"][0].dtype == torch.float64 and data["alignments"][0].shape == (36, 17)
    assert {z.dtype for z in state["zs"]} == {torch.int32}
    names = set(re.findall(r"`(\w+)`", keys("data.pth.tar")["sampling_kwargs"]))
    for kwargs in data["sampling_kwargs"]:
        assert names - {"top_k", "top_p", "dtype", "engine", "made_by"} <= set(kwargs) <= names
    for name in ("lyrics.json", "align.json"):
        assert set(json.loads(read(folder / "level_0/item_0" / name))) == set(keys(name)), name
    found = {path.name for path in (folder / "level_0/item_0").iterdir()}
    assert found == {"audio.wav", "lyrics.json", "align.json", "align.png", "lyrics.lrc"}


def test_keys_of_features_and_of_the_audio_index(run: tuple[Path, str], tmp_path: Path) -> None:
    folder, model = run
    music, out = tmp_path / "music", tmp_path / "features"
    music.mkdir()
    (music / "a.wav").write_bytes((folder / "run/level_0/item_0.wav").read_bytes())
    flags = {flag.name: flag.default for flag in represent.FLAGS}
    settings = dict(model=model, audio_files_dir=str(music), out=str(out), layers=2, pool="none", device="cpu")
    assert represent.main(**{**flags, **settings}) in (0, None)
    note, array = json.loads(read(out / "a.wav.json")), np.load(out / "a.wav.npy")
    assert set(note) == set(keys("Features")) and note["shape"] == list(array.shape)
    index = json.loads(read(music / ".jukebox_index.json"))
    assert f'{{"version": {index["version"]}, "files"' in read(DOCS / "formats.md")
    assert set(index["files"]["a.wav"]) == set(keys("Audio index"))


def test_keys_of_training_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = keys("Of a training run")
    for prior in (False, True):
        for ema in (False, True):
            hps = tiny_hps(prior=prior, ema=ema, mu=0.9, name=f"run{prior}{ema}")
            training = make_training(tiny_model(hps), hps, CPU)
            extra = {"bandwidth": {}, **({"vqvae": ""} if prior else {})}  # what the loop adds
            record = {"hps": dict(hps), "command": "train.py", "versions": {}, "best": 1.0, **extra}
            path = save_training(training, run_files(hps), record, TinyData(hps).state_dict(0))
            meant = {"all"} | ({"prior"} if prior else {"VQ-VAE"}) | ({"with an average"} if ema else set())
            assert set(load_torch(path)) == {key for key, where in said.items() if where in meant}, (prior, ema)


def test_keys_of_saved_labels(run: tuple[Path, str]) -> None:
    labels = load_torch(run[0] / "logs/top/checkpoint_latest.pth.tar")["labels"]
    sentence = re.search(r"`labels` has (.*?);", read(DOCS / "formats.md"), re.S)
    assert sentence and set(re.findall(r"`(\w+)`", sentence[1])) == set(labels)


def test_files_of_codes_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jukebox.utils.audio.write import write_audio

    monkeypatch.chdir(tmp_path)
    hps = tiny_hps(prior=True, audio_files_dir="music", codes_dir="codes")
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (3 * hps.sample_length, 1)).astype(np.float32)
    for name in "ab":
        write_audio(f"music/{name}.wav", sound, hps.sr)
    vqvae = tiny_model(tiny_hps()).eval()
    CodesDataset(hps).prepare(vqvae)
    made_of = json.loads(read(Path("codes/codes.json")))
    assert set(made_of) == set(keys("codes_dir")) and made_of["dtype"] == "uint16"
    name, first, samples, place = json.loads(read(Path("codes/part_0/index.json")))["segments"][1]
    assert samples == hps.sample_length
    for level, per_code in enumerate(made_of["hops"]):
        stored = np.fromfile(f"codes/part_0/level_{level}.bin", made_of["dtype"])[place // per_code :][
            : samples // per_code
        ]
        audio = torch.from_numpy(sound[first : first + samples, 0])[None, :, None]
        want = vqvae.encode(audio, level, level + 1)[0][0].numpy()
        assert (stored == want).mean() > 0.95  # the file has 16 bits
