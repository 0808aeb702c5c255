"""The name under which older scripts import `jukebox.training.ema`."""

from jukebox.training.ema import CPUEMA, EMA, FusedEMA

__all__ = ["CPUEMA", "EMA", "FusedEMA"]
