"""The steps of a notebook for this model family, on tiny weights and through only the public import names.

Co-composition: a few seconds of several candidates, choose one, continue from it; at the end load the upsamplers and
upsample.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import ARTISTS, GENRES, make_tiny_runs

from jukebox.hparams import HPARAMS_REGISTRY, Hyperparams, setup_hparams
from jukebox.make_models import MODELS, load_checkpoint, make_prior, make_vqvae
from jukebox.sample import load_codes, sample_partial_window, upsample
from jukebox.utils.dist_utils import setup_dist_from_mpi
from jukebox.utils.torch_utils import empty_cache


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model under a name in MODELS, as a user registers one of his own."""
    make_tiny_runs(tmp_path)
    (tmp_path / "labels").mkdir()
    for name, table in (("artist_ids.txt", ARTISTS), ("genre_ids.txt", GENRES)):
        (tmp_path / "labels" / name).write_text("".join(f"{key};{value}\n" for key, value in table.items()))
    for name in ("vq", "up0", "up1", "top"):
        path = str(tmp_path / "logs" / name / "checkpoint_latest.pth.tar")
        hps = Hyperparams(load_checkpoint(path)["hps"], train=False, labels_dir=str(tmp_path / "labels"))
        hps["restore_vqvae" if name == "vq" else "restore_prior"] = path
        monkeypatch.setitem(HPARAMS_REGISTRY, f"tiny_{name}", hps)
    monkeypatch.setitem(MODELS, "tiny", ("tiny_vq", "tiny_up0", "tiny_up1", "tiny_top"))
    return "tiny"


def test_co_composition(registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rank, local_rank, device = setup_dist_from_mpi(device="cpu")

    hps = Hyperparams()
    hps.sr = 250
    hps.n_samples = 3
    hps.name = "samples"
    hps.levels = 3
    hps.hop_fraction = [0.5, 0.5, 0.125]
    vqvae, *priors = MODELS[registered]
    vqvae = make_vqvae(setup_hparams(vqvae, dict(sample_length=1024)), device)
    top_prior = make_prior(setup_hparams(priors[-1], dict()), vqvae, device)

    total, seconds = 20, 1.2
    hps.sample_length = int(20 * hps.sr) // top_prior.raw_to_tokens * top_prior.raw_to_tokens
    metas = [
        dict(artist="somebody", genre="polka", total_length=total * hps.sr, offset=0, lyrics="one two three")
    ] * hps.n_samples
    labels = [None, None, top_prior.labeller.get_batch_labels(metas, device)]
    sampling_kwargs = dict(temp=0.98, fp16=False, chunk_size=16, max_batch_size=2)

    torch.manual_seed(0)
    zs = [torch.zeros(hps.n_samples, 0, dtype=torch.long, device=device) for _ in range(3)]
    tokens_to_sample = int(seconds * hps.sr / top_prior.raw_to_tokens)
    for step, choice in enumerate([2, 0, 1]):
        zs = sample_partial_window(zs, labels[2], sampling_kwargs, 2, top_prior, tokens_to_sample, hps)
        assert zs[2].shape == (3, (step + 1) * tokens_to_sample)
        assert len(set(map(tuple, zs[2].tolist()))) == 3
        x = vqvae.decode(zs[2:], start_level=2, bs_chunks=zs[2].shape[0])
        assert x.shape == (3, zs[2].shape[1] * top_prior.raw_to_tokens, 1)
        kept = zs[2][choice]
        zs[2] = kept.repeat(hps.n_samples, 1)
    Path("samples").mkdir()
    torch.save(dict(zs=zs), "samples/composed.pth.tar")

    del top_prior
    empty_cache()
    upsamplers = [make_prior(setup_hparams(prior, dict()), vqvae, "cpu") for prior in priors[:-1]]
    labels[:2] = [prior.labeller.get_batch_labels(metas, device) for prior in upsamplers]
    hps.sample_length = zs[2].shape[1] * 16
    zs = load_codes("samples/composed.pth.tar", None, [*upsamplers, None], hps)
    kwargs = [dict(temp=0.99, fp16=False, max_batch_size=16, chunk_size=32) for _ in range(2)] + [None]
    zs = upsample(zs, labels, kwargs, [*upsamplers, None], hps)
    assert [z.shape for z in zs] == [(3, 4 * 54), (3, 2 * 54), (3, 54)] and torch.equal(zs[2][0], kept)
    for level in (1, 0):
        assert (tmp_path / "samples" / f"level_{level}" / "item_2.wav").is_file()
        saved = torch.load(f"samples/level_{level}/data.pth.tar", weights_only=True)
        assert torch.equal(saved["zs"][level], zs[level]) and saved["x"].shape == (3, 54 * 16, 1)
