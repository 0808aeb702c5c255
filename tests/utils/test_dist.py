"""Ranks from the environment, devices, and jobs of two processes under mpiexec."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import free_port

from jukebox.utils import dist_adapter, dist_utils
from jukebox.utils.dist_utils import average, gather_objects, pick_device, print_all, print_once, setup_dist_from_mpi
from jukebox.utils.errors import UserError
from jukebox.utils.launch import Launch, read_launch

ROOT = Path(__file__).parents[2]


def mpiexec() -> str:
    """The launcher beside this Python, or the system's; skips the test where there is none."""
    found = shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
    if found is None:
        pytest.skip("no mpiexec here")
    return found


def launch(program: str, *words: str, ranks: int = 2, **environment: str) -> Any:
    """Runs a program text under mpiexec."""
    return subprocess.run(
        [mpiexec(), "-n", str(ranks), sys.executable, "-c", program, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch("none")),
        (
            dict(PMI_RANK="1", PMI_SIZE="4", MPI_LOCALRANKID="1", MPI_LOCALNRANKS="2"),
            Launch("MPICH", 1, 4, 1, 2),
        ),
        (
            dict(
                OMPI_COMM_WORLD_RANK="3",
                OMPI_COMM_WORLD_SIZE="4",
                OMPI_COMM_WORLD_LOCAL_RANK="1",
                OMPI_COMM_WORLD_LOCAL_SIZE="2",
            ),
            Launch("Open MPI", 3, 4, 1, 2),
        ),
        (
            dict(
                RANK="5",
                WORLD_SIZE="8",
                LOCAL_RANK="1",
                LOCAL_WORLD_SIZE="4",
                MASTER_ADDR="10.0.0.1",
                MASTER_PORT="123",
            ),
            Launch("torchrun", 5, 8, 1, 4, "10.0.0.1", 123),
        ),
        (
            dict(
                SLURM_PROCID="2",
                SLURM_STEP_NUM_TASKS="4",
                SLURM_LOCALID="0",
                SLURM_STEP_NUM_NODES="2",
                SLURM_STEP_NODELIST="gpu[03-05,9],login1",
            ),
            Launch("Slurm", 2, 4, 0, None, "gpu03"),
        ),
        (dict(PMIX_RANK="1"), Launch("an MPI launcher", unknown=True)),
        # a batch script itself is one process, whatever its allocation
        (dict(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_LOCALID="0"), Launch("none")),
        # mpiexec inside a Slurm job: the inner launcher counts
        (
            dict(SLURM_PROCID="0", SLURM_STEP_NUM_TASKS="1", SLURM_LOCALID="0", PMI_RANK="1", PMI_SIZE="2"),
            Launch("MPICH", 1, 2, None, None),
        ),
    ],
)
def test_what_launchers_say(environment: dict[str, str], expected: Launch) -> None:
    assert read_launch(environment) == expected


TORCHRUN = dict(RANK="0", WORLD_SIZE="4")
SLURM = dict(SLURM_PROCID="2", SLURM_STEP_NUM_TASKS="4")
OPEN_MPI = dict(OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="2")


@pytest.mark.parametrize(
    ("environment", "named", "rank"),
    [
        ({**TORCHRUN, **SLURM}, ["RANK=0 and WORLD_SIZE=4", "SLURM_PROCID=2 and SLURM_STEP_NUM_TASKS=4"], 2),
        ({**TORCHRUN, **SLURM, "WORLD_SIZE": "1"}, ["WORLD_SIZE=1", "SLURM_STEP_NUM_TASKS=4"], 2),
        ({**TORCHRUN, **OPEN_MPI}, ["RANK=0", "OMPI_COMM_WORLD_RANK=1"], 1),
        ({**TORCHRUN, "PMI_RANK": "3", "PMI_SIZE": "4"}, ["RANK=0", "PMI_RANK=3"], 3),
        ({**OPEN_MPI, "PMI_RANK": "0", "PMI_SIZE": "2"}, ["OMPI_COMM_WORLD_RANK=1", "PMI_RANK=0"], 1),
        ({**TORCHRUN, "MV2_COMM_WORLD_RANK": "0", "MV2_COMM_WORLD_SIZE": "2"}, ["MV2_COMM_WORLD_SIZE=2"], 0),
    ],
)
def test_launchers_that_contradict_each_other(
    environment: dict[str, str], named: list[str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = read_launch(environment)
    assert all(text in found.conflict for text in named) and "unset" in found.conflict and found.rank == rank
    monkeypatch.setattr(dist_utils, "_launch", found)
    with pytest.raises(UserError, match=f"{named[0]}.* contradict .*{named[-1]}" if len(named) > 1 else named[0]):
        setup_dist_from_mpi(device="cpu")


@pytest.mark.parametrize(
    "environment",
    [
        {**TORCHRUN, **SLURM, "RANK": "2"},  # a script that exports what srun says
        {**TORCHRUN, **SLURM, "TORCHELASTIC_RUN_ID": "none"},  # srun starts torchrun
        {**TORCHRUN, **OPEN_MPI, "GROUP_RANK": "0"},
        {**OPEN_MPI, **SLURM},  # mpiexec in a Slurm job
        {"PMI_RANK": "0", "PMI_SIZE": "2", **SLURM},
        {**SLURM, "RANK": "0"},  # no size: does not count
        {**TORCHRUN},
    ],
)
def test_launchers_may_start_each_other(environment: dict[str, str]) -> None:
    assert read_launch(environment).conflict == ""


@pytest.mark.parametrize("rank", ["0", "1"])
def test_no_rank_waits_for_one_that_cannot_come(rank: str) -> None:
    program = (
        "import datetime\n"
        "from jukebox.utils import dist_utils\n"
        "from jukebox.utils.command_line import run_command\n"
        "dist_utils.MEETING = datetime.timedelta(seconds=3)\n"
        "run_command(lambda: dist_utils.setup_dist_from_mpi(device='cpu', port=int('PORT')), [], '', [])\n"
    ).replace("PORT", free_port())
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RANK": rank, "WORLD_SIZE": "3", "LOCAL_RANK": rank}
        | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2 and time.monotonic() - start < 60, done.stderr
    assert f"rank {rank} of 3 cannot meet the others at 127.0.0.1" in done.stderr and "within 3 s" in done.stderr
    assert "Traceback" not in done.stderr and ("1 of 3 are there" in done.stderr) == (rank == "0")
    assert dist_utils.MEETING.total_seconds() <= 60


def test_one_process_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert setup_dist_from_mpi(device="cpu") == (0, 0, torch.device("cpu"))
    assert not dist_adapter.is_available()
    assert (dist_adapter.get_rank(), dist_adapter.get_world_size()) == (0, 1)
    x = torch.tensor([1.0, 2.0])
    dist_adapter.all_reduce(x)
    dist_adapter.all_reduce(x, op=dist_adapter.ReduceOp.MAX)
    dist_adapter.broadcast(x, 0)
    dist_adapter.barrier()
    others = [torch.zeros(2)]
    dist_adapter.all_gather(others, x)
    assert x.tolist() == others[0].tolist() == [1.0, 2.0]
    assert average({"a": 2.0}, torch.device("cpu")) == {"a": 2.0}
    assert gather_objects({"x": 1}) == [{"x": 1}]
    print_once("once", 1)
    print_all("all")
    assert capsys.readouterr().out == "once 1\nall\n"


def test_devices() -> None:
    assert pick_device(wanted="cpu").type == "cpu"
    with pytest.raises(UserError, match="choose cuda"):
        pick_device(wanted="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            pick_device(wanted="cuda")
    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="no Apple GPU"):
            pick_device(wanted="mps")


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert pick_device(1, 2) == torch.device("cuda", 1)
    assert pick_device(0, 1, "cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="at most 2 processes per host"):
        pick_device(2, 3)
    with pytest.raises(UserError, match="wants GPU 5"):
        pick_device(0, 1, "cuda:5")
    with pytest.raises(UserError, match="number of the GPU"):
        pick_device(0, 1, "cuda:x")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # the launcher shows each process its own
    assert pick_device(1, 2) == torch.device("cuda", 0)


HELLO = """
import torch
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import *
from jukebox.utils.launch import leave_job
for _ in range(2):
    rank, local_rank, device = setup_dist_from_mpi(device="cpu", port=int(__import__("sys").argv[1]))
x = torch.tensor([1.0 + rank])
dist.all_reduce(x)
y = torch.tensor([float(rank)])
dist.broadcast(y, 1)
z = [torch.zeros(1) for _ in range(2)]
dist.all_gather(z, torch.tensor([float(rank)]))
print_all(rank, local_rank, x.item(), y.item(), [t.item() for t in z], average({"a": rank}, device)["a"],
          any_rank(rank == 1, device), any_rank(False, device), gather_objects(rank))
print_once("done")
shutdown()
leave_job()
"""


def test_two_processes_meet() -> None:
    done = launch(HELLO, free_port())
    assert done.returncode == 0, done.stderr
    said = sorted(done.stdout.splitlines())
    assert said == [f"[rank {r}] {r} {r} 3.0 1.0 [0.0, 1.0] 0.5 True False [0, 1]" for r in (0, 1)] + ["done"]


def test_a_launcher_of_another_mpi_is_noticed() -> None:
    """mpi4py's library sees one process where Open MPI's launcher started two on two hosts."""
    pytest.importorskip("mpi4py")
    program = (
        "from jukebox.utils.command_line import run_command\n"
        "from jukebox.utils.dist_utils import setup_dist_from_mpi\n"
        "run_command(lambda **_: print(setup_dist_from_mpi(device='cpu')), [], '', argv=[])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "MPI_"))}
    environment.update(PYTHONPATH=str(ROOT), OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_SIZE="2")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "error: the launcher of Open MPI started 2 processes" in done.stderr and "sees 1" in done.stderr
    assert "Traceback" not in done.stderr


FAILING = """
import sys
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import *
rank, _, _ = setup_dist_from_mpi(device="cpu", port=int(sys.argv[1]))
with failing_together():
    if rank == 1:
        raise ZeroDivisionError("boom")
    dist.barrier()
"""


def test_a_failing_rank_brings_the_job_down_with_its_message() -> None:
    start = time.monotonic()
    done = launch(FAILING, free_port())
    assert done.returncode != 0
    assert "rank 1 failed:" in done.stderr and "ZeroDivisionError: boom" in done.stderr
    assert time.monotonic() - start < 90


def test_a_rank_that_fails_before_they_met() -> None:
    """Rank 1 has no flags wrong, and would wait for rank 0 for half an hour."""
    program = (
        "import os, time\n"
        "from jukebox.utils.command_line import run_command\n"
        "from jukebox.utils.errors import UserError\n"
        "def main():\n"
        "    if os.environ['PMI_RANK'] == '0': raise UserError('no such folder')\n"
        "    time.sleep(100)\n"
        "run_command(main, [], '', argv=[])"
    )
    start = time.monotonic()
    done = launch(program)
    assert "error: no such folder\n" in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == 2 and time.monotonic() - start < 90


def test_a_wrong_flag_is_said_once() -> None:
    program = "from jukebox.utils.command_line import run_command\nrun_command(print, [], '', argv=['--x'])"
    done = launch(program)
    assert done.stderr.count("unknown flag --x") == 1 and done.returncode == 2


def test_several_hosts_learn_the_address_of_rank_0() -> None:
    """Without the number of local ranks the processes might be on two hosts: mpi4py tells who is where."""
    pytest.importorskip("mpi4py")
    program = "import os; del os.environ['MPI_LOCALNRANKS']\n" + HELLO
    done = launch(program, free_port())
    assert done.returncode == 0, done.stderr
    assert "[rank 1] 1 1 3.0 1.0" in done.stdout


def test_a_taken_port_is_said() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        program = (
            "import sys\n"
            "from jukebox.utils.command_line import run_command\n"
            "from jukebox.utils.dist_utils import setup_dist_from_mpi\n"
            "run_command(lambda **_: setup_dist_from_mpi(device='cpu', port=int(sys.argv[1])), [], '', argv=[])"
        )
        done = launch(program, port)
    assert done.returncode != 0
    assert f"port {port} is in use" in done.stderr and f"--port={int(port) + 1}" in done.stderr


WAITING = """
import sys, time
from datetime import timedelta
from jukebox.utils import dist_utils
from jukebox.utils.launch import leave_job
dist_utils.TIMEOUT, dist_utils.MEET_SECONDS = timedelta(seconds=2), 0.3
rank, _, _ = dist_utils.setup_dist_from_mpi(device="cpu", port=int(sys.argv[1]))

def scan():
    time.sleep(4 if rank == 0 else 0)
    return time.monotonic()

with dist_utils.failing_together():
    made = dist_utils.gather_objects(dist_utils.first_rank_first(scan))
    assert made[0] < made[1]
    done = []
    for i in dist_utils.in_step(range(3 if rank == 0 else 20)):
        time.sleep(0.2)
        done.append(i)
    dist_utils.print_all(done == list(range(len(done))), len(done))

    def fail():
        raise dist_utils.UserError("no songs")

    try:
        dist_utils.first_rank_first(fail)
    except dist_utils.UserError as error:
        dist_utils.print_all(error)
dist_utils.shutdown()
leave_job()
"""


def test_long_work_of_one_rank_does_not_end_the_job() -> None:
    """Longer than a collective may wait: the others meet it again and again."""
    done = launch(WAITING, free_port())
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "[rank 0] True 3",
        "[rank 0] no songs",
        "[rank 1] True 20",
        "[rank 1] no songs",
    ]


@pytest.mark.parametrize(("of_launcher", "advice"), [(True, "MASTER_PORT=%d in the environment"), (False, "--port=%d")])
def test_a_port_in_use_is_named_by_what_chose_it(of_launcher: bool, advice: str) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        own = Launch("torchrun", 0, 2, 0, 2, "127.0.0.1", port if of_launcher else None)
        with pytest.raises(
            UserError, match=f"port {port} is in use on 127.0.0.1: choose another with {advice % (port + 1)}"
        ):
            dist_utils._start_group(own, "127.0.0.1", port, "gloo", torch.device("cpu"))


def test_a_port_that_does_not_count_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = []
    monkeypatch.setattr(dist_utils, "_launch", Launch("torchrun", 0, 2, 0, 2, "127.0.0.1", 1234))
    monkeypatch.setattr(dist_utils, "_start_group", lambda launch, address, port, *_: started.append(port))
    for port in (29500, 1234, 4321):
        setup_dist_from_mpi(port=port, device="cpu")
    assert started == [1234] * 3
    assert capsys.readouterr().err == "MASTER_PORT=1234 of the environment counts, --port=4321 does not\n"
