"""Batches: dealt out to processes without overlap, the same again after a restart, from workers as from here."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jukebox.data import workers
from jukebox.data.data_processor import DataProcessor, EpochBatches
from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.data.workers import read_batches
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError

SR, CHUNK = 16000, 16384


def hparams(folder: Path, **values: Any) -> Hyperparams:
    base = dict(audio_files_dir=str(folder), sr=SR, sample_length=CHUNK, labels=False, bs=4, nworkers=0, aug_shift=True)
    return setup_hparams("", {**base, **values})


def items(batches: EpochBatches) -> list[list[int]]:
    return [[item for _, item in batch] for batch in batches]


@pytest.mark.parametrize(("n", "bs", "world"), [(103, 4, 1), (103, 4, 3), (12, 4, 3), (16, 5, 2), (40, 40, 1)])
def test_an_epoch_is_dealt_out_without_overlap(n: int, bs: int, world: int) -> None:
    ranks = [EpochBatches(n, bs, rank, world) for rank in range(world)]
    for epoch in range(3):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        dealt = [items(sampler) for sampler in ranks]
        assert len({len(d) for d in dealt}) == 1 and all(len(batch) == bs for d in dealt for batch in d)
        assert len(ranks[0]) == len(dealt[0]) == n // world // bs
        flat = [item for d in dealt for batch in d for item in batch]
        assert len(set(flat)) == len(flat)
    assert set(batch[0] for batch in ranks[0]).pop()[0] == 2  # keys carry the epoch


def test_order_changes_by_epoch_and_seed_and_all_items_have_their_turn() -> None:
    sampler = EpochBatches(10, 4, seed=1)
    seen, orders = set(), set()
    for epoch in range(12):
        sampler.set_epoch(epoch)
        flat = [item for batch in items(sampler) for item in batch]
        seen |= set(flat)
        orders.add(tuple(flat))
        assert flat == [item for batch in items(sampler) for item in batch]
    assert seen == set(range(10)) and len(orders) == 12
    other = EpochBatches(10, 4, seed=2)
    assert items(other) != items(EpochBatches(10, 4, seed=1))


@pytest.mark.parametrize(("n", "bs", "world", "sizes"), [(3, 4, 1, [3]), (7, 4, 2, [3]), (1, 4, 2, [1]), (0, 4, 1, [])])
def test_few_items_make_one_small_batch(n: int, bs: int, world: int, sizes: list[int]) -> None:
    for rank in range(world):
        assert [len(batch) for batch in EpochBatches(n, bs, rank, world)] == sizes


def test_unshuffled_batches_hold_all_items_in_order() -> None:
    dealt = [items(EpochBatches(11, 2, rank, 2, shuffle=False)) for rank in range(2)]
    assert dealt == [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], [9, 10]]]
    assert items(EpochBatches(5, 2, shuffle=False)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("bs", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 4, 11, 12])
def test_unshuffled_every_item_counts_once(n: int, bs: int, world: int) -> None:
    ranks = [EpochBatches(n, bs, rank, world, shuffle=False) for rank in range(world)]
    dealt, counts = [items(sampler) for sampler in ranks], [sampler.counts() for sampler in ranks]
    assert len({len(sampler) for sampler in ranks}) == 1  # they meet in every batch
    assert all(len(d) == len(c) == len(ranks[0]) for d, c in zip(dealt, counts, strict=True))
    assert all(1 <= len(batch) <= bs for d in dealt for batch in d)
    own = [
        item for d, c in zip(dealt, counts, strict=True) for batch, k in zip(d, c, strict=True) for item in batch[:k]
    ]
    assert sorted(own) == list(range(n))


def test_going_on_in_the_middle_of_an_epoch() -> None:
    sampler = EpochBatches(103, 4, rank=1, world=2, seed=3)
    sampler.set_epoch(5)
    whole = items(sampler)
    state = sampler.state_dict(step=4)
    assert all(type(value) is int for value in state.values())
    again = EpochBatches(103, 4, rank=1, world=2, seed=0)
    assert again.load_state_dict(state) == 4
    assert items(again) == whole[4:] and len(again) == len(whole)
    # Other processes share the rest of the same permutation: none of what was seen comes again.
    seen = {i for rank in range(2) for batch in _dealt(103, 4, rank, 2, 3, 5)[:4] for i in batch}
    alone = EpochBatches(103, 4)
    alone.load_state_dict(state)
    assert not seen & {i for batch in items(alone) for i in batch}
    more_songs = EpochBatches(110, 4)
    assert more_songs.load_state_dict(state) == 0 and more_songs.epoch == 5


def _dealt(n: int, bs: int, rank: int, world: int, seed: int, epoch: int) -> list[list[int]]:
    sampler = EpochBatches(n, bs, rank, world, seed)
    sampler.set_epoch(epoch)
    return items(sampler)


def test_loaders_give_stacked_items_in_the_samplers_order(song_folder: Path) -> None:
    data = DataProcessor(hparams(song_folder))
    data.set_epoch(2)
    batches = list(data.train_loader)
    assert len(batches) == len(data.train_loader) == len(data.sampler) > 5
    for batch, keys in zip(batches, data.sampler, strict=True):
        assert batch.shape == (4, CHUNK, 2) and batch.dtype == torch.float32
        assert batch.equal(torch.from_numpy(np.stack([data.train_dataset[key] for key in keys])))
    data.set_epoch(2, step=3)
    assert next(iter(data.train_loader)).equal(batches[3])
    data.set_epoch(3)
    assert not next(iter(data.train_loader)).equal(batches[0])
    held_out = torch.cat(list(data.test_loader))
    assert len(held_out) == len(data.test_dataset) > 0


def test_workers_change_nothing(song_folder: Path) -> None:
    alone = DataProcessor(hparams(song_folder, bs=8))
    several = DataProcessor(hparams(song_folder, bs=8, nworkers=2))
    for epoch in (0, 1):  # the same workers live through both epochs
        alone.set_epoch(epoch)
        several.set_epoch(epoch)
        for a, b in zip(alone.train_loader, several.train_loader, strict=True):
            assert a.equal(b)


def test_resuming_a_run(song_folder: Path) -> None:
    data = DataProcessor(hparams(song_folder))
    data.set_epoch(4)
    batches = list(data.train_loader)
    state = data.state_dict(step=2)
    other = DataProcessor(hparams(song_folder))
    assert other.load_state_dict(state) == (4, 2)
    for a, b in zip(batches[2:], other.train_loader, strict=True):
        assert a.equal(b)
    assert DataProcessor(hparams(song_folder, curr_epoch=4)).sampler.epoch == 4


def test_one_song_trains_and_holds_out_nothing(tmp_path: Path) -> None:
    write_audio(tmp_path / "one.wav", 0.1 * np.ones(3 * SR), SR)
    data = DataProcessor(hparams(tmp_path))
    assert [batch.shape[0] for batch in data.train_loader] == [2] and list(data.test_loader) == []
    assert data.describe()[-1] == "training on 1 song (2 chunks, 1 batch an epoch), 0 songs held out (0 chunks)"


def test_a_data_set_of_ones_own(song_folder: Path) -> None:
    class Louder(FilesAudioDataset):
        def get_song_chunk(self, song: int, offset: int, test: bool = False) -> Any:
            return 2 * super().get_song_chunk(song, offset, test)

    hps = hparams(song_folder)
    plain, loud = DataProcessor(hps), DataProcessor(hps, dataset=Louder(hps))
    assert next(iter(loud.train_loader)).equal(2 * next(iter(plain.train_loader)))


class NoSong(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, item: int) -> Any:
        raise UserError(f"song {item}: cannot be read")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_says_is_one_line(workers: int) -> None:
    with pytest.raises(UserError) as told:
        list(read_batches(torch.utils.data.DataLoader(NoSong(), num_workers=workers)))
    assert str(told.value) == "song 0: cannot be read"


class Lost(FilesAudioDataset):
    """Its first file does what `how` says, if a worker reads it."""

    how = ""

    def read_song(self, song: int, offset: int, samples: int) -> np.ndarray:
        if song == 0 and torch.utils.data.get_worker_info() is not None:
            if self.how == "hangs":
                time.sleep(1000)
            elif self.how == "has no memory":
                raise MemoryError("Unable to allocate 9 GiB")
            faulthandler.disable()  # of pytest, which would print where everything was
            os.kill(os.getpid(), getattr(signal, self.how))
        return super().read_song(song, offset, samples)


@pytest.mark.faults("a job ends with its cause, or continues", "training: a worker that loads songs {how}")
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGKILL", "hangs", "has no memory"])
def test_a_worker_is_lost(
    how: str, song_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LOOK", 0.5)
    others = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # of loaders that were used by themselves
    hps = hparams(song_folder, nworkers=2, train_test_split=1.0)
    dataset = Lost(hps)
    dataset.how = how
    data = DataProcessor(hps, dataset=dataset)
    try:
        if how in ("SIGSEGV", "SIGABRT"):
            for epoch in (0, 1):
                data.set_epoch(epoch, 1)
                batches = list(read_batches(data.train_loader))
                assert len(batches) == len(data.train_loader) - 1 and data.sampler.start == 1
            told = capsys.readouterr().err
            assert told.count(f"cannot decode {dataset.files[0]}: the decoder crashes") == 1
            whole = {
                n for n, song in enumerate(data.train_dataset.locate(i, 1)[0] for i in range(len(dataset))) if song
            }
            plain = FilesAudioDataset(hps)
            keys = [key for keys in data.sampler for key in keys]
            assert sum(item in whole for _, item in keys) > 10
            for row, key in zip(torch.cat(batches), keys, strict=True):
                assert key[1] not in whole or torch.equal(row, torch.from_numpy(plain[key]))
            assert dataset.is_incomplete()
            return
        begin = time.monotonic()
        with pytest.raises(UserError) as error:
            list(read_batches(data.train_loader))
        message = str(error.value)
        del error
        said = {"hangs": f"hung for .* in {dataset.files[0]}", "SIGKILL": "killed, perhaps for want of memory"}
        assert re.search(said.get(how, "no memory to load songs .Unable to allocate 9 GiB"), message)
        assert "\n" not in message and time.monotonic() - begin < 30
    finally:
        assert signal.signal(signal.SIGCHLD, others) == signal.SIG_DFL
        data.train_loader._iterator = None
    gc.collect()
    assert not [child for child in multiprocessing.active_children() if child.name.startswith("Process")]
