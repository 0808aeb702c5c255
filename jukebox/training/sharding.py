"""A prior spread over the processes of a job: each holds a part of every weight and of all that belongs to it.

PyTorch's `fully_shard` gathers a layer's weights when the layer runs and spreads its gradients afterwards. Optimizer
and average see this process's parts as plain parameters, `Shards.parts`, so they need not know. Sharded state is saved
by `torch.distributed.checkpoint`, which lets another number of processes go on with it. Change here what is sharded,
and the form of the saved shards.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from jukebox.transformer.transformer import ResAttnBlock
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import gather_objects
from jukebox.utils.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


def layers_to_shard(model: nn.Module) -> list[nn.Module]:
    """The modules that are gathered one at a time: all transformer layers."""
    return [module for module in model.modules() if isinstance(module, ResAttnBlock)]


class Shards:
    """The parts of a model's parameters that this process holds.

    Args:
        model: with the same weights and the same parameters to train on all processes; those of rank 0 count. It is
            sharded in place and moved to the device layer by layer, so that the whole need not fit there.
        device: of this process.

    Attributes:
        parts: plain parameters that share memory with this process's parts of those that are trained, in order; some
            may be empty.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.model = model
        self.mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for module in [*layers_to_shard(model), model]:
            done = {id(p) for p in model.parameters() if hasattr(p, "device_mesh")}
            for tensor in [*module.parameters(), *module.buffers()]:
                if id(tensor) not in done:
                    tensor.data = tensor.data.to(device).contiguous()
                    dist.broadcast(tensor.data, 0)
            # The root gives its weights back as well, so that no stale copy outlives a change of the parts.
            fully_shard(module, mesh=self.mesh, reshard_after_forward=True)
        self.modules = [*layers_to_shard(model), model]
        for module in self.modules:  # the first gathering settles where the parts lie
            module.unshard()  # type: ignore[operator]
            module.reshard()  # type: ignore[operator]
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in trained]
        self.whole: list[Any] = [p for _, p in trained]  # DTensors
        self.parts = [nn.Parameter(p.to_local().detach()) for p in self.whole]

    def take_gradients(self) -> None:
        """Moves the gradients of a backward pass to the parts."""
        for whole, part in zip(self.whole, self.parts, strict=True):
            if whole.to_local().data_ptr() != part.data_ptr():
                raise RuntimeError("the sharded weights have moved away from the optimizer")
            grad = None if whole.grad is None else whole.grad.to_local()
            whole.grad = None
            part.grad = grad if grad is not None and grad.numel() else None

    def norm(self, of_parts: float) -> float:
        """The norm of whole gradients from that of this process's parts."""
        square = torch.tensor(of_parts**2, dtype=torch.float64, device="cpu")
        square = square.to(self.mesh.device_type)
        dist.all_reduce(square)
        return float(square.sqrt())

    def spread(self, tensor: torch.Tensor, like: Any) -> Any:
        """A DTensor whose local part is `tensor`, laid out as a parameter is."""
        from torch.distributed.tensor import DTensor

        tensor = tensor.detach().to(like.to_local().device)
        return DTensor.from_local(
            tensor, self.mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    def part_of(self, tensor: torch.Tensor, like: Any) -> torch.Tensor:
        """This process's part of a whole tensor that every process has."""
        from torch.distributed.tensor import distribute_tensor

        whole = tensor.to(like.to_local().device)
        return distribute_tensor(whole, self.mesh, like.placements, src_data_rank=None).to_local()

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Whole weights on every process for a while, such as for sampling. All processes must take part."""
        for module in self.modules:
            module.set_reshard_after_forward(False, recurse=False)  # type: ignore[operator]
            module.unshard()  # type: ignore[operator]
        try:
            yield
        finally:
            for module in self.modules:
                module.reshard()  # type: ignore[operator]
                module.set_reshard_after_forward(True, recurse=False)  # type: ignore[operator]

    def merged_state(self, average: Any) -> dict[str, torch.Tensor]:
        """The whole state dict in host memory on rank 0, tensor by tensor, with averaged weights where there are any.

        The other processes take part and get an empty dict.
        """
        averages = {} if average is None else dict(zip(self.names, average.averages(), strict=True))
        by_parameter = {id(p): name for name, p in zip(self.names, self.whole, strict=True)}
        merged: dict[str, torch.Tensor] = {}
        for key, value in self.model.state_dict(keep_vars=True).items():
            name = by_parameter.get(id(value))
            if name in averages:
                value = self.spread(averages[name], value)
            if hasattr(value, "full_tensor"):
                value = value.full_tensor()
            if dist.get_rank() == 0:
                merged[key] = value.detach().cpu()
            del value
        return merged


# ------------------------------------------------------------------------------------------- saved shards


def _sharded(training: Any) -> dict[str, Any]:
    """What of a training state lies in shards, by name: DTensors where it is sharded, plain tensors where not."""
    shards: Shards | None = training.shards
    named = training.named_parameters()
    averages = training.average.averages() if training.average is not None else [None] * len(named)
    state: dict[str, Any] = {}
    for i, ((name, part), average) in enumerate(zip(named, averages, strict=True)):
        own = training.optimizer.state.get(part, {})
        tensors = {"raw": part.detach(), "average": average}
        for moment in MOMENTS:
            tensors[moment] = own.get(moment, torch.zeros_like(part, dtype=torch.float32))
        for kind, tensor in tensors.items():
            if tensor is not None:
                state[f"{kind}/{name}"] = tensor if shards is None else shards.spread(tensor, shards.whole[i])
    return state


def save_shards(training: Any, folder: str) -> dict[str, Any]:
    """Writes each process's shards into a folder. All processes must take part.

    Returns:
        What a checkpoint must hold besides: steps of the optimizer by parameter, and the average's counter.
    """
    from torch.distributed import checkpoint as dcp

    with _quiet():
        dcp.save(_sharded(training), checkpoint_id=folder)
    steps = {name: int(training.optimizer.state.get(p, {}).get("step", 0)) for name, p in training.named_parameters()}
    everybody = gather_objects(steps)  # a process with an empty part counts no steps of it
    most = {name: max(part[name] for part in everybody) for name in steps}
    return {"steps": most, "calls": getattr(training.average, "calls", 0)}


@torch.no_grad()
def load_shards(training: Any, folder: str, besides: Mapping[str, Any]) -> None:
    """Takes up what `save_shards` wrote, on any number of processes, sharded or not.

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
            "go on from an older checkpoint_step_N, with --restore_prior and another --name"
        ) from error
    local = {key: value.to_local() if hasattr(value, "to_local") else value for key, value in state.items()}
    named = training.named_parameters()
    averages = training.average.averages() if training.average is not None else [None] * len(named)
    for (name, part), average in zip(named, averages, strict=True):
        part.copy_(local[f"raw/{name}"])
        if average is not None:
            average.copy_(local[f"average/{name}"])
        steps = int(besides["steps"][name])
        if steps and part.numel():
            moments = {moment: local[f"{moment}/{name}"].clone() for moment in MOMENTS}
            training.optimizer.state[part] = {"step": steps, **moments}
    if hasattr(training.average, "calls"):
        training.average.calls = int(besides["calls"])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps warnings of saving and loading that concern nobody here to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
