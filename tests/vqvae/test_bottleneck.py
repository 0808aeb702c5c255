"""Codebooks against slow, obvious twins: nearest codes, averages from a one-hot table, restarts, several processes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from jukebox.utils.errors import UserError
from jukebox.utils.launch import leave_job
from jukebox.vqvae import bottleneck
from jukebox.vqvae.bottleneck import Bottleneck, BottleneckBlock, nearest_codes


def rows_of(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(-1, x.shape[1])


def one_hot_update(
    k_sum: Tensor, k_elem: Tensor, x: Tensor, codes: Tensor, candidates: Tensor, mu: float, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The update written with a table of codes by positions, as in the paper."""
    table = torch.nn.functional.one_hot(codes, len(k_sum)).t().to(x.dtype)  # [K, R]
    k_sum = mu * k_sum + (1 - mu) * (table @ x)
    k_elem = mu * k_elem + (1 - mu) * table.sum(1)
    k = torch.stack([k_sum[i] / k_elem[i] if k_elem[i] >= threshold else candidates[i] for i in range(len(k_sum))])
    return k_sum, k_elem, k


def trained_block(threshold: float = 1.0, k_bins: int = 12) -> BottleneckBlock:
    block = BottleneckBlock(k_bins, 5, mu=0.8, threshold=threshold)
    block.generator = torch.Generator().manual_seed(3)
    return block.train()


@pytest.mark.parametrize("chunk", [1, 64, 2**20])
def test_nearest_codes_in_pieces(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bottleneck.CHUNK_ELEMENTS, "cpu", chunk)
    torch.manual_seed(0)
    x, k = torch.randn(57, 6, dtype=torch.double), torch.randn(11, 6, dtype=torch.double)
    distances = (x[:, None] - k[None]).square().sum(-1)
    codes, fit = nearest_codes(x, k)
    assert torch.equal(codes, distances.argmin(1))
    torch.testing.assert_close(fit, distances.min(1).values.mean())


@pytest.mark.parametrize("threshold", [0.0, 1.0, 3.0])
def test_updates_equal_those_with_a_one_hot_table(threshold: float) -> None:
    torch.manual_seed(1)
    block = trained_block(threshold)
    first = torch.randn(3, 5, 20)
    block(first)
    for _ in range(4):
        x = torch.randn(3, 5, 20) * 2
        candidates = torch.randn(12, 5)
        block.draw_rows = lambda _, candidates=candidates: candidates  # type: ignore[misc]
        assert block.k_sum is not None and block.k_elem is not None
        before = block.k.clone()
        codes, _ = nearest_codes(rows_of(x), block.k)
        expected = one_hot_update(block.k_sum, block.k_elem, rows_of(x), codes, candidates, 0.8, threshold)
        out = block(x)
        assert torch.equal(out.codes.flatten(), codes)
        for got, want in zip((block.k_sum, block.k_elem, block.k), expected, strict=True):
            torch.testing.assert_close(got, want)
        counts = torch.bincount(codes, minlength=12).float()
        share = counts / counts.sum()
        torch.testing.assert_close(out.metrics["entropy"], -(share * (share + 1e-8).log()).sum())
        assert out.metrics["used_curr"] == (counts >= threshold).sum()
        assert out.metrics["usage"] == (expected[1] >= threshold).sum()
        torch.testing.assert_close(out.metrics["dk"], (block.k - before).norm() / math.sqrt(60))


def test_unused_codes_restart_from_the_batch_and_used_ones_do_not() -> None:
    block = trained_block(threshold=1.0)
    x = torch.randn(2, 5, 30)
    block(x)
    with torch.no_grad():
        block.k[:6] = 1000.0 + torch.arange(6)[:, None]  # out of reach of every input
    block.restore_k(num_tokens=12)
    assert block.k_elem is not None
    for _ in range(10):
        out = block(x)
        if (block.k.abs() < 10).all():
            break
    rows = {tuple(row.tolist()) for row in rows_of(x)}
    restarted = [i for i in range(12) if tuple(block.k[i].tolist()) in rows]
    assert set(restarted) >= set(range(6))
    assert out.metrics["usage"] < 12
    assert all(block.k_elem[i] < 1.0 for i in restarted)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_batch_that_is_not_finite_leaves_no_trace(value: float) -> None:
    """Not in the running averages either, where it would stay for good."""
    torch.manual_seed(4)
    block = trained_block()
    block(torch.randn(3, 5, 20))
    before = [t.clone() for t in (block.k, block.k_sum, block.k_elem)]  # type: ignore[union-attr]
    spoiled = torch.randn(3, 5, 20)
    spoiled[1] = value
    metrics = block(spoiled).metrics
    assert all(torch.equal(a, b) for a, b in zip(before, (block.k, block.k_sum, block.k_elem), strict=True))
    assert metrics["dk"] == 0 and metrics["usage"] == (before[2] >= block.threshold).sum()
    block(torch.randn(3, 5, 20))
    assert not torch.equal(before[0], block.k) and block.k.isfinite().all()


def test_candidates_that_are_not_finite_are_never_taken() -> None:
    torch.manual_seed(5)
    block = trained_block()
    block.draw_rows = lambda rows: torch.full((12, 5), math.nan)
    metrics = block(torch.randn(3, 5, 20)).metrics
    assert not block.init and block.k_sum is None and not block.k.any()
    block.draw_rows = None
    after = block(torch.randn(3, 5, 20)).metrics  # the next batch starts it
    assert block.init and block.k.isfinite().all() and metrics.keys() == after.keys()
    k = block.k.clone()
    block.draw_rows = lambda rows: torch.full((12, 5), math.nan)
    block(torch.randn(3, 5, 20))
    assert torch.equal(k, block.k)


def test_the_threshold_of_the_constructor_counts_from_the_first_step() -> None:
    x = torch.randn(2, 5, 30)
    for threshold, revived in ((1e-6, False), (1e6, True)):
        block = trained_block(threshold)
        out = block(x)
        assert (out.metrics["usage"] == 0) == revived
        rows = {tuple(row.tolist()) for row in rows_of(x)}
        assert all(tuple(k.tolist()) in rows for k in block.k) == revived


def test_the_first_codebook_is_made_of_rows_without_repetition() -> None:
    block = trained_block()
    x = torch.randn(60, 5)
    block.init_k(x)
    picked = [int((x == k).all(1).nonzero()) for k in block.k]
    assert len(set(picked)) == 12
    assert torch.equal(block.k_elem, torch.ones(12)) and torch.equal(block.k_sum, block.k)  # type: ignore[arg-type]


def test_too_few_rows_are_tiled_with_a_little_noise() -> None:
    block = trained_block()
    x = torch.randn(5, 5)
    rows = block.random_rows(x)
    assert rows.shape == (12, 5)
    distance = (rows[:, None] - x[None]).norm(dim=-1).min(1).values
    assert 0 < distance.max() < 0.05
    assert len(rows.unique(dim=0)) == 12


def test_draws_come_from_the_generator() -> None:
    x = torch.randn(60, 5)
    blocks = [trained_block() for _ in range(3)]
    blocks[2].generator = torch.Generator().manual_seed(4)
    torch.manual_seed(0)
    draws = [block.random_rows(x) for block in blocks]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    block = trained_block()
    block.generator = None
    torch.manual_seed(9)
    first = block.random_rows(x)
    torch.manual_seed(9)
    assert torch.equal(first, block.random_rows(x))


def test_gradients_pass_straight_through() -> None:
    block = trained_block()
    x = torch.randn(2, 5, 20, requires_grad=True)
    out = block(x)
    old = block.decode(out.codes)
    weights = torch.randn_like(out.quantized)
    (out.quantized * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)
    assert out.quantized.shape == x.shape
    x.grad = None
    out = block(x, update_k=False)
    torch.testing.assert_close(out.quantized, block.decode(out.codes))
    assert not torch.equal(old, block.decode(out.codes))  # the step itself used the codes from before its update
    out.commit_loss.backward()
    torch.testing.assert_close(x.grad, 2 * (x.detach() - block.decode(out.codes)) / x.numel())


def test_encode_and_decode_invert_each_other_on_code_vectors() -> None:
    block = trained_block()
    block(torch.randn(2, 5, 30))
    codes = torch.randint(0, 12, (2, 9))
    assert torch.equal(block.encode(block.decode(codes)), codes)
    assert block.decode(codes).shape == (2, 5, 9)


def test_halves_of_twice_the_width_are_added() -> None:
    block = trained_block()
    block(torch.randn(2, 5, 30))
    x = torch.randn(2, 10, 7)
    out, folded = block(x, update_k=False), block(x[:, :5] + x[:, 5:], update_k=False)
    assert torch.equal(out.codes, folded.codes) and torch.equal(out.quantized, folded.quantized)
    with pytest.raises(UserError, match="7 channels"):
        block.encode(torch.randn(1, 7, 4))


def test_training_goes_on_exactly_from_the_extra_state() -> None:
    torch.manual_seed(5)
    batches = [torch.randn(2, 5, 30) for _ in range(6)]
    undisturbed = trained_block()
    for x in batches[:3]:
        undisturbed(x)
    state, extra = undisturbed.state_dict(), undisturbed.state_extra()
    state = {key: value.clone() for key, value in state.items()}
    assert list(state) == ["k"]
    resumed = trained_block()
    resumed.load_state_dict(state)
    resumed.load_extra(extra)
    assert undisturbed.generator is not None and resumed.generator is not None
    resumed.generator.set_state(undisturbed.generator.get_state())
    for x in batches[3:]:
        ours, theirs = resumed(x), undisturbed(x)
        assert torch.equal(ours.codes, theirs.codes)
        assert torch.equal(resumed.k, undisturbed.k)
    assert torch.equal(resumed.k_sum, undisturbed.k_sum)  # type: ignore[arg-type]


def test_extra_state_can_be_saved_and_read_as_plain_types(tmp_path: Path) -> None:
    block = trained_block()
    for step in range(2):
        torch.save(block.state_extra(), tmp_path / "extra")
        extra = torch.load(tmp_path / "extra", weights_only=True)
        assert extra["init"] == bool(step)
        block.load_extra(extra)
        block(torch.randn(2, 5, 30))
    with pytest.raises(UserError, match="l_bins"):
        BottleneckBlock(7, 5, 0.9).load_extra(extra)


def test_a_loaded_codebook_is_kept_and_counts_the_batch() -> None:
    source = trained_block()
    source(torch.randn(2, 5, 30))
    block = BottleneckBlock(12, 5, mu=0.99)
    block.load_state_dict(source.state_dict())
    assert block.init and block.k_sum is None
    x = torch.randn(4, 5, 60)
    codes = block.encode(x)
    assert torch.equal(block.train()(x).codes, codes)  # no new codebook was drawn
    assert block.k_elem is not None
    torch.testing.assert_close(block.k_elem.sum(), torch.tensor(240.0))  # 4 items of 60 codes, not 60
    untrained = BottleneckBlock(12, 5, mu=0.99)
    untrained.load_state_dict(BottleneckBlock(12, 5, mu=0.99).state_dict())
    assert not untrained.init


def test_restoring_spreads_the_tokens_over_the_codes() -> None:
    block = trained_block()
    block(torch.randn(2, 5, 30))
    block.restore_k(num_tokens=60, threshold=0.25)
    torch.testing.assert_close(block.k_elem, torch.full((12,), 5.0))
    torch.testing.assert_close(block.k_sum, 5 * block.k)
    assert block.threshold == 0.25


def test_levels_report_means_and_detach_without_training() -> None:
    torch.manual_seed(2)
    levels = Bottleneck(12, 5, 0.8, levels=2, threshold=0.5).train()
    xs = [torch.randn(2, 5, 30, requires_grad=True), torch.randn(2, 5, 16, requires_grad=True)]
    levels(xs)
    twins = [BottleneckBlock(12, 5, 0.8, threshold=0.5) for _ in xs]
    for twin, block in zip(twins, levels.blocks, strict=True):
        twin.load_state_dict(block.state_dict())
        twin.load_extra(block.state_extra())
    codes, quantized, losses, metrics = levels(xs)
    separate = [twin(x) for twin, x in zip(twins, xs, strict=True)]
    means = {"fit", "pn", "entropy", "used_curr", "usage", "dk"}
    by_level = {f"{key}_l{level}" for key in ("usage", "entropy", "dk") for level in (1, 2)}
    assert set(metrics) == means | by_level
    for key in means:
        torch.testing.assert_close(metrics[key], torch.stack([s.metrics[key].float() for s in separate]).mean())
    for key in by_level:
        name, _, level = key.rpartition("_l")
        assert metrics[key] == separate[int(level) - 1].metrics[name]
    assert all(q.requires_grad for q in quantized) and all(loss.requires_grad for loss in losses)
    before = [block.k.clone() for block in levels.blocks]
    _, quantized, _, metrics = levels.eval()(xs)
    assert not any(q.requires_grad for q in quantized) and metrics == {}
    assert all(torch.equal(k, block.k) for k, block in zip(before, levels.blocks, strict=True))
    assert torch.equal(levels.encode(xs[1:], start_level=1)[0], levels.blocks[1].encode(xs[1]))


def test_without_a_bottleneck_latents_pass() -> None:
    xs = [torch.randn(1, 5, 4, requires_grad=True)]
    none = Bottleneck(12, 5, 0.8, levels=1, quantizer=None)
    codes, quantized, losses, metrics = none(xs)
    assert quantized[0] is xs[0] and codes[0] is xs[0] and losses == [0]
    assert set(metrics) == {"entropy", "usage", "used_curr", "pn", "dk"} and not any(metrics.values())
    assert none.decode(none.encode(xs))[0] is xs[0] and not none.discrete


def test_nobody_outside_knows_a_kind() -> None:
    """So that a new one touches its own file and QUANTIZERS."""
    package = Path(bottleneck.__file__).parents[1]
    outside = [path for path in package.rglob("*.py") if "vqvae" not in path.relative_to(package).parts]
    assert len(outside) > 50
    assert not [path for path in outside if "Bottleneck" in path.read_text(encoding="utf-8")]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="quantizer=lookup: use one of codebook"):
        Bottleneck(12, 5, 0.8, levels=1, quantizer="lookup")


# ------------------------------------------------------------------------------------------- several processes


def _train_in_process(rank: int, world: int, folder: str, batches: list[Tensor]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        torch.save(_train_codebook([x.chunk(world)[rank] for x in batches]), f"{folder}/rank{rank}")
    finally:
        torch.distributed.destroy_process_group()
    leave_job()


def _train_codebook(batches: list[Tensor]) -> dict[str, Any]:
    """Codebook and averages after some batches. Codes that restart take the first rows, which process 0 holds."""
    block = BottleneckBlock(12, 5, mu=0.8, threshold=1.5)
    block.draw_rows = lambda rows: rows[:12]
    metrics = [block(x).metrics for x in batches]
    used = [float(m["usage"]) for m in metrics]
    return {"k": block.k, "k_sum": block.k_sum, "k_elem": block.k_elem, "used": used}


def test_two_processes_learn_the_codebook_of_one_with_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(6)
    batches = [torch.randn(4, 5, 20) * (1 + i) for i in range(4)]
    mp.spawn(_train_in_process, args=(2, str(tmp_path), batches), nprocs=2)
    alone = _train_codebook(batches)
    assert min(alone["used"]) < 12  # some restarted
    for rank in range(2):
        shared = torch.load(tmp_path / f"rank{rank}", weights_only=True)
        assert shared["used"] == alone["used"]
        for name in ("k", "k_sum", "k_elem"):
            torch.testing.assert_close(shared[name], alone[name])


# ------------------------------------------------------------------------------------------------------ memory

SCRATCH = """
import torch
from jukebox.vqvae.bottleneck import BottleneckBlock

def peak():  # MiB; not getrusage, whose maximum starts at that of the process that started this one
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
block = BottleneckBlock(2048, 64, 0.99)
block(torch.randn(1, 64, 4096))  # first use: libraries and the codebook itself
x = torch.randn(4, 64, 262144 // 8)
before = peak()
block(x)
print(peak() - before, x.numel() * 4 / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_an_update_at_full_size_needs_little_scratch() -> None:
    """2048 codes and 4 x 262144 samples, level 0: a table of codes by positions would take a gigabyte."""
    done = subprocess.run([sys.executable, "-c", SCRATCH], capture_output=True, text=True, check=True)
    scratch, size_of_x = map(float, done.stdout.split())
    assert size_of_x == 32
    assert size_of_x < scratch < 6 * size_of_x  # rows, vectors, their difference and the result; what is measured moves
