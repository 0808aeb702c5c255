"""Batches for training: which items, in which order, on which process, and where in an epoch one is.

Songs are split into a part for training and a held-out part. In each epoch a permutation drawn from (seed, epoch) is
dealt out to the processes, so no item is seen twice. The place in it is a plain number that a checkpoint can hold.
Change here how batches are put together; what an item is, is in `files_dataset.py`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from jukebox.data.band import narrow_songs
from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.hparams import Hyperparams, take_hparams
from jukebox.utils import dist_adapter as dist
from jukebox.utils.dist_utils import first_rank_first, print_once
from jukebox.utils.errors import UserError
from jukebox.utils.plural import counted
from jukebox.utils.signals import SIGNALS

PREFETCH = 4  # batches that each worker keeps ready

T = TypeVar("T")
Dataset = TypeVar("Dataset", bound=FilesAudioDataset)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of one process in one epoch, as lists of keys (epoch, item).

    Every process gets the same number of batches. Items that do not fill a batch on every process are left out of this
    epoch; the next draws others. A data set too small for one whole batch gives one smaller batch. Unshuffled, all
    items are dealt out. A process for which the last few are not enough gets one of them, to keep step with the others.
    `counts` says that it is not counted.

    Args:
        n_items: items of the data set.
        bs: items of a batch on one process.
        rank, world: this process and how many there are.
        seed: of the permutations.
        shuffle: False keeps the order.
    """

    def __init__(
        self, n_items: int, bs: int, rank: int = 0, world: int = 1, seed: int = 0, shuffle: bool = True
    ) -> None:
        self.n_items, self.bs, self.rank, self.world = n_items, bs, rank, world
        self.seed, self.shuffle = seed, shuffle
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """The next iteration is this epoch, from batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next iteration starts."""
        if not self.shuffle:
            return -(-self.n_items // (self.bs * self.world))
        return -(-self._per_rank() // self.bs)

    def counts(self) -> list[int]:
        """Items of each batch that are this process's own, 0 for a batch that only keeps step."""
        if self.shuffle:
            return [len(batch) for batch in self]
        return [len(self._part_of_run(b)) for b in range(self.start, len(self))]

    def _part_of_run(self, b: int) -> range:
        """Unshuffled: the items of this process in batch b of all processes together."""
        first = b * self.bs * self.world
        left = min(self.bs * self.world, self.n_items - first)
        return range(first + left * self.rank // self.world, first + left * (self.rank + 1) // self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if not self.shuffle:
            for b in range(self.start, len(self)):
                part = self._part_of_run(b) or [b * self.bs * self.world]
                yield [(self.epoch, item) for item in part]
            return
        order = np.arange(self.n_items)
        np.random.default_rng([self.seed % 2**32, self.epoch % 2**32]).shuffle(order)
        if 0 < self.n_items < self.world:  # every process needs something to do
            order = np.resize(order, self.world)
        # Batch b of all processes together is one run of the order, so a position means the same for any number of
        # them.
        share = self._per_rank()
        for b in range(self.start, len(self)):
            size = min(self.bs, share - b * self.bs)
            first = b * self.bs * self.world + self.rank * size
            yield [(self.epoch, int(item)) for item in order[first : first + size]]

    def _per_rank(self) -> int:
        per_rank = self.n_items // self.world
        if self.n_items:
            per_rank = max(per_rank, 1)
        return per_rank // self.bs * self.bs if per_rank >= self.bs else per_rank

    def state_dict(self, step: int) -> dict[str, int]:
        """Where one is after `step` batches of the present epoch."""
        return dict(epoch=self.epoch, seen=step * self.bs * self.world, seed=self.seed, n_items=self.n_items)

    def load_state_dict(self, state: Mapping[str, int]) -> int:
        """Resumes where `state_dict` was taken; exactly so with the same data, batch size and number of processes.

        Returns:
            The number of batches of the epoch that are already done.
        """
        odd = [key for key in ("epoch", "seen", "seed", "n_items") if not isinstance(state.get(key), int)]
        if odd or not 0 <= state["epoch"] < 2**32 or not 0 <= state["seen"] < 2**63:
            raise UserError(
                f"the checkpoint's place in the data is damaged ({', '.join(odd) or 'epoch, seen'}): "
                "start from an older checkpoint_step_N, with --restore_prior and another --name"
            )
        self.seed = state["seed"]
        done = min(state["seen"] // (self.bs * self.world), len(self))
        self.set_epoch(state["epoch"], done if state["n_items"] == self.n_items else 0)
        return self.start


class DataProcessor:
    """The data of a run: `dataset` (all of it), `train_dataset` and `test_dataset`, `train_loader` and `test_loader`.

    Loaders give what the data set's items are, stacked: audio float32 [N, T, C], or (audio, y), or (audio, y, times).

    Args:
        hps: hyper-parameters of FilesAudioDataset, and bs, nworkers, train_test_split, seed, curr_epoch.
        with_times: whether items have the times of lyric tokens.
        dataset: a custom data set, such as a subclass that overrides `get_metadata`; None: made from hps.

    Raises:
        UserError: no usable data.
    """

    def __init__(self, hps: Hyperparams, with_times: bool = False, dataset: FilesAudioDataset | None = None) -> None:
        self.dataset = one_after_another(lambda: FilesAudioDataset(hps, with_times)) if dataset is None else dataset
        hps = take_hparams(hps)
        self.train_dataset, self.test_dataset = self.dataset.split(float(hps.train_test_split))
        seed = int(getattr(hps, "seed", 0))
        place = (dist.get_rank(), dist.get_world_size(), seed)
        self.sampler = EpochBatches(len(self.train_dataset), int(hps.bs), *place)
        self.test_sampler = EpochBatches(len(self.test_dataset), int(hps.bs), *place, shuffle=False)
        self.train_loader = _make_loader(self.train_dataset, self.sampler, int(hps.nworkers), seed, keep=True)
        self.test_loader = _make_loader(self.test_dataset, self.test_sampler, int(hps.nworkers), seed, keep=False)
        self.set_epoch(max(0, int(getattr(hps, "curr_epoch", 0))))
        for line in self.describe():
            print_once(line)
        if dist.get_rank() == 0 and hasattr(self.dataset, "durations"):  # a custom one may know nothing of files
            data = self.dataset
            seconds = [duration / data.sr for duration in data.durations]
            for line in narrow_songs(data.files, data.names, seconds, data.sr):
                print_once(line)

    def describe(self) -> list[str]:
        """Lines for a person: what the data are, what is wrong with them, and how they are split."""
        train, test = self.train_dataset, self.test_dataset
        split = (
            f"training on {counted(len(train.songs), 'song')} ({counted(len(train), 'chunk')}, "
            f"{counted(len(self.sampler), 'batch')} an epoch), "
            f"{counted(len(test.songs), 'song')} held out ({counted(len(test), 'chunk')})"
        )
        return [*self.dataset.describe(), split]

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """The next iteration of `train_loader` is this epoch, shuffled again, from batch `step` on."""
        self.sampler.set_epoch(epoch, step)

    def state_dict(self, step: int) -> dict[str, int]:
        """For a checkpoint: where one is after `step` batches of the present epoch."""
        return self.sampler.state_dict(step)

    def load_state_dict(self, state: Mapping[str, int]) -> tuple[int, int]:
        """Resumes from a checkpoint. Returns the epoch and the batches of it that are done."""
        done = self.sampler.load_state_dict(state)
        return self.sampler.epoch, done


def one_after_another(make: Callable[[], Dataset]) -> Dataset:
    """What `make` makes, on the first process before the others: that one scans the folder, they find its index."""
    return first_rank_first(make)


def _make_loader(dataset: FilesAudioDataset, batches: EpochBatches, workers: int, seed: int, keep: bool) -> DataLoader:
    generator = torch.Generator()
    generator.manual_seed(seed + 1_000_003 * dist.get_rank())
    several: dict[str, Any] = dict(persistent_workers=keep, prefetch_factor=PREFETCH) if workers else {}
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_seed_worker,
        generator=generator,
        **several,
    )


def _seed_worker(_: int) -> None:
    """Gives each worker random streams of its own, from the loader's seed; signals are for the main process to see."""
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_heed_parent, args=(os.getppid(),), daemon=True).start()


def _heed_parent(parent: int) -> None:
    """Ends this worker only on SIGTERM of its parent: batch systems send it to all, the step still needs data."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
