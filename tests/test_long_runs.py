"""Long runs stay flat: resident memory, open files and threads of training and sampling, in one process and in two.

`JUKEBOX_TEST_STEPS` is the number of steps, of training or of decoding; `make faults` sets 20,000.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import Tried

ROOT = Path(__file__).parents[1]
STEPS = int(os.environ.get("JUKEBOX_TEST_STEPS", "300"))
CASES = [("training", 1), ("decoding", 1), ("training", 2), ("decoding", 2)][: 4 if STEPS > 1000 else 2]
GROWTH = 8.0  # MB that the straight line through the memory of a whole run may rise by
LOOKS = 60  # at least, over a run
START = 0.3  # share of a run after which all that is made once has been made

PROGRAM = """
import json, os, sys
from pathlib import Path
import torch
from jukebox import sample
from jukebox.sampling.state import RunState
from jukebox.training import loop, run
from jukebox.utils import dist_adapter as dist
from ranks import fork_ranks, statuses
from tiny_models import make_tiny_runs
from tiny_training import TinyData, tiny_hps

what, ranks, steps, every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
found = []


def look(done):
    if done >= (found[-1][0] if found else -every) + every:
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
        found.append((done, memory, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))


def train():
    step = loop.train_step
    def looking(training, *rest):
        look(training.step)
        return step(training, *rest)
    loop.train_step = looking
    run.DataProcessor = lambda hps, with_times: TinyData(
        hps, batches=50, rank=dist.get_rank(), ranks=dist.get_world_size())
    values = dict(epochs=-(-steps // 50), save_iters=max(50, steps // 10), sample_iters=-1, lr_decay=1e9, lr=0.001)
    values.update(name="long", log_steps=50, prior=True, restore_vqvae="vqvae.pth.tar")
    return run.run_training(tiny_hps(**values), "")


def decode():
    save, done = RunState.save, 0
    def looking(state):
        save(state)
        look(done + sum(z.shape[1] for z in state.zs))
    RunState.save = looking
    number = 0
    while done < steps:
        seconds = min(50.0, max(3.0, (steps - done) / 109))  # 109 tokens a second, of all levels
        flags = dict(model=model, name=f"run{number}", n_samples=ranks, sample_length_in_seconds=seconds, seed=number)
        assert sample.main(total_sample_length_in_seconds=55.0, lyrics="la la la", **flags) == 0
        done, number = done + int(109 * seconds), number + 1
    return 0


if what == "training":
    from tiny_training import tiny_vqvae
    from jukebox.make_models import save_checkpoint
    hps = tiny_hps()
    save_checkpoint("vqvae.pth.tar", hps, tiny_vqvae(hps))
else:
    model = make_tiny_runs(Path("tiny"))


def work(rank):
    status = train() if what == "training" else decode()
    Path(f"found{rank}").write_text(json.dumps(found))
    return status


ended = statuses(fork_ranks(ranks, work))
assert not any(ended), ended
"""


def growth(found: list[list[float]]) -> float:
    """MB that the straight line through (step, memory, ...) rises by over as many steps as the whole run has."""
    steps, memory = np.array(found)[:, 0], np.array(found)[:, 1]
    return float(np.polyfit(steps, memory, 1)[0]) * STEPS


@pytest.mark.slow
@pytest.mark.faults(
    f"long runs stay flat: under {GROWTH:g} MB, 1 file and 1 thread more", "{what}, {ranks} processes, steps of each"
)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs fork and /proc")
@pytest.mark.parametrize(("what", "ranks"), CASES)
def test_long_runs_stay_flat(what: str, ranks: int, tmp_path: Path, tried: Tried) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what, str(ranks), str(STEPS), str(STEPS // LOOKS)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(ranks):
        found = json.loads((tmp_path / f"found{rank}").read_text())
        found = [look for look in found if look[0] >= START * STEPS]
        rises = growth(found)
        print(f"rank {rank}: {1000 * rises / STEPS:+.3f} MB in 1,000 steps; {found[0]} to {found[-1]}")
        assert rises < GROWTH, found
        for kind in (2, 3):  # files and threads: what comes and goes does not add up
            half = len(found) // 2
            assert max(look[kind] for look in found[half:]) <= max(look[kind] for look in found[:half]) + 1, found
    tried.add(STEPS)


def test_the_meter_of_growth() -> None:
    assert growth([[step, 300 + step * 0.01, 9, 4] for step in range(100)]) == pytest.approx(0.01 * STEPS)
    assert abs(growth([[step, 300 + step % 2, 9, 4] for step in range(1000)])) < 0.1
