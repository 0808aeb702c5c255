"""Features against a slow twin that hooks into the layers of the model, one window at a time; and where windows are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import N_CTX, SAMPLES_PER_CODE, make_tiny_runs
from torch import Tensor

from jukebox.data.synthesizer import make_song
from jukebox.features.activations import AudioWindow, Extractor
from jukebox.features.feature_writer import FeatureWriter, OpenSong, window_hop
from jukebox.loaders import Model, find_model
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError

CPU = torch.device("cpu")
HUGGING_FACE = Path(__file__).parents[1] / "parity" / "recorded" / "merged_lyrics"
# Lengths in samples at 250 Hz; a context is 512 samples at the top.
LENGTHS = {"three_windows": 1500, "one_window": 512, "half_a_window": 300, "two_windows.5": 1039, "one_code": 9}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return find_model(make_tiny_runs(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the lengths above, as wav at the model's rate."""
    root = tmp_path_factory.mktemp("audio")
    for i, (name, length) in enumerate(LENGTHS.items()):
        song = make_song(i, sr=8000, seconds=length / 250 + 1).audio
        write_audio(root / f"{name}.wav", song[:length], 250)  # played slowly: the model does not mind
    return root


def settings(level: int, layers: list[int], pool: str = "none", hop_fraction: float = 1.0) -> dict[str, Any]:
    return dict(
        model="tiny",
        weights_from="",
        level=level,
        layers=layers,
        pool=pool,
        hop_fraction=hop_fraction,
        artist="",
        genre="",
    )


def features(
    model: Model,
    folder: Path,
    out: Path,
    level: int,
    layers: list[int],
    names: list[str] | None = None,
    batch: int = 3,
    **more: Any,
) -> dict[str, np.ndarray]:
    """What a job makes of a folder, by file."""
    job = FeatureWriter(Extractor(model, level, layers, CPU), folder, out, settings(level, layers, **more), batch)
    names = names or sorted(path.name for path in folder.iterdir())
    outcome = job.run(names)
    assert outcome.made == len(names) and not outcome.broken
    return {name: np.load(out / f"{name}.npy") for name in names}


@torch.no_grad()
def twin(model: Model, level: int, layers: list[int], path: Path, hop_fraction: float = 1.0) -> np.ndarray:
    """[layers, positions, D] by hooks, with the prior's own label and forward functions, window after window."""
    found = model.levels[level]
    assert found is not None
    per_code, n_ctx, top = found.samples_per_code, found.n_ctx, level == len(model.levels) - 1
    ratio = 1 if top else model.samples_per_code[level + 1] // per_code
    vqvae = model.vqvae(n_ctx * model.samples_per_code[-1], CPU)
    lazy = model.prior(level, vqvae, CPU)
    assert lazy is not None
    prior = lazy.load()
    audio, _ = load_audio(path, model.sr, channels=1)
    samples = audio.shape[1]
    positions = max(1, samples // per_code)
    whole = -(-positions // ratio) * ratio
    x = torch.zeros(1, max(samples, whole * per_code), 1)
    x[0, :samples, 0] = torch.from_numpy(audio[0])

    seen: dict[int, Tensor] = {}
    for layer in layers:
        block = prior.prior.transformer._attn_mods[layer - 1]
        block.register_forward_hook(lambda module, given, gave, layer=layer: seen.update({layer: gave}))
    n_lyrics = found.n_tokens if found.hps.single_enc_dec else 0
    rows = torch.full((len(layers), whole, found.hps.prior_width), torch.nan)
    start = done = 0
    while done < whole:
        start = max(0, min(start, whole - n_ctx))
        end = min(start + n_ctx, whole)
        z, *above = vqvae.encode(
            x[:, start * per_code : end * per_code], start_level=level, end_level=min(level + 2, vqvae.levels)
        )
        z, y = torch.cat([z, torch.zeros(1, n_ctx - (end - start), dtype=torch.long)], 1), None
        if found.hps.labels:
            lowest = found.hps.min_duration * model.sr
            meta = dict(artist="unknown", genre="unknown", lyrics="", total_length=int(max(lowest, samples)), offset=0)
            y = prior.get_y(found.labeller.get_batch_labels([meta]), start)
        if above:  # a conditioner that ends where the audio does, as long as the codes
            z, above = z[:, : end - start], above[:1]
        prior.z_forward(z, above, y)
        for i, layer in enumerate(layers):
            rows[i, done:end] = seen[layer][0, n_lyrics + done - start : n_lyrics + end - start]
        done = end
        start += max(1, int(hop_fraction * n_ctx) // ratio) * ratio
    return rows[:, :positions].numpy()


# --------------------------------------------------------------------------------------------------- against the twin


@pytest.mark.parametrize(
    ("level", "layers", "hop_fraction"), [(2, [1, 3, 4], 1.0), (2, [4], 0.5), (0, [1, 3], 1.0), (1, [2], 0.3)]
)
def test_every_position_is_the_twins(
    tiny: Model, folder: Path, tmp_path: Path, level: int, layers: list[int], hop_fraction: float
) -> None:
    made = features(tiny, folder, tmp_path, level, layers, hop_fraction=hop_fraction)
    for name, array in made.items():
        expected = twin(tiny, level, layers, folder / name, hop_fraction)
        assert array.dtype == np.float32 and array.shape == expected.shape
        assert array.shape[1] == max(1, LENGTHS[name.removesuffix(".wav")] // SAMPLES_PER_CODE[level])
        np.testing.assert_allclose(array, expected, atol=2e-5, rtol=1e-4, err_msg=name)


def test_means_are_those_of_the_positions(tiny: Model, folder: Path, tmp_path: Path) -> None:
    rows = features(tiny, folder, tmp_path / "rows", 2, [2, 4])
    means = features(tiny, folder, tmp_path / "means", 2, [2, 4], pool="mean")
    for name, array in means.items():
        assert array.dtype == np.float32 and array.shape == (2, 16)
        np.testing.assert_allclose(array, rows[name].astype(np.float64).mean(1), atol=1e-5)


@pytest.mark.parametrize("layers", [[16], [5, 16]])
def test_a_model_of_lyrics_and_music_in_one_sequence(folder: Path, tmp_path: Path, layers: list[int]) -> None:
    """The lyrics in front are unknown, and their positions left out."""
    model = find_model("", str(HUGGING_FACE))
    model.levels[2].labels_state = dict(  # type: ignore[union-attr]
        max_genre_words=2,
        n_tokens=16,
        sample_length=0,
        v3=False,
        artist_ids={"unknown": 0},
        genre_ids={"unknown": 0},
        vocab="abcdefghi",
    )
    names = sorted(path.name for path in folder.iterdir() if path.stem != "one_code")  # nothing at 100 Hz
    made = features(model, folder, tmp_path, 2, layers, names)
    for name, array in made.items():
        np.testing.assert_allclose(array, twin(model, 2, layers, folder / name), atol=2e-5, rtol=1e-4, err_msg=name)


def test_a_prior_without_labels(tmp_path: Path, folder: Path) -> None:
    unlabelled = find_model(make_tiny_runs(tmp_path, lyrics=False, labels=False))
    made = features(unlabelled, folder, tmp_path / "out", 2, [2], ["three_windows.wav"])
    np.testing.assert_allclose(
        made["three_windows.wav"], twin(unlabelled, 2, [2], folder / "three_windows.wav"), atol=2e-5, rtol=1e-4
    )
    extractor = Extractor(unlabelled, 2, [2], CPU, artist="somebody")
    assert extractor.notices == ["the model was trained without labels: artist and genre have no effect"]


@pytest.mark.parametrize("level", [2, 0])
def test_results_do_not_depend_on_the_batch(tiny: Model, folder: Path, tmp_path: Path, level: int) -> None:
    one = features(tiny, folder, tmp_path / "1", level, [3], batch=1)
    many = features(tiny, folder, tmp_path / "7", level, [3], batch=7)
    for name, array in one.items():
        np.testing.assert_allclose(array, many[name], atol=2e-5, rtol=1e-4, err_msg=name)


def test_labels_change_the_features(tiny: Model) -> None:
    window = AudioWindow(torch.zeros(512, 1), 0, 512)
    unknown, known = (
        next(Extractor(tiny, 2, [2], CPU, artist=artist, genre=genre).run([window]))[1]
        for artist, genre in (("", ""), ("somebody", "polka"))
    )
    assert (unknown - known).abs().max() > 1e-3
    extractor = Extractor(tiny, 2, [2], CPU, artist="nobody", genre="polka")
    assert [line.split(" is not")[0] for line in extractor.notices] == ["artist 'nobody'"]
    y = extractor.labels(window)
    assert y is not None and y[0, 3:5].tolist() == [0, 2]


def test_half_precision_is_near(tiny: Model) -> None:
    window = AudioWindow(torch.from_numpy(make_song(1, 8000, 1.0).audio[:512, None]), 0, 512)
    (_, single), (_, half) = (next(Extractor(tiny, 2, [4], CPU, dtype).run([window])) for dtype in ("fp32", "fp16"))
    assert half.dtype == torch.half
    assert 0 < (single - half.float()).abs().max() < 0.05 * single.abs().max()


@pytest.mark.parametrize(
    ("offset", "total"), [(0, 10), (0, 512), (5000, 5512), (250 * 90, 250 * 91), (250 * 60 - 512, 250 * 60)]
)
def test_timing_that_the_model_does_not_know(tiny: Model, offset: int, total: int) -> None:
    """Songs of 2 to 60 s are known; others are treated as the nearest of those."""
    extractor = Extractor(tiny, 2, [1], CPU)
    y = extractor.labels(AudioWindow(torch.zeros(512, 1), offset, total))
    assert y is not None
    extractor._prior.y_emb.bins(y[:, :5])  # raises where something is out of range
    if 500 <= total < 250 * 60 and offset + 512 <= 250 * 60:
        assert y[0, :3].tolist() == [total, offset, 512]


# --------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("hop_fraction", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("positions", [1, 2, 31, 32, 33, 63, 64, 65, 100])
def test_each_position_comes_from_one_window(positions: int, ratio: int, hop_fraction: float) -> None:
    class Fake:
        samples_per_code, n_ctx, width, layers = 4, N_CTX, 1, [1]

    fake: Any = Fake()
    fake.ratio = ratio
    hop = window_hop(hop_fraction, N_CTX, ratio)
    song = OpenSong("x", torch.zeros(positions * 4 + 3), 0, fake, hop, contextlib.nullcontext(), "none")
    taken = [p for w in song.windows for p in range(w.start + w.known, w.end)]
    assert taken == list(range(-(-positions // ratio) * ratio))
    assert song.positions == positions and song.left == len(song.windows)
    for window in song.windows:
        assert window.start % ratio == 0
        assert len(song.audio_of(window).audio) == 4 * (window.end - window.start)
        assert window.end - window.start == N_CTX or len(song.windows) == 1
        if window.start and window.end < taken[-1] + 1:  # with a smaller hop, the rest of the context comes before
            assert window.known == N_CTX - hop


@pytest.mark.parametrize("fraction", [0, -1.0, 1.5])
def test_hops_that_leave_gaps_are_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        window_hop(fraction, 32, 1)


# --------------------------------------------------------------------------------------------------- layers


def test_only_the_wanted_layers_run(tiny: Model) -> None:
    extractor = Extractor(tiny, 2, [1, 2], CPU)
    ran: list[int] = []
    for i, block in enumerate(extractor._prior.prior.transformer._attn_mods):
        block.register_forward_hook(lambda *_, i=i: ran.append(i + 1))
    found = extractor.run([AudioWindow(torch.zeros(512, 1), 0, 512)])
    assert next(found)[0] == 1 and ran == [1]
    assert next(found)[0] == 2 and ran == [1, 2]
    assert list(found) == [] and ran == [1, 2]


@pytest.mark.parametrize(
    ("level", "layers", "message"),
    [
        (2, [5], r"--layers=5: level 2 of model .* has layers 1 to 4; give one or several, such as --layers=2"),
        (2, [0], "has layers 1 to 4"),
        (2, [], "has layers 1 to 4"),
        (3, [1], "--level=3: model .* has priors of levels 0, 1, 2"),
    ],
)
def test_layers_and_levels_that_do_not_exist(tiny: Model, level: int, layers: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Extractor(tiny, level, layers, CPU)


def test_the_last_layer_is_what_the_output_head_reads(tiny: Model) -> None:
    """One more tie to the model itself: the head on the last layer's activations gives the logits."""
    extractor = Extractor(tiny, 0, [3], CPU)
    prior = extractor._prior
    x = torch.from_numpy(make_song(2, 8000, 1.0).audio[:128, None])
    window = AudioWindow(x, 0, 1000)
    ((_, h),) = extractor.run([window])
    z, above = extractor._vqvae.encode(x[None], end_level=2)
    _, metrics = prior.z_forward(z, [above], extractor.labels(window), get_preds=True)
    x_cond, _, _ = prior.get_cond([above], extractor.labels(window))
    logits = prior.prior.x_out(prior.prior.head_input(h, x_cond))
    torch.testing.assert_close(logits, metrics["preds"], atol=1e-4, rtol=1e-4)


def test_the_transformer_refuses_layers_it_has_not(tiny: Model) -> None:
    transformer = Extractor(tiny, 2, [1], CPU)._prior.prior.transformer
    for layer in (0, 5):
        with pytest.raises(ValueError, match=rf"layers \[{layer}\] are not among 1 to 4"):
            next(transformer.outputs_after(torch.zeros(1, 4, 16), [1, layer]))
