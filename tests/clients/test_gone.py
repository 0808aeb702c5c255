"""Who comes with what is gone is told so and what to write instead, not the nearest spelling; our own code has none."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import jukebox
from jukebox import sample, train
from jukebox.hparams import HyperparamsError, all_defaults, setup_hparams
from jukebox.make_models import save_checkpoint
from jukebox.utils.command_line import run_command
from jukebox.utils.gone import GONE_KEYS, GONE_NAMES, gone_key, sample_flag

# Old names that are thin over the real thing: (name, file that has it).
OLD = {
    "SimpleEmbedding": "prior/conditioners.py",
    "get_emb": "prior/autoregressive.py",
    "check_cache": "transformer/transformer.py",
    "allreduce": "utils/dist_utils.py",
    "allgather": "utils/dist_utils.py",
    "FP16FusedAdam": "compat.py",
    "get_optimizer": "compat.py",
    "get_ema": "compat.py",
    "get_ddp": "compat.py",
}


def error_of(module: object, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    run = {
        sample: (sample.main, sample.FLAGS, sample_flag),
        train: (train.main, train.flags(), lambda flag, _: gone_key(flag)),
    }
    main, flags, instead = run[module]  # type: ignore[index]
    with pytest.raises(SystemExit) as end:
        run_command(main, flags, "", words, only_given=True, instead=instead)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--restore_prior=logs/mine/checkpoint_latest.pth.tar"], "give --model=logs/mine\n"),
        (["--restore_prior=here.pth.tar"], "give --model=logs/RUN\n"),
        (["--restore-prior", "logs/v/checkpoint_latest.pth.tar"], "give --model=logs/v\n"),
        (["--restore_vqvae=logs/v/checkpoint_latest.pth.tar"], "give --model=logs/RUN\n"),
        (["--hps=small_prior"], "give --model=logs/RUN\n"),
        (["--fp16"], "--dtype=fp16"),
        (["--temp_top=0.9"], "--temp=0.99,0.99,0.98"),
    ],
)
def test_flags_of_training_given_to_sample(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(sample, words, capsys)
    assert said in error and "did you mean" not in error and error.count("\n") == 1


@pytest.mark.parametrize("key", sorted(GONE_KEYS))
def test_old_keys_say_that_they_are_gone(key: str) -> None:
    assert key not in all_defaults()
    with pytest.raises(HyperparamsError, match=f"{key}' is gone: .*docs/migrate.md") as found:
        setup_hparams("vqvae", {key: 1})
    assert "did you mean" not in str(found.value) and len(str(found.value)) < 240


def test_an_old_key_as_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(train, ["--hps=vqvae", "--temp_top=1"], capsys)
    assert error.startswith("error: --temp_top is gone: ") and "did you mean" not in error
    assert "did you mean --train" in error_of(train, ["--trian"], capsys)  # ours keep their nearest spelling


def test_flags_that_are_named_exist() -> None:
    known = {flag.name for flag in [*sample.FLAGS, *train.flags()]}
    text = " ".join([*GONE_KEYS.values(), sample_flag("restore_prior", ""), sample_flag("fp16", "")])
    named = {word.lstrip("-").split("=")[0].rstrip(",;") for word in text.split() if word.startswith("--")}
    assert named and named <= known


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in GONE_NAMES.items() for n in names])
def test_functions_that_are_gone(module: str, name: str) -> None:
    with pytest.raises(ImportError, match=f"{module}.{name} is gone: ") as found:
        exec(f"from {module} import {name}", {})
    assert "docs/migrate.md" in str(found.value)
    with pytest.raises(AttributeError):
        getattr(importlib.import_module(module), f"{name}_")


def test_save_checkpoint_with_a_logger() -> None:
    with pytest.raises(TypeError, match="takes the file first; it needs no logger"):
        save_checkpoint(object(), "latest", None)  # type: ignore[arg-type]


def test_no_old_name_is_used_inside_the_package() -> None:
    root = Path(jukebox.__file__).parent
    used = []
    for path in root.rglob("*.py"):
        where = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "attr", None)
            context = getattr(node, "ctx", None)
            if name in OLD and isinstance(context, ast.Load) and where != OLD[name]:
                used.append(f"{where}:{getattr(node, 'lineno', 0)}: {name}")
    assert not used
    for name, where in OLD.items():
        assert f"{name}" in (root / where).read_text(encoding="utf-8")
