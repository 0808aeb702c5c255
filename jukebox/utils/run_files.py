"""Where a training run's files are: the one place that knows their names.

logs/RUN/checkpoint_latest.pth.tar       always the newest state
logs/RUN/checkpoint_best.pth.tar         the state with the lowest held-out loss
logs/RUN/checkpoint_step_N.pth.tar       kept every `save_iters` steps
logs/RUN/shards_N/                       of a sharded run: weights, averages and optimizer state, in shards
logs/RUN/logs/, logs/RUN/metrics.jsonl   charts, and their numbers
logs/RUN/hparams.json                    the command with its hyper-parameters and versions
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from jukebox.utils.errors import UserError, did_you_mean

LATEST = "checkpoint_latest.pth.tar"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run."""

    folder: str

    @property
    def latest(self) -> str:
        return os.path.join(self.folder, LATEST)

    @property
    def best(self) -> str:
        return os.path.join(self.folder, "checkpoint_best.pth.tar")

    @property
    def metrics(self) -> str:
        return os.path.join(self.folder, "metrics.jsonl")

    @property
    def charts(self) -> str:
        return os.path.join(self.folder, "logs")

    @property
    def record(self) -> str:
        return os.path.join(self.folder, "hparams.json")

    def kept(self, step: int) -> str:
        """The checkpoint that is kept of a step."""
        return os.path.join(self.folder, f"checkpoint_step_{step}.pth.tar")

    def names(self) -> list[str]:
        """What is in the folder; nothing if there is none yet."""
        return os.listdir(self.folder) if os.path.isdir(self.folder) else []

    def checkpoints(self) -> list[str]:
        """All checkpoints in the folder."""
        names = (name for name in self.names() if name.startswith("checkpoint_") and name.endswith(".pth.tar"))
        return [os.path.join(self.folder, name) for name in names]

    def newest(self) -> str:
        """The checkpoint to resume from, or "" if there is none yet."""
        return self.latest if os.path.isfile(self.latest) else ""

    def remove_unfinished(self) -> None:
        """Removes temporary files of a run that was killed; for the only run in the folder."""
        for name in self.names():
            if name.startswith(".checkpoint_") and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.folder, name))


def find_checkpoint(path: str, flag: str = "--model") -> str:
    """The checkpoint file that a user means by a run's folder or by a file.

    Args:
        path: as it was given.
        flag: by which it was given, for messages.

    Raises:
        UserError: there is none.
    """
    found = RunFiles(path).latest if os.path.isdir(path) else path
    if os.path.isfile(found):
        return found
    if found != path:
        raise UserError(f"{flag}: {path} holds no {LATEST}; give the folder of a training run or a checkpoint file")
    raise UserError(f"{flag}: there is no run or checkpoint {path}{did_you_mean(path, runs_near(path), otherwise='')}")


def runs_near(path: str) -> list[str]:
    """The folders of runs in logs/ and beside a path."""
    places = {Path("logs"), Path(path).parent}
    return sorted({os.fspath(file.parent) for place in places for file in place.glob(f"*/{LATEST}")})
