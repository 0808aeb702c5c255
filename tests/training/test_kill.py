"""SIGKILL at random moments: the resumed run ends at exactly the weights of one that was never disturbed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Tried

ROOT = Path(__file__).parents[2]

# One process imports torch and forks a child for each life of the run, or one for each of two ranks. A child tells each
# step through a pipe; when it has told the step that was drawn, one rank is killed after a random time, which may be in
# a step or in a write; AHEAD steps later it waits for that, so that no machine is too fast to be killed. The other rank
# has to end by itself.
PROGRAM = """
import contextlib, importlib, os, random, signal, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
from jukebox.training import loop, run
from jukebox.utils import dist_adapter as dist
from ranks import fork_ranks, statuses
from tiny_training import TinyData, tiny_hps
from training.test_loop import same
from jukebox.utils.files import load_torch

kind, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)
STEPS, AHEAD, OF_A_RUN = 40, 4, 10
ranks = 2 if "two ranks" in kind else 1
run.DataProcessor = lambda hps, with_times: TinyData(hps, rank=dist.get_rank(), ranks=dist.get_world_size())
values = dict(epochs=8, save_iters=4, sample_iters=-1, save_minutes=0.0, lr_decay=1e9, lr=0.003)


def life(*, before=lambda rank: None, **more):
    \"\"\"The processes of one life; `before` is called in each.\"\"\"
    def work(rank):
        before(rank)
        status = run.run_training(tiny_hps(**{**values, **more}), "")
        if not rank:
            Path("modules").write_text(" ".join(sys.modules))
        return status
    return fork_ranks(ranks, work)


def latest(name):
    return load_torch(f"logs/{name}/checkpoint_latest.pth.tar")


def whole(name):
    \"\"\"A checkpoint with the tensors of its shards, whatever their folder and files are called.\"\"\"
    found = latest(name)
    found["hps"]["name"] = ""
    if found.get("shards"):
        files = sorted(Path("logs", name, found["shards"].pop("folder")).glob("*.safetensors"))
        found["parts"] = [dict(sorted(load_file(file).items())) for file in files]
        assert len(files) == ranks
    return found


if "prior" in kind:
    one, ranks = ranks, 1
    assert statuses(life(name="vqvae", epochs=1)) == [0]
    ranks = one
    values.update(prior=True, restore_vqvae="logs/vqvae/checkpoint_latest.pth.tar", resid_dropout=0.2, mu=0.9)
values.update(fsdp="sharded" in kind)
assert not any(statuses(life(name="undisturbed")))
for module in Path("modules").read_text().split():  # each life would import them again
    with contextlib.suppress(ImportError):
        importlib.import_module(module)
died, longest, alone = 0, 0.0, 0.0
for number in range(-(-kills // OF_A_RUN)):
    name = f"killed{number}"
    for target in sorted(draw.sample(range(1, STEPS - AHEAD), min(OF_A_RUN, kills - died))):
        read, write = os.pipe()
        victim = draw.randrange(ranks)

        def before(rank):
            os.close(read)
            step = loop.train_step
            def telling(training, *rest):
                if rank == victim:
                    os.write(write, bytes([training.step]))
                    if training.step == target + AHEAD:
                        signal.pause()
                return step(training, *rest)
            loop.train_step = telling

        began = time.monotonic()
        children = life(before=before, name=name)
        os.close(write)
        while told := os.read(read, 1):
            if told[0] >= target:
                break
        time.sleep(draw.random() * 0.03)
        os.kill(children[victim], signal.SIGKILL)
        killed = time.monotonic()
        found = statuses(children)
        alone, longest = max(alone, time.monotonic() - killed), max(longest, time.monotonic() - began)
        os.close(read)
        assert found.pop(victim) == -signal.SIGKILL and all(status == 1 for status in found), found
        died += 1
        if os.path.exists(f"logs/{name}/checkpoint_latest.pth.tar"):
            latest(name)  # whole, whatever moment it was
    assert latest(name)["step"] < STEPS
    assert not any(statuses(life(name=name)))
    one, two = whole("undisturbed"), whole(name)
    assert one["step"] == STEPS
    same(one, two)
    left = os.listdir(f"logs/{name}")
    assert not [file for file in left if file.endswith(".tmp")], left
    kept = {load_torch(path).get("shards", {}).get("folder") for path in Path("logs", name).glob("checkpoint_*")}
    assert {file for file in left if file.startswith("shards_")} == kept - {None}
assert alone < 60, alone
print("killed", died, f"longest {longest:.2f}")
"""
KINDS = ["vqvae", "prior", "prior, two ranks", "prior, sharded on two ranks"]
KILLS = int(os.environ.get("JUKEBOX_TEST_KILLS", "0")) // 4  # of each kind; `make faults` sets 100 in all


def _kill(folder: Path, kind: str, kills: int, tried: Tried) -> None:
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
        timeout=600,
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    found = re.search(r"killed (\d+) longest ([\d.]+)", done.stdout)
    assert found and int(found[1]) == kills, done.stdout
    tried.add(kills, float(found[2]))


PROMISE = pytest.mark.faults("a killed run resumes as if undisturbed", "training, {kind}: SIGKILL at a random moment")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", KINDS[3:])
def test_killed_twice(kind: str, tmp_path: Path, tried: Tried) -> None:
    _kill(tmp_path, kind, 2, tried)


@PROMISE
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", KINDS if KILLS else KINDS[:2])
def test_killed_at_random_steps(kind: str, tmp_path: Path, tried: Tried) -> None:
    _kill(tmp_path, kind, KILLS or 4, tried)
