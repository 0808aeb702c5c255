"""The Adam update of `update.py` as Triton kernels: each parameter, gradient, moment and average passes memory once.

Importing this module needs Triton. It compiles at first use on a GPU; with TRITON_INTERPRET=1 in the environment before
the first import of Triton it runs on the CPU, slowly, which is how machines without a GPU test it.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from apex.optimizers.update import Coefficients, Item, half_multiplier
from torch import Tensor

BLOCK = 1024  # elements that one program of the grid works on


def usable_for(item: Item) -> bool:
    """Whether all tensors of an item are in memory in the same order, as the kernels' flat indices need."""
    tensors = (item.parameter, item.gradient, item.exp_avg, item.exp_avg_sq, item.average)
    return all(t is None or t.is_contiguous() for t in tensors)


@triton.jit
def _moments(
    g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, scale_ptr, at, inside,
    beta1, rest1, beta2, rest2, HALF: tl.constexpr,
):  # fmt: skip
    """The new float32 moments of one block. rest = 1 - beta is given: in float32 it would lose half its digits."""
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32)
    g = tl.div_rn(g, tl.load(scale_ptr))
    m = tl.load(m_ptr + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if HALF:
        m = m * tl.load(m_scale_ptr)
        v = v * tl.load(v_scale_ptr)
    m = beta1 * m + rest1 * g
    v = beta2 * v + rest2 * g * g
    return m, v


@triton.jit
def _adam(
    p_ptr, g_ptr, m_ptr, v_ptr, average_ptr, m_scale_ptr, v_scale_ptr, largest_ptr, scale_ptr, n,
    step_size, beta1, rest1, beta2, rest2, eps, weight_decay, decay, rest,
    HALF: tl.constexpr, AVERAGE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Updates one block. Float moments are stored; of half ones only the block's largest, [2, blocks], is."""
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    m, v = _moments(
        g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, scale_ptr, at, inside, beta1, rest1, beta2, rest2, HALF
    )
    if HALF:
        tl.store(largest_ptr + program, tl.max(tl.where(inside, tl.abs(m), 0.0), axis=0))
        tl.store(largest_ptr + tl.num_programs(0) + program, tl.max(tl.where(inside, v, 0.0), axis=0))
    else:
        tl.store(m_ptr + at, m, mask=inside)
        tl.store(v_ptr + at, v, mask=inside)
    p = tl.load(p_ptr + at, mask=inside, other=0.0).to(tl.float32)
    p = p - step_size * (tl.div_rn(m, tl.sqrt_rn(v) + eps) + weight_decay * p)
    rounded = p.to(p_ptr.dtype.element_ty)
    tl.store(p_ptr + at, rounded, mask=inside)
    if AVERAGE:
        average = tl.load(average_ptr + at, mask=inside, other=0.0)
        average = decay * average + rest * rounded.to(tl.float32)
        tl.store(average_ptr + at, average, mask=inside)


@triton.jit
def _store_half_moments(
    g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, new_scale_ptr, scale_ptr, n,
    beta1, rest1, beta2, rest2, BLOCK: tl.constexpr,
):  # fmt: skip
    """Computes the moments of one block again, now that their multipliers are known, and stores them in half."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    m, v = _moments(
        g_ptr, m_ptr, v_ptr, m_scale_ptr, v_scale_ptr, scale_ptr, at, inside, beta1, rest1, beta2, rest2, True
    )
    m = tl.div_rn(m, tl.load(new_scale_ptr))
    v = tl.div_rn(v, tl.load(new_scale_ptr + 1))
    tl.store(m_ptr + at, m.to(tl.float16), mask=inside)
    tl.store(v_ptr + at, v.to(tl.float16), mask=inside)


def triton_update(items: list[Item], c: Coefficients, scale: Tensor, decay: float) -> None:
    """What `update.foreach_update` does, with the same arguments, for items that `usable_for` accepts."""
    for item in items:
        device = item.parameter.device
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            _update_one(item, c, scale, decay)


def _update_one(item: Item, c: Coefficients, scale: Tensor, decay: float) -> None:
    p, g, m, v = item.parameter, item.gradient, item.exp_avg, item.exp_avg_sq
    n = p.numel()
    blocks = triton.cdiv(n, BLOCK)
    betas = (c.beta1, 1.0 - c.beta1, c.beta2, 1.0 - c.beta2)
    half = item.multipliers is not None
    # Pointers that a kernel does not follow still have to be tensors.
    multipliers = item.multipliers or (scale, scale)
    largest = scale.new_empty(2, blocks) if half else scale
    average = item.average if item.average is not None else scale
    _adam[(blocks,)](
        p, g, m, v, average, *multipliers, largest, scale, n,
        c.step_size, *betas, c.eps, c.weight_decay, decay, 1.0 - decay,
        HALF=half, AVERAGE=item.average is not None, BLOCK=BLOCK,
    )  # fmt: skip
    if half:
        new = half_multiplier(largest.amax(dim=1))
        _store_half_moments[(blocks,)](g, m, v, *multipliers, new, scale, n, *betas, BLOCK=BLOCK)
        torch._foreach_copy_(multipliers, new.unbind())
