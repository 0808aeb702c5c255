"""Finds out which process of a job was stopped, was killed or hangs, and ends the job with its rank.

Without this, the others would wait for it in a collective for half an hour. Every rank tells a store each `BEAT` that
it is alive, looks at the next one, and at its own main thread. Time is counted in beats: a job that is stopped as a
whole, as by Ctrl-Z, continues.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from jukebox.utils.launch import abort_job

BEAT = 2.0  # seconds
PATIENCE = 20  # beats without a sign of life that end the job
# A main thread that sleeps here waits for others: ranks, in collectives and in the backward pass, or threads.
_WAITING = ["torch/distributed/", "torch/nn/parallel/", "torch/autograd/", "training/sharding.py", "threading.py"]
_WAITING += ["concurrent/futures/", "subprocess.py"]


class Watch(threading.Thread):
    """Of one process.

    Args:
        store: a connection to the job's store, of which only this object makes use.
        rank, size: this process, and how many there are.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        super().__init__(daemon=True)
        self._store, self._rank, self._size = store, rank, size
        self._main, self._end, self._using = threading.main_thread(), threading.Event(), threading.Lock()
        self._found, self._talks, self._over = "", 0, False

    def run(self) -> None:
        following, patience = (self._rank + 1) % self._size, f"for {PATIENCE * BEAT:.0f} s; the job ends here"
        threading.Thread(target=self._talk, args=(following,), daemon=True).start()
        frozen = silent = asleep = talks = 0
        seen = state = ""
        while not self._end.wait(BEAT) and not self._over:
            found, now, before, state = self._found, self._talks, state, self._asleep()
            frozen = frozen + 1 if now == talks else 0
            silent = silent + 1 if found == seen != "done" else 0
            asleep = asleep + 1 if state and state == before else 0
            seen, talks = found, now
            if asleep >= PATIENCE:
                _abort(
                    f"rank {self._rank} hangs: it has waited in {next(self._stack(), 'an unknown place')} {patience}"
                )
            if max(frozen, silent) >= PATIENCE:
                quiet = 0 if frozen >= PATIENCE else following
                _abort(f"rank {quiet} is stopped, or its host cannot be reached: it has been silent {patience}")

    def _talk(self, following: int) -> None:
        """Tells each beat that this process is alive, and asks for another one; the store is on rank 0."""
        try:
            while not self._end.wait(BEAT):
                with self._using:
                    self._store.set(f"alive/{self._rank}", str(self._talks))
                self._found = self._look(following)
                self._talks += 1
        except RuntimeError:  # rank 0 has ended, or asks for nothing any more: whoever needs it notices
            self._over = True

    def stop(self) -> None:
        """To be called before this process leaves the job."""
        self._end.set()
        with self._using, contextlib.suppress(RuntimeError):
            self._store.set(f"alive/{self._rank}", "done")

    def gone(self) -> list[int]:
        """The ranks that have ended without a word, which takes a few beats to see; [0] if the store has."""
        try:
            before = [self._look(rank) for rank in range(self._size)]
            self._end.wait(3 * BEAT)
            after = [self._look(rank) for rank in range(self._size)]
        except RuntimeError:
            return [0]
        return [rank for rank in range(self._size) if before[rank] == after[rank] not in ("done", "")]

    def _look(self, rank: int) -> str:
        """How many beats a rank has told, "" before the first; "done" if it needs no watching any more."""
        key = f"alive/{rank}"
        with self._using:
            return self._store.get(key).decode() if self._store.check([key]) else ""

    def _asleep(self) -> str:
        """How often the main thread has been woken, if it sleeps and does not wait for others; else ""."""
        try:
            lines = Path(f"/proc/self/task/{os.getpid()}/status").read_text(encoding="utf-8").splitlines()
        except OSError:  # not Linux
            return ""
        found = dict(line.split(":", 1) for line in lines if ":" in line)
        others = any(part in place.replace("\\", "/") for place in self._stack() for part in _WAITING)
        return "" if others or not found["State"].strip().startswith("S") else found["voluntary_ctxt_switches"]

    def _stack(self) -> Iterator[str]:
        """Where the main thread is, the innermost function first."""
        frame = sys._current_frames().get(self._main.ident or 0)
        while frame is not None:
            yield f"{frame.f_code.co_filename}, line {frame.f_lineno} ({frame.f_code.co_name})"
            frame = frame.f_back


def _abort(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
    abort_job(1)


def start_watch(address: str, port: int, rank: int, size: int) -> Watch:
    """Begins to watch over a job whose store is at an address; see `Watch`."""
    store = dist.TCPStore(address, port, None, False, timedelta(seconds=60), wait_for_workers=False)
    watch = Watch(store, rank, size)
    watch.start()
    return watch
