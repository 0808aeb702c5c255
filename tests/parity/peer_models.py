"""Tiny Jukebox models of the peer library with random weights, and what that library computes from them.

Needs `transformers` in the version of requirements-parity.txt. Everything is reached through its public names; where
that version has a gap, the work-around is said. Change here which models are compared.

    python tests/parity/peer_models.py      writes tests/parity/recorded/ again, which is compared without the library
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

RECORDED = Path(__file__).parent / "recorded"

SHARED = dict(sampling_rate=100, timing_dims=6, min_duration=1.0, max_duration=60.0, max_nb_genres=2)
BINS, VOCAB = 12, 10
PRIOR = dict(
    SHARED,
    num_layers=4,
    hidden_size=8,
    attention_multiplier=0.5,
    n_heads=2,
    blocks=4,
    n_ctx=32,
    mask=True,
    music_vocab_size=BINS,
    lyric_vocab_size=VOCAB,
    metadata_dims=[5, 7],
    attention_pattern="raw_column_previous_row_attention",
    is_encoder_decoder=False,
    nb_relevant_lyric_tokens=0,
    merged_decoder=False,
    res_conv_depth=3,
    res_conv_width=6,
    res_dilation_growth_rate=3,
    res_dilation_cycle=2,
    res_downs_t=[2, 1, 1],
    res_strides_t=[2, 2, 2],
)
ENCODER = dict(
    num_layers=3,
    hidden_size=8,
    n_heads=2,
    blocks=4,
    n_ctx=16,
    mask=True,
    attention_pattern="raw_column_previous_row_attention",
)
VQVAE = dict(
    levels=3,
    embed_dim=6,
    nb_discrete_codes=BINS,
    res_conv_width=4,
    res_conv_depth=2,
    res_dilation_growth_rate=3,
    res_downs_t=[2, 1, 1],
    res_strides_t=[2, 2, 2],
    multipliers=[2, 1, 1],
    sample_length=512,
)
MERGED = dict(
    is_encoder_decoder=True,
    attention_pattern="enc_dec_with_lyrics",
    num_layers=16,
    nb_relevant_lyric_tokens=16,
)
SEPARATE = dict(
    attention_pattern="large_separated_enc_dec_w_lyrics",
    num_layers=19,
    nb_relevant_lyric_tokens=16,
    encoder_config=ENCODER,
    merged_decoder=True,
)
UPSAMPLER = dict(num_layers=2, n_heads=1)
# Models: the settings of the priors of level 2, 1 and 0. Its full_dense_attention cannot be built in this version.
MODELS: dict[str, list[dict[str, Any]]] = {
    "merged_lyrics": [MERGED, dict(UPSAMPLER, conv_res_scale=True), UPSAMPLER],
    "separate_lyrics": [
        SEPARATE,
        dict(UPSAMPLER, num_layers=1),
        dict(UPSAMPLER, num_layers=1, res_dilation_cycle=None),
    ],
    "no_lyrics": [dict(merged_decoder=True), dict(UPSAMPLER, merged_decoder=True), UPSAMPLER],
    "no_labels": [dict(metadata_conditioning=False)] + 2 * [dict(UPSAMPLER, metadata_conditioning=False)],
    "all_kinds_of_layers": [dict(MERGED, num_layers=48), UPSAMPLER, UPSAMPLER],
    "attention_scales": [
        dict(SEPARATE, attn_res_scale=True, attention_multiplier=1.0, mlp_multiplier=2.0, merged_decoder=False),
        dict(UPSAMPLER, attn_res_scale=True),
        dict(UPSAMPLER, n_heads=4, blocks=8),
    ],
}
SAMPLES = 256


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """A model with random weights everywhere, rounded to `dtype` and kept in float32."""
    from transformers.models.deprecated.jukebox import JukeboxConfig, JukeboxModel

    priors = [{**PRIOR, **settings, "level": i} for i, settings in enumerate(MODELS[name])]
    labels = all(prior.get("metadata_conditioning", True) for prior in priors)
    config = JukeboxConfig(vqvae_config=dict(VQVAE), prior_config_list=priors, metadata_conditioning=labels, **SHARED)
    model = JukeboxModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in sorted(model.state_dict().items()):
            is_norm = "layer_norm" in key and key.endswith("weight")
            convolution = ".encoders." in key or ".decoders." in key
            scale = 0.2 if not convolution else 0.02 if key.endswith("bias") else 0.3  # so that codes are mixed
            tensor.copy_(is_norm + scale * torch.randn(tensor.shape, generator=generator))
            tensor.copy_(tensor.to(dtype))
    for prior in model.priors:
        prior.get_encoder_loss = lambda *_, **__: torch.zeros(())  # fails in this version; not compared
    return model


def save(model: Any, folder: Path, dtype: torch.dtype = torch.float32, **how: Any) -> None:
    """Saves it with the library's own `save_pretrained`, which takes no two names for one tensor in safetensors."""
    own = copy.deepcopy(model)
    for prior in own.priors:
        head = prior.prior.fc_proj_out
        head.weight = nn.Parameter(head.weight.detach().clone())
    own.to(dtype).save_pretrained(folder, **how)


@torch.no_grad()
def compute(model: Any, seed: int = 1) -> dict[str, Tensor]:
    """Inputs, and what the library makes of them: codes and audio of each level, logits of each prior.

    Returns:
        `audio`; for each level L, 0 the finest, `L.codes`, `L.decoded`, `L.z`, `L.above` (codes of the level above),
        `L.y` (labels), `L.logits`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(bins: int, length: int) -> Tensor:
        return torch.randint(0, bins, (2, length), generator=generator)

    found = {"audio": 0.5 * torch.randn(2, SAMPLES, 1, generator=generator)}
    codes = model.vqvae.encode(found["audio"])
    for level, z in enumerate(codes):
        found[f"{level}.codes"] = z
        found[f"{level}.decoded"] = model.vqvae.decode(codes[level:], start_level=level)
    for number, prior in enumerate(model.priors):
        level = len(model.priors) - 1 - number
        z, above, y = draw(BINS, prior.n_ctx), [], None
        if number:
            above = [draw(BINS, prior.n_ctx // prior.cond_downsample)]
            found[f"{level}.above"] = above[0]
        if prior.metadata_conditioning:
            y = torch.tensor([[3000, 100, 500, 3, 1, 2], [1000, 0, 500, 0, 0, -1]])  # lengths, artist, genres
            y = torch.cat([y, draw(VOCAB, prior.nb_relevant_lyric_tokens)], dim=1)
            found[f"{level}.y"] = y
        found[f"{level}.z"] = z
        found[f"{level}.logits"] = prior.forward_tokens(z, above, y, get_preds=True)[1]["preds"]
    return found


def record() -> None:
    """Writes weights, in half precision, and results of two models."""
    from safetensors.torch import save_file

    for name in ("merged_lyrics", "separate_lyrics"):
        model = build(name, dtype=torch.half)
        save(model, RECORDED / name, torch.half)
        config = json.loads((RECORDED / name / "config.json").read_text())
        (RECORDED / name / "config.json").write_text(json.dumps(config, separators=(",", ":")) + "\n")
        results = {key: value.int() if value.dtype == torch.long else value for key, value in compute(model).items()}
        save_file({key: value.contiguous() for key, value in results.items()}, RECORDED / name / "expected.safetensors")


if __name__ == "__main__":
    record()
