"""Fused kernels for sampling: one token through all layers of a sparse transformer."""

from apex.decode.layers import Addresses, Layer, Matrix, why_not

__all__ = ["Addresses", "FusedLayers", "Layer", "Matrix", "why_not"]


def __getattr__(name: str) -> object:
    """Imports `FusedLayers` when it is asked for, since only it needs Triton."""
    if name == "FusedLayers":
        from apex.decode.step import FusedLayers

        return FusedLayers
    raise AttributeError(name)
