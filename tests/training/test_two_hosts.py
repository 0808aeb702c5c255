"""Two hosts, each a network namespace of its own that reaches the other by one cable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from utils.test_dist import free_port

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.213.77.1", "10.213.77.2")

PROGRAM = """
import sys
from jukebox.training import run
from jukebox.utils import dist_adapter
from jukebox.utils.launch import leave_job
from tiny_training import TinyData, tiny_hps


class RankData(TinyData):
    def __init__(self, hps, **_):
        super().__init__(hps, rank=dist_adapter.get_rank(), ranks=dist_adapter.get_world_size())


run.DataProcessor = RankData
hps = tiny_hps(name="hosts", epochs=2, sample_iters=-1, bs=2, revival_threshold=0.0, mu=0.9)
leave_job(run.run_training(hps, "two hosts"))
"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces that are joined by a pair of virtual devices."""
    if shutil.which("ip") is None:
        pytest.skip("no `ip` command here, so no network namespaces")
    tag = uuid.uuid4().hex[:6]
    names = [f"jukebox{tag}{side}" for side in "ab"]
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", f"jb{tag}a", "netns", names[0], "type", "veth", "peer", f"jb{tag}b", "netns", names[1])
            for name, side, address in zip(names, "ab", ADDRESSES, strict=True):
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", f"jb{tag}{side}")
                _ip("-n", name, "link", "set", f"jb{tag}{side}", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no right to make network namespaces: {error.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def start(folder: Path, rank: int, before: list[str], port: str) -> subprocess.Popen[str]:
    """Starts one of two processes as a launcher would that has one on each host."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "MPI", "OMPI", "SLURM", "GLOO"))}
    environment.update(
        PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        OMP_NUM_THREADS="1",
        JUKEBOX_CACHE=str(folder / "cache"),
        RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_RANK="0",
        LOCAL_WORLD_SIZE="1",
        MASTER_ADDR=ADDRESSES[0] if before else "127.0.0.1",
        MASTER_PORT=port,
        RES_OPTIONS="timeout:1 attempts:1",  # there are no name servers on these cables
    )
    folder.mkdir()
    words = [*before, sys.executable, "-c", PROGRAM]
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_hosts_train_as_two_processes_of_one(hosts: list[str], tmp_path: Path) -> None:
    """Each host has a disk of its own, and rank 0's holds the run; two processes on one host end at the same bits."""
    for name, cables in (("two", [["ip", "netns", "exec", host] for host in hosts]), ("one", [[], []])):
        port = free_port()
        ranks = [start(tmp_path / f"{name}{i}", i, cable, port) for i, cable in enumerate(cables)]
        for process in ranks:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, out + err
    two, one = (torch.load(tmp_path / n / "logs/hosts/checkpoint_latest.pth.tar") for n in ("two0", "one0"))
    assert not (tmp_path / "two1" / "logs" / "hosts" / "checkpoint_latest.pth.tar").exists()
    assert one["step"] == two["step"] == 10
    for key, value in one["raw_model"].items():
        assert torch.equal(two["raw_model"][key], value), key
