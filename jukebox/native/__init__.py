"""Sampling on a processor in native code: `step.cpp` and `kernels.h`, built by `build.py` and called by `steps.py`."""
