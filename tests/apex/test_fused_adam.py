"""FusedAdam against a plain optimizer and the reference's numbers: foreach functions and Triton kernels.

Kernels run on a GPU where there is one, and always in Triton's interpreter. That has to be switched on before Triton is
first imported, so it is a process of its own: this file, run as a script on a file of cases.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

APEX = Path(__file__).parents[2] / "apex"
GOLDEN = Path(__file__).parents[1] / "golden"
HAS_TRITON = importlib.util.find_spec("triton") is not None

Case = dict[str, Any]
Trace = dict[
    str, Any
]  # params and averages: a list of tensors per step; state: a dict per parameter, after the last step


# ------------------------------------------------------------------------------------------------------------- cases


def random_case(seed: int, dtypes: list[torch.dtype], **settings: Any) -> Case:
    """Six steps over parameters of awkward shapes; parameter 1 has no gradient at the third step."""
    shapes = [(), (1,), (5, 3), (1023,), (2, 2, 512), (1025,), (0, 4)]
    draw = torch.Generator().manual_seed(seed)
    dtype = [dtypes[i % len(dtypes)] for i in range(len(shapes))]
    params = [torch.randn(s, generator=draw).to(d) for s, d in zip(shapes, dtype, strict=True)]
    steps = []
    for step in range(6):
        grads: list[Tensor | None] = [8.0 * torch.randn(p.shape, generator=draw).to(p.dtype) for p in params]
        if step == 2:
            grads[1] = None
        steps.append({"grads": grads, "lr": 0.004 * step, "scale": float(2 ** (step % 3 + 2))})
    defaults = {"betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.0, "decay": None, "half_state": False}
    return {"params": params, "steps": steps, **defaults, **settings}


def golden_case(name: str) -> Case:
    data = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    hps, params = data["hps"], data["inputs"]["params"]
    steps = []
    for recorded in data["outputs"]["steps"]:
        grads = [None if g.shape != p.shape else g for g, p in zip(recorded["grads"], params, strict=True)]
        steps.append({"grads": grads, "lr": recorded["lr"], "scale": recorded["scale"]})
    return {
        "params": params,
        "steps": steps,
        "betas": [hps["beta1"], hps["beta2"]],
        "eps": hps["eps"],
        "weight_decay": hps["wd"],
        "decay": None,
        "half_state": hps["cls"].startswith("FP16"),
    }


FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
RANDOM_CASES = {
    "float": random_case(0, [FLOAT]),
    "float_decay_average": random_case(1, [FLOAT], weight_decay=0.1, decay=0.9),
    "bfloat16_decay_average": random_case(2, [BRAIN], weight_decay=0.1, decay=0.9),
    "half": random_case(3, [HALF]),
    "mixed_average": random_case(4, [HALF, FLOAT, BRAIN], weight_decay=0.01, decay=0.99),
    "half_state": random_case(5, [HALF, FLOAT, BRAIN], weight_decay=0.01, decay=0.99, half_state=True),
}
GOLDEN_NAMES = sorted(p.stem for pattern in ("optim_adam*.pt", "optim_fp16adam*.pt") for p in GOLDEN.glob(pattern))
CASES = {**RANDOM_CASES, **{name: golden_case(name) for name in GOLDEN_NAMES}}


def run_fused(case: Case, implementation: str, device: str = "cpu") -> Trace:
    """The case by FusedAdam; the results are on the CPU."""
    from apex.optimizers import FusedAdam

    params = [p.to(device, copy=True).requires_grad_() for p in case["params"]]
    optimizer = FusedAdam(
        params,
        betas=tuple(case["betas"]),
        eps=case["eps"],
        weight_decay=case["weight_decay"],
        half_state=case["half_state"],
        implementation=implementation,
    )
    averages = {}
    if case["decay"] is not None:
        averages = {p: p.detach().float().clone() for p in params}
        optimizer.average_into(averages, case["decay"])
    trace: Trace = {"params": [], "averages": []}
    for step in case["steps"]:
        for p, g in zip(params, step["grads"], strict=True):
            p.grad = None if g is None else g.to(device, copy=True)
        optimizer.param_groups[0]["lr"] = step["lr"]
        optimizer.step(scale=step["scale"])
        for p, g in zip(params, step["grads"], strict=True):
            assert g is None or torch.equal(p.grad.cpu(), g), "a gradient was changed"  # type: ignore[union-attr]
        trace["params"].append([p.detach().to("cpu", copy=True) for p in params])
        trace["averages"].append([a.to("cpu", copy=True) for a in averages.values()])
    trace["state"] = [
        {key: value.cpu() if isinstance(value, Tensor) else value for key, value in optimizer.state[p].items()}
        for p in params
    ]
    return trace


def cut_off(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Triton's interpreter cuts bfloat16 off where GPUs and PyTorch round to nearest; other types it rounds."""
    if dtype == torch.bfloat16:
        tensor = (tensor.view(torch.int32) & -(2**16)).view(torch.float32)
    return tensor.to(dtype)


def run_plain(case: Case, rounded: Callable[[Tensor, torch.dtype], Tensor] = Tensor.to) -> Trace:
    """The same, one parameter and one formula after the other. Float moments only."""
    params = [p.clone() for p in case["params"]]
    averages = [p.float() for p in params] if case["decay"] is not None else []
    state: list[dict[str, Any]] = [
        {"step": 0, "exp_avg": torch.zeros(p.shape), "exp_avg_sq": torch.zeros(p.shape)} for p in params
    ]
    beta1, beta2 = case["betas"]
    trace: Trace = {"params": [], "averages": [], "state": state}
    for step in case["steps"]:
        for i, gradient in enumerate(step["grads"]):
            if gradient is not None:
                s = state[i]
                s["step"] += 1
                g = gradient.float() / step["scale"]
                s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
                s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g * g
                step_size = step["lr"] * math.sqrt(1 - beta2 ** s["step"]) / (1 - beta1 ** s["step"])
                p = params[i].float()
                p = p - step_size * (s["exp_avg"] / (s["exp_avg_sq"].sqrt() + case["eps"]) + case["weight_decay"] * p)
                params[i] = rounded(p, params[i].dtype)
            if averages:
                averages[i] = case["decay"] * averages[i] + (1 - case["decay"]) * params[i].float()
        trace["params"].append([p.clone() for p in params])
        trace["averages"].append([a.clone() for a in averages])
    return trace


# ---------------------------------------------------------------------------------------------------------- fixtures


@pytest.fixture(autouse=True)
def apex_on_path() -> Iterator[None]:
    """Imports mean this repository's apex, installed or not; later tests find what they would have found anyway."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "apex"}
    sys.path.insert(0, str(APEX))
    yield
    sys.path.remove(str(APEX))
    for name in [n for n in sys.modules if n.split(".")[0] == "apex"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    """All cases by the kernels in Triton's interpreter."""
    if not HAS_TRITON:
        pytest.skip(
            "triton is not installed, so its kernels cannot be interpreted (requirements-dev.txt has it on Linux)"
        )
    folder = tmp_path_factory.mktemp("interpreted")
    torch.save(CASES, folder / "cases.pt")
    subprocess.run(
        [sys.executable, __file__, str(folder / "cases.pt"), str(folder / "traces.pt")],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(APEX)},
        check=True,
    )
    return torch.load(folder / "traces.pt", weights_only=True)


WAYS = ["foreach", "interpreter", *(["cuda", "cuda_foreach"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest) -> Any:
    """name of a case -> its trace, by each way there is to compute it."""
    if request.param == "interpreter":
        return request.getfixturevalue("interpreted").__getitem__
    implementation, device = {
        "foreach": ("foreach", "cpu"),
        "cuda": ("triton", "cuda"),
        "cuda_foreach": ("foreach", "cuda"),
    }[request.param]
    return lambda name: run_fused(CASES[name], implementation, device)


# ------------------------------------------------------------------------------------------------------------- tests

# Two units in the last place of values up to 4: what rounding the same number from either side can differ by.
ROUNDING = {FLOAT: 2e-6, HALF: 2**-8, BRAIN: 2**-5}


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, atol=ROUNDING[e.dtype], rtol=0)


@pytest.mark.parametrize("name", [name for name, case in RANDOM_CASES.items() if not case["half_state"]])
def test_equals_the_plain_optimizer(run: Any, name: str, request: pytest.FixtureRequest) -> None:
    trace = run(name)
    plain = run_plain(CASES[name], rounded=cut_off if "interpreter" in request.node.callspec.id else Tensor.to)
    for step in range(len(CASES[name]["steps"])):
        assert_same(trace["params"][step], plain["params"][step])
        assert_same(trace["averages"][step], plain["averages"][step])
    for actual, expected in zip(trace["state"], plain["state"], strict=True):
        assert actual["step"] == expected["step"]
        assert_same([actual["exp_avg"], actual["exp_avg_sq"]], [expected["exp_avg"], expected["exp_avg_sq"]])


def test_half_moments_follow_the_float_ones(run: Any) -> None:
    trace, plain = run("half_state"), run_plain(CASES["half_state"])
    for state, expected, parameter in zip(trace["state"], plain["state"], CASES["half_state"]["params"], strict=True):
        if parameter.dtype != HALF or not parameter.numel():
            continue
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == HALF
        for key in ("exp_avg", "exp_avg_sq"):
            # The largest moment is stored as float16's largest number: nothing overflows, nothing is wasted.
            assert 65000 < state[key].abs().max() <= 65504
            actual = state[key].float() * state[f"scale_{key}"]
            torch.testing.assert_close(actual, expected[key], atol=2e-3 * float(expected[key].abs().max()), rtol=0)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_equals_the_reference(run: Any, name: str) -> None:
    trace = run(name)
    recorded = torch.load(GOLDEN / f"{name}.pt", weights_only=True)["outputs"]
    assert len(trace["params"]) == len(recorded["steps"]) == 10
    for actual, step in zip(trace["params"], recorded["steps"], strict=True):
        for a, e in zip(actual, step["params"], strict=True):
            assert a.dtype == e.dtype
            torch.testing.assert_close(a, e, atol=1e-6 if e.dtype == FLOAT else 1e-3, rtol=0)
    for state, expected in zip(trace["state"], recorded["final_state"], strict=True):
        assert state["step"] == expected["step"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert state[key].dtype == expected[key].dtype
            if expected[key].dtype == HALF:
                multiplier = expected[f"scale_{key}"]
                assert float(state[f"scale_{key}"]) == pytest.approx(multiplier, rel=1e-3)
                actual = state[key].float() * state[f"scale_{key}"]
                torch.testing.assert_close(actual, expected[key].float() * multiplier, atol=64 * multiplier, rtol=0)
            else:
                torch.testing.assert_close(state[key], expected[key], atol=1e-6, rtol=0)


def test_clips_as_the_reference_does() -> None:
    """The reference's scale holds the loss scale and the clipping; max_grad_norm finds the second part by itself."""
    from apex.optimizers import FusedAdam

    data = torch.load(GOLDEN / "optim_adam_wd_clip.pt", weights_only=True)
    params = [p.clone() for p in data["inputs"]["params"]]
    hps = data["hps"]
    optimizer = FusedAdam(
        params, betas=(hps["beta1"], hps["beta2"]), eps=hps["eps"], weight_decay=hps["wd"], max_grad_norm=hps["clip"]
    )
    clipped = 0
    for step in data["outputs"]["steps"]:
        clipped += step["scale"] != step["loss_scale"]
        grads = [None if g.shape != p.shape else g for g, p in zip(step["grads"], params, strict=True)]
        optimizer.param_groups[0]["lr"] = step["lr"]
        optimizer.step(grads=grads, scale=step["loss_scale"])
        for actual, expected in zip(params, step["params"], strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    assert 0 < clipped < 10


def test_groups_have_their_own_settings() -> None:
    from apex.optimizers import FusedAdam

    a, b = torch.ones(4), torch.ones(4)
    optimizer = FusedAdam([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.0}])
    optimizer.step(grads=[torch.ones(4), torch.ones(4)])
    torch.testing.assert_close(a, torch.full((4,), 0.9))
    torch.testing.assert_close(b, torch.ones(4))


def test_closure_and_a_scale_that_is_a_tensor() -> None:
    from apex.optimizers import FusedAdam

    p, q = (torch.tensor([1.0, -2.0], requires_grad=True) for _ in range(2))

    def closure() -> Tensor:
        loss = (p**2).sum() * 8
        loss.backward()
        return loss

    loss = FusedAdam([p], lr=0.1, eps=1.0).step(closure, scale=torch.tensor([8.0]))
    assert loss.item() == 40.0
    (q**2).sum().backward()
    FusedAdam([q], lr=0.1, eps=1.0).step()
    assert torch.equal(p, q)


def test_parameters_in_any_memory_order() -> None:
    from apex.optimizers import FusedAdam

    start, gradient = torch.randn(6, 5), torch.randn(6, 5)
    straight, turned = start.clone(), start.t().contiguous().t()
    assert not turned.is_contiguous()
    for p in (straight, turned):
        FusedAdam([p], lr=0.1).step(grads=[gradient])
    assert torch.equal(straight, turned)


def test_many_small_parts_equal_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    import apex.optimizers.update as update

    whole = run_fused(CASES["mixed_average"], "foreach")
    monkeypatch.setattr(update, "FOREACH_ELEMENTS", 1500)
    parts = run_fused(CASES["mixed_average"], "foreach")
    for a, b in zip(
        whole["params"][-1] + whole["averages"][-1], parts["params"][-1] + parts["averages"][-1], strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("half_state", [False, True])
def test_resumed_equals_undisturbed(tmp_path: Path, half_state: bool) -> None:
    """Moments of half parameters keep their type over a save and a load, which torch's base class would round."""
    from apex.optimizers import FusedAdam

    draw = torch.Generator().manual_seed(0)
    grads = [[torch.randn(40, generator=draw, dtype=t) for t in (HALF, FLOAT, BRAIN)] for _ in range(6)]
    straight = [torch.ones(40, dtype=t) for t in (HALF, FLOAT, BRAIN)]
    stopped = copy.deepcopy(straight)
    first, second = (FusedAdam(p, lr=0.01, half_state=half_state) for p in (straight, stopped))
    for step, g in enumerate(grads):
        first.step(grads=g)
        second.step(grads=g)
        if step == 2:
            torch.save(second.state_dict(), tmp_path / "optimizer.pt")
            second = FusedAdam(stopped, lr=0.5, half_state=half_state)
            second.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for a, b in zip(straight, stopped, strict=True):
        assert torch.equal(a, b)
        assert first.state[a]["exp_avg"].dtype == second.state[b]["exp_avg"].dtype
        assert second.state[b]["step"] == 6


@pytest.mark.parametrize("half_state", [False, True])
def test_takes_over_from_the_plain_optimizer_and_back(half_state: bool) -> None:
    """A run may resume with or without apex installed: the saved states are the same."""
    from apex.optimizers import FusedAdam

    from jukebox.training.optim import Adam

    draw = torch.Generator().manual_seed(0)
    settings: dict[str, Any] = dict(lr=0.01, weight_decay=0.1, half_state=half_state)
    straight = [torch.ones(40, dtype=t).requires_grad_() for t in (HALF, FLOAT, BRAIN)]
    changing = [p.detach().clone().requires_grad_() for p in straight]
    plain = Adam(straight, **settings)
    current: Any = Adam(changing, **settings)
    for step in range(9):
        for p, q in zip(straight, changing, strict=True):
            p.grad = torch.randn(40, generator=draw).to(p.dtype)
            q.grad = p.grad.clone()
        plain.step(scale=4.0)
        current.step(scale=4.0)
        if step % 3 == 2:
            kind = Adam if isinstance(current, FusedAdam) else FusedAdam
            successor = kind(changing, **settings)
            successor.load_state_dict(copy.deepcopy(current.state_dict()))
            current = successor
    assert_same(changing, straight)
    for p, q in zip(straight, changing, strict=True):
        assert list(plain.state[p]) == list(current.state[q])


def test_averages_may_be_parts_of_one_flat_tensor() -> None:
    from apex.optimizers import FusedAdam

    params = [torch.randn(3, 4), torch.randn(5)]
    flat = torch.cat([p.flatten() for p in params])
    averages = {params[0]: flat[:12].view(3, 4), params[1]: flat[12:]}
    optimizer = FusedAdam(params, lr=0.1)
    optimizer.average_into(averages, decay=0.75)
    before = flat.clone()
    optimizer.step(grads=[torch.ones(3, 4), None])
    after = torch.cat([p.flatten() for p in params])
    torch.testing.assert_close(flat, 0.75 * before + 0.25 * after)
    optimizer.average_into({}, decay=0.75)
    kept = flat.clone()
    optimizer.step(grads=[torch.ones(3, 4), None])
    assert torch.equal(flat, kept)


def test_says_what_cannot_work() -> None:
    from apex.optimizers import FusedAdam

    p = torch.ones(2)
    for wrong in ({"lr": -1.0}, {"betas": (0.9, 1.0)}, {"max_grad_norm": 0.0}, {"implementation": "cuda"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FusedAdam([p], **wrong)  # type: ignore[arg-type]
    optimizer = FusedAdam([p])
    with pytest.raises(ValueError, match="2 gradients for 1 parameters"):
        optimizer.step(grads=[p, p])
    with pytest.raises(ValueError, match="float32"):
        optimizer.average_into({p: p.half()}, decay=0.9)
    with pytest.raises(ValueError, match="no parameter"):
        optimizer.average_into({torch.ones(2): torch.ones(2)}, decay=0.9)
    with pytest.raises(ValueError, match="does not run on cpu"):
        FusedAdam([p], implementation="triton").step(grads=[p])


def test_import_needs_neither_gpu_nor_triton_nor_jukebox() -> None:
    code = "import sys, apex.optimizers; print([m for m in ('triton', 'jukebox') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(APEX)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


SHARDED = """
import os, sys, torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from apex.optimizers import FusedAdam

init_process_group("gloo", init_method=f"file://{sys.argv[1]}/store", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
plain, gradient = torch.randn(6, 4), torch.randn(6, 4)
sharded = distribute_tensor(plain.clone(), mesh, [Shard(0)])
averages = {sharded: distribute_tensor(plain.clone(), mesh, [Shard(0)])}
first, second = FusedAdam([plain], lr=0.1), FusedAdam([sharded], lr=0.1)
second.average_into(averages, decay=0.5)
start = plain.clone()
for _ in range(3):
    first.step(grads=[gradient])
    second.step(grads=[distribute_tensor(gradient, mesh, [Shard(0)])])
assert torch.equal(sharded.full_tensor(), plain) and not torch.equal(plain, start)
assert type(second.state[sharded]["exp_avg"]).__name__ == "DTensor"
assert not torch.equal(averages[sharded].full_tensor(), start)
try:
    FusedAdam([sharded], max_grad_norm=1.0).step(grads=[sharded])
except ValueError:
    print("sharded ok", flush=True)
destroy_process_group()
os._exit(0)  # threads that gloo leaves may abort Python's own end
"""


def test_sharded_parameters(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(APEX)}
    command = [sys.executable, "-c", SHARDED, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "sharded ok" in result.stdout


if __name__ == "__main__":
    cases = torch.load(sys.argv[1], weights_only=True)
    torch.save({name: run_fused(case, "triton") for name, case in cases.items()}, sys.argv[2])
