"""The name under which older code imports `jukebox.weights.checkpoints`: both are one module."""

import sys

from jukebox.weights import checkpoints

sys.modules[__name__] = checkpoints
