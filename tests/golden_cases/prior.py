"""Conditioners and whole priors: `conditioner_*`, `labelcond_*`, `prior_*`."""

from __future__ import annotations

from typing import Any

import torch

from golden_cases.checks import HALF, MODEL, MODULE, PATHS, STACK, Check, case, check_grad_norms, load_state
from golden_cases.vqvae import build as build_vqvae
from jukebox.prior.conditioners import Conditioner, LabelConditioner, rename_residual_blocks
from jukebox.prior.prior import SimplePrior
from jukebox.transformer.patterns import LYRIC_KINDS


@case("conditioner_*")
def conditioner(data: dict[str, Any], check: Check) -> None:
    module = load_state(Conditioner(**data["hps"]), dict(data["state_dict"]))  # names of both kinds load
    z, x_cond, out = data["inputs"]["z"], data["inputs"]["x_cond"], data["outputs"]
    check.close("out", module(z), out["out"], MODULE)
    check.close("out_with_x_cond", module(z, x_cond), out["out_with_x_cond"], MODULE)
    module.train()
    y = module(z)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    check_grad_norms(check, module, renamed(out["grad_norms"]))


def renamed(norms: dict[str, float], prefix: str = "") -> dict[str, float]:
    """Norms by our names: the reference has another for residual blocks of a conditioner that it does not recompute."""
    names = {key: torch.tensor(float(value)) for key, value in norms.items()}
    rename_residual_blocks(names, prefix)
    return {key: float(value) for key, value in names.items()}


@case("labelcond_*")
def label_conditioner(data: dict[str, Any], check: Check) -> None:
    module = load_state(LabelConditioner(**data["hps"]), data["state_dict"])
    y, out = data["inputs"]["y"], data["outputs"]
    y_emb, pos_emb = module(y)
    check.close("y_emb", y_emb, out["y_emb"], MODULE)
    if "pos_emb" in out:
        for name, bins in zip(("total", "abs", "rel"), module.bins(y), strict=True):
            check.equal(f"bins_{name}", bins, out[f"bins_{name}"])
        check.close("pos_emb", pos_emb, out["pos_emb"], MODULE)
    else:
        check.equal("no timing", pos_emb, None)


def build_prior(ctor_kwargs: dict[str, Any], vqvae: Any = None, labeller: Any = None) -> SimplePrior:
    kwargs = dict(ctor_kwargs)
    if vqvae is not None:
        kwargs.update(encoder=vqvae.encode, decoder=vqvae.decode)
    return SimplePrior(**kwargs, labeller=labeller)


def check_facts(check: Check, prior: SimplePrior, facts: dict[str, Any]) -> None:
    """Compares the geometry of a prior with what the reference reports about its own."""
    merged = prior.merged
    ours = {
        "n_ctx": prior.n_ctx,
        "raw_to_tokens": prior.raw_to_tokens,
        "sample_length": prior.sample_length,
        "downsamples": list(prior.downsamples),
        "cond_downsample": prior.cond_downsample,
        "gen_loss_dims": prior.gen_loss_dims,
        "prime_loss_dims": prior.prime_loss_dims,
        "total_loss_dims": prior.total_loss_dims,
        "z_shapes": [list(shape) for shape in prior.z_shapes],
        "n_tokens": prior.n_tokens,
        "attn_funcs": [layer.attn_func for layer in prior.prior.transformer.layers],
        "add_cond_after_transformer": prior.prior.add_cond_after_transformer,
        "share_x_emb_x_out": prior.prior.share_x_emb_x_out,
        "prior_bins": merged and [merged.n_vocab, merged.l_bins],
        "prior_dims": merged and [merged.n_lyrics, merged.n_ctx],
        "prior_bins_shift": merged and [0, merged.n_vocab],
        "level": prior.level,
        "levels": prior.levels,
        "use_tokens": prior.use_tokens,
        "prime_loss_fraction": prior.prime_loss_fraction,
        "x_cond": prior.x_cond,
        "y_cond": prior.y_cond,
        "single_enc_dec": prior.single_enc_dec,
        "block_ctx": prior.prior.transformer.layers[0].attn.pattern.block,
        "blocks": prior.prior.input_dims // prior.prior.transformer.layers[0].attn.pattern.block,
        "labeller": type(prior.labeller).__name__,
        "label_shape": list(getattr(prior.labeller, "label_shape", ())),
        "alignment_layer": prior.alignment_layer,
        "alignment_head": prior.alignment_head,
        "transformer_n_ctx": prior.prior.transformer.n_ctx,
        "prior_input_bins": prior.prior.bins,
        "encoder_dims": prior.prior.encoder_dims,
        "effective_prime_len": next(
            (a.attn.pattern.prefix for a in prior.prior.transformer.layers if a.attn_func == 7), None
        ),
    }
    for name, want in facts.items():
        want = want.tolist() if isinstance(want, torch.Tensor) else want
        check.equal(name, ours[name], want)


@case("prior_*")
def prior(data: dict[str, Any], check: Check) -> None:
    vqvae = load_state(build_vqvae(data["vqvae_hps"]), data["vqvae_state_dict"])
    model = load_state(build_prior(data["ctor_kwargs"], vqvae), data["state_dict"])
    inputs, out = data["inputs"], data["outputs"]
    check_facts(check, model, out["facts"])
    z, z_conds, y = inputs["z"], inputs["z_conds"], inputs["y"]
    n = z.shape[0]
    with torch.no_grad():
        for name, got in zip(("x_cond", "y_cond", "prime"), model.get_cond(z_conds, y), strict=True):
            if out[name] is None:
                check.equal(f"{name} is absent", got, None)
            elif name == "prime":
                check.equal(name, got, out[name])
            else:
                check.close(name, got, out[name], MODULE)
        if "encoder_kv" in out:
            check.close("encoder_kv", model.get_encoder_kv(out["prime"]), out["encoder_kv"], MODEL)
        _compare(check, "", model.z_forward(z, z_conds, y, get_preds=True), out, MODEL)
        _compare(check, "fp16 ", model.z_forward(z, z_conds, y, fp16=True, get_preds=True), out["fp16"], HALF)
        if "attn_w" in out:
            layers = [i for i, layer in enumerate(model.prior.transformer.layers) if layer.attn_func in LYRIC_KINDS]
            check.equal("attn_layer", layers[0], out["attn_layer"])
            check.close("attn_w", model.z_forward(z, z_conds, y, get_attn_weights=True)[0], out["attn_w"], MODEL)
            check.close(
                "attn_w by layer", model.z_forward(z, z_conds, y, get_attn_weights={layers[0]})[0], out["attn_w"], MODEL
            )
        want = out["from_audio"]
        for i, (got, codes) in enumerate(zip(model.encode(inputs["x"], bs_chunks=n), want["zs"], strict=True)):
            check.equal(f"codes {i} from audio", got, codes)
        x_out, loss, metrics = model(inputs["x"], y, decode=True, get_preds=True)
        check.close("x_out", x_out, want["x_out"], STACK)
        _compare(check, "from audio ", (loss, metrics), want, MODEL)
    for run in out["greedy"]:
        prefix = None if run["n_prefix"] < 0 else z[:, : run["n_prefix"]]
        tokens = model.sample(
            n, prefix, z_conds, y, top_k=1, chunk_size=run["chunk_size"], sample_tokens=run["sample_tokens"]
        )
        check.equal(f"greedy {run['n_prefix']} {run['chunk_size']} {run['sample_tokens']}", tokens, run["tokens"])
    model.train()
    loss, metrics = model.z_forward(z, z_conds, y)
    loss.backward()
    _compare(check, "train ", (loss, metrics), out["train"], MODEL)
    check_grad_norms(check, model, renamed(out["train"]["grad_norms"], "conditioner_blocks.0."))
    check.close("token by token", _forced(model, z, z_conds, y), out["metrics"]["preds"], PATHS)


def _compare(check: Check, prefix: str, got: Any, want: dict[str, Any], tolerance: Any) -> None:
    loss, metrics = got
    check.close(f"{prefix}loss", loss, want["loss"], tolerance)
    for name, value in want["metrics"].items():
        check.close(f"{prefix}{name}", metrics[name], value, tolerance)


@torch.no_grad()
def _forced(model: SimplePrior, z: torch.Tensor, z_conds: Any, y: Any) -> torch.Tensor:
    """Logits of the token-by-token path, fed with z."""
    from jukebox.prior.engine import Engine

    model.eval()
    x_cond, y_cond, prime = model.get_cond(z_conds, y)
    tokens = z
    if model.merged is not None:
        tokens = model.merged.merge(prime, z)
        x_cond = model.merged.conditioning(x_cond, z.shape[0], model.prior.width, z.device)
    engine = Engine(model.prior, z.shape[0], x_cond, y_cond, model.get_encoder_kv(prime))
    return torch.stack([engine.step(tokens[:, i - 1] if i else None) for i in range(tokens.shape[1])], dim=1)
