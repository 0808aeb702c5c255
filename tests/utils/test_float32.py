"""Exact float32: the settings inside the VQ-VAE and the conditioners of every command and call, and afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sampling_fakes import FakePrior
from tiny_models import SR, make_tiny_runs
from tiny_training import TinyData, tiny_hps

import jukebox
from jukebox import align, reconstruct, represent, sample
from jukebox.hparams import Hyperparams
from jukebox.prior.conditioners import Conditioner, LabelConditioner
from jukebox.sampling import modes
from jukebox.training.run import run_training
from jukebox.utils.audio.write import write_audio
from jukebox.utils.float32 import keep_float32
from jukebox.vqvae.vqvae import VQVAE

LENGTHS = dict(sample_length_in_seconds=2.304, hop_fraction=(1.0, 1.0, 0.5), lyrics="la la la", n_samples=1)
EXACT, FAST = ("highest", False, False), ("high", True, False)
OWN = ("medium", True, True)  # of a program that imports the package


def settings() -> tuple[str, bool, bool]:
    """Precision of matrix products, TF32 of convolutions, attention by cuDNN."""
    backends = torch.backends
    return torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32, backends.cuda.cudnn_sdp_enabled()


def places() -> list[str]:
    """The same settings in PyTorch's newer words, as far as it has them."""
    owners: list[tuple[Any, str]] = [(torch.backends.cuda, "matmul")]
    owners += [
        (owner, name) for owner in (torch.backends.cudnn, torch.backends.mkldnn) for name in ("conv", "rnn", "matmul")
    ]
    parts = [getattr(owner, name, None) for owner, name in owners]
    return [part.fp32_precision for part in parts if hasattr(part, "fp32_precision")]


def set_all(products: str, convolutions: bool, attention: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.enable_cudnn_sdp(attention)


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """Settings of the importing program that differ from what a run wants, and those of the tests afterwards."""
    before = settings()
    set_all(*OWN)
    yield
    set_all(*before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model under `logs`, a song, and a finished run."""
    folder = tmp_path_factory.mktemp("float32")
    model = make_tiny_runs(folder)
    (folder / "model").write_text(model, encoding="utf-8")
    write_audio(folder / "music" / "song.wav", 0.1 * np.sin(np.arange(3 * SR) / 5).astype(np.float32), SR)
    assert sample.main(model=model, name=str(folder / "run"), device="cpu", **LENGTHS) == 0
    return folder


@pytest.fixture()
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, Any]]:
    """Which float32 parts ran, with the settings that each found."""
    found: set[tuple[str, Any]] = set()

    def watch(kind: type, name: str) -> None:
        inner: Callable[..., Any] = getattr(kind, name)

        def read_first(self: Any, *args: Any, **more: Any) -> Any:
            found.add((f"{kind.__name__}.{name}", settings()))
            return inner(self, *args, **more)

        monkeypatch.setattr(kind, name, read_first)

    for kind, name in (
        (VQVAE, "encode"),
        (VQVAE, "decode"),
        (VQVAE, "forward"),
        (Conditioner, "forward"),
        (LabelConditioner, "forward"),
    ):
        watch(kind, name)
    return found


DRAWN = {"VQVAE.decode", "Conditioner.forward", "LabelConditioner.forward"}


def by_sample(folder: Path, tmp_path: Path, tf32: bool) -> None:
    song = str(folder / "music" / "song.wav")
    primed = dict(mode="primed", audio_file=song, prompt_length_in_seconds=1)
    given = {"model": model_of(folder), "name": str(tmp_path / "new"), "device": "cpu", **LENGTHS, **primed}
    assert sample.main(**given, **({"tf32": True} if tf32 else {})) == 0


def by_train(folder: Path, tmp_path: Path, tf32: bool) -> None:
    hps = tiny_hps(local_logdir=str(tmp_path), epochs=1, tf32=tf32)
    assert run_training(hps, "", lambda hps: TinyData(hps, batches=2)) == 0  # type: ignore[arg-type, return-value]


def by_align(folder: Path, tmp_path: Path, tf32: bool) -> None:
    assert align.main(model=model_of(folder), logdir=str(folder / "run"), device="cpu", tf32=tf32) == 0


def by_represent(folder: Path, tmp_path: Path, tf32: bool) -> None:
    defaults = {flag.name: flag.default for flag in represent.FLAGS}
    given = dict(model=model_of(folder), audio_files_dir=str(folder / "music"), out=str(tmp_path / "out"), layers=2)
    assert represent.main(**{**defaults, **given, "device": "cpu", "tf32": tf32}) == 0


def by_reconstruct(folder: Path, tmp_path: Path, tf32: bool) -> None:
    defaults = {flag.name: flag.default for flag in reconstruct.FLAGS}
    given = dict(model=model_of(folder), audio_files_dir=str(folder / "music"), name=str(tmp_path / "out"))
    assert reconstruct.main(**{**defaults, **given, "device": "cpu", "tf32": tf32}) == 0


def by_calls(folder: Path, tmp_path: Path, tf32: bool) -> None:
    model, song = jukebox.load(model_of(folder), device="cpu", tf32=tf32), folder / "music" / "song.wav"
    model.upsample(model.sample(seconds=2.304, lyrics="la", prompt=song, prompt_seconds=1, lowest_level=2))
    model.reconstruct(song)
    model.represent(song, layers=2)


def model_of(folder: Path) -> str:
    return (folder / "model").read_text(encoding="utf-8")


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(
    ("work", "parts"),
    [
        (by_sample, DRAWN | {"VQVAE.encode"}),
        (by_train, {"VQVAE.forward"}),
        (by_align, {"LabelConditioner.forward"}),
        (by_represent, {"VQVAE.encode", "LabelConditioner.forward"}),
        (by_reconstruct, {"VQVAE.encode", "VQVAE.decode"}),
        (by_calls, DRAWN | {"VQVAE.encode"}),
    ],
)
def test_what_makes_codes_is_exact_unless_asked(
    work: Callable[[Path, Path, bool], None],
    parts: set[str],
    tf32: bool,
    folder: Path,
    seen: set[tuple[str, Any]],
    tmp_path: Path,
) -> None:
    work(folder, tmp_path, tf32)
    assert {name for name, _ in seen} >= parts
    assert {found for _, found in seen} == {FAST if tf32 else EXACT}
    assert settings() == OWN


def test_functions_that_notebooks_import_are_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    class Watched(FakePrior):
        device = torch.device("cpu")

        def get_y(self, *args: Any, **more: Any) -> torch.Tensor:
            found.append(settings())
            return super().get_y(*args, **more)

    labels, prior = {"y": torch.zeros(1, 4, dtype=torch.long)}, Watched()
    empty = [torch.zeros(1, 0, dtype=torch.long)]
    sample.sample_single_window(empty, labels, {}, 0, prior, 0, None)  # type: ignore[arg-type]
    monkeypatch.setattr(modes, "encode_prompts", lambda *_: found.append(settings()) or empty)
    monkeypatch.setattr(modes, "run_levels", lambda *_, **__: found.append(settings()))
    sample.primed_sample(torch.zeros(1, 8, 1), [labels], [{}], [prior], {})  # type: ignore[arg-type, list-item]
    sample.ancestral_sample([labels], [{}], [prior], Hyperparams(n_samples=1))
    assert found == [EXACT] * 4 and settings() == OWN


@pytest.mark.parametrize("before", [OWN, ("high", False, True), ("highest", True, False)])
def test_settings_of_a_program_come_back(before: tuple[str, bool, bool]) -> None:
    set_all(*before)
    newer = places()
    with pytest.raises(ZeroDivisionError), keep_float32():
        assert settings() == EXACT and set(places()) <= {"ieee"}
        1 / 0  # noqa: B018
    assert settings() == before and places() == newer


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch has the old settings only")
def test_newer_settings_of_a_program_come_back() -> None:
    """Those that PyTorch refuses to read in its old words, since a program has overruled them."""
    parts = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for part in parts:
        part.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            settings()
        newer = places()
        with keep_float32():
            assert settings() == EXACT and set(places()) == {"ieee"}
        assert places() == newer
    finally:
        for part in parts:
            part.fp32_precision = "ieee"


def test_the_outermost_decides_and_threads_do_not_disturb_each_other() -> None:
    entered, leave, seen = threading.Event(), threading.Event(), []

    def fast() -> None:
        with keep_float32(tf32=True), keep_float32():
            seen.append(settings())
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=fast)
    thread.start()
    assert entered.wait(10) and seen == [FAST]
    with keep_float32():
        assert settings() == EXACT  # one of the two must be exact
        leave.set()
        thread.join()
        assert settings() == EXACT
    assert settings() == OWN
