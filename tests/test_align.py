"""The alignment of whole songs against a slow twin, the ranking of heads, and the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_runs

from jukebox.align import get_alignment, keep, main, rank_heads
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.loaders import find_model
from jukebox.make_models import load_checkpoint
from jukebox.sample import main as sample
from jukebox.sampling import alignment
from jukebox.sampling.alignment import HeadScore, judge
from jukebox.transformer.ops import MLP
from jukebox.utils.errors import UserError
from jukebox.utils.files import only_writer
from jukebox.utils.sample_utils import get_starts

N_CTX, N_TOKENS = 16, 6


class Reader:
    """A prior whose attention maps are given: layer 1 and 3 read lyrics with two heads each, layer 3 head 1 well."""

    n_ctx, n_tokens, alignment_layer, alignment_head = N_CTX, N_TOKENS, 3, 1

    def __init__(self) -> None:
        self.prior = self
        self.transformer = self
        self.lyric_layers, self.n_head = [1, 3], 2
        self.seen: list[tuple[int, int]] = []
        self.calls: list[int] = []

    def get_y(self, labels: Any, start: int, get_indices: bool = False) -> Any:
        places = []
        for info in labels["info"]:
            n = len(info["full_tokens"])
            first = min(max(0, start * n // 40), max(0, n - N_TOKENS))
            missing = max(0, N_TOKENS - n)
            places.append([-1] * missing + list(range(first, first + N_TOKENS - missing)))
        y = torch.tensor([[start, *p] for p in places])
        return (y, places) if get_indices else y

    def z_forward(self, z: Any, z_conds: Any, y: Any, dtype: torch.dtype, get_attn_weights: Any) -> list[torch.Tensor]:
        assert z.shape == (len(y), N_CTX)
        self.calls.append(len(z))
        songs = [self.of_song(z_song, y_song, get_attn_weights) for z_song, y_song in zip(z, y, strict=True)]
        return [torch.stack(layer) for layer in zip(*songs, strict=True)]

    def of_song(self, z: torch.Tensor, y: torch.Tensor, layers: Any) -> list[torch.Tensor]:
        start = int(y[0])
        self.seen.append((start, int(z.sum())))
        generator = torch.Generator().manual_seed(start)
        maps = []
        for layer in sorted(layers):
            weights = torch.rand(2, N_CTX, N_TOKENS, generator=generator)  # blurred
            if layer == 3:
                for t in range(N_CTX):
                    place = (start + t) // 4  # four tokens a character
                    inside = (y[1:] == place).float()
                    weights[1, t] = 0.02 * weights[1, t] + inside
            maps.append(weights / weights.sum(-1, keepdim=True))
        return maps


def song(n_characters: int) -> dict[str, Any]:
    return dict(artist="a", genre="g", lyrics="x" * n_characters, full_tokens=[1] * n_characters)


def obvious_alignment(z: torch.Tensor, labels: Any, prior: Reader, hop: int, one_window: bool) -> list[np.ndarray]:
    """Slow twin: every cell is looked up in the first window that shows it, or in the first that has its row."""
    total = z.shape[1]
    starts = get_starts(max(total, N_CTX), N_CTX, hop)
    result = []
    for i, info in enumerate(labels["info"]):
        whole = np.zeros((total, len(info["full_tokens"])))
        for t in range(total):
            for character in range(whole.shape[1]):
                for start in starts:
                    y, places = prior.get_y(labels, start, get_indices=True)
                    if start <= t < start + N_CTX and character in places[i]:
                        padded = torch.nn.functional.pad(
                            z[i : i + 1, start : start + N_CTX], (0, max(0, N_CTX - total))
                        )
                        weights = prior.z_forward(padded, [], y[i : i + 1], torch.float32, {3})[0]
                        whole[t, character] = weights[0, 1, t - start, places[i].index(character)]
                        break
                    if one_window and start <= t < start + N_CTX:
                        break
        result.append(whole)
    return result


@pytest.mark.parametrize("one_window", [False, True])
@pytest.mark.parametrize("total, fraction", [(40, 0.5), (37, 0.3), (16, 0.5), (9, 0.25)])
def test_alignment_equals_the_slow_twin(total: int, fraction: float, one_window: bool) -> None:
    labels = {"y": torch.zeros(3, 1), "info": [song(12), song(4), song(0)]}
    z = torch.randint(0, 9, (3, total))
    hps = Hyperparams(levels=2, hop_fraction=[1.0, fraction])
    found = get_alignment(None, [z[:, :0], z], labels, Reader(), False, hps, one_window=one_window)
    expected = obvious_alignment(z, labels, Reader(), int(fraction * N_CTX), one_window)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == np.float64
        assert np.allclose(a, b)
    if total == 40:  # lyrics of 12 characters are longer than a window of 6
        assert (found[0].sum(axis=1).max() <= 1 + 1e-6) == one_window


def test_songs_go_together_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"y": torch.zeros(3, 1), "info": [song(12), song(4), song(7)]}
    z = torch.randint(0, 9, (3, 37))
    hps = Hyperparams(levels=1, hop_fraction=[0.5])
    together = get_alignment(None, [z], labels, reader := Reader(), False, hps)
    assert len(reader.calls) == len(get_starts(37, N_CTX, 8)) and set(reader.calls) == {3}
    monkeypatch.setattr(alignment, "MAP_BYTES", 2 * 4 * 2 * N_CTX * N_TOKENS)
    by_two = get_alignment(None, [z], labels, reader := Reader(), False, hps)
    assert set(reader.calls) == {2, 1}
    assert all(np.array_equal(a, b) for a, b in zip(together, by_two, strict=True))


def test_a_prior_without_a_head_says_what_to_do() -> None:
    prior = Reader()
    prior.alignment_layer = None  # type: ignore[assignment]
    with pytest.raises(UserError, match="--find"):
        get_alignment(None, [torch.zeros(1, 16)], {}, prior, False, Hyperparams(levels=1, hop_fraction=[1.0]))
    prior.prior.transformer.lyric_layers = []  # of a checkpoint that says it reads lyrics
    with pytest.raises(UserError, match="no layer that attends to lyrics"):
        rank_heads([torch.zeros(1, 16)], {}, prior, False, Hyperparams(levels=1, hop_fraction=[1.0]))


def test_find_names_the_head_that_follows_the_lyrics() -> None:
    labels = {"y": torch.zeros(2, 1), "info": [song(10), song(0)]}
    z = torch.zeros(2, 40, dtype=torch.long)
    scores = rank_heads([z], labels, Reader(), False, Hyperparams(levels=1, hop_fraction=[0.5]))
    assert sorted((s.layer, s.head) for s in scores) == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert all(0 <= value <= 1 for s in scores for value in (s.score, s.sharp, s.mass))
    best, second = scores[:2]
    assert (best.layer, best.head) == (3, 1) and best.score > 0.7 > 3 * second.score
    with pytest.raises(UserError, match="no song of this run has lyrics"):
        rank_heads(
            [z], {"y": torch.zeros(1, 1), "info": [song(0)]}, Reader(), False, Hyperparams(levels=1, hop_fraction=[1])
        )


def test_measures() -> None:
    rising, constant = np.eye(20), np.zeros((20, 20))
    constant[:, 7] = 1
    even = np.full((20, 20), 1 / 20)
    assert judge(rising) == pytest.approx((1, 1, 1))
    assert judge(rising[::-1]) == pytest.approx((-1, 1, 1))
    assert judge(constant) == pytest.approx((0, 1, 1))
    assert judge(even) == pytest.approx((0, 0, 1), abs=1e-6)
    assert judge(0.25 * rising) == pytest.approx((1, 1, 0.25))
    blurred = np.exp(-((np.arange(20)[:, None] - np.arange(20)) ** 2) / 20)
    blurred /= blurred.sum(1, keepdims=True)
    linear, sharp, _ = judge(blurred)
    assert 0.7 < linear < 1 and 0.1 < sharp < 0.6
    # A head that stays put and creeps by a hair rises in a line, too; that must not count.
    creeping = 0.99 * constant
    creeping[:, 8] = np.linspace(0, 0.01, 20)
    assert judge(creeping)[0] < 0.2
    assert judge(np.zeros((5, 5))) == (0, 0, 0) and judge(np.zeros((0, 3))) == (0, 0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("align")
    model = make_tiny_runs(folder).split(",")[-1]
    name = folder / "run"
    flags = dict(sample_length_in_seconds=2.304, hop_fraction=0.5, lyrics="one two three four")
    assert sample(model=model, name=str(name), n_samples=2, **flags) == 0
    return model, name


def test_command_recomputes_what_sampling_found(run: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = run
    file = folder / "level_2" / "data.pth.tar"
    before = torch.load(file, weights_only=True)
    torch.save({**before, "alignments": None}, file)
    page = folder / "level_2" / "item_1" / "align.json"
    known = page.read_bytes()
    page.unlink()
    assert main(model=model, logdir=str(folder)) == 0
    after = torch.load(file, weights_only=True)
    assert page.read_bytes() == known
    for a, b in zip(after["alignments"], before["alignments"], strict=True):
        assert a.shape == (36, 18) and torch.allclose(a, b, atol=1e-6)
        assert a.sum(1).max() <= 1 + 1e-6
    assert torch.equal(after["zs"][2], before["zs"][2]) and torch.equal(after["x"], before["x"])


@pytest.mark.parametrize("find", [False, True])
def test_the_type_that_is_asked_for_is_computed_in(
    run: tuple[str, Path], tmp_path: Path, find: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = run
    shutil.copytree(folder, tmp_path / "run")
    seen: set[tuple[torch.dtype, torch.dtype]] = set()
    plain = MLP.forward

    def forward(self: MLP, x: torch.Tensor) -> torch.Tensor:
        seen.add((x.dtype, self.c_fc.w.dtype))
        return plain(self, x)

    monkeypatch.setattr(MLP, "forward", forward)
    monkeypatch.setattr("jukebox.align.keep", lambda *_: "")
    assert main(model=model, logdir=str(tmp_path / "run"), dtype="bf16", find=find, device="cpu") == 0
    assert seen == {(torch.bfloat16, torch.bfloat16)}


def test_find_keeps_the_best_head_in_the_checkpoint(
    run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run
    model = make_tiny_runs(tmp_path, alignment_layer=None, alignment_head=None).split(",")[-1]
    with pytest.raises(UserError, match="does not say which head shows the alignment: add --find"):
        main(model=model, logdir=str(folder))
    weights = load_checkpoint(f"{model}/checkpoint_latest.pth.tar")["model"]
    for busy in (folder, Path(model)):  # a run that samples, a training
        with only_writer(busy, "name"), pytest.raises(UserError, match=f"={busy}: another process is writing"):
            main(model=model, logdir=str(folder), find=True)
    capsys.readouterr()
    assert main(model=model, logdir=str(folder), find=True) == 0
    said = capsys.readouterr().out.split("\n")
    assert said[0].split() == ["layer", "head", "score", "linear", "sharp", "mass"]
    rows = [line.split() for line in said[1:3]]
    assert sorted(row[:2] for row in rows) == [["3", "0"], ["3", "1"]] and float(rows[0][2]) >= float(rows[1][2])
    assert (folder / "alignment.png").read_bytes().startswith(b"\x89PNG")
    checkpoint = load_checkpoint(f"{model}/checkpoint_latest.pth.tar")
    kept = (checkpoint["hps"]["alignment_layer"], checkpoint["hps"]["alignment_head"])
    assert kept == (int(rows[0][0]), int(rows[0][1]))
    assert all(torch.equal(checkpoint["model"][key], weights[key]) for key in weights)
    assert main(model=model, logdir=str(folder)) == 0
    top = find_model(model).top
    assert top is not None and (top.hps.alignment_layer, top.hps.alignment_head, top.hps.alignment_shift) == (*kept, 1)


def test_find_leaves_a_registered_model_to_its_set() -> None:
    before = Path(setup_hparams("demo_prior", {}).restore_prior).read_bytes()
    said = keep("demo", setup_hparams("demo_prior", {}).restore_prior, HeadScore(7, 1, 1.0, 1.0, 1.0))
    assert said.startswith("the set demo_prior names a head")
    assert Path(setup_hparams("demo_prior", {}).restore_prior).read_bytes() == before


def test_one_letter_cannot_be_judged(run: tuple[str, Path], tmp_path: Path) -> None:
    model, folder = run
    shutil.copytree(folder, tmp_path / "short")
    file = tmp_path / "short" / "level_2" / "data.pth.tar"
    data = torch.load(file, weights_only=True)
    for info in data["labels"][-1]["info"]:
        info.update(lyrics="a", full_tokens=[1])
    torch.save(data, file)
    with pytest.raises(UserError, match="two letters"):
        main(model=model, logdir=str(tmp_path / "short"), find=True)


def test_wrong_uses(run: tuple[str, Path], tmp_path: Path) -> None:
    model, folder = run
    with pytest.raises(UserError, match="--model is missing"):
        main(logdir=str(folder))
    with pytest.raises(UserError, match="--logdir is missing"):
        main(model=model)
    with pytest.raises(UserError, match="holds no finished level"):
        main(model=model, logdir=str(tmp_path))
    mute = make_tiny_runs(tmp_path, lyrics=False).split(",")[-1]
    with pytest.raises(UserError, match="has no top-level prior that reads lyrics"):
        main(model=mute, logdir=str(folder))
