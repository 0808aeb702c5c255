"""Installs the training monitor: `pip install ./tensorboardX` in the repository's root.

A meta-package: it holds no module of its own, only the pins below. Raise them together after a look at a run's page.
"""

from setuptools import setup

setup(
    name="jukebox-monitor",
    version="1.0.0",
    description="The pinned stack that shows Jukebox training runs in a browser",
    license="MIT",
    python_requires=">=3.10",
    packages=[],
    py_modules=[],
    install_requires=["tensorboardX==2.6.5", "tensorboard==2.21.0"],
)
