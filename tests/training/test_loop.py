"""Whole runs on made-up data: resuming equals never stopping, what is left on the disk, stopping, watching."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import TinyData, read_events, tiny_hps

from jukebox.hparams import FrozenHyperparams, Hyperparams, HyperparamsError, pick
from jukebox.make_models import load_checkpoint, make_vqvae
from jukebox.training import loop, run
from jukebox.training.checkpoint import best_loss
from jukebox.training.metrics_file import MetricsFile
from jukebox.training.resolve import resolve
from jukebox.utils.errors import UserError
from jukebox.utils.files import load_torch, only_writer
from jukebox.utils.versions import versions


class Crash(Exception):
    """Simulates a power cut: nothing is saved on the way out."""


class CrashingLoader:
    """Fails before a batch of an epoch is given out."""

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.left = loader, batches

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        for batch in self.loader:
            if self.left == 0:
                raise Crash
            self.left -= 1
            yield batch


@pytest.fixture(autouse=True)
def tiny_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "DataProcessor", TinyData)
    monkeypatch.chdir(tmp_path)


def train(crash_after: int | None = None, **values: Any) -> dict[str, Any]:
    """A run of two epochs of five batches; returns its last checkpoint."""
    hps = tiny_hps(**{"epochs": 2, "save_iters": 3, "sample_iters": -1, **values})
    original = run.DataProcessor
    if crash_after is not None:

        def crashing(hps: Hyperparams, **_: Any) -> TinyData:
            data = original(hps)
            data.train_loader = CrashingLoader(data.train_loader, crash_after)  # type: ignore[assignment]
            return data

        run.DataProcessor = crashing  # type: ignore[assignment,misc]
    try:
        assert run.run_training(hps, "train.py --name=tiny") == 0
    except Crash:
        pass
    finally:
        run.DataProcessor = original  # type: ignore[misc]
    return load_torch(f"logs/{hps.name}/checkpoint_latest.pth.tar")


def same(a: Any, b: Any, where: str = "") -> None:
    """Every tensor and value of two checkpoints is equal, bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def vqvae_path(**values: Any) -> str:
    """A trained tiny VQ-VAE for priors to build on."""
    train(name="vqvae", epochs=1, **values)
    return "logs/vqvae/checkpoint_latest.pth.tar"


def test_two_trainings_of_one_name() -> None:
    """The second is refused before it reads or removes anything; an evaluation only reads and may run beside."""
    pytest.importorskip("fcntl")
    train(epochs=1)
    Path("logs/tiny/.checkpoint_latest.pth.tar.x.tmp").write_text("what the first is writing")
    before = {path: path.stat().st_mtime_ns for path in Path("logs/tiny").rglob("*")}
    with only_writer("logs/tiny", "name"):
        with pytest.raises(UserError, match="--name=.*logs/tiny: another process is writing to this folder; wait"):
            train()
        assert before == {path: path.stat().st_mtime_ns for path in Path("logs/tiny").rglob("*")}
        assert run.run_training(tiny_hps(train=False, test=True), "") == 0
        assert Path("logs/tiny/.checkpoint_latest.pth.tar.x.tmp").exists()
    train()
    assert not Path("logs/tiny/.checkpoint_latest.pth.tar.x.tmp").exists()


KINDS: dict[str, dict[str, Any]] = {
    "vqvae": {},
    "vqvae, plain average": dict(ema_fused=False, mu=0.5),
    "prior": dict(prior=True, level=1, resid_dropout=0.3, mu=0.5),
    "upsampler, bf16": dict(prior=True, level=0, n_ctx=64, cond_width=8, cond_depth=1, bf16=True),
    "prior, fp16": dict(
        prior=True,
        level=1,
        fp16=True,
        fp16_params=True,
        fp16_opt=True,
        cpu_ema=True,
        cpu_ema_freq=2,
        ema_fused=False,
        mu=0.5,
        iters_before_update=2,
        save_iters=1,
    ),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_resumed_run_equals_an_undisturbed_one(kind: str) -> None:
    values = dict(KINDS[kind])
    if values.get("prior"):
        values["restore_vqvae"] = vqvae_path()
    undisturbed = train(name="a", **values)
    train(name="b", crash_after=4, **values)  # in the first epoch
    crashed = train(name="b", crash_after=5, **values)  # resumes, and dies in the second
    assert 0 < crashed["step"] < undisturbed["step"]
    resumed = train(name="b", **values)
    assert resumed["step"] == (6 if "iters_before_update" in values else 10)
    undisturbed["hps"]["name"] = "b"
    same(undisturbed, resumed)


def test_what_a_checkpoint_holds() -> None:
    checkpoint = train(mu=0.5)
    hps = tiny_hps(epochs=2, save_iters=3, sample_iters=-1, mu=0.5)
    assert type(checkpoint["hps"]) is dict and checkpoint["hps"] == dict(hps)
    assert checkpoint["command"] == "train.py --name=tiny" and checkpoint["step"] == 10
    assert checkpoint["data"] == {"epoch": 2, "done": 0}
    assert list(checkpoint["model"]) == list(checkpoint["raw_model"])
    assert checkpoint["opt"]["state"] and checkpoint["scaler"]["scale"] == 1.0
    assert checkpoint["codebook"][0]["k_sum"].shape == (16, 8) and set(checkpoint["bandwidth"]) == {"l1", "l2", "spec"}
    name = "encoders.0.level_blocks.0.model.0.0.weight"
    assert not torch.equal(checkpoint["model"][name], checkpoint["raw_model"][name])
    assert sorted(n for n in os.listdir("logs/tiny") if n != "logs") == [
        "checkpoint_latest.pth.tar",
        *[f"checkpoint_step_{step}.pth.tar" for step in (3, 6, 9)],
        "hparams.json",
        "metrics.jsonl",
    ]
    record = json.loads(Path("logs/tiny/hparams.json").read_text("utf-8"))
    assert record == {"command": "train.py --name=tiny", "hps": dict(hps), "versions": versions()}
    assert checkpoint["versions"] == versions() and {"jukebox", "torch", "python"} <= set(versions())
    kept = load_checkpoint("logs/tiny/checkpoint_step_6.pth.tar")
    assert kept["step"] == 6 and kept["data"] == {"epoch": 1, "done": 1}


def test_without_an_average_there_is_one_set_of_weights() -> None:
    checkpoint = train(ema=False, epochs=1)
    assert "raw_model" not in checkpoint and "average" not in checkpoint


def test_half_averages_are_kept_in_full() -> None:
    checkpoint = train(
        prior=True, fp16=True, fp16_params=True, mu=0.5, restore_vqvae=vqvae_path(), name="half", epochs=1
    )
    halves = [k for k, v in checkpoint["model"].items() if v.dtype == torch.float16]
    assert sorted(checkpoint["average"]["weights"]) == sorted(halves) and halves
    for key in halves:
        average = checkpoint["average"]["weights"][key]
        assert average.dtype == torch.float32 and torch.equal(average.half(), checkpoint["model"][key])


def test_a_finished_run_stays_finished(capsys: pytest.CaptureFixture[str]) -> None:
    first = train(epochs=1)
    again = train(epochs=1)
    same(first, again)
    more = train(epochs=2)
    assert more["step"] == 10
    assert "changed epochs: 1 -> 2" in capsys.readouterr().out


def test_an_anneal_goes_on_from_a_checkpoint_and_ends_at_zero(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands of an anneal: weights, optimizer and step from another run, then linearly down to the end."""
    values: dict[str, Any] = dict(prior=True, restore_vqvae=vqvae_path(), mu=0.5)
    start = train(name="prior", **values)
    path = "logs/prior/checkpoint_latest.pth.tar"
    anneal = dict(restore_prior=path, lr_use_linear_decay=True, lr_start_linear_decay=10, lr_decay=6.0, epochs=100)
    end = train(name="anneal", **values, **anneal)
    assert start["step"] == 10 and end["step"] == 16
    assert end["opt"]["param_groups"][0]["lr"] == 0.0
    assert end["opt"]["state"][0]["step"] == 16
    assert "steps 10 to 16" in capsys.readouterr().out
    frozen = train(name="frozen", **values, **{**anneal, "lr_decay": 1.0})  # one step with a rate of zero
    same(frozen["raw_model"], start["raw_model"])
    assert frozen["step"] == 11


def test_a_released_checkpoint_starts_at_step_0() -> None:
    values: dict[str, Any] = dict(prior=True, restore_vqvae=vqvae_path())
    start = train(name="prior", epochs=1, **values)
    torch.save({"model": start["model"], "step": 123456}, "released.pth.tar")
    tuned = train(name="tuned", epochs=1, restore_prior="released.pth.tar", lr=1e-9, **values)
    assert tuned["step"] == 5 and tuned["opt"]["state"][0]["step"] == 5
    for key, value in tuned["raw_model"].items():
        torch.testing.assert_close(value, start["model"][key], rtol=0, atol=1e-6)


def test_another_kind_of_run_is_refused() -> None:
    path = vqvae_path()
    train(name="prior", prior=True, epochs=1, restore_vqvae=path)
    with pytest.raises(UserError, match="level=1.*cannot resume with level=0"):
        train(name="prior", prior=True, epochs=2, restore_vqvae=path, level=0, n_ctx=64)
    with pytest.raises(UserError, match="does not fit"):
        train(name="prior", prior=True, epochs=2, restore_vqvae=path, prior_depth=3)
    with pytest.raises(UserError, match="fp16_params"):
        train(name="prior", prior=True, epochs=2, restore_vqvae=path, fp16=True, fp16_params=True)


def test_interrupted_it_saves_and_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(name="a", save_iters=100)
    step = loop.train_step

    def interrupted(training: Any, *rest: Any) -> Any:
        if training.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return step(training, *rest)

    monkeypatch.setattr(loop, "train_step", interrupted)
    hps = tiny_hps(epochs=2, save_iters=100, sample_iters=-1, name="b")
    assert run.run_training(hps, "train.py --name=tiny") == 130
    said = capsys.readouterr()
    assert "step 7, logs/b/checkpoint_latest.pth.tar: stopped: the same command resumes from there" in said.out
    assert "stopping after this step" in said.err
    assert load_torch("logs/b/checkpoint_latest.pth.tar")["step"] == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(loop, "train_step", step)
    resumed = train(name="b", save_iters=100)
    undisturbed["hps"]["name"] = "b"
    same(undisturbed, resumed)


def test_a_second_interrupt_stops_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(loop, "train_step", stuck)
    with pytest.raises(KeyboardInterrupt):
        run.run_training(tiny_hps(), "")


def test_a_lost_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *rest: dict(step(*rest), overflow=1.0))
    monkeypatch.setattr(loop, "MOST_OVERFLOWS", 4)
    with pytest.raises(UserError, match="not finite in 4 steps in a row, up to step 4.*smaller --lr"):
        train()


def test_a_clock_saves_between_the_kept_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = loop.train_step

    def watch(training: Any, *rest: Any) -> Any:
        if os.path.exists("logs/tiny/checkpoint_latest.pth.tar"):
            seen.append(load_torch("logs/tiny/checkpoint_latest.pth.tar")["step"])
        return step(training, *rest)

    monkeypatch.setattr(loop, "train_step", watch)
    train(save_iters=100, save_minutes=0.0, epochs=1)
    assert seen == [1, 2, 3, 4]
    assert not [name for name in os.listdir("logs/tiny") if "step" in name]


def test_forgotten_temporary_files_are_removed() -> None:
    os.makedirs("logs/tiny")
    Path("logs/tiny/.checkpoint_latest.pth.tar.abc.tmp").write_bytes(b"half")
    train(epochs=1)
    assert not [name for name in os.listdir("logs/tiny") if name.endswith(".tmp")]


def test_nothing_is_saved_without_save() -> None:
    hps = tiny_hps(epochs=1, save=False, sample_iters=-1)
    assert run.run_training(hps, "") == 0
    assert not [name for name in os.listdir("logs/tiny") if name != "logs"]


def test_evaluation_alone_uses_the_averaged_weights(capsys: pytest.CaptureFixture[str]) -> None:
    train(epochs=1, mu=0.5, test=True)
    trained = capsys.readouterr().out
    assert run.run_training(tiny_hps(train=False, test=True, mu=0.5), "") == 0
    alone = capsys.readouterr().out
    line = next(line for line in trained.splitlines() if line.startswith("held-out songs: loss"))
    assert line in alone.splitlines()
    raw = [line for line in trained.splitlines() if line.startswith("the same with the raw weights: loss")]
    assert len(raw) == 1 and raw[0].partition(": ")[2] != line.partition(": ")[2]
    (averaged,), (of_raw,) = events()["test/loss"][:1], events()["test_raw/loss"]
    assert averaged[0] == of_raw[0] == 5 and averaged[1] != of_raw[1]


def test_the_average_warms_up_from_a_runs_start_only(capsys: pytest.CaptureFixture[str]) -> None:
    warm = train(name="warm", epochs=1)
    share = 1.0
    for t in range(5):
        share *= (1 + t) / (10 + t)
    assert warm["average"]["calls"] == 5 and warm["average"]["start"] == pytest.approx(share)
    assert "of the averaged weights" not in capsys.readouterr().out
    plain = train(name="plain", epochs=1, ema_warmup=False)
    assert plain["average"]["start"] == pytest.approx(0.99975**5)
    assert "100 % of the averaged weights are still those" in capsys.readouterr().out
    distance = {
        checkpoint["hps"]["name"]: sum(
            float((checkpoint["model"][key] - value).square().sum()) for key, value in checkpoint["raw_model"].items()
        )
        for checkpoint in (warm, plain)
    }
    assert distance["warm"] < 0.5 * distance["plain"]
    del plain["hps"]["ema_warmup"]  # a run of an older version, which knew no warm-up
    for key in ("calls", "start"):
        del plain["average"][key]
    torch.save(plain, "logs/plain/checkpoint_latest.pth.tar")
    resumed = train(name="plain", epochs=2)
    assert resumed["hps"]["ema_warmup"] is False and resumed["average"]["start"] == pytest.approx(0.99975**10)


def test_a_run_that_starts_from_anothers_average_warms_it_up() -> None:
    values = dict(prior=True, restore_vqvae=vqvae_path(), mu=0.999)
    train(name="old", epochs=1, ema_warmup=False, **values)
    again = train(name="new", epochs=2, restore_prior="logs/old/checkpoint_latest.pth.tar", **values)
    share = 0.999**5
    for t in range(5, 5 + again["average"]["calls"] - 5):
        share *= (1 + t) / (10 + t)
    assert again["average"]["calls"] > 5 and again["average"]["start"] == pytest.approx(share)


def events(folder: str = "logs/tiny/logs") -> dict[str, list[tuple[int, Any]]]:
    """Tags of the event files with (step, value or kind)."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            found.setdefault(value.tag, []).append((event.step, value.simple_value if kind == "simple_value" else kind))
    return found


def test_the_log_of_a_vqvae() -> None:
    train(log_steps=2, sample_iters=5, test=True, save_iters=100)
    found = events()
    assert [step for step, _ in found["train/loss"]] == [2, 4, 6, 8, 10]
    assert [step for step, _ in found["test/loss"]] == [5, 10]
    for tag in (
        "codebook/usage",
        "codebook/entropy",
        "codebook/usage_l1",
        "codebook/entropy_l2",
        "speed/seconds_left",
        "optimizer/grad_norm",
        "optimizer/lr",
        "optimizer/loss_scale",
        "optimizer/skipped",
        "speed/chunks_per_s",
        "speed/samples_per_s",
        "speed/peak_memory_gib",
        "speed/cpu_utilisation",
        "train/recons_loss_l1",
        "train/spectral_convergence",
    ):
        assert len(found[tag]) == 5, tag
    chunks, samples = found["speed/chunks_per_s"][0][1], found["speed/samples_per_s"][0][1]
    assert chunks > 0 and samples == pytest.approx(2048 * chunks)
    assert 0.05 < found["speed/peak_memory_gib"][0][1] < 100 and 0 < found["speed/cpu_utilisation"][0][1] <= 1
    assert found["optimizer/lr"][0] == (2, pytest.approx(0.01))
    for sound in ("input", "level_0", "level_1"):
        assert [step for step, _ in found[f"audio_{sound}/0"]] == [5, 10]
        assert found[f"spectrogram_{sound}/0"] == [(5, "image"), (10, "image")]
    assert any("command" in tag for tag in found) and any("hparams" in tag for tag in found)


@pytest.mark.parametrize("level", [0, 1])
def test_the_log_of_a_prior(level: int) -> None:
    values = dict(level=0, n_ctx=64, cond_width=8, cond_depth=1) if level == 0 else {}
    train(name="tiny", prior=True, restore_vqvae=vqvae_path(), log_steps=5, sample_iters=10, bs_sample=2, **values)
    found = events()
    assert [step for step, _ in found["train/bpd"]] == [5, 10]
    assert 0 < found["train/bpd"][0][1] < 5
    tokens = values.get("n_ctx", 16)
    assert found["speed/tokens_per_s"][0][1] == pytest.approx(tokens * found["speed/chunks_per_s"][0][1])
    for sound in ("input", "codes", "sample"):
        for item in (0, 1):
            assert [step for step, _ in found[f"audio_{sound}/{item}"]] == [10]


def metrics(name: str = "tiny") -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in Path(f"logs/{name}/metrics.jsonl").read_text("utf-8").splitlines()]


def test_metrics_are_lines_of_json_too() -> None:
    train(log_steps=2, test=True, save_iters=100)
    found = events()
    assert [entry["step"] for entry in metrics()] == [2, 4, 5, 6, 8, 10, 10]
    for name in ("train/loss", "test/loss", "test_raw/loss", "optimizer/lr", "speed/samples_per_s"):
        written = [(entry["step"], entry[name]) for entry in metrics() if name in entry]
        assert [pytest.approx(pair, rel=1e-6) for pair in found[name]] == written, name


def test_a_resumed_run_repeats_no_line_of_its_metrics() -> None:
    """Lines of steps that are trained again are taken back, and one that a crash cut off."""
    values = dict(log_steps=1, test=True, save_iters=100)
    undisturbed, crashed = train(name="a", **values), train(name="b", crash_after=7, **values)
    assert crashed["step"] == 5 and metrics("b")[-1]["step"] == 7
    with open("logs/b/metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 8, "train/lo')
    train(name="b", **values)
    kept = [[(e["step"], {k: v for k, v in e.items() if "speed" not in k}) for e in metrics(n)] for n in "ab"]
    assert kept[0] == kept[1] and [step for step, _ in kept[0]] == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 10]
    assert undisturbed["best"] == min(e["test/loss"] for e in metrics("a") if "test/loss" in e)


def test_an_evaluation_that_is_repeated_is_written_once(tmp_path: Path) -> None:
    """It is, if a run died between its evaluation and the next checkpoint."""
    for _ in range(2):
        file = MetricsFile(str(tmp_path / "m.jsonl"), 5)
        file.write(5, {"test/loss": 2.0})
        file.close()
    file = MetricsFile(str(tmp_path / "m.jsonl"), 5)
    file.write(6, {"test/loss": math.nan})
    file.close()
    assert (tmp_path / "m.jsonl").read_text() == '{"step": 5, "test/loss": 2.0}\n{"step": 6, "test/loss": null}\n'


@pytest.mark.parametrize("best", ["low", None, float("nan"), [1], 10**400])
def test_a_best_loss_that_is_no_number_counts_as_none(best: Any) -> None:
    """Else a damaged one would end a resumed run, and NaN would keep all that follow from being the best."""
    assert best_loss({"best": best}) == math.inf and best_loss({"best": 1.5}) == 1.5 and best_loss({}) == math.inf


def test_the_best_checkpoint_is_that_of_the_lowest_held_out_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays while later ones are worse, over a resume too, and gives its weights to other runs."""
    losses = iter([3.0, 2.0, 2.5, 2.4, 1.0])

    def told(*_: Any, **__: Any) -> dict[str, float]:
        return {"loss": held_out}

    monkeypatch.setattr(loop, "evaluate", told)
    best, steps = "logs/tiny/checkpoint_best.pth.tar", []
    for epochs in range(1, 6):  # each of them resumes
        held_out = next(losses)
        latest = train(test=True, epochs=epochs, save_iters=100)
        steps.append(load_torch(best)["step"])
    assert steps == [5, 10, 10, 10, 25] and latest["best"] == 1.0
    Path("logs/tiny/checkpoint_latest.pth.tar").unlink()
    values = dict(prior=True, restore_vqvae=best, name="prior", epochs=1)
    assert train(**values)["step"] == 5


def test_a_repeated_evaluation_finds_the_same_best() -> None:
    """A run that was killed after its checkpoint told of the best, and before that had its own file."""
    train(test=True, epochs=1)
    best = Path("logs/tiny/checkpoint_best.pth.tar")
    before = load_torch(str(best))
    best.unlink()
    checkpoint = load_torch("logs/tiny/checkpoint_latest.pth.tar")
    torch.save({**checkpoint, "data": {"epoch": 0, "done": 5}}, "logs/tiny/checkpoint_latest.pth.tar")
    train(test=True, epochs=1)
    same(before["model"], load_torch(str(best))["model"])


def test_previews_are_early_and_then_rarer() -> None:
    options = pick(loop.LoopOptions, tiny_hps(save_iters=1000))
    assert [step for step in range(4000) if options.shows(step)] == [
        0,
        *(50, 100, 200, 400, 800),
        *(1000, 1600, 2000, 3000, 3200),
    ]
    assert not any(pick(loop.LoopOptions, tiny_hps(sample_iters=-1)).shows(step) for step in range(1, 400))
    for first, last in ((0, 72), (0, 105), (0, 720), (720, 920), (0, 2880)):  # of the recipes in README
        assert any(pick(loop.LoopOptions, tiny_hps()).shows(step) for step in range(first + 1, last + 1))


def test_wandb_gets_what_tensorboard_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is begun before the charts, for it listens to them, and ended after them."""
    told: list[Any] = []
    fake = types.ModuleType("wandb")
    fake.Error = type("Error", (Exception,), {})  # type: ignore[attr-defined]

    def init(**given: Any) -> Any:
        told.append((given, os.path.exists("logs/my run/logs")))
        return types.SimpleNamespace(finish=lambda: told.append(len(events("logs/my run/logs"))))

    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(name="my run", wandb="songs", epochs=1)
    (given, charts), count = told
    assert (given["project"], given["name"], given["id"]) == ("songs", "my run", "my-run")
    assert given["resume"] == "allow" and given["sync_tensorboard"] is True and given["config"]["bs"] == 2
    assert not charts and count == len(events("logs/my run/logs")) > 10
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--wandb=songs needs .*: pip install wandb"):
        train(name="other", wandb="songs")


def test_the_last_steps_are_logged_too() -> None:
    train(log_steps=4, epochs=1, save_iters=100)
    assert [step for step, _ in events()["train/loss"]] == [4, 5]


@pytest.mark.parametrize("epochs", [1, 2])
def test_stopped_while_it_evaluates(
    epochs: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It saves before, stops between two held-out batches, and evaluates when it is resumed."""
    from jukebox.training import checkpoint, step

    undisturbed = train(name="a", test=True, epochs=epochs, save_iters=100)
    capsys.readouterr()
    forward, calls = step.forward, []

    def interrupted(model: Any, *rest: Any) -> Any:
        if not model.training:
            calls.append(load_torch("logs/b/checkpoint_latest.pth.tar")["step"])
            os.kill(os.getpid(), signal.SIGINT)
        return forward(model, *rest)

    monkeypatch.setattr(checkpoint, "RECENT", 0.0)
    monkeypatch.setattr(step, "forward", interrupted)
    assert run.run_training(tiny_hps(name="b", test=True, epochs=epochs, save_iters=100, sample_iters=-1), "") == 130
    assert calls == [5] and "held-out" not in capsys.readouterr().out
    monkeypatch.setattr(step, "forward", forward)
    resumed = train(name="b", test=True, epochs=epochs, save_iters=100)
    assert capsys.readouterr().out.count("held-out songs: loss") == epochs
    assert events("logs/a/logs")["test/loss"] == events("logs/b/logs")["test/loss"]
    undisturbed["hps"]["name"] = "b"
    same(dict(undisturbed, command=""), dict(resumed, command=""))


def test_stopped_after_an_evaluation_there_is_no_further_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT) or {"loss": 1.0})
    assert run.run_training(tiny_hps(test=True, ema=False, epochs=2, sample_iters=-1), "") == 130
    checkpoint = load_torch("logs/tiny/checkpoint_latest.pth.tar")
    assert checkpoint["step"] == 5 and checkpoint["data"] == {"epoch": 1, "done": 0}


def test_random_weights_are_not_evaluated() -> None:
    with pytest.raises(UserError, match="logs/tiny/checkpoint_latest.pth.tar does not exist; .*--restore_vqvae=CHECK"):
        run.run_training(tiny_hps(train=False, test=True), "")
    path = vqvae_path()
    with pytest.raises(UserError, match="--restore_prior=CHECKPOINT"):
        run.run_training(tiny_hps(train=False, test=True, prior=True, restore_vqvae=path), "")
    assert run.run_training(tiny_hps(train=False, test=True, restore_vqvae=path), "") == 0


@pytest.mark.parametrize("training", [True, False])
def test_only_training_shards_a_prior(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which then moves it to its device, layer by layer; without it the prior is built there at once."""
    from jukebox.training import setup

    class Placed(Exception):
        pass

    def place(hps: Hyperparams, vqvae: Any, device: torch.device) -> Any:
        raise Placed(device.type)

    monkeypatch.setattr(setup, "make_prior", place)
    monkeypatch.setattr(setup.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(setup, "make_vqvae", lambda *_: None)
    hps = tiny_hps(prior=True, fsdp=True, train=training, test=True)
    with pytest.raises(Placed, match="cpu" if training else "meta"):
        setup.build_trained(hps, "", torch.device("meta"))


def test_nothing_to_evaluate_is_said_at_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithoutHeldOut(TinyData):
        def __init__(self, hps: Hyperparams, **rest: Any) -> None:
            super().__init__(hps, **rest)
            self.test_loader = []

    monkeypatch.setattr(run, "DataProcessor", WithoutHeldOut)
    train(epochs=1, test=True, log_steps=1)
    said = capsys.readouterr().out
    assert "no songs are held out, so --test has nothing to evaluate" in said.split("step 1 of")[0]


def test_what_would_train_nothing_is_refused() -> None:
    values: dict[str, Any] = dict(prior=True, restore_vqvae=vqvae_path())
    train(name="prior", **values)
    path = "logs/prior/checkpoint_latest.pth.tar"
    for start in (2, 4):
        anneal = dict(restore_prior=path, lr_use_linear_decay=True, lr_start_linear_decay=start, lr_decay=6.0)
        with pytest.raises(UserError, match=f"zero at step {start + 6} .*step 10: use --lr_start_linear_decay=10"):
            train(name="anneal", epochs=100, **values, **anneal)
    with pytest.raises(UserError, match="curr_epoch=2, epochs=2.*use --epochs=3"):
        train(name="late", curr_epoch=2)
    del anneal["restore_prior"]
    train(name="prior", **values, **anneal)  # its own end at step 10: finished is finished
    with pytest.raises(UserError, match="use --lr_start_linear_decay=10"):
        train(name="prior", **values, **{**anneal, "lr_decay": 3.0})


def test_another_precision_takes_the_weights_alone(capsys: pytest.CaptureFixture[str]) -> None:
    values: dict[str, Any] = dict(prior=True, restore_vqvae=vqvae_path())
    start = train(name="prior", **values)
    half = dict(fp16=True, fp16_params=True, fp16_opt=True, restore_prior="logs/prior/checkpoint_latest.pth.tar")
    capsys.readouterr()
    tuned = train(name="half", epochs=1, lr=1e-9, **values, **half)
    said = capsys.readouterr().out
    assert "trained with fp16_params=False, fp16_opt=False: its weights are taken, the optimizer starts again" in said
    assert tuned["step"] == 5
    for key, value in tuned["model"].items():
        torch.testing.assert_close(value.float(), start["model"][key], rtol=1e-3, atol=1e-5)


def test_a_prior_stays_with_its_vqvae(capsys: pytest.CaptureFixture[str]) -> None:
    path = vqvae_path()
    train(name="prior", prior=True, epochs=1, restore_vqvae=path)
    train(name="other", epochs=1, seed=7)
    other = "logs/other/checkpoint_latest.pth.tar"
    for values in (dict(epochs=2), dict(train=False, test=True)):
        with pytest.raises(UserError, match="another VQ-VAE than restore_vqvae=logs/other/.*another --name"):
            train(name="prior", prior=True, restore_vqvae=other, **values)
    start = dict(restore_prior="logs/prior/checkpoint_latest.pth.tar")
    train(name="moved", prior=True, restore_vqvae=other, **start)
    assert "trained on the codes of another VQ-VAE" in capsys.readouterr().out


def test_a_run_keeps_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed = train(name="a", aug_blend=True)
    train(name="b", aug_blend=True, crash_after=4)
    resumed = train(name="b", aug_blend=True, seed=3)
    assert "--seed=3 is for new runs: this one keeps seed 0" in capsys.readouterr().out
    undisturbed["hps"]["name"] = "b"
    same(undisturbed, resumed)


def test_skipped_steps_are_counted_over_all_lives() -> None:
    train(epochs=1, ignore_grad_norm=7.7, lr=0.0, log_steps=5)
    first = load_torch("logs/tiny/checkpoint_latest.pth.tar")["skipped"]
    again = train(ignore_grad_norm=7.7, lr=0.0, log_steps=5)["skipped"]
    assert 0 < first < again and [n for _, n in events()["optimizer/skipped_in_all"]] == [first, again]


def test_steps_left_with_a_short_last_group() -> None:
    hps = tiny_hps(epochs=3, iters_before_update=2)
    assert [pick(loop.LoopOptions, hps).steps_left(5, 1, done) for done in (0, 2, 4, 5)] == [6, 5, 4, 3]


def test_previews_change_nothing() -> None:
    """A run with previews ends at the very weights of one without."""
    values: dict[str, Any] = dict(prior=True, restore_vqvae=vqvae_path(), resid_dropout=0.3, epochs=1)
    without = train(name="a", **values)
    with_them = train(name="b", **{**values, "sample_iters": 2})
    same(without["raw_model"], with_them["raw_model"])


def test_previews_in_parts_equal_those_of_codes_cut_in_parts() -> None:
    """`n_segment` cuts reconstructions; each part is decoded by itself."""
    from jukebox.training.previews import _decode

    train(epochs=1)
    hps = tiny_hps(train=False, restore_vqvae="logs/tiny/checkpoint_latest.pth.tar")
    vqvae = make_vqvae(Hyperparams(hps), torch.device("cpu"))
    zs = vqvae.encode(TinyData(hps).test_loader[0])
    whole, parts = _decode(vqvae, zs, 1, start_level=0), _decode(vqvae, zs, 4, start_level=0)
    assert torch.equal(whole, vqvae.decode(zs)) and not torch.equal(whole, parts)
    slow = [vqvae.decode([z[:, i * z.shape[1] // 4 : (i + 1) * z.shape[1] // 4] for z in zs]) for i in range(4)]
    torch.testing.assert_close(parts, torch.cat(slow, 1))
    train(name="parts", epochs=1, sample_iters=5, n_segment=4)
    assert events("logs/parts/logs")["audio_level_1/0"]


def test_bf16_is_the_default_of_priors_on_gpus_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")

    def chosen(device: torch.device, **values: Any) -> Any:
        hps = tiny_hps(**{"bf16": None, **values})
        return resolve(hps, device, {}).bf16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert chosen(gpu, prior=True) is False
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert chosen(gpu, prior=True) is True
    assert chosen(gpu, prior=True, fp16=True) is False
    assert chosen(gpu, prior=True, bf16=False) is False
    assert chosen(gpu) is False and chosen(gpu, bf16=True) is True
    assert chosen(cpu, prior=True) is False and chosen(cpu, prior=True, bf16=True) is True


def test_nothing_writes_into_resolved_hyper_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was chosen is in them; the command's own stay as they were; a write is refused."""
    seen: list[FrozenHyperparams] = []
    make_loop = run.make_loop

    def watched(model: Any, data: Any, hps: FrozenHyperparams, *rest: Any) -> Any:
        seen.append(hps)
        return make_loop(model, data, hps, *rest)

    monkeypatch.setattr(run, "make_loop", watched)
    for values in (dict(), dict(prior=True, restore_vqvae="logs/tiny/checkpoint_latest.pth.tar", name="prior")):
        hps = tiny_hps(epochs=1, sample_iters=-1, bf16=None, **values)
        before = dict(hps)
        assert run.run_training(hps, "") == 0
        assert hps == before
    vqvae, prior = seen
    assert set(vqvae.bandwidth) == {"l1", "l2", "spec"} and vqvae.bf16 is False and prior.bandwidth == {}
    for resolved in seen:
        with pytest.raises(HyperparamsError, match="seed cannot be changed"):
            resolved.seed = 3
    checkpoint = load_torch("logs/tiny/checkpoint_latest.pth.tar")
    assert type(checkpoint["hps"]) is dict and "bandwidth" not in checkpoint["hps"]


def test_settings_of_the_optimizer_are_those_of_the_new_command() -> None:
    train(epochs=1)
    checkpoint = train(epochs=2, weight_decay=0.125, beta2=0.5)
    group = checkpoint["opt"]["param_groups"][0]
    assert group["weight_decay"] == 0.125 and tuple(group["betas"]) == (0.9, 0.5)
    assert checkpoint["step"] == 10


def test_a_run_folder_that_cannot_be_made_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="local_logdir"):
        train(epochs=1, local_logdir=str(tmp_path / "file"))
