"""How exact float32 is on a GPU, set from the outside, in this one place. Loads torch only where it is needed.

Commands and the calls of `jukebox.load` enter `keep_float32`; modules of the model never change PyTorch's settings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from operator import attrgetter
from typing import Any

TF32_HELP = "on CUDA let float32 products round to TF32, for speed: codes then depend on the card"

# Where newer versions of PyTorch keep the precision of products in float32, below torch.backends.
_PLACES = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
_lock = threading.Lock()
_open: list[bool] = []  # of each outermost `keep_float32` that is open, whether it wants TF32
_found: dict[str, Any] = {}  # PyTorch's settings before the first of them
_inside: ContextVar[bool] = ContextVar("inside keep_float32", default=False)


@contextmanager
def keep_float32(tf32: bool = False) -> Iterator[None]:
    """Inside a `with`, products in float32 are exact on any device; afterwards PyTorch's settings are what they were.

    By default PyTorch rounds what convolutions read on a GPU to TF32, 10 bits of 23, which changes codes. Attention by
    cuDNN is off as well: it plans again for every new length of the keys, which sampling has at every token.

    Args:
        tf32: allow TF32 to matrix products and convolutions, for speed. A call inside another one changes nothing.
            If several threads differ, exact wins, since PyTorch has one setting for all.
    """
    if _inside.get():
        yield
        return
    with _lock:
        if not _open:
            _found.update(_read())
        _open.append(tf32)
        _write(_wanted(all(_open)))
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
        with _lock:
            _open.remove(tf32)
            _write(_wanted(all(_open)) if _open else _found)


def _wanted(tf32: bool) -> dict[str, Any]:
    """The settings inside `keep_float32`. TF32 is for GPUs: a CPU stays exact."""
    fast = {place: "tf32" if tf32 and not place.startswith("mkldnn") else "ieee" for place in _PLACES}
    return {"products": "high" if tf32 else "highest", "cudnn": tf32, "attention": False, **fast}


def _read() -> dict[str, Any]:
    """PyTorch's settings; None for one that it does not have, or an old one that a program overruled by a new one."""
    import torch

    readers: dict[str, Callable[[], Any]] = {
        "products": torch.get_float32_matmul_precision,
        "cudnn": lambda: torch.backends.cudnn.allow_tf32,
        "attention": torch.backends.cuda.cudnn_sdp_enabled,
        **{place: partial(attrgetter(f"{place}.fp32_precision"), torch.backends) for place in _PLACES},
    }
    settings: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            settings[name] = read()
        except (AttributeError, RuntimeError):
            settings[name] = None
    return settings


def _write(settings: Mapping[str, Any]) -> None:
    """Sets what `_read` returns. Old settings come first, since they change new ones."""
    import torch

    torch.backends.cuda.enable_cudnn_sdp(settings["attention"])
    if settings["products"] is not None:
        torch.set_float32_matmul_precision(settings["products"])
    if settings["cudnn"] is not None:
        torch.backends.cudnn.allow_tf32 = settings["cudnn"]
    for place in _PLACES:
        if _found[place] is not None:
            attrgetter(place)(torch.backends).fp32_precision = settings[place]
