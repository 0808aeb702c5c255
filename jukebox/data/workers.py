"""Batches from worker processes, whatever becomes of these: one may crash, be killed, or hang.

When a worker dies, PyTorch raises an error wherever the main process is, even in the middle of a step. For one that
hangs it waits for ever. Here a dead worker is seen when a batch is needed. A file that crashes the decoder is left out.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader

from jukebox.utils.errors import UserError, user_message

LOOK = 5.0  # seconds until workers that give no batch are looked at
PATIENCE = 9  # looks without any progress of theirs that end the job
CRASHES = [
    -getattr(signal, name) for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL") if hasattr(signal, name)
]

T = TypeVar("T")


class _LostError(Exception):
    """A worker died or hangs."""


def read_batches(loader: Iterable[T]) -> Iterator[T]:
    """The batches of a loader.

    Raises:
        UserError: what a worker raised, without the traceback that PyTorch puts into it; or one was killed or hangs.
    """
    workers = isinstance(loader, DataLoader) and loader.num_workers > 0
    try:
        yield from _heeded(loader) if workers else loader  # type: ignore[arg-type]
    except (UserError, OSError, MemoryError) as error:
        if "Original Traceback" not in str(error):
            raise
        said = str(error).strip().splitlines()[-1].partition(": ")[2]
        if isinstance(error, MemoryError):
            said = f"no memory to load songs ({said or 'of any size'}): use a smaller --nworkers or --bs"
        raise UserError(said) from error


def _heeded(loader: DataLoader) -> Iterator[Any]:
    """The same of a loader with workers; after a crash others begin after the batches that are done."""
    sampler, done = loader.batch_sampler, 0
    first = getattr(sampler, "start", None)
    try:
        while True:
            items = _start(loader)
            try:
                for batch in _looked_at(items, loader.dataset):
                    done += 1
                    yield batch
                return
            except _LostError as lost:
                crashed = [i for i, worker in enumerate(items._workers) if worker.exitcode in CRASHES]
                for worker in items._workers:  # one that hangs would be waited for
                    worker.kill()
                    worker.join()
                items._shutdown_workers()
                loader._iterator = None
                leave_out = getattr(loader.dataset, "leave_out", None)
                if first is None or leave_out is None or not any([leave_out(worker) for worker in crashed]):
                    raise UserError(str(lost)) from None
                sampler.start = first + done  # type: ignore[union-attr]
    finally:
        if first is not None:
            sampler.start = first  # type: ignore[union-attr]


def _start(loader: DataLoader) -> Any:
    """An iterator that gives up after `LOOK` and may be asked again, without PyTorch's handler of dead workers."""
    main = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if main else None
    loader.timeout = LOOK
    try:
        return iter(loader)
    finally:
        loader.timeout = 0
        if main:
            signal.signal(signal.SIGCHLD, before)


def _looked_at(items: Any, dataset: Any) -> Iterator[Any]:
    """Batches of an iterator.

    Raises:
        _LostError: a worker died, or all that is known of their work stays as it is for long.
    """
    looks, before = 0, dict[int, tuple[str, int]]()
    while True:
        try:
            yield next(items)
            looks = 0
        except StopIteration:
            return
        except RuntimeError as error:
            if "timed out" not in str(error):
                if user_message(error):
                    raise _LostError(user_message(error)) from error
                raise
            now = dataset.at_work() if hasattr(dataset, "at_work") else {}
            looks = looks + 1 if now and now == before else 0
            before = now
            if looks >= PATIENCE:
                busy = "; ".join(f"worker {worker} in {file}" for worker, (file, _) in now.items())
                raise _LostError(
                    f"processes that load songs have hung for {looks * LOOK:.0f} s, {busy}: see that this can be read, "
                    "or take it out of the folder; the same command resumes from the last checkpoint"
                ) from error
