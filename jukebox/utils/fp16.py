"""The name under which older scripts import optimizers; they are in `jukebox/training/optim.py`."""

from jukebox.compat import FP16FusedAdam, FusedAdam

__all__ = ["FP16FusedAdam", "FusedAdam"]
