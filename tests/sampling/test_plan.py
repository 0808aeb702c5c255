"""Windows, tokens and bytes of a run, and that a plan reads no weight."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox import loaders
from jukebox.loaders import bare_prior, find_model
from jukebox.sample import main
from jukebox.sampling import plan
from jukebox.sampling import prepare as prepare_module
from jukebox.sampling.flags import read_settings
from jukebox.sampling.plan import (
    LevelPlan,
    Speed,
    check_memory,
    duration,
    level_plans,
    measure_speed,
    packed_bytes,
    pool_bytes,
    prior_bytes,
    song_bytes,
    with_time,
)
from jukebox.sampling.report import Silent
from jukebox.transformer.token_step import TokenStep
from jukebox.utils.errors import UserError
from jukebox.utils.precision import DTYPES
from jukebox.utils.sample_utils import Window

CPU = torch.device("cpu")


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be downloaded and nothing is in the cache."""
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUKEBOX_MIRROR", "http://127.0.0.1:9")


@pytest.mark.usefixtures("no_weights")
def test_twenty_seconds_of_5b() -> None:
    settings = read_settings(dict(name="x", sample_length_in_seconds=20, n_samples=4, dtype="fp16"), find_model("5b"))
    plans = level_plans(settings, [0, 0, 0], 4, CPU, timed=False)
    assert [p.level for p in plans] == [2, 1, 0]
    assert [p.new_tokens for p in plans] == [6890, 27560, 110240]
    assert [len(p.windows) for p in plans] == [1, 6, 26]
    assert [p.prefill_tokens for p in plans] == [0, 21592, 102752]
    assert all(1 <= p.batch <= 4 for p in plans)


@pytest.mark.parametrize("name, level, megabytes", [("5b_lyrics", 2, 983), ("1b_lyrics", 2, 338), ("5b", 0, 386)])
def test_caches_of_released_models(name: str, level: int, megabytes: int) -> None:
    model = find_model(name)
    found = model.levels[level]
    assert found is not None
    prior = bare_prior(found, model.vqvae(1 << 20, "meta"))
    cache = song_bytes(prior, "fp32") - song_bytes(prior, "fp16")
    assert cache / 1e6 == pytest.approx(megabytes, abs=1)
    # A cache is as large as it is planned: also the slot of positions that are dropped, and null keys.
    made = prior.prior.transformer.new_caches(1, torch.float16, "meta")
    assert sum(one.kv.numel() * 2 for one in made) == cache
    rest = song_bytes(prior, "fp16") - cache
    shorter = song_bytes(prior, "fp16", chunk=32) - cache
    assert rest - shorter == (512 - 32) * prior.prior.width * 4 * 16
    assert rest > 2 * prior.prior.input_dims * prior.prior.width * 4 + 512 * prior.prior.width * 4 * 16


def test_what_an_engine_adds(tmp_path: Path) -> None:
    """Copies that `TokenStep` makes of matrices, none where kernels or the native library move them."""
    model = find_model(make_tiny_runs(tmp_path))
    lazy = model.prior(2, model.vqvae(576, "cpu"), CPU, "int8")
    assert lazy is not None
    loaded = lazy.load()
    car = loaded.prior
    matrices = [module for layer in car.transformer.layers for module in layer.matrices()]
    step = TokenStep(car.transformer, car.transformer.new_caches(1, torch.float32, CPU), torch.float32)
    parts = [part for layer in step.layers for part in (layer.c_attn, layer.c_proj, layer.c_fc, layer.mlp_proj)]
    own = {p.data_ptr() for p in car.parameters()}
    made = sum(t.numel() * t.element_size() for pair in parts for t in pair if t.data_ptr() not in own)
    bare, largest = bare_prior(lazy.of, model.vqvae(576, "meta")), max(module.w.numel() for module in matrices)
    assert packed_bytes(bare, "int8", "eager") == packed_bytes(bare, "int8", "graph") == made
    assert packed_bytes(bare, "int8", "native") == largest
    assert packed_bytes(bare, "fp32", "eager") == 0
    assert packed_bytes(bare, "fp32", "fused") == 4 * largest
    assert packed_bytes(bare, "fp16", "eager") == 2 * sum(module.b.numel() for module in matrices)
    cuda = torch.device("cuda")
    assert (
        pool_bytes("graph", CPU)
        == pool_bytes("eager", cuda)
        == 0
        < pool_bytes("graph", cuda)
        == pool_bytes("fused", cuda)
    )


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("engine", ["fused", "graph"])
@pytest.mark.parametrize("name, card", [("5b_lyrics", 12), ("1b_lyrics", 2)])
def test_a_card_is_told_before_anything_is_read(
    name: str, card: int, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command's own way, on a card of some GB; with the memory that is asked for it is not refused."""

    def loaded(*_: object, **__: object) -> None:
        raise LookupError("something is read")

    monkeypatch.setattr(prepare_module, "pick_engine", lambda *_: (engine, ""))
    monkeypatch.setattr(loaders.Model, "check_names", loaded)
    monkeypatch.setattr(plan, "free_bytes", lambda device: free)
    flags = dict(name=str(tmp_path / "run"), sample_length_in_seconds=20, n_samples=1, dtype="fp16")
    settings, cuda = read_settings(flags, find_model(name)), torch.device("cuda")
    free = card * 10**9
    with pytest.raises(UserError, match=r"for one song and cuda has .* free") as caught:
        prepare_module.prepare(settings, range(1), tmp_path / "run", flags, cuda, Silent())
    found = re.search(r"level \d needs (\S+) GB", str(caught.value))
    assert found is not None and card < float(found[1]) < {12: 16, 2: 8}[card]
    free = {12: 16, 2: 8}[card] * 10**9
    with pytest.raises(LookupError, match="something is read"):
        prepare_module.prepare(settings, range(1), tmp_path / "run", flags, cuda, Silent())


def test_bytes_are_those_of_the_loaded_prior(tmp_path: Path) -> None:
    model = find_model(make_tiny_runs(tmp_path))
    for dtype in ("fp32", "fp16", "bf16"):
        for level in range(3):
            lazy = model.prior(level, model.vqvae(576, "cpu"), CPU, dtype)
            assert lazy is not None
            loaded = sum(p.numel() * p.element_size() for p in lazy.load().parameters())
            assert prior_bytes(bare_prior(lazy.of, model.vqvae(576, "meta")), dtype) == loaded


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name, card", [("5b_lyrics", 16), ("1b_lyrics", 8)])
def test_released_models_fit_their_cards_and_smaller_ones_are_told(
    name: str, card: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One song in fp16, in GB; what is too small is refused by the plan, which has read nothing."""
    monkeypatch.setattr(plan, "free_bytes", lambda device: card * 10**9)
    flags = dict(name="x", sample_length_in_seconds=20, n_samples=1, dtype="fp16")
    settings, cuda = read_settings(flags, find_model(name)), torch.device("cuda")
    for engine in ("eager", "graph", "fused"):
        plans = level_plans(replace(settings, engine=engine), [0, 0, 0], 1, cuda, timed=False)
        for p in plans:
            check_memory(p, card * 10**9, cuda, "fp16")
    with pytest.raises(UserError, match="level 2 needs .* for one song and cuda has .* free"):
        check_memory(plans[0], plans[0].memory - 1, cuda, "fp16")


def plan_of(**values: int) -> LevelPlan:
    given = dict(weights=1000, per_song=100, batch=2, songs=5)
    return LevelPlan(level=0, n_ctx=8, windows=[Window(0, 8, 0), Window(4, 12, 4)], chunk=None, **{**given, **values})


def test_memory_is_checked_and_the_advice_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    check_memory(plan_of(), 1200, CPU, "fp32")
    with pytest.raises(UserError, match="level 0 needs .* for one song and cpu has .* free: --dtype=bf16 halves"):
        check_memory(plan_of(), 1099, CPU, "fp32")
    with pytest.raises(UserError, match="--dtype=fp16 halves"):
        check_memory(plan_of(), 1099, torch.device("cuda"), "fp32")
    with pytest.raises(UserError, match="for 5 songs at a time and cpu has .* free: use --max_batch_size=3 for"):
        check_memory(plan_of(batch=5), 1399, CPU, "fp32")
    check_memory(plan_of(batch=3), 1399, CPU, "fp32")
    with pytest.raises(UserError, match="--device=cpu if the host has more"):
        check_memory(plan_of(), 0, torch.device("cuda"), "fp16")


def test_batch_follows_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = find_model(make_tiny_runs(tmp_path))
    settings = read_settings(dict(name="x", n_samples=20, dtype="fp32"), model)
    asked = read_settings(dict(name="x", n_samples=20, dtype="fp32", max_batch_size=(7, 8, 9)), model)
    monkeypatch.setattr(plan, "free_bytes", lambda device: 600_000)
    plans = level_plans(settings, [0, 0, 0], 20, CPU, timed=False)
    for p in plans:
        room = 0.9 * 600_000 - p.weights
        assert 1 < p.batch < 20 and p.batch * p.per_song <= room < (p.batch + 1) * p.per_song
    assert [p.batch for p in level_plans(asked, [0, 0, 0], 20, CPU, timed=False)] == [9, 8, 7]
    monkeypatch.setattr(plan, "free_bytes", lambda device: 10)
    assert [p.batch for p in level_plans(settings, [0, 0, 0], 20, CPU, timed=False)] == [1, 1, 1]


def test_time_is_steps_of_batches_and_given_tokens_of_songs() -> None:
    # 12 new tokens in ceil(5 / 2) batches; 4 given tokens and 2 windows of 3 lyrics for each of 5 songs
    assert with_time(plan_of(), Speed(step=1.0, given=0.1), 3).seconds == pytest.approx(3 * 12 + 5 * (4 + 6) * 0.1)
    assert [duration(s) for s in (1.25, 12, 200, 3600 * 5 + 60)] == ["1.2 s", "12 s", "3 min", "5 h 01 min"]


@pytest.mark.usefixtures("no_weights")
def test_dry_run_of_a_large_model_takes_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.process_time()  # whatever else the machine does
    assert (
        main(model="5b_lyrics", name=str(tmp_path / "run"), sample_length_in_seconds=20, dry_run=True, device="cpu")
        == 0
    )
    assert time.process_time() - begin < 60
    lines = capsys.readouterr().out.split("\n")
    rows = {line.split()[0]: line.split() for line in lines if line[:5].strip().isdigit()}
    assert [rows[level][1:3] for level in "210"] == [["1", "6,890"], ["6", "27,560"], ["26", "110,240"]]
    assert any("extrapolated from a few layers" in line for line in lines)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_weights")
def test_a_batch_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "free_bytes", lambda device: 30_000_000_000)
    given = dict(model="1b_lyrics", name=str(tmp_path / "run"), device="cpu", n_samples=64, max_batch_size=64)
    assert main(**given, dry_run=True) == 0
    found = re.findall(r"does not fit: level (\d) needs .* use --max_batch_size=(\d+) for", capsys.readouterr().out)
    assert [level for level, _ in found] == ["2", "1", "0"]
    sizes = tuple(int(size) for _, size in reversed(found))
    assert main(**{**given, "max_batch_size": sizes}, dry_run=True) == 0
    assert "does not fit" not in capsys.readouterr().out
    with pytest.raises(UserError, match="level 2 needs .* for 64 songs at a time"):
        main(**given)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", ["5b_lyrics", "1b_lyrics"])
def test_timing_keeps_to_its_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half types on a CPU, and many songs: a few products in float32 for each level, and more time for more songs."""
    ran: list[tuple[int, torch.dtype]] = []

    class Counted(plan.Engine):
        def __init__(self, model: Any, n: int, *rest: Any) -> None:
            ran.append((n, rest[3]))
            super().__init__(model, n, *rest)

    monkeypatch.setattr(plan, "_slowdown", lambda rows, dtype: 50.0)  # some processors are as quick in half types
    monkeypatch.setattr(plan, "Engine", Counted)
    model = find_model(name)
    vqvae = model.vqvae(1 << 20, "meta")
    speeds = {(dtype, n): measure_speed(model.levels[2], vqvae, n, CPU, dtype) for dtype in DTYPES for n in (1, 32)}
    assert {n for n, _ in ran} == {1, 4}
    assert {dtype for _, dtype in ran} == {torch.float32}  # products of half types may take a CPU minutes
    assert speeds["fp32", 32].step > 2 * speeds["fp32", 1].step
    assert speeds["fp16", 32].step > speeds["fp32", 32].step
    assert speeds["bf16", 32].step > speeds["fp32", 32].step


def test_dry_run_of_ones_own_model_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = make_tiny_runs(tmp_path)

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(loaders, "make_prior", loaded)
    monkeypatch.setattr("jukebox.make_models.restore_model", lambda hps, model, path: loaded() if path else model)
    monkeypatch.setattr("jukebox.make_models.load_weights", loaded)
    assert main(model=name, name=str(tmp_path / "run"), dry_run=True, n_samples=2) == 0
    out = capsys.readouterr().out
    assert "ancestral: 2 songs of 24.00 s" in out and out.count(" s\n") >= 3
