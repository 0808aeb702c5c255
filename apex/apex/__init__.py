"""Fused kernels for training. Import what you need from the sub-packages; this file stays empty."""
