"""Golden cases of the VQ-VAE: whole models, only the bottleneck, audio losses."""

from __future__ import annotations

from typing import Any

import torch

from golden_cases.checks import MODULE, STACK, STFT_LOSS, Check, Tolerance, case, check_grad_norms, load_state
from jukebox.vqvae import losses
from jukebox.vqvae.bottleneck import BY_LEVEL, BottleneckBlock, nearest_codes
from jukebox.vqvae.cpu import tiling
from jukebox.vqvae.vqvae import VQVAE

# Whole encoders and decoders here have activations up to 1e5 with random signs, so a sample near zero carries the
# rounding of large ones: against float64 the reference's own float32 numbers are off by up to 100 times
# atol + rtol * |sample|, and the plain modules differ by as much between one and two threads. The tolerance's rtol is
# therefore taken of the largest sample; all implementations agree with float64 to 1e-6 of that.
DIRECTION = Tolerance(5e-3)  # of a gradient, beside its norm: what few activations do that round to the other side of 0
BANDWIDTH = {"l2": 0.07, "l1": 0.21, "spec": 33.0}  # used for all whole-model cases


class Hps(dict):
    """Hyper-parameters as items and attributes."""

    __getattr__ = dict.__getitem__


def build(hps: dict[str, Any]) -> VQVAE:
    """The VQ-VAE of a flat reference hyper-parameter dict."""
    return VQVAE(
        (hps["sample_length"], 1),
        hps["levels"],
        hps["downs_t"],
        hps["strides_t"],
        hps["emb_width"],
        hps["l_bins"],
        hps["l_mu"],
        hps["commit"],
        hps["spectral"],
        hps["multispectral"],
        multipliers=hps["hvqvae_multipliers"],
        use_bottleneck=hps["use_bottleneck"],
        revival_threshold=hps["revival_threshold"],
        width=hps["width"],
        depth=hps["depth"],
        m_conv=hps["m_conv"],
        dilation_growth_rate=hps["dilation_growth_rate"],
        dilation_cycle=hps["dilation_cycle"],
        reverse_decoder_dilation=hps["vqvae_reverse_decoder_dilation"],
    )


def metric_tolerance(name: str) -> Tolerance:
    return STFT_LOSS if name.startswith(("spectral", "multispectral")) else MODULE


def check_forward(check: Check, name: str, got: tuple[torch.Tensor, ...], expected: dict[str, Any]) -> None:
    x_out, loss, metrics = got
    check.close(f"{name} x_out", x_out, expected["x_out"], STACK)
    check.close(f"{name} loss", loss, expected["loss"], STFT_LOSS)
    own = {f"{key}_l{level}" for key in BY_LEVEL for level in range(1, 4)}  # metrics that the reference does not have
    check.equal(f"{name} names of metrics", sorted(set(metrics) - own), sorted(expected["metrics"]))
    for key, value in expected["metrics"].items():
        check.close(f"{name} {key}", metrics[key], value, metric_tolerance(key))


@case("vqvae_*")
def vqvae(data: dict[str, Any], check: Check) -> None:
    """Runs everything twice: in tiles (as a CPU does by itself) and through the plain modules."""
    check_vqvae(data, check, "tiled ")
    with tiling.disabled():
        check_vqvae(data, check, "plain ")


def check_vqvae(data: dict[str, Any], check: Check, path: str) -> None:
    hps = Hps({"bandwidth": BANDWIDTH, **data["hps"]})
    inputs, outputs = data["inputs"], data["outputs"]
    model = load_state(build(hps), data["state_dict"])
    check.equal("state dict", list(model.state_dict()), list(data["state_dict"]))
    x = inputs["x"]
    if not hps["use_bottleneck"]:
        with torch.no_grad():
            check_forward(check, f"{path}eval", model(x, hps, hps["loss_fn"]), outputs)
        return
    with torch.no_grad():
        check_codes(check, path, model, x, outputs)
        for loss_fn in losses.RECONSTRUCTION:
            if f"eval_{loss_fn}" in outputs:
                check_forward(check, path + loss_fn, model(x, hps, loss_fn), outputs[f"eval_{loss_fn}"])
    check.equal("downsamples", list(model.downsamples), list(outputs["downsamples"]))
    check.equal("hop lengths", list(model.hop_lengths), outputs["hop_lengths"].tolist())
    check.equal("z_shapes", [list(shape) for shape in model.z_shapes], outputs["z_shapes"])
    check_train_step(check, f"{path}train", model, hps, inputs, outputs["train"])


def check_codes(check: Check, path: str, model: VQVAE, x: torch.Tensor, outputs: dict[str, Any]) -> None:
    for level, latent in enumerate(outputs["latents"]):
        check.close(f"{path}latents {level}", model.encoders[level](x.transpose(1, 2))[-1], latent, STACK)
    zs = model.encode(x)
    for level, z in enumerate(outputs["zs"]):
        check.equal(f"{path}codes {level}", zs[level], z)
    only = model.encode(x, start_level=1, end_level=2)
    check.equal(f"{path}number of levels", [len(zs), len(only)], [len(outputs["zs"]), len(outputs["encode_level1_2"])])
    check.equal(f"{path}codes of level 1 alone", only[0], outputs["encode_level1_2"][0])
    for level, audio in outputs["decode"].items():
        check.close(f"{path}decode {level}", model.decode(zs[level:], start_level=level), audio, STACK)
    by_item = model.decode(zs, bs_chunks=len(x))
    check.close(f"{path}decode, one item at a time", by_item, outputs["decode_bs_chunks"], STACK)
    alone = model.decode(zs[:1], end_level=1)
    check.close(f"{path}decode, level 0 alone", alone, outputs["decode_level0_only_end1"], STACK)


def check_train_step(
    check: Check, name: str, model: VQVAE, hps: Hps, inputs: dict[str, Any], expected: dict[str, Any]
) -> None:
    blocks = model.bottleneck.blocks
    for block, candidates in zip(blocks, expected["k_rand"], strict=True):
        block.restore_k(inputs["restore_num_tokens"], inputs["threshold"])
        block.draw_rows = lambda _, candidates=candidates: candidates
    model.train()
    got = model(inputs["x"], hps, hps["loss_fn"])
    got[1].backward()
    check_forward(check, name, got, expected)
    check_grad_norms(check, model, expected["grad_norms"], f"{name} ")
    first = model.get_parameter("encoders.0.level_blocks.0.model.0.0.weight")
    assert first.grad is not None
    wanted = expected["grad_first_conv"]
    check.close(f"{name} direction of the first gradient", (first.grad - wanted).norm() / wanted.norm(), 0.0, DIRECTION)
    for level, block in enumerate(blocks):
        for key in ("k", "k_sum", "k_elem"):
            check.close(f"{name} {key} {level}", getattr(block, key), expected[f"{key}_after"][level], STACK)


@case("bottleneck_*")
def bottleneck(data: dict[str, Any], check: Check) -> None:
    hps, inputs, outputs = data["hps"], data["inputs"], data["outputs"]
    block = BottleneckBlock(hps["k_bins"], hps["emb_width"], hps["mu"], threshold=inputs["threshold"])
    check.equal("state dict", list(block.state_dict()), list(data["state_dict"]))
    if inputs["start"] == "restore":
        block.load_state_dict({"k": inputs["k0"]})
        block.restore_k(inputs["num_tokens"], inputs["threshold"])
    initial = outputs["initial"]
    check.equal("init", block.init, initial["init"])
    for name in ("k_sum", "k_elem"):
        if initial[name] is None:
            check.equal(f"initial {name}", getattr(block, name), None)
        else:
            check.close(f"initial {name}", getattr(block, name), initial[name], MODULE)

    for i, (x, step) in enumerate(zip(inputs["xs"], outputs["steps"], strict=True)):
        draws = [d for d in (step["k_rand_init"], step["k_rand_update"]) if d is not None]
        block.draw_rows = lambda _, draws=draws: draws.pop(0)
        x = x.clone().requires_grad_()
        out = block(x)
        check.equal(f"step {i}: unused draws", len(draws), 0)
        check.equal(f"step {i}: codes", out.codes, step["x_l"])
        check.close(f"step {i}: vectors", out.quantized, step["x_d"], MODULE)
        check.close(f"step {i}: commit loss", out.commit_loss, step["commit_loss"], MODULE)
        check.equal(f"step {i}: metrics", sorted(out.metrics), sorted(step["metrics"]))
        for key, value in step["metrics"].items():
            check.close(f"step {i}: {key}", out.metrics[key], value, MODULE)
        for name in ("k", "k_sum", "k_elem"):
            check.close(f"step {i}: {name}", getattr(block, name), step[name], MODULE)
        restarted = block.k_bins - int(out.metrics["usage"])
        check.equal(f"step {i}: restarted", restarted, step["n_restarted"])
        ramp = torch.linspace(-1, 1, out.quantized.numel()).view_as(out.quantized)
        ((out.quantized * ramp).sum() + out.commit_loss).backward()
        check.close(f"step {i}: grad", x.grad, step["grad_x"], MODULE)

    check.close("last codebook", block.k, data["state_dict"]["k"], MODULE)
    expected = outputs["eval_after"]
    x = inputs["xs"][0]
    check_eval(check, "eval", block, x, expected)
    check.equal("encode", block.encode(x), expected["encode"])
    check.close("decode", block.decode(expected["encode"]), expected["decode"], MODULE)
    rows, spread = block.rows(x)
    codes, fit = nearest_codes(rows, block.k)
    check.equal("nearest codes", codes, expected["quantise_idx"])
    check.close("fit", fit, expected["fit"], MODULE)
    check.close("pn", spread, expected["prenorm"], MODULE)
    check_eval(check, "double width", block, expected["double_width"]["x"], expected["double_width"])


def check_eval(check: Check, name: str, block: BottleneckBlock, x: torch.Tensor, expected: dict[str, Any]) -> None:
    out = block(x, update_k=False)
    check.equal(f"{name}: codes", out.codes, expected["x_l"])
    check.close(f"{name}: vectors", out.quantized, expected["x_d"], MODULE)
    check.close(f"{name}: commit loss", out.commit_loss, expected["commit_loss"], MODULE)
    check.equal(f"{name}: metrics", sorted(out.metrics), sorted(expected["metrics"]))
    for key, value in expected["metrics"].items():
        check.close(f"{name}: {key}", out.metrics[key], value, MODULE)


@case("audio_losses*")
def audio_losses(data: dict[str, Any], check: Check) -> None:
    from jukebox.utils.audio_utils import audio_postprocess, audio_preprocess

    hps, inputs, outputs = Hps(data["hps"]), data["inputs"], data["outputs"]
    settings = losses.LossSettings.from_hps(hps)
    target, pred, stereo, quiet = (inputs[name] for name in ("x_target", "x_pred", "stereo", "quiet"))

    check.close("preprocess stereo", audio_preprocess(stereo, hps), outputs["preprocess_stereo"], MODULE)
    check.close("preprocess mono", audio_preprocess(target, hps), outputs["preprocess_mono"], MODULE)
    blend = outputs["preprocess_blend"]
    blended = audio_preprocess(stereo, Hps({**hps, "aug_blend": True}), mix=blend["mix"])
    check.close("preprocess blend", blended, blend["out"], MODULE)
    check.close("postprocess", audio_postprocess(target, hps), outputs["postprocess"], MODULE)

    check.close("spectral", losses.spectral_loss(target, pred, settings), outputs["spectral_loss"], STFT_LOSS)
    multi = losses.multispectral_loss(target, pred, settings)
    check.close("multispectral", multi, outputs["multispectral_loss"], STFT_LOSS)
    convergence = losses.spectral_convergence(target, pred)
    check.close("convergence", convergence, outputs["spectral_convergence"], STFT_LOSS)
    silent = losses.spectral_convergence(quiet, pred)
    check.close("convergence, quiet", silent, outputs["spectral_convergence_quiet"], STFT_LOSS)
    log = losses.log_magnitude_loss(target, pred)
    check.close("log magnitude", log, outputs["log_magnitude_loss"], STFT_LOSS)
    swapped = losses.spectral_loss(stereo, 0.5 * stereo.flip(0), settings)
    check.close("spectral, stereo", swapped, outputs["stereo_spectral_loss"], STFT_LOSS)
    spectrum = losses.magnitudes(target[:1], losses.StftSettings())
    check.close("default spectrum", spectrum, outputs["spec_default"], MODULE)
    for kind in losses.RECONSTRUCTION:
        value = losses.reconstruction_loss(kind, target, pred, settings)
        check.close(kind, value, outputs[f"loss_{kind}"], MODULE)

    x = pred.clone().requires_grad_()
    spectral = losses.SpectralTarget(target, settings)
    (spectral.multispectral_loss(x).mean() + 0.1 * spectral.spectral_loss(x).mean()).backward()
    check.close("grad", x.grad, outputs["grad_pred_of_multispec_mean_plus_0.1_spec_mean"], MODULE)
