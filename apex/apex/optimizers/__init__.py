"""Optimizers that do their whole update in one pass over each parameter."""

from apex.optimizers.fused_adam import FusedAdam

__all__ = ["FusedAdam"]
