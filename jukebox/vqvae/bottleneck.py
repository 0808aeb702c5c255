"""Vector quantisation with codebooks that follow running averages, and the variant without quantisation.

Change here how codes are chosen, learned and revived. `k` is the only name in the state dict (checkpoint format); the
running sums travel in a second entry of a checkpoint, see `state_extra`. Source: Jukebox (arXiv 2005.00341), section
3.1 and appendix B.1; the averages follow van den Oord et al. (arXiv 1711.00937), appendix A.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jukebox.utils import dist_adapter as dist
from jukebox.utils.errors import UserError
from jukebox.vqvae.quantizer import Quantizer, QuantizerOutput

# Most elements of the distance table that exists at a time (rows x codes). 2 ** 20 floats are 4 MiB, which stays in
# cache on a CPU; an accelerator takes larger bites to fill its cores.
CHUNK_ELEMENTS = {"cpu": 2**20}
CHUNK_ELEMENTS_ELSEWHERE = 2**25

BY_LEVEL = ("usage", "entropy", "dk")  # metrics that tell one codebook's trouble, which a mean over levels would hide


def nearest_codes(x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the nearest codebook vector of each row, in pieces, so that no [R, K] table is held.

    Args:
        x: rows [R, D].
        k: codebook [K, D].

    Returns:
        codes [R] int64 and the mean squared distance to them, a scalar.
    """
    rows = max(1, CHUNK_ELEMENTS.get(x.device.type, CHUNK_ELEMENTS_ELSEWHERE) // k.shape[0])
    k_norm = (k * k).sum(1)  # [K]
    k_t = k.t().contiguous()
    codes = torch.empty(x.shape[0], dtype=torch.int64, device=x.device)
    nearest = torch.empty(x.shape[0], dtype=x.dtype, device=x.device)
    table = x.new_empty(min(rows, x.shape[0]), k.shape[0])
    for start in range(0, x.shape[0], rows):
        piece = x[start : start + rows]
        # |x - k|^2 = |x|^2 - 2 x.k + |k|^2, and |x|^2 does not change which code is nearest.
        distance = torch.addmm(k_norm, piece, k_t, alpha=-2, out=table[: len(piece)])
        least, index = distance.min(dim=1)
        codes[start : start + rows] = index
        nearest[start : start + rows] = least.add_((piece * piece).sum(1))
    return codes, nearest.mean()


class BottleneckBlock(Quantizer):
    """The codebook of one level.

    Args:
        k_bins: codes.
        emb_width: width of a code vector.
        mu: decay of the running averages, 0 to 1.
        threshold: a code whose running count falls below this is replaced by a random encoder output.

    Attributes:
        generator: source of the random draws; None is torch's default generator.
        draw_rows: replaces `random_rows` if it is set: rows [R, D] -> candidates [K, D].
        init: whether the codebook holds values (learned, restored or loaded).
    """

    k: Tensor

    def __init__(self, k_bins: int, emb_width: int, mu: float, threshold: float = 1.0):
        super().__init__()
        self.k_bins, self.emb_width, self.mu, self.threshold = k_bins, emb_width, mu, threshold
        self.generator: torch.Generator | None = None
        self.draw_rows: Callable[[Tensor], Tensor] | None = None
        self.register_buffer("k", torch.zeros(k_bins, emb_width))
        self.reset_k()
        self.register_load_state_dict_pre_hook(_codebook_loaded)

    # ------------------------------------------------------------------------------------------ state

    def reset_k(self) -> None:
        """Forgets the running averages; the next training step starts the codebook from its batch."""
        self.init = False
        self.k_sum: Tensor | None = None  # [K, D] running sums of the encoder outputs of each code
        self.k_elem: Tensor | None = None  # [K] running counts

    def restore_k(self, num_tokens: float | None = None, threshold: float | None = None) -> None:
        """Rebuilds running averages around the present codebook, as if every code were used equally often.

        Args:
            num_tokens: tokens in one training batch over all processes, batch size included; None counts one per code.
            threshold: new revival threshold; None keeps it.
        """
        count = 1.0 if num_tokens is None else num_tokens / self.k_bins
        self.k_sum = self.k * count
        self.k_elem = torch.full((self.k_bins,), count, device=self.k.device, dtype=self.k.dtype)
        self.init = True
        if threshold is not None:
            self.threshold = threshold

    def state_extra(self) -> dict[str, Any]:
        copy = [None if t is None else t.detach().to("cpu", copy=True) for t in (self.k_sum, self.k_elem)]
        return {"init": self.init, "k_sum": copy[0], "k_elem": copy[1], "threshold": float(self.threshold)}

    def load_extra(self, extra: Mapping[str, Any]) -> None:
        """Takes up the running averages where `state_extra` left them; the threshold stays the constructor's."""
        shapes = {"k_sum": (self.k_bins, self.emb_width), "k_elem": (self.k_bins,)}
        for name, shape in shapes.items():
            if extra[name] is not None and tuple(extra[name].shape) != shape:
                raise UserError(
                    f"codebook state {name} in the checkpoint has shape {tuple(extra[name].shape)}, "
                    f"this model needs {shape}: use the l_bins and emb_width it was trained with"
                )
        self.init = bool(extra["init"])
        self.k_sum, self.k_elem = (
            None if extra[name] is None else extra[name].to(self.k.device, self.k.dtype, copy=True) for name in shapes
        )

    # ------------------------------------------------------------------------------------------ learning

    def random_rows(self, x: Tensor) -> Tensor:
        """Draws k_bins rows of x [R, D] without repetition; too few rows are tiled and get a little noise first."""
        if x.shape[0] < self.k_bins:
            x = x.repeat(-(-self.k_bins // x.shape[0]), 1)
            noise = torch.randn(x.shape, generator=self.generator, device=x.device, dtype=x.dtype)
            x = x + noise * (0.01 / math.sqrt(self.emb_width))
        order = torch.randperm(x.shape[0], generator=self.generator, device=x.device)
        return x[order[: self.k_bins]]

    def _candidates(self, x: Tensor) -> Tensor:
        rows = torch.empty_like(self.k)  # a copy: process 0's rows must not land in this process's activations
        rows.copy_((self.draw_rows or self.random_rows)(x))
        dist.broadcast(rows, 0)
        return rows

    @torch.no_grad()
    def init_k(self, x: Tensor) -> None:
        """Starts the codebook with random rows of x [R, D]; rows that are not finite leave that to the next batch."""
        candidates = self._candidates(x)  # the same on all processes, and so is the decision
        if bool(candidates.isfinite().all()):
            self.k.copy_(candidates)
            self.restore_k()

    @torch.no_grad()
    def update_k(self, x: Tensor, codes: Tensor) -> dict[str, Tensor]:
        """Moves the codebook towards a batch and revives unused codes.

        A batch with numbers that are not finite, on any process, leaves codebook and running averages as they are. Its
        step is not used either, and one such number would stay in them. So does a codebook without a start.

        Args:
            x: encoder outputs [R, D].
            codes: their codes [R].

        Returns:
            entropy of the batch's codes in nats, codes used in the batch, codes in use, change of the codebook.
        """
        started = self.k_sum is not None and self.k_elem is not None
        k_sum = torch.zeros_like(self.k) if self.k_sum is None else self.k_sum.to(self.k.device)
        k_elem = self.k.new_zeros(self.k_bins) if self.k_elem is None else self.k_elem.to(self.k.device)
        candidates = self._candidates(x)
        # Sums and counts by code, without a table of codes by positions; one message holds both.
        batch = self.k.new_zeros(self.k_bins, self.emb_width + 1)
        batch[:, :-1].index_add_(0, codes, x.to(self.k.dtype))
        batch[:, -1] = torch.bincount(codes, minlength=self.k_bins)
        dist.all_reduce(batch)
        batch_sum, batch_elem = batch[:, :-1], batch[:, -1]

        moved_sum = self.mu * k_sum + (1.0 - self.mu) * batch_sum
        fit = moved_sum.isfinite().all() & candidates.isfinite().all() & started  # all processes come to the same
        k_sum = torch.where(fit, moved_sum, k_sum)
        k_elem = torch.where(fit, self.mu * k_elem + (1.0 - self.mu) * batch_elem, k_elem)
        alive = k_elem >= self.threshold
        # A code without any count divides by zero, but is then not alive unless the threshold is 0 as well.
        learned = k_sum / k_elem.clamp_min(torch.finfo(k_elem.dtype).tiny)[:, None]
        new = torch.where(fit, torch.where(alive[:, None], learned, candidates), self.k)

        share = batch_elem / batch_elem.sum()
        metrics = {
            "entropy": -(share * (share + 1e-8).log()).sum(),
            "used_curr": (batch_elem >= self.threshold).sum(),
            "usage": alive.sum().to(self.k.dtype),
            "dk": (new - self.k).norm() / math.sqrt(self.k.numel()),
        }
        if started:
            self.k_sum, self.k_elem = k_sum, k_elem
            self.k.copy_(new)
        return metrics

    # ------------------------------------------------------------------------------------------ quantising

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Flattens latents to float rows.

        Args:
            x: [N, C, L] with C = emb_width; or 2 emb_width, whose halves are added.

        Returns:
            rows [N * L, emb_width] and the latents' spread: the norm around their mean over the root of their number.
        """
        x = x.float().transpose(1, 2).reshape(-1, x.shape[1])  # [N, C, L] -> [N * L, C]
        if x.shape[1] == self.emb_width:
            return x, _spread(x)
        if x.shape[1] == 2 * self.emb_width:
            one, two = x[:, : self.emb_width], x[:, self.emb_width :]
            return one + two, _spread(one) + _spread(two)
        raise UserError(
            f"latents have {x.shape[1]} channels: the codebook takes {self.emb_width} or {2 * self.emb_width}"
        )

    def encode(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            codes, _ = nearest_codes(self.rows(x)[0], self.k)
        return codes.view(x.shape[0], x.shape[2])

    def decode(self, codes: Tensor) -> Tensor:
        return F.embedding(codes.to(self.k.device), self.k).transpose(1, 2).contiguous()

    def forward(self, x: Tensor, update_k: bool = True) -> QuantizerOutput:
        """Quantises latents; the codebook moves after its old vectors were used. Metrics: `fit`, `pn`, `update_k`'s."""
        rows, spread = self.rows(x)
        still = rows.detach()
        if update_k and not self.init:
            self.init_k(still)
        elif update_k and self.k_sum is None:  # a loaded codebook: count this batch's tokens over all processes
            self.restore_k(num_tokens=still.shape[0] * dist.get_world_size())
        codes, fit = nearest_codes(still, self.k)
        vectors = F.embedding(codes, self.k)
        commit_loss = F.mse_loss(rows, vectors)
        metrics = {"fit": fit, "pn": spread.detach()}
        if update_k:
            metrics.update(self.update_k(still, codes))
        quantized = rows + (vectors - still)  # straight through: vectors forward, identity backward
        shape = x.shape[0], x.shape[2], self.emb_width
        return QuantizerOutput(codes.view(shape[:2]), quantized.view(shape).transpose(1, 2), commit_loss, metrics)


def _spread(x: Tensor) -> Tensor:
    return (x - x.mean()).norm() / math.sqrt(x.numel())


def _codebook_loaded(block: BottleneckBlock, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Forgets running averages of another codebook; one of only zeros was saved before training began."""
    k = state_dict.get(prefix + "k")
    if k is not None:
        block.reset_k()
        block.init = k.is_meta or bool(k.any())


class PassThrough(Quantizer):
    """No quantisation: continuous latents are passed through as they are."""

    discrete = False

    def __init__(self, *_: Any):
        super().__init__()

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, codes: Tensor) -> Tensor:
        return codes

    def forward(self, x: Tensor, update_k: bool = True) -> QuantizerOutput:
        zero = x.new_zeros(())
        return QuantizerOutput(x, x, zero, dict.fromkeys(("entropy", "usage", "used_curr", "pn", "dk"), zero))


# The kinds by name, called with (l_bins, emb_width, mu, threshold); the hyper-parameter `quantizer` is one of them.
QUANTIZERS: dict[str, Callable[[int, int, float, float], Quantizer]] = {"codebook": BottleneckBlock}


def find_quantizer(name: str) -> Callable[[int, int, float, float], Quantizer]:
    """One of QUANTIZERS; another name is a UserError."""
    if name not in QUANTIZERS:
        raise UserError(f"quantizer={name}: use one of {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name]


class Bottleneck(nn.Module):
    """One quantizer per level.

    Args:
        l_bins: codes per level.
        emb_width, mu, threshold: see `BottleneckBlock`.
        levels: number of levels.
        quantizer: the kind, one of QUANTIZERS; None passes the continuous latents through.

    Attributes:
        discrete: whether there are codes.

    Raises:
        UserError: an unknown kind.
    """

    def __init__(
        self,
        l_bins: int,
        emb_width: int,
        mu: float,
        levels: int,
        threshold: float = 1.0,
        quantizer: str | None = "codebook",
    ):
        super().__init__()
        kind = PassThrough if quantizer is None else find_quantizer(quantizer)
        self.level_blocks = nn.ModuleList(kind(l_bins, emb_width, mu, threshold) for _ in range(levels))
        self.levels, self.discrete = levels, all(block.discrete for block in self.blocks)

    @property
    def blocks(self) -> list[Quantizer]:
        """The quantizers, level 0 first."""
        return [cast(Quantizer, block) for block in self.level_blocks]

    def encode(self, xs: Sequence[Tensor], start_level: int = 0) -> list[Tensor]:
        """Latents of successive levels from `start_level` on -> their codes."""
        return [block.encode(x) for block, x in zip(self.blocks[start_level:], xs, strict=False)]

    def decode(self, zs: Sequence[Tensor], start_level: int = 0) -> list[Tensor]:
        """Codes of successive levels from `start_level` on -> their code vectors."""
        return [block.decode(z) for block, z in zip(self.blocks[start_level:], zs, strict=False)]

    def forward(self, xs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Latents of all levels -> codes, code vectors, commitment losses, metrics.

        In training, metrics are means over levels and, with a level's number from 1 such as `usage_l1`, those BY_LEVEL.
        Else code vectors are detached and there are no metrics.
        """
        outputs = [block(x, update_k=self.training) for block, x in zip(self.blocks, xs, strict=True)]
        if self.discrete and not self.training:
            outputs = [output._replace(quantized=output.quantized.detach(), metrics={}) for output in outputs]
        codes, quantized, commit_losses = ([output[i] for output in outputs] for i in range(3))
        metrics = average_metrics([output.metrics for output in outputs])
        for level, output in enumerate(outputs if self.discrete else (), 1):
            metrics.update({f"{name}_l{level}": output.metrics[name] for name in BY_LEVEL if name in output.metrics})
        return codes, quantized, commit_losses, metrics


def average_metrics(metrics: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Means by key over levels."""
    return {key: torch.stack([m[key].float() for m in metrics]).mean() for key in metrics[0]}
