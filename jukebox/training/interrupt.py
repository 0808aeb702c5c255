"""Stopping between two steps instead of anywhere, on all ranks at the same one."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import torch

from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import any_rank
from jukebox.utils.signals import SIGNALS, Stopped, is_ignored


class StopRequest:
    """Turns the first Ctrl-C, SIGTERM or SIGHUP into a wish to stop after the step; a second one stops at once.

    Attributes:
        asked: the number of the signal on which all ranks agreed, or 0; see `agree`.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._seen = 0
        self._process = os.getpid()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in SIGNALS:
                if number in (signal.SIGINT, signal.SIGTERM) or not is_ignored(number):  # as nohup asks for
                    self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if os.getpid() != self._process:  # a loader's worker, which inherits the handler: it lives as long as we do
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._seen:
            raise Stopped(number)
        self._seen = number
        if dist.get_rank() == 0:
            sys.stderr.write("\nstopping after this step; once more stops at once\n")

    def agree(self, device: torch.device) -> bool:
        """Whether any rank was asked to stop; all ranks must call it after the same step, and get the same answer."""
        if any_rank(bool(self._seen), device):
            self.asked = self._seen or int(signal.SIGTERM)
        return bool(self.asked)
