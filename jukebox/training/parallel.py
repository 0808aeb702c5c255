"""How a model is spread over the processes of a job. Other ways to spread it belong here."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from jukebox.training.sharding import Shards
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import print_once

# Buffers are not sent with each step; PyTorch 2.13 renamed the option.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_BUFFERS_ALONE: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


def wrap_for_ranks(
    model: nn.Module, device: torch.device, bucket_mb: int, fsdp: bool = False
) -> tuple[nn.Module, Shards | None]:
    """The model as it is called in training: itself in one process, else averaging gradients over all ranks.

    Weights and buffers of rank 0 are copied to the others. Afterwards buffers are not sent: codebooks keep themselves
    equal. Parameters that take no part in a loss are allowed.

    Args:
        model: on its device; its own names stay what they are.
        device: of this process.
        bucket_mb: megabytes of gradients sent at a time.
        fsdp: shard the model instead.

    Returns:
        What is called, and the shards of a sharded model.
    """
    if dist.get_world_size() == 1:
        if fsdp:
            print_once("fsdp: one process holds all there is, nothing is sharded")
        return model, None
    if fsdp:
        return model, Shards(model, device)
    # The gradient of a weight with one channel has strides of its own for that, which differ without any consequence.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    wrapped = DistributedDataParallel(
        model,
        device_ids=None,
        **_BUFFERS_ALONE,
        bucket_cap_mb=bucket_mb,
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )
    return wrapped, None
