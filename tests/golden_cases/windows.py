"""Windowed generation of one level (windows_*), and three levels from nothing to audio (pipeline_*)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from golden_cases.align import check_alignments
from golden_cases.checks import STACK, Check, case, load_state
from jukebox.data.labels import EmptyLabeller, Labeller
from jukebox.hparams import Hyperparams
from jukebox.prior.prior import SimplePrior
from jukebox.sample import _sample, ancestral_sample, sample_level
from jukebox.sampling.report import Silent
from jukebox.utils.sample_utils import get_starts
from jukebox.vqvae.vqvae import VQVAE

GREEDY = {"top_k": 1}


def build_prior(
    hps: dict[str, Any], ctor: dict[str, Any], state: dict[str, torch.Tensor], vqvae: Any = None
) -> SimplePrior:
    """The reference's prior, with a labeller for its windows."""
    raw_to_tokens = 1
    for down, stride in zip(ctor["downs_t"][: ctor["level"] + 1], ctor["strides_t"][: ctor["level"] + 1], strict=True):
        raw_to_tokens *= stride**down
    labeller = (
        Labeller(hps["max_bow_genre_size"], hps["n_tokens"], hps["n_ctx"] * raw_to_tokens, hps["labels_v3"])
        if hps["labels"]
        else EmptyLabeller()
    )
    codec = {} if vqvae is None else {"encoder": vqvae.encode, "decoder": vqvae.decode}
    prior = SimplePrior(**ctor, labeller=labeller, **codec)
    load_state(prior, state)
    return prior


def build_vqvae(hps: dict[str, Any], state: dict[str, torch.Tensor]) -> VQVAE:
    names = ["levels", "downs_t", "strides_t", "emb_width", "l_bins", "commit", "spectral", "multispectral", "width"]
    names += ["depth", "m_conv", "dilation_growth_rate", "dilation_cycle", "use_bottleneck"]
    vqvae = VQVAE(
        input_shape=(hps["sample_length"], 1),
        mu=hps["l_mu"],
        multipliers=hps["hvqvae_multipliers"],
        reverse_decoder_dilation=hps["vqvae_reverse_decoder_dilation"],
        **{name: hps[name] for name in names},
    )
    load_state(vqvae, state)
    return vqvae


@case("windows_*")
def windows(data: dict[str, Any], check: Check) -> None:
    hps, labels = data["hps"], data["inputs"]["labels"]
    prior = build_prior(hps, data["ctor_kwargs"], data["state_dict"])
    for i, (run, expected) in enumerate(zip(data["inputs"]["runs"], data["outputs"]["runs"], strict=True)):
        kwargs = dict(
            temp=1.0, fp16=False, chunk_size=run["chunk_size"], max_batch_size=run["max_batch_size"], **GREEDY
        )
        settings = Hyperparams(n_samples=labels["y"].shape[0])
        total, hop = run["total_length"], run["hop_length"]
        zs = sample_level([z.clone() for z in run["zs"]], labels, kwargs, hps["level"], prior, total, hop, settings)
        check.equal(f"run {i} tokens", zs[hps["level"]], expected["tokens"])
        for level, z in enumerate(run["zs"]):
            if level != hps["level"]:
                check.equal(f"run {i} level {level} untouched", zs[level], z)
        after = {key: value for key, value in kwargs.items() if key not in GREEDY}
        check.equal(f"run {i} sampling_kwargs", after, expected["sampling_kwargs_after"])
        if total >= prior.n_ctx:
            check.equal(f"run {i} starts", get_starts(total, prior.n_ctx, hop), expected["starts"])
        for start, y in zip(expected["starts"], expected["ys"], strict=True):
            check.equal(f"run {i} y of window {start}", prior.get_y(labels, start), y)


@case("pipeline_*")
def pipeline(data: dict[str, Any], check: Check) -> None:
    inputs, outputs = data["inputs"], data["outputs"]
    vqvae = build_vqvae(data["vqvae_hps"], data["vqvae_state_dict"])
    parts = zip(data["hps"], data["ctor_kwargs"], data["state_dict"], strict=True)
    priors = [build_prior(hps, ctor, state, vqvae) for hps, ctor, state in parts]
    top = priors[-1]
    if inputs.get("align"):
        top.alignment_layer, top.alignment_head = inputs["align"]
    n = inputs["labels"][0]["y"].shape[0]
    kwargs = dict(
        temp=1.0, fp16=False, chunk_size=inputs["chunk_size"], max_batch_size=inputs["max_batch_size"], **GREEDY
    )
    with tempfile.TemporaryDirectory() as folder:
        hps = Hyperparams(
            name=f"{folder}/run",
            n_samples=n,
            levels=len(priors),
            sr=data["hps"][0]["sr"],
            sample_length=inputs["sample_length"],
            hop_fraction=inputs["hop_fraction"],
        )
        zs = ancestral_sample(inputs["labels"], [dict(kwargs) for _ in priors], priors, hps, report=Silent())
        for level, expected in enumerate(outputs["zs"]):
            check.equal(f"zs of level {level}", zs[level], expected)
        for level, expected in outputs["x"].items():
            saved = torch.load(Path(folder) / "run" / f"level_{level}" / "data.pth.tar", weights_only=True)
            check.close(f"x of level {level}", saved["x"], expected, STACK)
            check.equal(f"saved zs of level {level}", saved["zs"][int(level)], outputs["zs"][int(level)])
        # Only the top level, as a notebook starts: levels that are not sampled need no prior.
        empty = [torch.zeros(n, 0, dtype=torch.long) for _ in priors]
        alone = [None] * (len(priors) - 1) + [top]
        again = _sample(
            empty, inputs["labels"], [dict(kwargs) for _ in priors], alone, [len(priors) - 1], hps, report=Silent()
        )
        check.equal("the top level alone", again[-1], outputs["zs"][-1])
        if inputs.get("align"):
            check_alignments(check, "", top, zs, inputs["labels"][-1], hps, outputs["alignments"])
