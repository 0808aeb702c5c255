"""Every command of the README is one that the scripts accept, with flags that they know and values that fit.

The commands that train and sample on a laptop are run in `test_end_to_end.py` and by `make sample`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from jukebox import represent, sample, train
from jukebox.hparams import setup_hparams
from jukebox.utils.command_line import parse_flags

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 15
    assert [line.split()[:2] for line in COMMANDS[:2]] == [["make", "sample"], ["make", "test"]]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c], ids=lambda c: c.split("--name=")[1][:24])
def test_training_command(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = parse_flags(shlex.split(command)[2:], train.flags())
    given = {key: value for key, value in given.items() if f"--{key}" in command}
    # What the command needs from before it: songs, and the VQ-VAE that the restored one was.
    (tmp_path / "MUSIC").mkdir()
    monkeypatch.chdir(tmp_path)
    if "restore_vqvae" in given:
        Path(given["restore_vqvae"]).parent.mkdir(parents=True)
        Path(given["restore_vqvae"]).touch()
    hps = train.read_hps(given)
    assert hps.train
    if hps.prior:
        hop = 1
        for stride, down in list(zip(hps.strides_t, hps.downs_t, strict=True))[: hps.level + 1]:
            hop *= stride**down
        assert hps.sample_length == hps.n_ctx * hop


@pytest.mark.parametrize("command", [c for c in COMMANDS if "sample.py" in c], ids=lambda c: c[-40:])
def test_sampling_command(command: str) -> None:
    parse_flags(shlex.split(command)[2:], sample.FLAGS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "represent.py" in c])
def test_feature_command(command: str) -> None:
    parse_flags(shlex.split(command)[2:], represent.FLAGS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python")])
def test_script_exists(command: str) -> None:
    words = shlex.split(command)
    path = Path(words[2].replace(".", "/") + ".py") if words[1] == "-m" else Path(words[1])
    assert (ROOT / path).is_file()


def test_paths_and_sets_exist() -> None:
    for path in re.findall(r"^\| `([\w./]+)`", README.split("## What lies where")[1], re.M):
        assert (ROOT / path).exists(), path
    for names in re.findall(r"--hps=([\w,]+)", README):
        setup_hparams(names, {})
