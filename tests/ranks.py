"""Ranks of a job, forked from a process that has imported what they need. The programs of tests use this."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def fork_ranks(ranks: int, work: Callable[[int], int]) -> list[int]:
    """Processes that each end with what `work(rank)` returns, 1 if it raises; several meet as a job."""
    port, children = free_port(), []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if ranks > 1:
                    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
                    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks))
                status = work(rank)
            finally:
                os._exit(status)
        children.append(child)
    return children


def statuses(children: list[int]) -> list[int]:
    """How each ended: its exit status, or minus the signal that killed it."""
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
