"""What a launcher (MPI, Slurm, torchrun) tells a process, and how to end the whole job it started.

Reads only the environment: no torch and no MPI library. A launcher that is not known yet becomes a line of
`_LAUNCHERS`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Launch:
    """What a launcher told one process: its rank, the number of ranks, and its place on its host.

    `local_rank` and `local_size` are None if the launcher keeps them to itself; `address` and `port` are None if
    it gave no meeting point. `unknown` launchers number their processes in a way that only an MPI library can read.
    `conflict` says which variables of two launchers cannot be true together.
    """

    launcher: str
    rank: int = 0
    size: int = 1
    local_rank: int | None = None
    local_size: int | None = None
    address: str | None = None
    port: int | None = None
    unknown: bool = False
    conflict: str = ""


# launcher, then the variables of rank, size, local rank, local size. The first whose rank and size are set wins.
_LAUNCHERS = (
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    (
        "MVAPICH",
        "MV2_COMM_WORLD_RANK",
        "MV2_COMM_WORLD_SIZE",
        "MV2_COMM_WORLD_LOCAL_RANK",
        "MV2_COMM_WORLD_LOCAL_SIZE",
    ),
    ("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # SLURM_STEP_NUM_TASKS exists in what srun starts, not in the batch script itself, which is one process.
    ("Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
)
_SIGNS_OF_TORCHRUN = ("TORCHELASTIC_RUN_ID", "GROUP_RANK")  # RANK without them may be left from somewhere else
_SIGNS_OF_OTHERS = ("PMIX_RANK", "PMIX_NAMESPACE", "HYDI_CONTROL_FD", "ALPS_APP_PE")


def read_launch(environ: Mapping[str, str] | None = None) -> Launch:
    """Reads what the launcher put into the environment; one process if there is none."""
    env = os.environ if environ is None else environ

    def number(name: str) -> int | None:
        return int(env[name]) if env.get(name, "").isdigit() else None

    conflict = _conflict(env)
    for launcher, *names in _LAUNCHERS:
        rank, size, local_rank, local_size = (number(name) for name in names)
        if rank is None or size is None or (conflict and launcher == "torchrun"):
            continue
        address, port = env.get("MASTER_ADDR"), number("MASTER_PORT")
        if launcher == "Slurm":
            local_size = size if env.get("SLURM_STEP_NUM_NODES") == "1" else None
            address = address or _first_host(env.get("SLURM_STEP_NODELIST", "")) or None
        return Launch(launcher, rank, size, local_rank, local_size, address, port, conflict=conflict)
    if any(env.get(name) for name in _SIGNS_OF_OTHERS):
        return Launch("an MPI launcher", unknown=True)
    return Launch("none")


def _conflict(env: Mapping[str, str]) -> str:
    """What launchers say that cannot be true together, and what to do; "" if there is no such thing.

    One launcher may start another, whose values count: torchrun leaves its own sign, and MPIs start under Slurm.
    """
    said = {name: (rank, size) for name, rank, size, *_ in _LAUNCHERS if env.get(rank) and env.get(size)}
    if any(sign in env for sign in _SIGNS_OF_TORCHRUN):
        return ""
    first = next(iter(said), "")
    if first != "torchrun":
        said.pop("Slurm", None)
    for other in list(said)[1:]:
        if [env[name] for name in said[first]] != [env[name] for name in said[other]]:
            values = [" and ".join(f"{name}={env[name]}" for name in said[launcher]) for launcher in (first, other)]
            return (
                f"{values[0]}, as of {first}, contradict {values[1]} of {other}: "
                f"unset {' and '.join(said[first])}, which a batch script may have exported, or use one launcher"
            )
    return ""


def _first_host(nodes: str) -> str:
    """First host of Slurm's short form: `gpu[03-05,9],login1` begins with gpu03."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", nodes)
    return "" if match is None else match[1] + (match[2] or "")


def abort_job(status: int) -> NoReturn:
    """Ends this process at once, without exit handlers, and asks the launcher to end the others too.

    Open MPI and torchrun end a job when one process fails. MPICH's launcher does so only for processes that it was told
    about, by its simple line protocol; if it listens we tell it. Elsewhere the others notice a lost connection.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    wire = os.environ.get("PMI_FD", "")
    if wire.isdigit():
        time.sleep(0.5)  # what was printed is on its way through the launcher
        try:
            os.write(int(wire), f"cmd=abort exitcode={status}\n".encode())
            time.sleep(5.0)  # the launcher ends us
        except OSError:
            pass
    os._exit(status)


def leave_job(status: int = 0) -> NoReturn:
    """Ends one of several processes whose work is done, without Python's own clearing up.

    Threads that PyTorch's communication leaves running may ask for the interpreter while it ends. Python before 3.14
    then unwinds them, C++ calls that fatal, and the launcher calls a finished job failed.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
