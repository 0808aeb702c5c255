"""The README: its commands run, its links lead somewhere, its messages exist, and the Japanese one keeps step."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from readme_commands import (
    COMMANDS,
    PROMPTED,
    PYTHON_COMMANDS,
    README,
    ROOT,
    Workplace,
    fenced,
    makes,
    prose,
    script,
    value,
)
from readme_commands import without_remark as bare

from jukebox import align, hparams, make_models, reconstruct, represent, sample, train
from jukebox.data.synthesizer import ARTISTS, GENRES
from jukebox.hparams import setup_hparams
from jukebox.loaders import bare_prior, find_model
from jukebox.sampling.plan import prior_bytes, song_bytes
from jukebox.utils.command_line import parse_flags
from jukebox.utils.files import load_torch, save_torch

JAPANESE = (ROOT / "README.ja.md").read_text(encoding="utf-8")
OTHER_LANGUAGE = {"README.md", "README.ja.md"}


def name_of(command: str) -> str:
    """A short name for a test's list: its number, the script, and what it makes."""
    what = value(command, "name") or value(command, "out") or shlex.split(command)[-1].strip("-")
    return f"{PYTHON_COMMANDS.index(command):02}-{Path(script(command)).stem}-{what.replace('/', '_')}"


# ------------------------------------------------------------------------------------------------- both languages


def headings(text: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) \S", prose(text), re.M)]


def tables(text: str) -> list[list[list[str]]]:
    """Every table: its rows without the ruler, cell by cell."""
    found = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", prose(text), re.M)]
    return [[re.split(r"(?<!\\)\|", row)[1:-1] for row in table[:1] + table[2:]] for table in found]


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(text))


def code(text: str) -> list[str]:
    """Code within lines, with one space where a line was broken."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def test_japanese_commands() -> None:
    ours, theirs = ([(kind, [*map(bare, block.splitlines())]) for kind, block in fenced(t)] for t in (README, JAPANESE))
    assert theirs == ours and len(ours) > 15


def test_japanese_headings() -> None:
    assert headings(JAPANESE) == headings(README) and len(headings(README)) > 15


def test_japanese_tables() -> None:
    ours, theirs = tables(README), tables(JAPANESE)
    assert [len(table) for table in theirs] == [len(table) for table in ours] and len(ours) > 3
    for one, other in zip(ours, theirs, strict=True):
        for row, translated in zip(one, other, strict=True):
            assert [code(cell) for cell in translated] == [code(cell) for cell in row]
            numbers = [re.findall(r"\d+(?:[.,]\d+)*", cell) for cell in row]
            assert [re.findall(r"\d+(?:[.,]\d+)*", cell) for cell in translated] == numbers


def test_japanese_links_and_code() -> None:
    assert OTHER_LANGUAGE & {*links(README)} == {"README.ja.md"}
    assert OTHER_LANGUAGE & {*links(JAPANESE)} == {"README.md"}
    ours, theirs = ([link for link in links(text) if link not in OTHER_LANGUAGE] for text in (README, JAPANESE))
    theirs = [link.replace(".ja.png", ".png") for link in theirs]  # its pictures show pages in Japanese
    assert theirs == ours and len(ours) > 5
    assert Counter(code(prose(JAPANESE))) == Counter(code(prose(README)))


def test_japanese_is_japanese() -> None:
    """Every paragraph has been translated."""
    for paragraph in re.split(r"\n\n+", prose(JAPANESE)):
        words = re.sub(r"`[^`]+`|\([^)]*\)|^#.*", "", paragraph, flags=re.M)
        if len(re.findall(r"[A-Za-z]{2,}", words)) > 5:
            assert re.search(r"[ぁ-ん]", words), paragraph


# ------------------------------------------------------------------------------------------------- what it names


def test_japanese_words() -> None:
    """VQ codes are 符号, one word for one thing; コード is source code or a codebook's."""
    assert "アラインメント" not in JAPANESE and "アライメント" in JAPANESE and "規則で作った" not in JAPANESE
    code_words = re.findall(r".{6}コード(?!ブック).{4}", prose(JAPANESE))
    source = ("向けの", "ネイティブ", "ほかの", "C++ ", "この")
    assert all(any(word in found for word in source) for found in code_words), code_words
    assert JAPANESE.count("符号") >= 15


@pytest.mark.parametrize("text", [README, JAPANESE], ids=["english", "japanese"])
def test_links_and_paths_exist(text: str) -> None:
    for link in links(text):
        if not link.startswith("https://"):
            assert (ROOT / link.partition("#")[0]).is_file(), link
    assert any(link.endswith(".png") for link in links(text))
    for row in tables(text)[-1]:
        for path in code(row[0]):
            assert (ROOT / path).exists(), path


@cache
def messages() -> str:
    """All texts of the source but docstrings, those that are put together from pieces as one."""
    texts = []
    for file in [*ROOT.glob("jukebox/**/*.py"), *ROOT.glob("apex/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr):
                node.value = ast.Constant(None)  # a docstring
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_messages_of_troubleshooting_exist() -> None:
    (table,) = (table for table in tables(README) if "the message says" in table[0][0])
    quoted = [message for row in table[1:] for message in code(row[0])]
    assert len(quoted) == len(table) - 1 > 5
    assert [message for message in quoted if message not in messages()] == []


def test_flags_and_targets_in_the_text_exist() -> None:
    known = {flag.name for flag in [*sample.FLAGS, *train.flags(), *align.FLAGS, *represent.FLAGS, *reconstruct.FLAGS]}
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    spans = code(prose(README))
    assert {flag for span in spans for flag in re.findall(r"--(\w+)", span)} <= known | {"help", "version"}
    assert {span.split()[1] for span in spans if span.startswith("make ")} <= {*targets}
    for names in re.findall(r"--hps=([\w,]+)", " ".join(spans)):
        setup_hparams(names, {})


def test_table_of_models_is_what_the_plan_counts() -> None:
    (table,) = (table for table in tables(README) if table[0][0].strip() == "model")
    assert len(table) == 5
    for name, parameters, memory, tokens, _ in ([cell.strip() for cell in row] for row in table[1:]):
        model = find_model(name.strip("`"))
        samples = int(20 * model.sr) // model.samples_per_code[-1] * model.samples_per_code[-1]
        priors = [bare_prior(level, model.vqvae(samples, "meta")) for level in model.levels if level is not None]
        dtype, unit = ("fp32", 1e6) if name == "`demo`" else ("fp16", 1e9)
        counts = " / ".join(f"{sum(p.numel() for p in prior.parameters()) / unit:.1f}" for prior in priors)
        weights, song = max((prior_bytes(prior, dtype), song_bytes(prior, dtype)) for prior in priors)
        assert parameters == f"{counts} {'million' if unit == 1e6 else 'billion'}"
        assert memory == f"{weights / 1e9:.{2 if unit == 1e6 else 1}f} GB and {song / 1e9:.2f} GB a song"
        assert tokens == " / ".join(f"{samples // per_code:,}" for per_code in model.samples_per_code)


def test_python_blocks_register_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block runs at the end of the file that the text names."""
    _, first, second = (text for kind, text in fenced(README) if kind == "python")  # the other is in test_api.py
    monkeypatch.setattr(hparams, "HPARAMS_REGISTRY", dict(hparams.HPARAMS_REGISTRY))
    monkeypatch.setattr(make_models, "MODELS", dict(make_models.MODELS))
    before = {*hparams.HPARAMS_REGISTRY}
    exec(first, dict(vars(hparams)))
    exec(second, dict(vars(make_models)))
    (added,) = {*hparams.HPARAMS_REGISTRY} - before
    assert added in make_models.MODELS["mine"]
    assert hparams.setup_hparams(f"small_vqvae,{added}", {}).restore_prior


# ------------------------------------------------------------------------------------------------- the commands


def make(target: str) -> list[list[str]]:
    """The commands that `make TARGET` would run."""
    ours = ("MAKE", "MFLAGS", "PYTEST_ARGS", "JOBS", "VENV")  # what a `make` around this test was called with
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    words = ["make", "--no-print-directory", "-n", target]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in done.stdout.replace("\\\n", " ").splitlines()]


def test_begins_with_two_commands() -> None:
    for text in (README, JAPANESE):
        kind, block = fenced(text)[0]
        assert kind == "sh" and [*map(bare, block.splitlines())] == ["make sample", "make test"]
        assert prose(text).startswith("# Jukebox\n\n")
    python = next(words[0] for words in make("sample") if words[-1:] != ["venv"] and "jukebox/sample.py" in words)
    steps = [words[1:] for words in make("test") if words[0] == python]
    for step in (["-m", "ruff", "check", "."], ["-m", "ruff", "format", "--check", "."], ["-m", "mypy"]):
        assert step in steps
    assert any(step[:2] == ["-m", "pytest"] for step in steps)


@pytest.mark.parametrize("command", [c for c in PYTHON_COMMANDS if "jukebox/train.py" in c], ids=name_of)
def test_training_is_accepted_in_full_length(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(command)
    given = parse_flags(words[words.index("jukebox/train.py") + 1 :], train.flags())
    (tmp_path / "MUSIC").mkdir()
    monkeypatch.chdir(tmp_path)
    for key in ("restore_vqvae", "restore_prior"):
        if key in given:  # made by an earlier command
            Path(given[key]).parent.mkdir(parents=True)
            Path(given[key]).touch()
    hps = train.read_hps(given)
    assert hps.train or hps.dry_run


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    folder, threads = tmp_path_factory.mktemp("readme"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUKEBOX_CACHE", str(folder / "cache"))
        yield Workplace(folder)
    torch.set_num_threads(threads)


def items(folder: Path, count: int) -> None:
    """A finished run of the sampler has audio, page and codes on each of its levels."""
    levels = sorted(folder.glob("level_*"))
    assert levels
    for level in levels:
        assert [*level.glob("index.html")] and [*level.glob("data.pth.tar")]
        assert len([*level.glob("item_*.wav")]) == count


def check(command: str, folder: Path, printed: str) -> None:
    """What a command of the README leaves."""
    name = value(command, "name") or value(command, "out")
    if "--dry_run" in command:
        assert "level" in printed and not (name and (folder / name).exists())
    elif script(command) == "jukebox/train.py":
        checkpoint = load_torch(folder / "logs" / name / "checkpoint_latest.pth.tar")
        assert checkpoint["step"] > 0 and checkpoint["hps"]["name"] == name
    elif "--list_" in command:
        known, part = (ARTISTS, "") if "--list_artists" in command else (GENRES, value(command, "list_genres"))
        assert printed.split("\n")[:-1] == sorted(name for name in known if part in name)
    elif script(command) == "jukebox/sample.py":
        ranks = [folder / name] if "mpiexec" not in command else [folder / f"{name}_rank_{i}" for i in range(2)]
        for rank in ranks:
            items(rank, 4 if "1b_lyrics --name=samples/big" in command else 1)
    elif script(command) == "jukebox/align.py":
        assert (folder / value(command, "logdir") / "alignment.png").is_file() and "says so from now on" in printed
    elif script(command) == "jukebox/represent.py":
        songs = [path.name for path in (folder / value(command, "audio_files_dir")).glob("*.flac")]
        assert {path.stem for path in (folder / name).glob("*.npy")} == {*songs} and songs
    elif script(command) == "jukebox/reconstruct.py":
        assert (folder / name / "index.html").is_file() and (folder / name / "report.json").is_file()
    elif script(command) == "jukebox.data.synthesizer":
        assert len([*(folder / name).glob("*.flac")]) == len([*(folder / name).glob("*.lrc")]) == 8
    else:
        assert script(command) == "jukebox.data.labels" and "train with" in printed


@pytest.mark.slow
@pytest.mark.parametrize("command", PYTHON_COMMANDS, ids=name_of)
def test_command_runs(command: str, work: Workplace) -> None:
    check(command, work.folder, work.run(command))


def full_length(command: str) -> bool:
    """Whether there is a plan to be made of a command as it is written."""
    return "jukebox/sample.py" in command and not any(flag in command for flag in ("--list_", "--dry_run"))


def full_codes(command: str, folder: Path) -> list[str]:
    """Instead of the codes of a shrunk run a file with as many as the whole run has; nothing where none are read."""
    codes_file = value(command, "codes_file")
    if not codes_file:
        return []
    run, part = codes_file.split("/level_")
    (made_by,) = (other for other in PYTHON_COMMANDS if value(other, "name") == run)
    model, first = find_model(value(made_by, "model")), int(part.split("/")[0])
    samples = (
        int(float(value(made_by, "sample_length_in_seconds")) * model.sr)
        // model.samples_per_code[-1]
        * model.samples_per_code[-1]
    )
    songs = int(value(made_by, "n_samples"))
    lengths = [samples // per_code if level >= first else 0 for level, per_code in enumerate(model.samples_per_code)]
    save_torch({"zs": [torch.zeros(songs, length, dtype=torch.long) for length in lengths]}, folder / "whole.pth.tar")
    return ["--codes_file=whole.pth.tar"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in PYTHON_COMMANDS if full_length(c)], ids=name_of)
def test_sampling_is_accepted_in_full_length(command: str, work: Workplace) -> None:
    work.prepare(command)
    words = shlex.split(command)
    words = [*words[words.index("python") :], *full_codes(command, work.folder), "--dry_run"]
    printed = work.run_words(words, released="1b_lyrics" in command)
    assert "time in all: about" in printed and "does not fit" not in printed


@pytest.mark.slow
def test_make_sample(work: Workplace) -> None:
    (words,) = (words for words in make("sample") if "jukebox/sample.py" in words)
    work.run_words(["python", *words[1:], "--n_samples=1", "--sample_length_in_seconds=1.49", *PROMPTED.split()])
    items(work.folder / "samples" / "demo", 1)


@pytest.mark.slow
def test_files_that_are_listed_are_there(work: Workplace) -> None:
    """The files below the first recipes, made by the first of them."""
    (listed,) = (block for kind, block in fenced(README) if kind == "" and block.startswith("samples/"))
    work.run(PYTHON_COMMANDS[0])
    for line in listed.splitlines():
        assert (work.folder / bare(line)).is_file(), line


ANNEAL = next(command for command in PYTHON_COMMANDS if "--lr_start_linear_decay" in command)


def test_annealing_begins_where_the_prior_ends() -> None:
    """The learning rate falls after the steps of the prior that it resumes from; else nothing would be trained."""
    songs = next(command for command in PYTHON_COMMANDS if script(command) == "jukebox.data.synthesizer")
    prior = next(c for c in PYTHON_COMMANDS if f"logs/{value(c, 'name')}/" in value(ANNEAL, "restore_prior"))
    samples = int(value(songs, "songs")) * 9 // 10 * int(value(songs, "seconds")) * int(value(songs, "sr"))
    steps = samples // int(value(prior, "sample_length")) // int(value(prior, "bs")) * int(value(prior, "epochs"))
    assert int(value(ANNEAL, "lr_start_linear_decay")) == steps and f"reached, {steps} above" in README


@pytest.mark.slow
def test_annealing_stops_by_itself(work: Workplace) -> None:
    work.run(ANNEAL)
    step = load_torch(work.folder / "logs" / value(ANNEAL, "name") / "checkpoint_latest.pth.tar")["step"]
    assert step == 6  # where the flags after the command say; its epochs are many more


@pytest.mark.slow
def test_list_of_songs_is_accepted(work: Workplace) -> None:
    (given,) = (span for span in code(prose(README)) if span.startswith("[{"))
    songs = [{**song, "artist": "anna bell", "genre": "disco", "lyrics": "mila"} for song in json.loads(given)]
    (work.folder / "songs.json").write_text(json.dumps(songs), encoding="utf-8")
    words = ["python", "jukebox/sample.py", "--model=demo", "--name=samples/list", "--metas=songs.json", "--dry_run"]
    assert f"{len(songs)} song of" in work.run_words(words)


def test_what_the_commands_leave_is_ignored(tmp_path: Path) -> None:
    """Typed in the repository, no command of the README shows up in `git status`."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    left = {makes(command) for command in PYTHON_COMMANDS} | {value(command, "codes_dir") for command in COMMANDS}
    left |= set(re.findall(r'\bsave(?:_page)?\("([^"]+)"\)', README))
    for name in sorted(left - {""}):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch() if path.suffix else (path.mkdir(parents=True), (path / "x").touch())
    shown = subprocess.run(["git", "status", "--short"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert shown.stdout.split() == ["??", ".gitignore"] and len(left) > 15


def test_features_have_the_names_that_are_said() -> None:
    from jukebox.features.results import array_path, note_path

    for text in (README, JAPANESE):
        assert f"`{array_path(Path('features'), 'song.mp3').as_posix()}`" in text
        assert f"`{note_path(Path(), 'song.mp3').name}`" in text


@pytest.mark.slow
def test_what_is_heard_is_measured(work: Workplace) -> None:
    """The figures of `make heard`, of the lines shortened to a few steps."""
    from heard import FIVE, heard_figures

    for line in FIVE:
        work.run(line)
    figures = heard_figures(work.folder)
    assert all(math.isfinite(figure) for figure in figures.values()) and len(figures) == 3
