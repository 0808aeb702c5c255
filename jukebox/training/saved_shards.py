"""A sharded run on the disk: weights, averages and moments, each process's rows of them in a file of its own.

    shards_N/part_0.safetensors   the rows of process 0 of raw/NAME, average/NAME, exp_avg/NAME and exp_avg_sq/NAME
    shards_N/index.json           {"version": 1, "tensors": {name: {"shape": ..., "dtype": ..., "rows": [...]}}},
                                  rows being [part, first row, number of rows, CRC-32] of each process

Any number of processes, sharded or not, can resume from what another number of them wrote. Half moments have one
multiplier for each part that was updated by itself (see `optim.Adam`); the multipliers travel in the checkpoint
beside the shards. Folders that `torch.distributed.checkpoint` wrote are read by `old_shards.py`. Change here the
form of saved shards.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jukebox.training.ema import counters, read_counters
from jukebox.training.old_shards import OLD_INDEX, OldShards
from jukebox.training.optim import pack_moment
from jukebox.training.sharding import Shards
from jukebox.training.step import Training
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import gather_objects
from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write, path_inside
from jukebox.utils.json_text import read_json

MOMENTS = ("exp_avg", "exp_avg_sq")
INDEX, VERSION = "index.json", 1
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}  # of safetensors


def save_shards(training: Training, folder: str) -> dict[str, Any]:
    """Writes each process's shards into a folder. All processes must take part.

    Returns:
        What a checkpoint must hold besides: steps of the optimizer by parameter, multipliers of half moments by
        parameter, moment and process, and the average's counters.
    """
    tensors, shapes = _own_tensors(training)
    part = f"part_{dist.get_rank()}.safetensors"
    sums = write_safetensors(os.path.join(folder, part), tensors)
    own_rows = {
        key: [part, _first_row(shapes[key], training.shards is not None), len(tensor), sums[key]]
        for key, tensor in tensors.items()
    }
    rows = gather_objects(own_rows)
    if dist.get_rank() == 0:
        index = {
            key: {
                "shape": list(shapes[key]),
                "dtype": _DTYPES[tensors[key].dtype],
                "rows": [part[key] for part in rows],
            }
            for key in tensors
        }
        with atomic_write(os.path.join(folder, INDEX), "w") as file:
            json.dump({"version": VERSION, "tensors": index}, file)
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


def write_safetensors(path: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Writes tensors one by one, so that none but one is held twice; returns the CRC-32 of each."""
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    sums = {}
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key, tensor in tensors.items():
            data = _data(tensor)
            sums[key] = zlib.crc32(data)
            file.write(data)
    return sums


def _data(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class SavedShards:
    """Reads rows of what `save_shards` wrote.

    Args:
        folder: of the shards.

    Raises:
        UserError: the index is missing or damaged.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        index = read_json(self.folder / INDEX)
        if index["version"] != VERSION:
            raise UserError(f"version {index['version']} is not known here")
        self._tensors = index["tensors"]

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key]["shape"])

    def pieces(self, key: str) -> Iterator[tuple[int, int, Any]]:
        """First row, number of rows, and a function that reads them, of each part of a tensor."""
        for part, first, count, crc in self._tensors[key]["rows"]:
            yield int(first), int(count), lambda part=part, crc=crc: self._read(str(part), key, crc)

    def _read(self, part: str, key: str, crc: int) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(path_inside(self.folder, part), "pt") as file:
            tensor = file.get_tensor(key)
        if zlib.crc32(_data(tensor)) != crc:
            raise UserError(f"{part}: {key} is not what was written")
        return tensor


def _open(folder: str) -> SavedShards | OldShards:
    new = os.path.exists(os.path.join(folder, INDEX)) or not os.path.exists(os.path.join(folder, OLD_INDEX))
    return SavedShards(folder) if new else OldShards(folder)


@torch.no_grad()
def load_shards(training: Training, folder: str, besides: Mapping[str, Any], step: int) -> None:
    """Takes up what `save_shards` wrote.

    Args:
        folder: the checkpoint's; the shards are in a folder in it, which `besides` names.
        besides: what it returned.
        step: of the checkpoint.

    Raises:
        UserError: shards are missing or damaged.
    """
    place = folder
    try:
        place = path_inside(folder, besides["folder"])
        source = _open(place)
        own, shapes = _own_tensors(training)
        local = {key: _read_rows(source, key, shapes[key], like, training) for key, like in own.items()}
        _take_up(training, local, shapes, besides, step)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a damaged file leads to
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
        raise UserError(
            f"cannot read the shards in {place} ({reason}): "
            "start from an older checkpoint_step_N, with --restore_prior and another --name"
        ) from error


def _read_rows(
    source: SavedShards | OldShards, key: str, shape: Sequence[int], like: torch.Tensor, training: Training
) -> torch.Tensor:
    """This process's rows of a saved tensor, on the device of `like`."""
    if tuple(source.shape(key)) != tuple(shape):
        raise UserError(f"{key} has the shape {list(source.shape(key))}, the model's is {list(shape)}")
    tensor = torch.empty_like(like)
    first, missing = _first_row(shape, training.shards is not None), len(like)
    for begin, count, read in source.pieces(key):
        low, high = max(first, begin), min(first + len(like), begin + count)
        if low < high:
            tensor[low - first : high - first] = read()[low - begin : high - begin].to(like.device)
            missing -= high - low
    if missing:
        raise UserError(f"rows of {key} are missing")
    return tensor


def _take_up(
    training: Training,
    local: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Sequence[int]],
    besides: Mapping[str, Any],
    step: int,
) -> None:
    if training.average is not None:
        averages = [local[f"average/{name}"] for name, _ in training.named_parameters()]
        training.average.load_state_dict({"averages": averages, **read_counters(besides, step)})
    for name, part, _ in _parts(training):
        part.copy_(local[f"raw/{name}"].view_as(part))
        steps = int(besides["steps"][name])
        if not steps or not part.numel():
            continue
        own: dict[str, Any] = {"step": steps}
        for moment in MOMENTS:
            values = local[f"{moment}/{name}"].view_as(part)
            scales = besides.get("scales", {}).get(name, {}).get(moment)
            if scales:
                rows = shapes[f"raw/{name}"][0]
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
    first = _first_row((rows,), sharded)
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


def _own_tensors(training: Training) -> tuple[dict[str, torch.Tensor], dict[str, tuple[int, ...]]]:
    """This process's rows of all that is saved in shards, by name, and the shapes of the whole tensors."""
    shards: Shards | None = training.shards
    tensors: dict[str, torch.Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for i, (name, part, average) in enumerate(_parts(training)):
        own = training.optimizer.state.get(part, {})
        kind = torch.float16 if _half_moments(training, part) else torch.float32
        found = {"raw": part.detach(), "average": average}
        found.update({m: own[m] if m in own else torch.zeros_like(part, dtype=kind) for m in MOMENTS})
        shape = tuple(part.shape if shards is None else shards.whole[i].shape)
        for key, tensor in found.items():
            if tensor is not None:
                tensors[f"{key}/{name}"] = tensor.detach().reshape(-1, *shape[1:])
                shapes[f"{key}/{name}"] = shape or (1,)
    return tensors, shapes


def _first_row(shape: Sequence[int], sharded: bool) -> int:
    """The first row that this process holds: each holds as many as the first, the last ones fewer."""
    return min(shape[0], dist.get_rank() * -(-shape[0] // dist.get_world_size())) if sharded else 0
