"""A model spread over the processes of a job: each holds a part of every weight and of all that belongs to it.

PyTorch's `fully_shard` gathers a layer's weights when the layer runs and spreads its gradients afterwards. Optimizer
and average see this process's parts as plain parameters, `Shards.parts`, so they need not know. Buffers, such as a
VQ-VAE's codebooks, are whole on every process. Change here what is sharded; how it is saved is in `saved_shards.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from jukebox.training.ema import EMA
from jukebox.transformer.transformer import ResAttnBlock
from jukebox.utils import dist_adapter as dist
from jukebox.vqvae.encdec import Decoder, Encoder


def layers_to_shard(model: nn.Module) -> list[nn.Module]:
    """The modules that are gathered one at a time: transformer layers, or a VQ-VAE's encoders and decoders."""
    return [module for module in model.modules() if isinstance(module, (ResAttnBlock, Encoder, Decoder))]


def modules_to_shard(model: nn.Module) -> list[nn.Module]:
    """The modules that gather their weights at once, in the order in which they are sharded.

    Numbers that are gathered together must be of one type. If matrices are in half precision, a layer gathers only
    these. Its biases and norms, one number in a thousand, stay in float32 and come with all that is in no layer. For
    this the whole model must go first: it does not reach into what is sharded already.
    """
    layers = layers_to_shard(model)
    halves = {id(p) for p in model.parameters() if p.dtype == torch.float16}
    if not halves:
        return [*layers, model]
    inside = {id(p) for layer in layers for p in layer.parameters()}
    others = [m for m in model.modules() if (halves - inside) & {id(p) for p in m.parameters(recurse=False)}]
    return [model, *layers, *others]


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
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        self.model = model
        self.mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        self.modules = modules_to_shard(model)
        for buffer in model.buffers():
            buffer.data = self._from_rank_0(buffer, device)
        for module in self.modules:
            left = [p for p in module.parameters() if not hasattr(p, "device_mesh")]
            own = [p for p in left if module is not model or p.dtype != torch.float16]
            for parameter in own:
                parameter.data = self._from_rank_0(parameter, device)
            half = bool(own) and own[0].dtype == torch.float16
            # Half gradients are added up in float32, so that a sum does not overflow before it is a mean. The root
            # gives its weights back as well, so that no stale copy outlives a change of the parts.
            fully_shard(
                module,
                mesh=self.mesh,
                reshard_after_forward=True,
                mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32 if half else None),
                ignored_params=set(module.parameters()) - set(own),
            )
        for module in self.modules:  # the first gathering settles where the parts are
            module.unshard()  # type: ignore[operator]
            module.reshard()  # type: ignore[operator]
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in trained]
        self.whole: list[Any] = [p for _, p in trained]  # DTensors
        self.parts = [nn.Parameter(p.to_local().detach()) for p in self.whole]

    @staticmethod
    def _from_rank_0(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        data = tensor.data.to(device).contiguous()
        dist.broadcast(data, 0)
        return data

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

    def merged_state(self, average: EMA | None) -> dict[str, torch.Tensor]:
        """The whole state dict in host memory on rank 0, tensor by tensor, with averaged weights if there are any.

        The other processes take part and get an empty dict.
        """
        averages = {} if average is None else dict(zip(self.names, average.averages(), strict=True))
        by_parameter = {id(p): name for name, p in zip(self.names, self.whole, strict=True)}
        merged: dict[str, torch.Tensor] = {}
        for key, value in self.model.state_dict(keep_vars=True).items():
            name, kind = by_parameter.get(id(value)), value.dtype
            if name in averages:
                value = self.spread(averages[name], value)
            if hasattr(value, "full_tensor"):
                value = value.full_tensor()
            if dist.get_rank() == 0:
                merged[key] = value.detach().to("cpu", kind)
            del value
        return merged
