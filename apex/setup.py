"""Installs the optional package `apex`: `pip install ./apex` in the repository's root.

It needs only torch. Triton, which compiles the kernels, comes with torch's builds for GPUs; without it PyTorch's own
functions do the same work. Nothing is compiled at installation, so a machine without a GPU installs it too.
"""

from setuptools import find_packages, setup

setup(
    name="jukebox-apex",
    version="1.0.0",
    description="Fused kernels that make Jukebox train and sample faster",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["apex", "apex.*"]),
    install_requires=["torch>=2.8"],
)
