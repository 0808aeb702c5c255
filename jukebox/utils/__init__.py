import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "audio_utils":  # older code expects it after `import jukebox.sample`, which loads no PyTorch
        return importlib.import_module("jukebox.utils.audio_utils")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
