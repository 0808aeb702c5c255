"""SIGKILL at random moments: the resumed run ends at exactly the weights of one that was never disturbed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# One process imports torch and forks a child for each life of the run. A child tells each step through a pipe; when it
# has told the step that was drawn, it is killed after a random time, which may be in a step or in a write; AHEAD steps
# later it waits for that, so that no machine is too fast to be killed.
PROGRAM = """
import os, random, shutil, signal, sys, time
import torch
from jukebox.training import loop, run
from tiny_training import TinyData, tiny_hps
from training.test_loop import same
from jukebox.utils.files import load_torch

kind, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
STEPS, AHEAD = 40, 4
run.DataProcessor = TinyData
values = dict(epochs=8, save_iters=4, sample_iters=-1, save_minutes=0.0, lr_decay=1e9, lr=0.003)


def life(**more):
    return run.run_training(tiny_hps(**{**values, **more}), "")


def latest(name):
    return load_torch(f"logs/{name}/checkpoint_latest.pth.tar")


if kind == "prior":
    assert life(name="vqvae", epochs=1) == 0
    values.update(prior=True, restore_vqvae="logs/vqvae/checkpoint_latest.pth.tar", resid_dropout=0.2, mu=0.9)
assert life(name="undisturbed") == 0
targets = sorted(draw.sample(range(1, STEPS - AHEAD), kills))
died = []
for target in targets:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        step = loop.train_step
        def telling(training, *rest):
            os.write(write, bytes([training.step]))
            if training.step == target + AHEAD:
                signal.pause()
            return step(training, *rest)
        loop.train_step = telling
        try:
            life(name="killed")
        finally:
            os._exit(0)
    os.close(write)
    while told := os.read(read, 1):
        if told[0] >= target:
            break
    time.sleep(draw.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    os.close(read)
    _, status = os.waitpid(child, 0)
    died.append(os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    if os.path.exists("logs/killed/checkpoint_latest.pth.tar"):
        latest("killed")  # whole, whatever moment it was
assert all(died), died
before = latest("killed")["step"]
assert before < STEPS
assert life(name="killed") == 0
one, two = latest("undisturbed"), latest("killed")
one["hps"]["name"] = "killed"
assert one["step"] == STEPS
same(one, two)
assert not [name for name in os.listdir("logs/killed") if name.endswith(".tmp")]
print("lives:", len(died) + 1, "killed at", targets)
"""


def _kill(folder: Path, kind: str, kills: int) -> None:
    seed = int.from_bytes(os.urandom(3), "little")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
        "JUKEBOX_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, str(kills), str(seed)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert f"lives: {kills + 1}" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_twice(tmp_path: Path) -> None:
    _kill(tmp_path, "vqvae", 2)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["vqvae", "prior"])
def test_killed_at_ten_random_steps(kind: str, tmp_path: Path) -> None:
    _kill(tmp_path, kind, 10)
