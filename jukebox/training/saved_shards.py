"""A sharded run on the disk: weights, averages and moments in shards, by `torch.distributed.checkpoint`.

Any number of processes, sharded or not, can resume from what another number of them wrote. Half moments have one
multiplier for each part that was updated by itself (see `optim.Adam`); the multipliers travel in the checkpoint beside
the shards. Change here the form of the saved shards.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from jukebox.training.ema import counters, read_counters
from jukebox.training.optim import pack_moment
from jukebox.training.sharding import Shards
from jukebox.training.step import Training
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import gather_objects
from jukebox.utils.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


def save_shards(training: Training, folder: str) -> dict[str, Any]:
    """Writes each process's shards into a folder. All processes must take part.

    Returns:
        What a checkpoint must hold besides: steps of the optimizer by parameter, multipliers of half moments by
        parameter, moment and process, and the average's counters.
    """
    from torch.distributed import checkpoint as dcp

    with _quiet():
        dcp.save(_sharded(training), checkpoint_id=folder)
    own = {name: training.optimizer.state.get(p, {}) for name, p in training.named_parameters()}
    steps = gather_objects({name: int(state.get("step", 0)) for name, state in own.items()})
    halves = {name for name, p in training.named_parameters() if _half_moments(training, p)}
    scales = gather_objects(
        {name: {m: float(own[name].get(f"scale_{m}", 1.0)) for m in MOMENTS} for name in own if name in halves}
    )
    return {
        "steps": {name: max(part[name] for part in steps) for name in own},  # an empty part counts no steps
        "scales": {name: {m: [part[name][m] for part in scales] for m in MOMENTS} for name in scales[0]},
        **counters(training.average),
    }


@torch.no_grad()
def load_shards(training: Training, folder: str, besides: Mapping[str, Any], step: int) -> None:
    """Takes up what `save_shards` wrote.

    Args:
        besides: what it returned.
        step: of the checkpoint.

    Raises:
        UserError: shards are missing or damaged.
    """
    from torch.distributed import checkpoint as dcp

    state = {key: torch.zeros_like(value) for key, value in _sharded(training).items()}
    try:
        with _quiet():
            dcp.load(state, checkpoint_id=folder, no_dist=not dist.is_available())
    except Exception as error:
        raise UserError(
            f"cannot read the shards in {folder} ({str(error).splitlines()[0][:200]}): "
            "start from an older checkpoint_step_N, with --restore_prior and another --name"
        ) from error
    local = {key: value.to_local() if hasattr(value, "to_local") else value for key, value in state.items()}
    if training.average is not None:
        averages = [local[f"average/{name}"] for name, _ in training.named_parameters()]
        training.average.load_state_dict({"averages": averages, **read_counters(besides, step)})
    for name, part, _ in _parts(training):
        part.copy_(local[f"raw/{name}"])
        steps = int(besides["steps"][name])
        if not steps or not part.numel():
            continue
        own: dict[str, Any] = {"step": steps}
        for moment in MOMENTS:
            values = local[f"{moment}/{name}"].clone()
            scales = besides.get("scales", {}).get(name, {}).get(moment)
            if scales:
                rows = state[f"raw/{name}"].shape[0]
                values, own[f"scale_{moment}"] = _rescaled(values, scales, rows, sharded=training.shards is not None)
            own[moment] = values
        training.optimizer.state[part] = own


def _rescaled(
    values: torch.Tensor, scales: Sequence[float], rows: int, sharded: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half moments of this process's rows with one multiplier, from the multipliers of the processes that wrote them.

    Args:
        values: this process's rows of a moment.
        scales: a multiplier for each process that wrote; each wrote as many rows as the first, the last ones fewer.
        rows: of the whole moment.
        sharded: whether this process holds a part of them; its first row follows from its rank.
    """
    writers = len(scales)
    readers, rank = (dist.get_world_size(), dist.get_rank()) if sharded else (1, 0)
    if writers == readers:
        return values, torch.tensor(scales[rank], dtype=torch.float32, device=values.device)
    first = rank * -(-rows // readers)
    writer = torch.arange(first, first + len(values), device=values.device) // -(-rows // writers)
    by_row = torch.tensor(scales, dtype=torch.float32, device=values.device)[writer]
    return pack_moment(values.float() * by_row.view(-1, *[1] * (values.dim() - 1)))


def _half_moments(training: Training, part: torch.Tensor) -> bool:
    return bool(training.optimizer.half_state) and part.dtype == torch.float16


def _parts(training: Training) -> list[tuple[str, torch.nn.Parameter, torch.Tensor | None]]:
    """Name, this process's part and its average, of all trained parameters."""
    named = training.named_parameters()
    averages = training.average.averages() if training.average is not None else [None] * len(named)
    return [(name, part, average) for (name, part), average in zip(named, averages, strict=True)]


def _sharded(training: Training) -> dict[str, Any]:
    """What of a training state is in shards, by name: DTensors where it is sharded, plain tensors where not."""
    shards: Shards | None = training.shards
    state: dict[str, Any] = {}
    for i, (name, part, average) in enumerate(_parts(training)):
        own = training.optimizer.state.get(part, {})
        kind = torch.float16 if _half_moments(training, part) else torch.float32
        tensors = {"raw": part.detach(), "average": average}
        tensors.update({m: own[m] if m in own else torch.zeros_like(part, dtype=kind) for m in MOMENTS})
        for key, tensor in tensors.items():
            if tensor is not None:
                state[f"{key}/{name}"] = tensor if shards is None else shards.spread(tensor, shards.whole[i])
    return state


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings of saving and loading that no user needs to see to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
