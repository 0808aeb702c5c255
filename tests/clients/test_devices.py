"""What clients pass on is where the model is: PyTorch's fake tensors stand in for a card and find wrong devices.

They compute nothing and check devices as CUDA does. A PyTorch without CUDA cannot pretend to have it: there the device
`meta` is the card, which is as far from the processor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import N_CTX, SAMPLES_PER_CODE, SR, make_tiny_runs
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import jukebox.sample
from jukebox.hparams import Hyperparams
from jukebox.loaders import find_model
from jukebox.make_models import make_prior, make_vqvae
from jukebox.utils import dist_utils
from jukebox.utils.audio.write import save_wav

CARD = "cuda" if torch.backends.cuda.is_built() else "meta"
BOTH = pytest.mark.parametrize("given_on", ["cpu", CARD])
LENGTHS = [512 // per_code for per_code in SAMPLES_PER_CODE]


class FakeCard(FakeTensorMode):
    """Fake tensors whose values are asked for now and then: each is 1, and no position is left out."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1
        if func is torch.ops.aten.nonzero.default:
            return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device=args[0].device)
        return super().dispatch(func, types, args, kwargs)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any], list[Any]]:
    """The VQ-VAE, the priors and their labels, all with fake weights on the card; labels are on the processor."""
    model = find_model(make_tiny_runs(tmp_path_factory.mktemp("tiny")))
    vqvae = make_vqvae(Hyperparams(model.vqvae_hps, sample_length=1024), "cpu")
    priors = [make_prior(Hyperparams(level.hps), vqvae, "cpu") for level in model.levels if level is not None]
    metas = [dict(artist="somebody", genre="waltz", total_length=4 * SR, offset=0, lyrics="la la")] * 2
    labels = [prior.labeller.get_batch_labels(metas, "cpu") for prior in priors]
    with FakeCard():
        for module in [m for part in (vqvae, *priors) for m in part.modules()]:
            for name, value in module._parameters.items():
                if value is not None:
                    fake = torch.empty(value.shape, dtype=value.dtype, device=CARD)
                    module._parameters[name] = torch.nn.Parameter(fake, requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CARD)
    return vqvae, priors, labels


@pytest.fixture
def card(built: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lyrics = built[1][2]
    nothing = [0] * lyrics.n_tokens
    monkeypatch.setattr(lyrics.labeller, "lyric_window", lambda *_: (nothing, nothing))  # asks for values
    monkeypatch.setattr("jukebox.prior.engine.free_bytes", lambda _: 1 << 30)
    monkeypatch.setattr("jukebox.prior.engine.Engine.check", lambda _: None)  # asks for values, too
    monkeypatch.setattr(dist_utils, "_device", torch.device(CARD))
    if CARD == "meta":
        monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # knows no meta
    with FakeCard(allow_non_fake_inputs=True):
        yield


def labels_on(device: str, built: Any) -> list[Any]:
    return [
        dict(y=torch.zeros(entry["y"].shape, dtype=torch.long, device=device), info=entry["info"]) for entry in built[2]
    ]


def codes_on(device: str, part: int = 1) -> list[Tensor]:
    return [torch.zeros(2, length // part, dtype=torch.long, device=device) for length in LENGTHS]


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from tensors(entry)


def assert_on_card(value: Any, least: int = 1) -> None:
    found = list(tensors(value))
    assert len(found) >= least and {x.device.type for x in found} == {CARD}


def test_the_fake_card_finds_wrong_devices(card: None) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(2, device=CARD) + torch.zeros(2)


def test_prompts_and_codes_are_loaded_to_the_card(tmp_path: Path, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    monkeypatch.setattr(dist_utils, "_device", torch.device("meta"))  # real tensors: files are read for this
    save_wav(str(tmp_path / "a"), torch.zeros(1, 600, 1), SR)
    hps = Hyperparams(sr=SR, n_samples=2)
    x = jukebox.sample.load_prompts([str(next(tmp_path.rglob("*.wav")))], 512, hps)
    assert x.device.type == "meta" and x.shape == (2, 512, 1)
    torch.save([torch.zeros(2, length, dtype=torch.long) for length in LENGTHS], tmp_path / "codes.z")
    assert all(z.device.type == "meta" for z in jukebox.sample.load_codes(str(tmp_path / "codes.z"), None, None, hps))
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda z, *a, **k: (moved.append(a[0]), z)[1] if a else to(z, *a, **k))
    jukebox.sample.load_codes(str(tmp_path / "codes.z"), 256, built[1], hps)
    assert [torch.device(device).type for device in moved] == [CARD] * 3  # where the priors are


@BOTH
def test_codes_and_audio(built: Any, card: None, given_on: str) -> None:
    vqvae, priors, _ = built
    x = torch.zeros(2, 512, 1, device=given_on)
    for of in (vqvae, priors[2]):
        zs = of.encode(x, start_level=0, end_level=3, bs_chunks=2)
        assert_on_card(zs, 3)
        assert [z.shape[1] for z in zs] == LENGTHS
    assert_on_card(vqvae.preprocess(x))
    zs = codes_on(given_on)
    assert_on_card(vqvae.decode(zs))
    assert_on_card(vqvae.decode(zs[2:], start_level=2, bs_chunks=2))
    assert_on_card(priors[1].decode(zs[1:]))
    assert_on_card(vqvae.bottleneck.decode(zs), 3)


@BOTH
def test_levels_of_the_vqvae_from_outside(built: Any, card: None, given_on: str) -> None:
    vqvae = built[0]
    x = vqvae.preprocess(torch.zeros(2, 512, 1, device=given_on))
    latents = [vqvae.encoders[level](x)[-1] for level in range(3)]
    codes, quantised, *_ = vqvae.bottleneck(latents)
    assert_on_card([latents, codes, quantised], 9)
    assert_on_card(vqvae.decoders[1](quantised[1:2], all_levels=False))


@BOTH
def test_conditioning_and_likelihood(built: Any, card: None, given_on: str) -> None:
    _, priors, _ = built
    labels, z = labels_on(given_on, built), codes_on(given_on)[2]
    above = codes_on(given_on)
    for level, prior in enumerate(priors):
        y, places = prior.get_y(labels[level], 0, get_indices=True)
        z_conds = prior.get_z_conds(above, 0, N_CTX)
        assert_on_card([y, z_conds, prior.get_cond(z_conds, y)], 3)
        assert_on_card(prior.get_cond(None if z_conds is None else [q.to(given_on) for q in z_conds], y.to(given_on)))
        assert_on_card(prior.z_forward(z, z_conds or [], y.to(given_on)), 3)
    audio = torch.zeros(2, priors[0].sample_length, 1, device=given_on)
    assert_on_card(priors[0](audio, priors[0].get_y(labels[0], 0).to(given_on), decode=True), 3)


@BOTH
def test_activations_and_layers(built: Any, card: None, given_on: str) -> None:
    vqvae, (*_, top), _ = built
    z = vqvae.encode(torch.zeros(2, 512, 1, device=given_on))[2]
    x_cond, y_cond, prime = top.get_cond(None, top.get_y(labels_on(given_on, built)[2], 0))
    model, encoder_kv = top.prior, top.get_encoder_kv(prime)
    model.only_encode = True
    try:
        assert_on_card(model.forward(z, x_cond=x_cond, y_cond=y_cond, encoder_kv=encoder_kv, fp16=False))
    finally:
        model.only_encode = False
    h = model.x_emb(model.preprocess(z)) + model.pos_emb() + x_cond
    assert_on_card(model.transformer._attn_mods[0](h[:, :20], encoder_kv=None, sample=True))
    model.transformer.del_cache()
    assert_on_card(model.transformer(h, encoder_kv=encoder_kv))


def sampling_kwargs() -> list[dict[str, Any]]:
    return [dict(temp=0.99, fp16=False, max_batch_size=2, chunk_size=8, seed=3) for _ in range(3)]


@pytest.fixture(autouse=True)
def _no_engine_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors cannot be captured in a graph, so PyTorch takes over; later tests shall not know."""
    monkeypatch.setattr("jukebox.prior.engine._failed", {})


@BOTH
@pytest.mark.parametrize("part", ["sample", "single window", "partial window"])
def test_sampling_one_level(built: Any, card: None, given_on: str, part: str) -> None:
    top, zs, labels = built[1][2], codes_on(given_on, part=4), labels_on(given_on, built)[2]
    kwargs = dict(sampling_kwargs()[2], sample_tokens=12)
    if part == "sample":
        y = top.get_y(labels, 0).to(given_on)
        made = top.sample(2, z=zs[2], y=y, sample_tokens=12)
    elif part == "single window":
        made = jukebox.sample.sample_single_window(zs, labels, kwargs, 2, top, 0, Hyperparams())[2]
    else:
        made = jukebox.sample.sample_partial_window(zs, labels, kwargs, 2, top, 4, Hyperparams())[2]
    assert_on_card(made)
    assert made.shape == (2, 12)


@BOTH
@pytest.mark.parametrize("mode", ["ancestral", "primed", "_sample", "upsample"])
def test_sampling_all_levels(built: Any, card: None, given_on: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(model: Any, n: int, n_tokens: int, prompt: Any, *given: Any, **_: Any) -> tuple[Tensor, None]:
        assert_on_card([prompt, given], 2)
        return torch.zeros(n, n_tokens, dtype=torch.long, device=CARD), None

    monkeypatch.setattr("jukebox.prior.prior.generate", draw)  # its own part is tested above
    _, priors, _ = built
    labels, kwargs, kept = labels_on(given_on, built), sampling_kwargs(), []
    hps = Hyperparams(name="out", sample_length=20 * 16, levels=3, sr=SR, n_samples=2, hop_fraction=[1, 1, 1])
    more: dict[str, Any] = dict(keep=lambda level, data: kept.append(level), alignments=[np.zeros((20, 4))] * 2)
    x, zs = torch.zeros(2, 256, 1, device=given_on), codes_on(given_on, part=4)
    whole = [z[:, :0] for z in zs[:2]] + [torch.zeros(2, 20, dtype=torch.long, device=given_on)]
    levels = [1, 0] if mode == "upsample" else [2, 1, 0]
    calls: dict[str, Callable[[], list[Tensor]]] = {
        "_sample": lambda: jukebox.sample._sample(zs, labels, kwargs, priors, levels, hps, **more),
        "ancestral": lambda: jukebox.sample.ancestral_sample(labels, kwargs, priors, hps, **more),
        "primed": lambda: jukebox.sample.primed_sample(x, labels, kwargs, priors, hps, **more),
        "upsample": lambda: jukebox.sample.upsample(whole, labels, kwargs, priors, hps, **more),
    }
    made = calls[mode]()
    assert_on_card(made, 3)
    assert kept == levels and [z.shape[1] for z in made] == [80, 40, 20]
