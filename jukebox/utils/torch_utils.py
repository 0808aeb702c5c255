"""Small helpers around torch modules and memory."""

from __future__ import annotations

import gc
import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import nn


def empty_cache() -> None:
    """Frees unreachable objects, then gives cached device memory back to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def freeze_model(model: nn.Module) -> None:
    """Puts a model into eval mode and stops gradients to all of its parameters."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad = False


def zero_grad(model: nn.Module) -> None:
    """Forgets all gradients of a model."""
    model.zero_grad(set_to_none=True)


def count_parameters(model: nn.Module) -> int:
    """Number of elements in all parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def seed_everything(*words: Any) -> None:
    """Seeds Python, numpy and torch (all devices) from any words and numbers; the same words give the same draws.

    A training run calls it with its seed, the step and the rank before every step. So what a step draws depends on
    nothing that came before, and a run that is resumed draws what an undisturbed one would have.
    """
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "little") >> 1
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)
