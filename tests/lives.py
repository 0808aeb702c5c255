"""A run of the sampler in a process of its own, which waits after each save until it is told to continue.

So a test decides how far a life comes before it is killed, however busy the machine is; what the kill hits is what the
run does by itself after the go-ahead: a window, or the files of a level.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

from jukebox.sample import main
from jukebox.sampling.state import RunState

# What a server of forks imports before the first life, so that each takes a fraction of a second.
PRELOAD = ["lives", "jukebox.sampling.command", "jukebox.save_html", "jukebox.loaders", "tqdm.auto"]
PRELOAD += ["torch.fx.experimental.symbolic_shapes"]  # by which PyTorch makes tensors without memory


def sample(flags: dict[str, Any], parent: Connection) -> None:
    """Samples with `flags`; sends None after each save of the state and continues after an answer."""
    save = RunState.save

    def save_and_wait(state: RunState) -> None:
        save(state)
        parent.send(None)
        parent.recv()

    RunState.save = save_and_wait  # type: ignore[method-assign]
    main(**flags)
