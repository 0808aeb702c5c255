"""What code outside the package does with the levels of a VQ-VAE: latents, codebooks and decoders one by one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from jukebox.vqvae.vqvae import VQVAE

ARGUMENTS = dict(emb_width=6, l_bins=16, mu=0.9, commit=1.0, spectral=0.0, multispectral=0.0, width=4, depth=1)
SAMPLES_PER_CODE = (4, 8, 16)


def make(kind: type[VQVAE] = VQVAE) -> VQVAE:
    torch.manual_seed(0)
    vqvae = kind((64, 1), 3, [2, 1, 1], [2, 2, 2], **ARGUMENTS).eval()  # type: ignore[arg-type]
    for block in vqvae.bottleneck.blocks:
        block.k.normal_()
        block.init = True
    return vqvae


X = 0.3 * torch.randn(2, 64, 1, generator=torch.Generator().manual_seed(1))


def test_preprocess_and_postprocess_swap_the_axes() -> None:
    vqvae = make()
    x = vqvae.preprocess(X.double())
    assert x.shape == (2, 1, 64) and x.dtype == torch.float32
    assert torch.equal(vqvae.postprocess(x), X)


def test_encoders_give_all_stages_and_the_latent_last() -> None:
    vqvae = make()
    with torch.no_grad():
        for level, encoder in enumerate(vqvae.encoders):
            outputs = encoder(vqvae.preprocess(X))
            assert [tuple(out.shape) for out in outputs] == [
                (2, 6, 64 // per_code) for per_code in SAMPLES_PER_CODE[: level + 1]
            ]
            codes = vqvae.bottleneck.level_blocks[level].encode(outputs[-1])  # type: ignore[operator]
            assert torch.equal(codes, vqvae.encode(X)[level])


def test_decoders_take_a_list_of_one_latent() -> None:
    vqvae = make()
    with torch.no_grad():
        codes = vqvae.encode(X)
        for level, decoder in enumerate(vqvae.decoders):
            vectors = vqvae.bottleneck.decode(codes)[level]
            out = decoder([vectors], all_levels=False)
            assert out.shape == (2, 1, 64) and torch.equal(out, decoder(vectors))
            assert torch.equal(vqvae.postprocess(out), vqvae.decode(codes[level:], start_level=level))
        with pytest.raises(ValueError, match="one latent"):
            vqvae.decoders[1](vqvae.bottleneck.decode(codes), all_levels=True)


def test_one_codebook_quantises_and_stays() -> None:
    vqvae = make()
    latent = vqvae.encoders[1](vqvae.preprocess(X))[-1]
    block = vqvae.bottleneck.level_blocks[1].train()
    before = block.k.clone()
    codes, vectors, commit_loss, metrics = block(latent, update_k=False)
    assert codes.shape == (2, 8) and vectors.shape == latent.shape and commit_loss.dim() == 0
    assert torch.equal(block.k, before) and set(metrics) == {"fit", "pn"}


def test_gradients_reach_latents_through_bottleneck_and_decoder() -> None:
    vqvae = make()
    vqvae.bottleneck.train()
    latents = [encoder(vqvae.preprocess(X))[-1].detach().requires_grad_() for encoder in vqvae.encoders]
    codes, vectors, commit_losses, metrics = vqvae.bottleneck(latents)
    assert len(codes) == len(vectors) == len(commit_losses) == 3 and isinstance(metrics, dict)
    vqvae.decoders[0](vectors[0:1], all_levels=False).sum().backward()
    assert latents[0].grad is not None and latents[0].grad.abs().sum() > 0


class Louder(VQVAE):
    """A subclass with its own way of encoding and decoding one piece of a batch."""

    def _encode(self, x: Tensor, start_level: int = 0, end_level: int | None = None) -> list[Tensor]:
        return [z + 1 for z in super()._encode(x, start_level, end_level)]

    def _decode(self, zs: Sequence[Tensor], start_level: int = 0, end_level: int | None = None) -> Tensor:
        return 2 * super()._decode(zs, start_level, end_level)


def test_subclasses_change_one_piece() -> None:
    plain, own = make(), make(Louder)
    codes = plain.encode(X)
    for got, z in zip(own.encode(X, bs_chunks=2), codes, strict=True):
        assert torch.equal(got, z + 1)
    assert torch.equal(own.decode(codes, bs_chunks=2), 2 * plain.decode(codes, bs_chunks=2))


def test_encode_can_be_copied_with_its_model() -> None:
    vqvae = make()
    assert torch.equal(deepcopy(vqvae.encode)(X)[2], vqvae.encode(X)[2])
