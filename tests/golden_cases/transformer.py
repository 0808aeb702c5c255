"""Attention kinds and transformer stacks: `attn_*`, `transformer_order_*`."""

from __future__ import annotations

from typing import Any

import torch

from golden_cases.checks import DEEP, GRAD, HALF, MODEL, MODULE, PATHS, Check, case, check_grad_norms, load_state
from jukebox.transformer.config import TransformerConfig
from jukebox.transformer.factored_attention import FactoredAttention
from jukebox.transformer.transformer import Transformer


def build_config(hps: dict[str, Any], depth: int = 1) -> TransformerConfig:
    names = {"n_in": "width", "n_head": "heads", "n_depth": "depth"}
    values = {names.get(k, k): v for k, v in hps.items() if k not in ("afn", "scale", "n_state", "attn_func")}
    return TransformerConfig(**{"depth": depth, **values})


def build_attention(hps: dict[str, Any]) -> FactoredAttention:
    keys = "n_in n_ctx n_head mask zero_out init_scale blocks spread prime_len encoder_dims"
    m_attn = (hps["n_state"] + 0.5) / hps["n_in"]  # which is rounded down
    config = build_config(dict({key: hps[key] for key in keys.split()}, m_attn=m_attn))
    return FactoredAttention(config, hps["attn_func"])


def build_transformer(hps: dict[str, Any]) -> Transformer:
    return Transformer(build_config(hps))


def run_in_chunks(module: FactoredAttention, x: torch.Tensor, sizes: list[int], encoder_kv: torch.Tensor | None) -> Any:
    """Output, the cache's length after each chunk, and the cache."""
    cache = module.new_cache(x.shape[0], x.dtype, x.device)
    outs, lengths, start = [], [], 0
    for size in sizes:
        outs.append(module(x[:, start : start + size], encoder_kv if start == 0 else None, cache))
        lengths.append(len(cache))
        start += size
    return torch.cat(outs, dim=1), lengths, cache


@case("attn_*")
def attention(data: dict[str, Any], check: Check) -> None:
    module = load_state(build_attention(data["hps"]), data["state_dict"])
    x, encoder_kv = data["inputs"]["x"], data["inputs"].get("encoder_kv")
    out = data["outputs"]
    with torch.no_grad():
        check.close("forward", module(x, encoder_kv), out["forward"], MODULE)
        if data["hps"]["attn_func"] in (6, 7):
            check.close("w", module(x, encoder_kv, record=True)[1], out["w"], MODULE)
        half_kv = encoder_kv.half() if encoder_kv is not None else None
        check.close("forward_fp16", module(x.half(), half_kv), out["forward_fp16"], HALF)
        if "effective_prime_len" in out:
            check.equal("effective_prime_len", module.pattern.prefix, out["effective_prime_len"])
        if "sample" in out:
            sample, lengths, cache = run_in_chunks(module, x, [1] * x.shape[1], encoder_kv)
            check.close("sample", sample, out["sample"], PATHS)
            check.equal("sample_cache_len", lengths, out["sample_cache_len"])
            merged = [t.transpose(1, 2).flatten(2) for t in cache.contents()]  # [N, H, M, d] -> [N, M, H * d]
            check.close("cache keys", merged[0], out["sample_final_cache"]["key"], MODULE)
            check.close("cache values", merged[1], out["sample_final_cache"]["value"], MODULE)
        for chunk in out.get("chunks", []):
            got, lengths, _ = run_in_chunks(module, x, chunk["sizes"], encoder_kv)
            check.close(f"chunks {chunk['sizes']}", got, chunk["out"], PATHS)
            check.equal(f"cache_len {chunk['sizes']}", lengths, chunk["cache_len"])
        if "prefix" in out:
            n = out["prefix"]["n"]
            check.close("prefix", run_in_chunks(module, x[:, :n], [n], encoder_kv)[0], out["prefix"]["out"], PATHS)
            check.close("prefix without cache", module(x[:, :n], encoder_kv), out["prefix"]["out"], MODULE)
        elif data["hps"]["mask"]:  # the reference cannot sample these kinds; ours must equal the whole sequence
            length = x.shape[1]
            for sizes in ([1] * length, [n for n in (length // 2, 1, length - length // 2 - 1) if n]):
                check.close(f"chunks {sizes[:3]}", run_in_chunks(module, x, sizes, None)[0], out["forward"], PATHS)
    module.train()
    x = x.clone().requires_grad_()
    encoder_kv = encoder_kv.clone().requires_grad_() if encoder_kv is not None else None
    y = module(x, encoder_kv)
    check.close("train_forward", y, out["train_forward"], MODULE)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    check.close("grad_x", x.grad, out["grad_x"], GRAD)
    if encoder_kv is not None:
        check.close("grad_encoder_kv", encoder_kv.grad, out["grad_encoder_kv"], GRAD)
    for name, parameter in module.named_parameters():
        check.close(f"grad {name}", parameter.grad, out["param_grads"][name], GRAD)


@case("transformer_order_*")
def transformer(data: dict[str, Any], check: Check) -> None:
    hps, out = data["hps"], data["outputs"]
    model = load_state(build_transformer(hps), data["state_dict"])
    tolerance = DEEP if hps["n_depth"] > 20 else MODEL
    x, encoder_kv = data["inputs"]["x"], data["inputs"].get("encoder_kv")
    check.equal("attn_funcs", [layer.attn_func for layer in model.layers], out["attn_funcs"])
    with torch.no_grad():
        check.close("forward", model(x, encoder_kv), out["forward"], tolerance)
        half = model(x, encoder_kv, fp16=True, fp16_out=True)
        check.equal("fp16_out_dtype", str(half.dtype), out["fp16_out_dtype"])
        check.close("forward_fp16", model(x, encoder_kv, fp16=True), out["forward_fp16"], HALF)
        if "recorded_layers" in out:
            _, ws = model(x, encoder_kv, record=set(out["recorded_layers"]))
            for layer, got, want in zip(out["recorded_layers"], ws, out["ws"], strict=True):
                check.close(f"w of layer {layer}", got, want, tolerance)
        caches = model.new_caches(x.shape[0], x.dtype, x.device)
        steps = [model(x[:, i : i + 1], encoder_kv if i == 0 else None, caches) for i in range(x.shape[1])]
        check.close("token by token", torch.cat(steps, dim=1), out.get("sample", out["forward"]), PATHS)
    model.train()
    x = x.clone().requires_grad_()
    encoder_kv = encoder_kv.clone().requires_grad_() if encoder_kv is not None else None
    y = model(x, encoder_kv)
    check.close("train_forward", y, out["train_forward"], tolerance)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    check.close("grad_x", x.grad, out["grad_x"], tolerance)
    if encoder_kv is not None:
        check.close("grad_encoder_kv", encoder_kv.grad, out["grad_encoder_kv"], tolerance)
    check_grad_norms(check, model, out["grad_norms"])
