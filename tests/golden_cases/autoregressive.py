"""The autoregressive model of one level and the filters of its logits: `car2d_*`, `filter_logits`."""

from __future__ import annotations

from typing import Any

import torch

from golden_cases.checks import HALF, MODEL, PATHS, Check, case, check_grad_norms, load_state
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.engine import Engine, generate
from jukebox.prior.logits import SamplingOptions, filter_logits

GREEDY = SamplingOptions(top_k=1)


@case("filter_logits*")
def filters(data: dict[str, Any], check: Check) -> None:
    for result in data["outputs"]["results"]:
        out = filter_logits(data["inputs"]["logits"], result["top_k"], result["top_p"])
        check.equal(f"top_k={result['top_k']} top_p={result['top_p']}", out, result["out"])


@case("car2d_*")
def autoregressive(data: dict[str, Any], check: Check) -> None:
    hps, inputs, out = data["hps"], data["inputs"], data["outputs"]
    model = load_state(ConditionalAutoregressive2D(**hps), data["state_dict"])
    x = inputs["x"]
    cond = {key: inputs.get(key) for key in ("x_cond", "y_cond", "encoder_kv")}
    check.equal("add_cond_after_transformer", model.add_cond_after_transformer, out["add_cond_after_transformer"])
    check.equal("share_x_emb_x_out", model.share_x_emb_x_out, out["share_x_emb_x_out"])
    with torch.no_grad():
        whole = model(x, **cond)
        check.close("acts", whole if hps["only_encode"] else whole.acts, out["acts"], MODEL)
        if hps["only_encode"]:
            return
        for name in ("loss", "prime_loss", "gen_loss"):
            if name in out:
                check.close(name, getattr(whole, name), out[name], MODEL)
        check.close("preds", whole.logits, out["preds"], MODEL)
        half = model(x, **cond, fp16=True)
        check.close("loss_fp16", half.loss, out["loss_fp16"], HALF)
        check.close("preds_fp16", half.logits, out["preds_fp16"], HALF)

        engine = Engine(model, x.shape[0], **cond)
        steps = [engine.step(x[:, i - 1] if i else None) for i in range(x.shape[1])]
        check.close("forced_sample_preds", torch.stack(steps, dim=1), out["forced_sample_preds"], PATHS)
        for name in ("greedy", "greedy_short"):
            want = out[name]
            n_tokens = want.get("sample_tokens") or model.input_dims
            tokens, logits = generate(model, x.shape[0], n_tokens, **cond, options=GREEDY, get_logits=True)
            check.equal(f"{name} tokens", tokens, want["tokens"])
            check.close(f"{name} preds", logits, want["preds"], PATHS)
        for i, want in enumerate(out["primed"]):
            tokens, logits = generate(
                model,
                x.shape[0],
                want["sample_tokens"] or model.input_dims,
                x[:, : want["n_prime"]],
                **cond,
                options=GREEDY,
                chunk_size=want["chunk_size"],
                get_logits=True,
            )
            check.equal(f"primed {i} tokens", tokens, want["tokens"])
            check.close(f"primed {i} preds", logits, want["preds"], PATHS)
    model.train()
    loss = model(x, **cond).loss
    loss.backward()
    check_grad_norms(check, model, out["grad_norms"])
