"""Steps of fixed shapes draw what eager steps draw, never wait for the device, and are replaced if they are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from native.test_steps import build_model, inputs
from torch.utils._python_dispatch import TorchDispatchMode

from jukebox.prior import engine as engines
from jukebox.prior import fixed_steps
from jukebox.prior.engine import Engine, generate, pick_engine
from jukebox.prior.fixed_steps import FixedSteps
from jukebox.prior.logits import SamplingOptions
from jukebox.transformer.ops import Conv1D
from jukebox.transformer.places import Places
from jukebox.utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_failures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engines, "_failed", {})
    yield


def both(model: Any, n: int, prompt: Any = None, given: Any = None, **more: Any) -> list[Any]:
    given = given or inputs(model, n)
    return [
        generate(model, n, model.input_dims, prompt, **given, get_logits=True, engine=engine, **more)
        for engine in ("eager", "graph")
    ]


@pytest.mark.parametrize("order", range(13))
def test_places_are_those_of_the_patterns(order: int) -> None:
    """Every position: the slot that is written, and which slots count."""
    model = build_model(order)
    caches = model.transformer.new_caches(1, torch.float32, CPU)
    places = Places(caches, torch.float32)
    for position in range(model.input_dims):
        found = places(torch.tensor([position]))
        for cache in caches:
            place, slots = found[cache.pattern], cache.kv.shape[3]
            slot, first, count = cache.pattern.addresses()[position]
            if cache.pattern.own_keys:
                assert place.slot.item() == (slot if slot >= 0 else slots - 1)
            read = torch.arange(place.reads) if place.picked is None else place.picked
            seen = read if place.bias is None else read[place.bias.flatten() == 0]
            if count:
                assert seen.tolist() == list(range(first, first + count))
                assert slot >= 0 or not cache.pattern.own_keys or slots - 1 not in seen
            else:  # nothing is seen: slots that no position up to this one has
                assert not set(seen.tolist()) & {row[0] for row in cache.pattern.addresses()[: position + 1]}


@pytest.mark.parametrize("order", range(13))
def test_every_order_draws_the_same_tokens(order: int) -> None:
    for heads, n in ((1, 3), (2, 1)):
        (tokens, logits), (fixed, fixed_logits) = both(build_model(order, heads, merged_decoder=heads == 2), n)
        torch.testing.assert_close(fixed_logits, logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(fixed, tokens)


@pytest.mark.parametrize("prefix", [1, 5, 6, 11, 12, 23])
@pytest.mark.parametrize("order", [2, 4, 6, 12])
def test_prompts_end_anywhere(order: int, prefix: int) -> None:
    model = build_model(order)
    (tokens, logits), (fixed, fixed_logits) = both(model, 2, torch.randint(0, 37, (2, prefix)))
    torch.testing.assert_close(fixed_logits, logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(fixed, tokens)


@pytest.mark.parametrize("options", [dict(temp=0.7), dict(top_k=1), dict(top_k=5, temp=1.3), dict(top_p=0.9)], ids=str)
def test_every_way_to_draw(options: dict[str, Any]) -> None:
    (tokens, _), (fixed, _) = both(build_model(), 64, options=SamplingOptions(**options))
    assert torch.equal(fixed, tokens)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_half_precisions(dtype: torch.dtype, tolerance: float) -> None:
    (tokens, logits), (fixed, fixed_logits) = both(build_model(9), 2, dtype=dtype, options=SamplingOptions(top_k=1))
    same = (fixed == tokens).all(0).int().cumprod(0).bool().nonzero().flatten()  # up to the first that differs
    assert len(same) > 4
    off = (fixed_logits[:, same] - logits[:, same]).abs().max()
    assert off < tolerance * logits.abs().max()


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for the device, or a shape depend on data."""

    FORBIDDEN = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "unique",
        "is_nonzero",
        "repeat_interleave",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name in self.FORBIDDEN or (name == "index" and any(t.dtype == torch.bool for t in args[1] if t is not None)):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "order, options", [(3, dict()), (6, dict(top_k=1)), (9, dict(top_k=5, temp=0.9)), (12, dict(top_p=0.9))], ids=str
)
def test_a_step_never_waits(order: int, options: dict[str, Any]) -> None:
    model, n = build_model(order), 2
    given = inputs(model, n)
    noise = given.pop("noise").t().contiguous()
    tokens = torch.zeros(model.input_dims, n, dtype=torch.long)
    with torch.no_grad():  # in inference mode `item` would escape the dispatch mode
        run = Engine(model, n, **given, engine="graph")
        run.draw(tokens, noise, 3, SamplingOptions(**options))
        steps = run._fixed
        assert steps is not None and run.engine == "graph"
        with NoWaiting():
            for _ in range(4):
                steps._step()
        assert steps.position.item() == 7
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        steps.position.item()


def test_a_wrong_engine_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first token or the second: one line, the same tokens, and the next window begins with the plain path."""
    model, n = build_model(), 2
    given = inputs(model, n)
    wanted = generate(model, n, 24, **given, engine="eager")[0]
    for wrong_at in (1, 2):
        monkeypatch.setattr(engines, "_failed", {})
        calls, right = [], FixedSteps._step

        def wrong(self: FixedSteps, calls: list[int] = calls, right: Any = right, wrong_at: int = wrong_at) -> None:
            right(self)
            calls.append(1)
            if len(calls) >= wrong_at:
                self.logits.add_(1.0)
                self._tokens[self.position - 1] = 0

        with monkeypatch.context() as patch:
            patch.setattr(FixedSteps, "_step", wrong)
            with pytest.warns(RuntimeWarning, match=r"engine=graph does not work on cpu.*engine=eager draws") as said:
                kept = Engine(model, n, engine="graph", **{k: v for k, v in given.items() if k != "noise"})
                tokens = torch.zeros(24, n, dtype=torch.long)
                with torch.inference_mode():
                    kept.draw(tokens, given["noise"].t().contiguous(), 24, SamplingOptions())
        assert len(said) == 1 and kept.engine == "eager"
        assert torch.equal(tokens[wrong_at - 1 :].t(), wanted[:, wrong_at - 1 :])
        assert pick_engine("graph", CPU, torch.float32) == ("eager", "")


def test_an_engine_that_does_not_build_is_replaced_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FixedSteps, *args: Any) -> Any:
        raise RuntimeError("no such instruction\nand a long story")

    monkeypatch.setattr(FixedSteps, "_fused", broken)
    monkeypatch.setattr(engines, "why_not_fused", lambda device: "")
    model, n = build_model(), 2
    given = inputs(model, n)
    with pytest.warns(RuntimeWarning, match=r"engine=fused .* engine=graph draws: RuntimeError: no such instruction$"):
        tokens = generate(model, n, 24, **given, engine="fused")[0]
    assert torch.equal(tokens, generate(model, n, 24, **given, engine="eager")[0])
    assert engines.engine_used("fused") == "graph"


def test_lack_of_memory_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: FixedSteps) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FixedSteps, "_step", full)
    model = build_model()
    with pytest.raises(torch.OutOfMemoryError):
        generate(model, 1, 24, **inputs(model, 1), engine="graph")
    assert not engines._failed


def test_logits_that_are_not_finite_are_named() -> None:
    model = build_model()
    given = inputs(model, 1)
    given["x_cond"][:, 9] = float("nan")
    with pytest.raises(UserError, match="position 9 "):
        generate(model, 1, 24, **given, engine="graph")


def test_what_is_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, fp16 = torch.device("cuda"), torch.float16
    monkeypatch.setattr(engines, "why_not_fused", lambda device: "no kernels")
    assert pick_engine("auto", cuda, fp16) == ("graph", "no kernels")
    assert pick_engine("graph", CPU, fp16) == ("graph", "")
    assert pick_engine("auto", torch.device("mps"), fp16)[0] == "eager"
    with pytest.raises(ValueError, match="engine=fused: no kernels"):
        pick_engine("fused", cuda, fp16)
    monkeypatch.setattr(engines, "why_not_fused", lambda device: "")
    assert pick_engine("auto", cuda, fp16) == ("fused", "")
    monkeypatch.setattr(engines, "_failed", {"fused": "graph", "graph": "eager"})
    assert pick_engine("auto", cuda, fp16)[0] == "eager"


def test_packed_matrices_leave_no_second_copy() -> None:
    model = build_model().requires_grad_(False)
    for module in model.transformer.layers[0].matrices():
        before = module.w.clone()
        rows = fixed_steps._rows(module, torch.float32)
        assert rows.is_contiguous() and rows.data_ptr() == module.w.data_ptr()
        assert torch.equal(module.w, before) and torch.equal(rows.t(), before)
        assert fixed_steps._rows(module, torch.float32).data_ptr() == rows.data_ptr()


def test_weights_are_moved_once_in_a_model_made_for_inference_too() -> None:
    """A second engine on the same model finds its rows where the first put them."""
    with torch.inference_mode():
        module = Conv1D(6, 4)
        module.requires_grad_(False)
        wanted = module.w.t().clone()
        first = fixed_steps._rows(module, torch.float32)
        second = fixed_steps._rows(module, torch.float32)
    assert first.data_ptr() == second.data_ptr() == module.w.data_ptr()
    assert torch.equal(first, wanted) and torch.equal(second, wanted)


def test_steps_that_are_over_leave_at_once() -> None:
    """No circle of references keeps a window's caches on the device until Python looks for circles."""
    import gc
    import weakref

    model = build_model(0)
    given = {name: value for name, value in inputs(model, 1).items() if name != "noise"}
    gc.disable()
    try:
        run = Engine(model, 1, **given, engine="graph")
        with torch.inference_mode():
            run.draw(torch.zeros(24, 1, dtype=torch.long), torch.rand(24, 1), 3, SamplingOptions())
        steps = weakref.ref(run._fixed)
        del run
        assert steps() is None
    finally:
        gc.enable()
