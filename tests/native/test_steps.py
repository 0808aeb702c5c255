"""The native library and PyTorch draw the same tokens: every pattern, type, batch, prompt and instruction set."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from jukebox.make_models import half_matrices
from jukebox.native import build
from jukebox.native.steps import NativeSteps
from jukebox.prior.autoregressive import ConditionalAutoregressive2D
from jukebox.prior.engine import Engine, generate, pick_engine
from jukebox.prior.logits import SamplingOptions

pytestmark = pytest.mark.skipif(not build.find_compiler(), reason="there is no C++ compiler")

WITH_ENCODER = (6, 7, 8, 10, 11)


def build_model(order: int = 2, heads: int = 2, width: int = 64, n_ctx: int = 24, **more: Any) -> Any:
    """A model with random values everywhere, so that no path can hide behind a zero."""
    torch.manual_seed(order)
    values: dict[str, Any] = dict(width=width, heads=heads, blocks=4, attn_order=order)
    values["depth"] = {7: 17, 10: 20, 11: 33, 12: 33}.get(order, 5)
    if order == 4:
        values["spread"] = 2
    if order in WITH_ENCODER:
        values["encoder_dims"] = 5
    if order == 12:
        values["prime_len"] = 6
    values.update(more)
    model = ConditionalAutoregressive2D((n_ctx,), 37, x_cond=True, y_cond=True, **values).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def inputs(model: Any, n: int) -> dict[str, Any]:
    length, width = model.input_dims, model.width
    return dict(
        x_cond=torch.randn(n, length, width),
        y_cond=torch.randn(n, 1, width),
        encoder_kv=torch.randn(n, model.encoder_dims, width) if model.encoder_dims else None,
        noise=torch.rand(n, length),
    )


def both(model: Any, n: int, given: dict[str, Any], prompt: Any = None, n_tokens: int = 0, **more: Any) -> list[Any]:
    n_tokens = n_tokens or model.input_dims
    given = {**given, "noise": given["noise"][:, :n_tokens]}
    return [
        generate(model, n, n_tokens, prompt, **given, get_logits=True, engine=engine, **more)
        for engine in ("eager", "native")
    ]


def check_equal(model: Any, n: int, prompt: Any = None, **more: Any) -> None:
    (tokens, logits), (native, native_logits) = both(model, n, inputs(model, n), prompt, **more)
    torch.testing.assert_close(native_logits, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(native, tokens)


@pytest.mark.parametrize("order", range(13))
def test_every_order_draws_the_same_tokens(order: int) -> None:
    for heads, n in product((1, 2, 8), (1, 3)):
        check_equal(build_model(order, heads, merged_decoder=heads == 2), n)


@pytest.mark.parametrize("prefix", [1, 5, 6, 11, 12, 23])
@pytest.mark.parametrize("order", [2, 4, 6, 12])
def test_prompts_end_anywhere(order: int, prefix: int) -> None:
    model = build_model(order)
    check_equal(model, 2, torch.randint(0, 37, (2, prefix)), n_tokens=24)


@pytest.mark.parametrize(
    "options",
    [
        dict(temp=0.7),
        dict(top_k=1),
        dict(top_k=5, temp=1.3),
        dict(top_k=400),
        dict(top_p=0.05),
        dict(top_p=0.9, temp=0.99),
    ],
    ids=str,
)
def test_every_way_to_draw(options: dict[str, Any]) -> None:
    for n in (1, 4):
        check_equal(build_model(), n, options=SamplingOptions(**options))


@pytest.mark.parametrize("n", [2, 4, 5, 7, 16])
def test_batches(n: int) -> None:
    check_equal(build_model(), n)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide enough to be cut into chunks; with that many keys that attention is split, too."""
    monkeypatch.setattr("jukebox.prior.engine.SMALL", 0)
    model = build_model(9, 1, width=256, n_ctx=640, depth=4)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_equal(model, 2, torch.randint(0, 37, (2, 600)), n_tokens=640)
    finally:
        torch.set_num_threads(before)


def test_songs_and_threads_beside_a_song_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jukebox.prior.engine.SMALL", 0)
    model = build_model(9, 1, width=256, n_ctx=256, depth=4)
    given, before, found = inputs(model, 16), torch.get_num_threads(), []
    try:
        for n, threads in ((16, 1), (1, 2), (3, 2), (6, 1)):
            torch.set_num_threads(threads)
            part = {key: value if value is None else value[:n] for key, value in given.items()}
            found.append(generate(model, n, 256, **part, get_logits=True, engine="native"))
    finally:
        torch.set_num_threads(before)
    for tokens, logits in found:
        assert torch.equal(tokens[0], found[0][0][0]) and torch.equal(logits[0], found[0][1][0])


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("width", [36, 60, 128, 512])
def test_instruction_sets(level: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with widths that fill no register; levels above the machine's are lowered to it."""
    init = NativeSteps.__init__
    monkeypatch.setattr(NativeSteps, "__init__", lambda self, *a: init(self, *a, level=level))
    for n in (1, 2, 3, 4, 9):
        check_equal(build_model(heads=1, width=width, res_scale=width == 60), n)


def test_conditioning_may_be_absent_or_one_for_all() -> None:
    torch.manual_seed(0)
    model = ConditionalAutoregressive2D((24,), 37, width=32, attn_order=2, blocks=4).eval()
    check: dict[str, Any] = dict(x_cond=None, y_cond=None, encoder_kv=None, noise=torch.rand(3, 24))
    (tokens, _), (native, _) = both(model, 3, check)
    assert torch.equal(tokens, native)
    model = build_model()
    given = {**inputs(model, 3), "x_cond": torch.randn(3, 1, 64)}
    (tokens, _), (native, _) = both(model, 3, given)
    assert torch.equal(tokens, native)
    transposed = torch.randn(3, 64, 24).transpose(1, 2)
    (tokens, _), (native, _) = both(model, 3, {**given, "x_cond": transposed})
    assert torch.equal(tokens, native)


@pytest.mark.parametrize("order", [2, 6, 12])
def test_bfloat16_follows_float32(order: int) -> None:
    model = build_model(order)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    given = inputs(model, 2)
    want = generate(model, 2, 24, **given, get_logits=True, options=SamplingOptions(top_k=1), engine="eager")
    for halved in (False, True):  # matrices that are cast now, and those that were stored so
        if halved:
            for layer in model.transformer.layers:
                for module in layer.matrices():
                    module.w.data = module.w.data.bfloat16()
        engine = Engine(model, 2, given["x_cond"], given["y_cond"], given["encoder_kv"], torch.bfloat16, "native")
        assert engine.caches[0].kv.dtype == torch.bfloat16
        logits = torch.empty(1, 2, 37)
        with torch.inference_mode():
            engine.draw(torch.zeros(24, 2, dtype=torch.long), torch.zeros(24, 2), 1, SamplingOptions(), logits)
        error = (logits[0] - want[1][:, 0]).norm() / want[1][:, 0].norm()
        assert error < 0.02


@pytest.mark.parametrize("order", [2, 6, 12])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_int8_draws_as_pytorch_does(order: int, n: int) -> None:
    model = build_model(order)
    half_matrices(model, torch.int8)
    check_equal(model, n)
    assert all(module.w.dtype == torch.int8 for layer in model.transformer.layers for module in layer.matrices())


def test_int8_is_near_float32() -> None:
    model = build_model()
    given = inputs(model, 2)
    del given["noise"]
    tokens = torch.randint(0, 37, (2, 24))
    with torch.no_grad():
        want = model(tokens, **given).logits
        half_matrices(model, torch.int8)
        got = model(tokens, **given).logits
    error = (got - want).norm() / want.norm()
    assert 1e-4 < error < 0.02


def test_frozen_weights_have_no_second_copy() -> None:
    model = build_model().requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generate(model, 1, 4, **{**inputs(model, 1), "noise": None}, engine="native")
    engine = Engine(model, 1, inputs(model, 1)["x_cond"], inputs(model, 1)["y_cond"], engine="native")
    steps = engine._make_native()
    ours = {tensor.data_ptr() for tensor in steps._kept}
    assert all(module.w.data_ptr() in ours for layer in model.transformer.layers for module in layer.matrices())
    assert model.x_emb.weight.data_ptr() in ours
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_weights_in_training_stay_where_they_are() -> None:
    model = build_model()
    before = [(parameter.data_ptr(), parameter.stride()) for parameter in model.parameters()]
    generate(model, 1, 4, **{**inputs(model, 1), "noise": None}, engine="native")
    assert before == [(parameter.data_ptr(), parameter.stride()) for parameter in model.parameters()]
    model(torch.zeros(1, 24, dtype=torch.long), torch.zeros(1, 24, 64), torch.zeros(1, 1, 64)).loss.backward()


def test_logits_that_are_not_finite_are_named() -> None:
    model = build_model()
    with torch.no_grad():
        model.x_emb.weight[:, 0] = float("nan")
    given = inputs(model, 1)
    with pytest.raises(ValueError, match="the logits at position 0 are not finite"):
        generate(model, 1, 24, **given, engine="native")


def test_shapes_that_do_not_fit_are_refused() -> None:
    model = build_model()
    given = {k: v for k, v in inputs(model, 2).items() if k != "noise"}
    engine = Engine(model, 2, **given, engine="native")
    tokens, noise = torch.zeros(24, 2, dtype=torch.long), torch.zeros(24, 2)
    for wrong, match in (
        ((tokens[:, :1], noise, 4), "tokens must be"),
        ((tokens, noise.double(), 4), "noise must be"),
        ((tokens, noise, 25), "positions 0 to 25 do not fit"),
    ):
        with pytest.raises(ValueError, match=match):
            engine.draw(*wrong, SamplingOptions())
    engine.draw(tokens, noise, 4, SamplingOptions())
    tokens[3] = 37
    with pytest.raises(ValueError, match="tokens before position 4 are not all among 0 to 36"):
        engine.draw(tokens, noise, 4, SamplingOptions())


def test_choice_of_engine() -> None:
    cpu = torch.device("cpu")
    assert pick_engine("auto", cpu, torch.float32) == ("native", "")
    assert pick_engine("eager", cpu, torch.float32) == ("eager", "")
    assert pick_engine("auto", cpu, torch.float16)[0] == "eager"
    with pytest.raises(ValueError, match="engine=native: it has no float16"):
        pick_engine("native", cpu, torch.float16)
    with pytest.raises(ValueError, match="choose one of auto, native, fused, graph, eager"):
        pick_engine("quick", cpu, torch.float32)


def test_progress_adds_up_and_ctrl_c_gets_through() -> None:
    model, seen = build_model(), list[int]()
    generate(model, 3, 24, **inputs(model, 3), engine="native", progress=seen.append)
    assert sum(seen) == 3 * 24 and len(seen) > 1

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, 3, 24, **inputs(model, 3), engine="native", progress=stop)
