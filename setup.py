"""Installs the package `jukebox`. Ranges are here; the tested versions are in requirements.txt.

Add a dependency to both. Only `jukebox` is packaged: `apex/` and `tensorboardX/` are optional packages with a setup.py
of their own, and tests, benchmarks and examples stay in the repository.
"""

from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="jukebox",
    version=run_path(str(HERE / "jukebox" / "version.py"))["__version__"],
    description="Music with singing, made from raw audio: VQ-VAE and transformer priors (arXiv 2005.00341)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["jukebox", "jukebox.*"]),
    package_data={
        "jukebox": [
            "py.typed",
            "*.ipynb",
            *(f"{folder}/*" for folder in ("demo", "native", "page", "page/**", "data", "data/**")),
        ]
    },
    entry_points={
        "console_scripts": [
            f"jukebox-{command} = jukebox.{command}:command"
            for command in ("sample", "train", "align", "represent", "reconstruct")
        ]
    },
    install_requires=[
        "torch>=2.8",
        "numpy>=1.26",
        "av>=14",
        "soundfile>=0.12.1",
        "fire>=0.6",
        "safetensors>=0.4.3",
        "tensorboardX>=2.6.2.2",
        "tqdm>=4.66",
        "Unidecode>=1.3.8",
        "charset-normalizer>=3.3",
    ],
    extras_require={
        "analysis": ["librosa>=0.10.2"],
        "hub": ["huggingface_hub>=0.24"],  # --weights_from=OWNER/NAME
        "japanese": ["cutlet>=0.4", "unidic-lite>=1.0.8"],  # reads kanji in lyrics
        "mpi": ["mpi4py>=4", "mpich>=4.2; platform_system != 'Windows'"],
    },
)
