"""Fused kernels for training and sampling. Import what you need from the sub-packages; this file stays empty."""
