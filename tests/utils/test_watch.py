"""A rank that dies, is stopped, hangs or has no memory ends the job, with its number, and leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Tried

ROOT = Path(__file__).parents[2]

# All jobs at once, of two ranks each, forked from a process that has imported what they need.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from jukebox.utils import dist_utils, watch
from jukebox.utils.dist_utils import *
from ranks import fork_ranks, statuses

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
watch.BEAT = 0.5

def deadlock():
    time.sleep(1000)

def lost(how):
    if how == "stopped": os.kill(os.getpid(), signal.SIGSTOP)
    if how == "hangs": deadlock()
    if how == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if how == "no memory": torch.empty(1 << 50)
    if how == "fails": raise ZeroDivisionError("boom")
    if how == "a mistake": raise UserError("no such song")

def work(how, victim, rank, out):
    os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    setup_dist_from_mpi(device="cpu")
    with failing_together():
        for step in range(4):
            time.sleep(0.3)
            if rank == victim and step == 1:
                lost(how)
            any_rank(False)
        if how == "slow":  # the other one waits for long, which is no fault
            end = time.monotonic() + 2 * watch.BEAT * watch.PATIENCE
            while rank == victim and time.monotonic() < end:
                time.sleep(0.1)
            any_rank(False)
    shutdown()
    return 0

jobs = []
for how in sys.argv[1:]:
    for victim in (0, 1):
        out = f"{how} {victim}"
        children = fork_ranks(2, lambda rank: work(how, victim, rank, out))
        jobs.append((how, victim, children, out))
began = time.monotonic()
for how, victim, children, out in jobs:
    [other] = statuses([children[1 - victim]])
    longest = time.monotonic() - began
    if how == "stopped":
        os.kill(children[victim], signal.SIGKILL)
    [own] = statuses([children[victim]])
    said = Path(out).read_text().replace("\\n", "#")
    print("|".join([how, str(victim), str(own), str(other), f"{longest:.1f}", said]))
"""
SAID = {
    "stopped": "rank {} is stopped, or its host cannot be reached: it has been silent for 10 s",
    "hangs": r"rank {} hangs: it has waited in <string>, line \d+ \(deadlock\) for 10 s",
    "killed": "rank {other} stops: rank {} has gone, killed perhaps for want of memory",
    "no memory": "rank {} failed:.*allocate",
    "fails": "rank {} failed:.*ZeroDivisionError: boom",
    "a mistake": "error on rank {}: no such song",
    "slow": "^$",
}


@pytest.mark.faults(
    "a job ends with its cause, or continues", "two ranks, one is stopped, hangs, dies, fails or is slow"
)
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs fork and /proc")
def test_a_rank_is_lost(tmp_path: Path, tried: Tried) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *SAID],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(SAID)
    for line in lines:
        how, victim, own, other, longest, said = line.split("|")
        status = {"killed": -9, "stopped": -9, "slow": 0, "a mistake": 2}.get(how, 1)
        assert int(own) == status and (int(other) > 0) == (how != "slow"), line
        assert re.search(SAID[how].format(victim, other=1 - int(victim)), said), line
        assert float(longest) < 60
        tried.add(1, float(longest))
