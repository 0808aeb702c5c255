"""Functions that people put in the place of ours run; what they step over by themselves stays theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SR, make_tiny_runs

import jukebox.make_models
import jukebox.sample
import jukebox.utils
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.loaders import find_model
from jukebox.make_models import make_prior, make_vqvae
from jukebox.utils.audio.write import save_wav
from jukebox.utils.sample_utils import get_starts

TOTAL = 576  # samples: 36 tokens at the top, 72, 144


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Hyperparams]:
    """Hyper-parameters of the VQ-VAE and the priors, low to high, that name their checkpoints."""
    model = find_model(make_tiny_runs(tmp_path_factory.mktemp("tiny")))
    return [model.vqvae_hps, *(level.hps for level in model.levels if level is not None)]


@pytest.fixture
def parts(sets: list[Hyperparams]) -> tuple[Any, list[Any]]:
    vqvae = make_vqvae(Hyperparams(sets[0], sample_length=1024), "cpu")
    return vqvae, [make_prior(Hyperparams(hps), vqvae, "cpu") for hps in sets[1:]]


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    for name in ("sample_level", "sample_single_window"):
        vars(jukebox.sample).pop(name, None)


def labels_of(priors: list[Any]) -> list[Any]:
    metas = [dict(artist="somebody", genre="waltz", total_length=4 * SR, offset=0, lyrics="la la")] * 2
    return [prior.labeller.get_batch_labels(metas, "cpu") for prior in priors]


def run_hps(folder: Path, **more: Any) -> Hyperparams:
    settings = dict(
        name=str(folder / "out"), sample_length=TOTAL, levels=3, sr=SR, n_samples=2, hop_fraction=[0.5, 0.5, 0.5]
    )
    return Hyperparams(**{**settings, **more})


def kwargs() -> list[dict[str, Any]]:
    return [dict(temp=0.99, fp16=False, max_batch_size=2, chunk_size=8, seed=3) for _ in range(3)]


def test_sample_level_and_sample_single_window_make_the_same_tokens(parts: Any, tmp_path: Path) -> None:
    _, priors = parts
    labels, empty = labels_of(priors), [torch.zeros(2, 0, dtype=torch.long)] * 3
    plain = jukebox.sample.ancestral_sample(labels, kwargs(), priors, run_hps(tmp_path))
    was, seen = jukebox.sample.sample_single_window, []

    def single(*args: Any) -> Any:
        seen.append(("window", args[3], args[5]))
        return was(*args)

    def level(
        zs: Any, labels: Any, sampling_kwargs: Any, level: int, prior: Any, total: int, hop: int, hps: Any
    ) -> Any:
        seen.append(("level", level))
        for start in get_starts(total, prior.n_ctx, hop):
            zs = was(zs, labels, sampling_kwargs, level, prior, start, hps)
        return zs

    jukebox.sample.sample_single_window = single  # type: ignore[attr-defined]
    by_windows = jukebox.sample._sample(empty, labels, kwargs(), priors, [0, 1, 2], run_hps(tmp_path))
    starts = {level: [s for kind, of, s in seen if of == level] for level in range(3)}
    assert starts[2] == [0, 4] and len(starts[1]) == 4 and len(starts[0]) == 8
    jukebox.sample.sample_level = level  # type: ignore[attr-defined]
    seen.clear()
    by_levels = jukebox.sample.ancestral_sample(labels, kwargs(), priors, run_hps(tmp_path))
    assert seen == [("level", 2), ("level", 1), ("level", 0)]
    for a, b, c in zip(plain, by_windows, by_levels, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert (tmp_path / "out/level_0/item_1.wav").is_file()


def test_a_song_shorter_than_a_context_passes_the_replaced_window(parts: Any, tmp_path: Path) -> None:
    _, priors = parts
    was, seen = jukebox.sample.sample_single_window, []
    jukebox.sample.sample_single_window = lambda *a: (seen.append(1), was(*a))[1]  # type: ignore[attr-defined]
    zs = [torch.zeros(1, 0, dtype=torch.long)] * 2 + [torch.ones(1, 3, dtype=torch.long)]
    labels = [dict(y=entry["y"][:1], info=entry["info"][:1]) for entry in labels_of(priors)]
    made = jukebox.sample._sample(zs, labels, kwargs(), priors, [2], run_hps(tmp_path, sample_length=20 * 16))
    assert seen == [1] and made[2].shape == (1, 20) and made[2][0, :3].tolist() == [1, 1, 1]


def test_load_checkpoint_reads_the_weights_of_all_parts(sets: Any, parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def mine(path: str) -> Any:
        seen.append(Path(path).parent.name)
        return torch.load(path, map_location="cpu")

    monkeypatch.setattr(jukebox.make_models, "load_checkpoint", mine)
    vqvae = make_vqvae(Hyperparams(sets[0], sample_length=1024), "cpu")
    make_prior(Hyperparams(sets[3]), vqvae, "cpu")
    jukebox.make_models.restore_model({}, vqvae, sets[0].restore_vqvae)
    assert seen == ["vq", "top", "vq"]
    for name, value in parts[0].state_dict().items():
        assert torch.equal(vqvae.state_dict()[name], value)


@pytest.mark.parametrize("shape", ["[1, T]", "[T]", "with the rate"])
def test_load_audio_reads_prompts_and_training_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    from jukebox.data.files_dataset import FilesAudioDataset

    save_wav(str(tmp_path / "a"), torch.zeros(1, 4000, 1), SR)
    seen: list[Any] = []

    def mine(file: str, sr: int, offset: int, duration: int, mono: bool = False) -> Any:
        seen.append((Path(file).suffix, sr, offset, duration, mono))
        x = np.full(duration, 0.25, np.float64)
        return {"[1, T]": x[None], "[T]": x, "with the rate": (x[None], sr)}[shape]

    monkeypatch.setattr(jukebox.utils.audio_utils, "load_audio", mine)
    file = next(tmp_path.rglob("*.wav"))
    x = jukebox.sample.load_prompts([str(file)], 1000, Hyperparams(sr=SR, n_samples=1))
    assert x.shape == (1, 1000, 1) and x.dtype == torch.float32 and (x == 0.25).all()
    assert seen == [(".wav", SR, 0, 1000, True)]
    hps = setup_hparams("", dict(audio_files_dir=str(file.parent), sr=SR, sample_length=512, labels=False))
    item = FilesAudioDataset(hps)[1]
    assert item.shape == (512, 2) and (item == 0.25).all() and seen[-1] == (".wav", SR, 512, 512, False)


def test_load_audio_reads_songs_to_reconstruct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jukebox.reconstruction.reconstructor import read_part

    save_wav(str(tmp_path / "a"), torch.zeros(1, 4000, 1), SR)
    file, seen = str(next(tmp_path.rglob("*.wav"))), []

    def mine(file: str, sr: int, offset: int, duration: int, mono: bool = False) -> Any:
        seen.append((offset, duration, mono))
        return np.full((1, duration), 0.25)

    assert len(read_part(file, SR, 2.0, 4.0)) == 4 * SR
    monkeypatch.setattr(jukebox.utils.audio_utils, "load_audio", mine)
    part = read_part(file, SR, 2.0, 4.0)
    assert part.shape == (4 * SR,) and (part[:] == 0.25).all() and seen == [(2 * SR, 4 * SR, True)]
    assert len(read_part(file, SR, 2.0, None)) == 4000 - 2 * SR


def test_audio_utils_is_there_with_the_package() -> None:
    assert jukebox.utils.audio_utils.load_audio.__name__ == "load_audio"
    with pytest.raises(AttributeError):
        jukebox.utils.no_such_module  # noqa: B018


def test_checkpoints_by_their_older_name() -> None:
    import jukebox.checkpoints
    import jukebox.weights.checkpoints

    assert jukebox.checkpoints is jukebox.weights.checkpoints


def test_none_stands_for_levels_without_codes(parts: Any, tmp_path: Path) -> None:
    _, priors = parts
    top = torch.randint(16, (2, 36), generator=torch.Generator().manual_seed(0))
    empty = torch.zeros(2, 0, dtype=torch.long)
    made = [
        jukebox.sample.upsample(zs, labels_of(priors), kwargs(), [*priors[:2], None], run_hps(tmp_path))
        for zs in ([None, None, top], [empty, empty, top])
    ]
    for a, b in zip(*made, strict=True):
        assert torch.equal(a, b)


def test_bare_lists_are_codes_and_need_no_priors(tmp_path: Path) -> None:
    zs = [torch.randint(16, (2, length)) for length in (16, 8, 4)]
    torch.save(zs, tmp_path / "song.z")
    for priors in (None, [], [None, None, None]):
        loaded = jukebox.sample.load_codes(str(tmp_path / "song.z"), None, priors, Hyperparams(n_samples=3))
        assert [z.shape for z in loaded] == [(3, 16), (3, 8), (3, 4)] and torch.equal(loaded[2][:2], zs[2])
