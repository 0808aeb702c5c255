"""How much of the machine a training uses: peak memory and utilisation, of this process and its device."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import torch


class Usage:
    """Numbers for the log, each left out if this machine does not tell it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = time.monotonic(), time.process_time()

    def numbers(self) -> dict[str, float]:
        """What was used.

        Returns:
            `peak_memory_gib`: most memory of the run so far, that of tensors on a GPU, else of the whole process.
            `gpu_utilisation`: 0 to 1, share of the last moments in which the GPU computed; needs nvidia-ml-py.
            `cpu_utilisation`: 0 to 1, share of all cores that this process used since the last call.
        """
        now = time.monotonic(), time.process_time()
        wall, busy = now[0] - self.before[0], now[1] - self.before[1]
        self.before = now
        found = {"cpu_utilisation": min(1.0, busy / max(wall, 1e-9) / (os.cpu_count() or 1))}
        if self.device.type == "cuda":
            found["peak_memory_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
            with contextlib.suppress(Exception):  # not installed, or a driver or part of a card that does not tell
                found["gpu_utilisation"] = torch.cuda.utilization(self.device) / 100.0
        elif self.device.type == "mps":
            found["peak_memory_gib"] = torch.mps.driver_allocated_memory() / 2**30
        else:
            with contextlib.suppress(ImportError):
                import resource  # not on Windows

                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                found["peak_memory_gib"] = peak / (2**30 if sys.platform == "darwin" else 2**20)
        return found
