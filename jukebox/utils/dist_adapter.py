"""Collectives that do nothing in one process, so callers need no `if`.

The names and arguments are those of `torch.distributed`; every function is safe to call before, without and after a
process group. Setting a group up is the business of `dist_utils`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
import torch.distributed as dist

if dist.is_available():
    ReduceOp: Any = dist.ReduceOp
else:  # builds of PyTorch without distributed support run as one process

    class _ReduceOp(Enum):
        SUM = 0
        AVG = 1
        PRODUCT = 2
        MIN = 3
        MAX = 4

    ReduceOp = _ReduceOp


def is_available() -> bool:
    """Whether a process group is running."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """This process's number among all, from 0."""
    return dist.get_rank() if is_available() else 0


def get_world_size() -> int:
    """Number of processes that work together; 1 without a group."""
    return dist.get_world_size() if is_available() else 1


def barrier() -> None:
    """Waits until every process is here."""
    if is_available():
        dist.barrier()


def all_reduce(tensor: torch.Tensor, op: Any = ReduceOp.SUM) -> None:
    """Replaces a tensor by its reduction over all processes, in place."""
    if is_available():
        dist.all_reduce(tensor, op=op)


def broadcast(tensor: torch.Tensor, src: int = 0) -> None:
    """Replaces a tensor by that of process `src`, in place."""
    if is_available():
        dist.broadcast(tensor, src=src)


def all_gather(tensor_list: list[torch.Tensor], tensor: torch.Tensor) -> None:
    """Fills `tensor_list`, one tensor of the same shape for each process, with everybody's `tensor`."""
    if is_available():
        dist.all_gather(tensor_list, tensor)
    else:
        tensor_list[0].copy_(tensor)
