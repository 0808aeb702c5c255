"""The window schedule against a walk token by token, and the calls of the prior that it makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling_fakes import BINS, FakePrior, fake_labels

from jukebox.prior.logits import SamplingOptions
from jukebox.sampling.options import LevelOptions
from jukebox.sampling.windows import (
    sample_level,
    sample_partial_window,
    sample_single_window,
    sample_window,
    walk_level,
)
from jukebox.utils.errors import UserError

N = 3


def empty(levels: int = 1, n: int = N) -> list[torch.Tensor]:
    return [torch.zeros(n, 0, dtype=torch.long) for _ in range(levels)]


def random_codes(length: int, n: int = N) -> torch.Tensor:
    return torch.randint(0, BINS, (n, length), generator=torch.Generator().manual_seed(length))


def obvious_walk(zs: list[torch.Tensor], prior: FakePrior, total: int, hop: int, labels: Any) -> torch.Tensor:
    """Slow twin: one song at a time, one token at a time; the window is looked up again for each token."""
    rows = []
    for n in range(zs[0].shape[0]):
        song = [z[n : n + 1] for z in zs]
        of_song = {"y": labels["y"][n : n + 1], "info": labels["info"][n : n + 1]}
        while (have := song[prior.level].shape[1]) < total:
            starts = [s for s in range(0, total, hop) if s + prior.n_ctx < total] + [max(0, total - prior.n_ctx)]
            start = next(s for s in starts if s + prior.n_ctx > have)
            longer = prior.sample(
                n_samples=1,
                z=song[prior.level][:, start:],
                z_conds=prior.get_z_conds(song, start, start + prior.n_ctx),
                y=prior.get_y(of_song, start),
                sample_tokens=have - start + 1,
            )
            song[prior.level] = torch.cat([song[prior.level], longer[:, -1:]], dim=1)
        rows.append(song[prior.level])
    return torch.cat(rows)


@pytest.mark.parametrize("total, known, batch", [(20, 0, 1), (20, 5, 2), (21, 17, 16), (8, 0, 2), (5, 0, 3), (5, 2, 2)])
def test_top_level_equals_the_walk_token_by_token(total: int, known: int, batch: int) -> None:
    prior, labels = FakePrior(), fake_labels(N)
    zs = [random_codes(known)]
    made = walk_level(zs, labels, LevelOptions(max_batch_size=batch), 0, prior, total, 5)
    assert torch.equal(made[0], obvious_walk(zs, FakePrior(), total, 5, labels))
    assert made[0].shape == (N, total) and torch.equal(made[0][:, :known], zs[0])
    assert max(call["n_samples"] for call in prior.calls) == min(batch, N)


def test_upsampler_reads_the_codes_above() -> None:
    prior, labels = FakePrior(0, 2), fake_labels(N)
    zs = [random_codes(2), random_codes(5)]
    made = walk_level(zs, labels, LevelOptions(), 0, prior, 20, 4)
    assert torch.equal(made[0], obvious_walk(zs, FakePrior(0, 2), 20, 4, labels))
    assert torch.equal(made[1], zs[1]) and zs[0].shape[1] == 2


def test_public_steps_make_the_same_where_nothing_is_odd() -> None:
    labels = fake_labels(N)
    level = sample_level(empty(), labels, dict(max_batch_size=2), 0, FakePrior(), 20, 5, None)
    assert torch.equal(level[0], walk_level(empty(), labels, LevelOptions(), 0, FakePrior(), 20, 5)[0])
    single = sample_single_window(empty(), labels, {}, 0, FakePrior(), 0, None)
    single = sample_single_window(single, labels, {}, 0, FakePrior(), 5, None)
    assert torch.equal(single[0], level[0][:, :13])


def test_partial_window_adds_and_leaves_its_length_behind() -> None:
    labels, options = fake_labels(N), {"temp": 1.0}
    zs = sample_partial_window([random_codes(6)], labels, options, 0, FakePrior(), 5, None)
    assert zs[0].shape == (N, 11) and options["sample_tokens"] == 8
    options = {}
    zs = sample_level([random_codes(2)], labels, options, 0, FakePrior(), 4, 5, None)
    assert zs[0].shape == (N, 6) and options["sample_tokens"] == 6
    assert sample_single_window(empty(), labels, options, 0, FakePrior(), 0, None)[0].shape == (N, 6)
    assert walk_level([random_codes(2)], labels, LevelOptions(), 0, FakePrior(), 4, 5)[0].shape == (N, 4)


def test_a_full_window_is_not_made_again() -> None:
    prior = FakePrior()
    zs = [random_codes(8)]
    assert torch.equal(sample_single_window(zs, fake_labels(N), {}, 0, prior, 0, None)[0], zs[0])
    assert prior.calls == []
    with pytest.raises(ValueError, match="only 8 tokens"):
        sample_single_window(zs, fake_labels(N), {}, 0, prior, 9, None)


def test_options_reach_the_prior() -> None:
    prior = FakePrior()
    options = dict(temp=0.9, fp16=True, top_k=5, chunk_size=3, max_batch_size=2, seed=None)
    sample_window(empty(), fake_labels(N), LevelOptions.from_kwargs(options), 0, prior, 0, 4)
    drawing = SamplingOptions(0.9, top_k=5)
    assert prior.calls[0] == dict(
        n_samples=2, known=0, sample_tokens=4, options=drawing, dtype=torch.half, chunk_size=3
    )


def with_seed(songs: list[int], known: int = 0, **options: Any) -> torch.Tensor:
    labels = fake_labels(6)
    labels = {"y": labels["y"][songs], "info": [labels["info"][i] for i in songs]}
    chosen = LevelOptions(seed=3, songs=songs, **options)
    zs = [with_seed(songs)[:, :known] if known else torch.zeros(len(songs), 0, dtype=torch.long)]
    return walk_level(zs, labels, chosen, 0, FakePrior(), 20, 5)[0]


def test_a_song_does_not_know_its_neighbours() -> None:
    everything = with_seed([0, 1, 2, 3, 4, 5])
    assert len(set(map(tuple, everything.tolist()))) == 6
    assert torch.equal(with_seed([0, 1, 2, 3, 4, 5], max_batch_size=4), everything)
    assert torch.equal(with_seed([4]), everything[4:5])
    assert torch.equal(with_seed([5, 2]), everything[[5, 2]])
    for known in (1, 7, 8, 13):
        assert torch.equal(with_seed([1, 3], known=known), everything[[1, 3]])
    assert not torch.equal(
        walk_level(empty(), fake_labels(N), LevelOptions(seed=4), 0, FakePrior(), 20, 5)[0], everything[:N]
    )


def test_progress_counts_new_tokens_alone() -> None:
    counted: list[int] = []
    walk_level(
        [random_codes(5)],
        fake_labels(N),
        LevelOptions(max_batch_size=2),
        0,
        FakePrior(),
        20,
        5,
        progress=counted.append,
    )
    assert sum(counted) == 15 * N


def test_every_window_is_reported() -> None:
    lengths: list[int] = []
    walk_level(
        empty(),
        fake_labels(N),
        LevelOptions(),
        0,
        FakePrior(),
        20,
        5,
        after_window=lambda zs: lengths.append(zs[0].shape[1]),
    )
    assert lengths == [8, 13, 18, 20]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_the_batch(error: Exception) -> None:
    prior, options = FakePrior(), LevelOptions(seed=1, max_batch_size=8)
    prior.fails = [error]
    labels = fake_labels(6)
    made = walk_level(empty(n=6), labels, options, 0, prior, 20, 5)
    assert [call["n_samples"] for call in prior.calls[:4]] == [6, 3, 3, 3]
    assert options.max_batch_size == 3
    assert torch.equal(made[0], walk_level(empty(n=6), labels, LevelOptions(seed=1), 0, FakePrior(), 20, 5)[0])


def test_out_of_memory_then_halves_the_chunk_and_gives_up_with_advice() -> None:
    prior, options = FakePrior(), LevelOptions(chunk_size=64)
    prior.fails = [torch.OutOfMemoryError("CUDA out of memory")] * 3
    with pytest.raises(UserError, match="one song at a time: use --dtype=bf16 or a machine with more"):
        sample_window(empty(n=1), fake_labels(1), options, 0, prior, 0, 8)
    assert [call["chunk_size"] for call in prior.calls] == [64, 32, 16]


def test_notebooks_keep_what_fitted() -> None:
    """The options of a notebook are plain: they come back as they were but for a size that did not fit."""
    prior, options = FakePrior(), {"temp": 0.9, "seed": 1, "sample_tokens": 8, "mine": "x"}
    before = dict(options)
    sample_single_window(empty(n=4), fake_labels(4), options, 0, prior, 0, None)
    assert options == before
    prior.fails = [MemoryError()]
    sample_single_window(empty(n=4), fake_labels(4), options, 0, prior, 0, None)
    assert options == {**before, "max_batch_size": 2}


def test_options_as_plain_values_and_back() -> None:
    for kwargs in (
        {"temp": 0.9, "fp16": True, "chunk_size": 3, "max_batch_size": 2, "seed": 4, "songs": [2, 5], "top_k": 7},
        {"temp": 1.0, "fp16": False, "chunk_size": None, "max_batch_size": None, "top_p": 0.5, "dtype": "bf16", "a": 1},
    ):
        assert LevelOptions.from_kwargs(kwargs).kwargs() == kwargs
    assert LevelOptions.from_kwargs({}) == LevelOptions()


def test_other_errors_are_not_swallowed() -> None:
    prior = FakePrior()
    prior.fails = [RuntimeError("shapes differ")]
    with pytest.raises(RuntimeError, match="shapes differ"):
        sample_window(empty(), fake_labels(N), LevelOptions(), 0, prior, 0, 8)


@pytest.mark.parametrize("engine", ["auto", "native", "eager"])
def test_the_engine_reaches_the_prior(engine: str) -> None:
    prior = FakePrior()
    walk_level(empty(), fake_labels(3), LevelOptions(engine=engine), 0, prior, 4, 4)
    assert prior.calls[0].get("engine", "auto") == engine
    assert LevelOptions.from_kwargs(LevelOptions(engine=engine).kwargs()).engine == engine
