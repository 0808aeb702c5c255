"""The kernels of one token's step against the readable modules with caches, in Triton's interpreter.

The interpreter has to be switched on before Triton is first imported, so it is a process of its own: this file, run as
a script with the name of a function below, which prints what it compared.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jukebox.transformer.orders import known_orders, layer_kinds

ROOT = Path(__file__).parents[2]
SHARED = {80: 166_912, 90: 232_448}  # bytes of shared memory a program may take, by architecture
WIDTH, N_CTX = 48, 16
BATCHES = (1, 3, 16)


def build(order: int, heads: int = 2, **more: Any) -> Any:
    """A transformer with random values everywhere, and a layer of each kind that the order has."""
    from jukebox.transformer.config import TransformerConfig
    from jukebox.transformer.transformer import Transformer

    torch.manual_seed(order)
    config = TransformerConfig(
        **{**dict(n_ctx=N_CTX, width=WIDTH, heads=heads, m_attn=1 / 3, attn_order=order, blocks=4, depth=48), **more},
        spread=2,
        prime_len=6,
        encoder_dims=5,
    )
    kinds = config.kinds
    transformer = Transformer(config).eval().requires_grad_(False)
    transformer._attn_mods = nn.ModuleList(transformer.layers[kinds.index(kind)] for kind in dict.fromkeys(kinds))
    for parameter in transformer.parameters():
        nn.init.normal_(parameter, std=0.15)
    return transformer


def build_all(heads: int = 2) -> Any:
    """A stack of all kinds of layers."""
    stacks = [build(order, heads) for order in (4, 6, 12)]
    found = {layer.attn_func: layer for stack in stacks for layer in stack.layers}
    stacks[0]._attn_mods = nn.ModuleList(found.values())
    return stacks[0]


def fuse(transformer: Any, caches: list[Any], position: Tensor, way: str | None = None) -> Any:
    from apex.decode import Addresses, FusedLayers, Layer, Matrix

    def matrix(module: Any) -> Matrix:
        return Matrix(module.weight(caches[0].kv.dtype).t().contiguous(), module.b)

    layers = [
        Layer(
            (layer.ln_0.weight, layer.ln_0.bias),
            matrix(layer.attn.c_attn),
            matrix(layer.attn.c_proj),
            (layer.ln_1.weight, layer.ln_1.bias),
            matrix(layer.mlp.c_fc),
            matrix(layer.mlp.c_proj),
            cache.kv,
            Addresses(*cache.pattern.integers()),
            layer.res_scale,
        )
        for layer, cache in zip(transformer.layers, caches, strict=True)
    ]
    return FusedLayers(layers, len(caches[0].kv), position, way=way)


@torch.inference_mode()
def compare(
    transformer: Any, n: int, start: int, steps: int, way: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[float, float, float]:
    """Steps from a cache that holds `start` positions, against one whole pass.

    Returns:
        The largest difference of outputs, that of the twin's in the same type, and the scale, all from float32.
    """
    x, encoder_kv = torch.randn(n, start + steps, WIDTH), torch.randn(n, 5, WIDTH)
    wanted = transformer(x, encoder_kv)[:, start:]
    caches = transformer.new_caches(n, dtype, "cpu")
    transformer(x[:, :start], encoder_kv, caches, dtype=dtype)
    twins = transformer.new_caches(n, dtype, "cpu")
    for twin, cache in zip(twins, caches, strict=True):
        twin.kv.copy_(cache.kv)
        twin.seen = start
    position = torch.tensor([start])
    fused = fuse(transformer, caches, position, way)
    outputs = []
    for i in range(start, start + steps):
        outputs.append(fused(x[:, i]).clone())
        position += 1
    twin_outputs = transformer(x[:, start:], None, twins, dtype=dtype)
    for twin, cache in zip(twins, caches, strict=True):
        torch.testing.assert_close(cache.kv, twin.kv, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    off = (torch.stack(outputs, 1) - wanted).abs().max()
    return float(off), float((twin_outputs - wanted).abs().max()), float(wanted.abs().max())


TOLERANCE = {torch.float32: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.08}


def check(transformer: Any, *args: Any, **more: Any) -> str:
    off, _, scale = compare(transformer, *args, **more)
    assert off <= 1e-5 * scale, f"off by {off}, of a scale of {scale}"
    return f"off by {off:.1g}"


# What the script may be asked for. Each yields a line for every case that it compared.


def orders(part: int) -> Iterator[str]:
    """Every order with few songs, heads in turn; many songs once for orders of the same kinds of layers."""
    large = set()
    for order in known_orders():
        kinds = tuple(dict.fromkeys(layer_kinds(order, 48)))
        for i, n in enumerate(BATCHES):
            if n <= 3 or kinds not in large:
                heads = (1, 2, 8)[(order + i) % 3] if n <= 3 or order == 9 else 1
                large |= {kinds} if n > 3 else set()
                if order % 3 == part:
                    start = 1 + (5 * order + 3 * i) % (N_CTX - 2)
                    yield f"{order} {heads} {n} {check(build(order, heads), n, start, 1)}"


def positions(part: int) -> Iterator[str]:
    """One song up to the end of the context, and from caches that were filled up to anywhere in a block."""
    transformer = build_all()
    yield f"all {check(transformer, 1, 1, N_CTX - 1)}"
    for start in (4, 5, 6, 7, 11, 15):
        yield f"{start} {check(transformer, 1, start, 1)}"


def types(part: int) -> Iterator[str]:
    """Half types are as near to float32 as the twin is: kernels round weights, keys and values, but no sum."""
    transformer = build_all()
    for dtype, bound in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        for way in ("rows", "tiles"):
            off, twin_off, scale = compare(transformer, 2, 7, 1, way, dtype)
            assert 0 < off <= min(1.2 * twin_off, bound * scale), f"off by {off}, the twin by {twin_off}"
            yield f"{dtype} {way} off by {off:.1g}"


def ways(part: int) -> Iterator[str]:
    """Both ways give the same; so do long rows in chunks, few programs for many inputs, and songs beside a song."""
    from apex.decode import step

    transformer = build(2, 1, width=WIDTH, m_mlp=1.5, res_scale=True)
    yield f"tiles of one song {check(transformer, 1, 5, 2, 'tiles')}"
    yield f"rows of five songs {check(transformer, 5, 5, 1, 'rows')}"
    step.IN_REGISTERS, step.CHUNK, step.PROGRAMS = 64, 16, 4
    yield f"chunks {check(transformer, 2, 5, 2, 'rows')}"
    yield f"shares of several tiles {check(transformer, 2, 5, 2, 'tiles')}"


def addresses(part: int) -> Iterator[str]:
    """The kernels' arithmetic is that of `Pattern.addresses`, of every kind at every position."""
    global own_slot, slots_read, tl  # a kernel finds what it calls among them
    import triton
    import triton.language as tl
    from apex.decode.kernels import own_slot, slots_read

    from jukebox.transformer.patterns import KINDS, make_pattern

    @triton.jit
    def table(
        p_ptr, N: tl.constexpr, KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr, EXTRA: tl.constexpr
    ):  # fmt: skip
        p = tl.arange(0, N)
        first, count = slots_read(p, KIND, LENGTH, BLOCKS, EXTRA)
        tl.store(p_ptr + p * 3, own_slot(p, KIND, LENGTH, BLOCKS, EXTRA))
        tl.store(p_ptr + p * 3 + 1, first)
        tl.store(p_ptr + p * 3 + 2, count)

    for kind in KINDS:
        for n_ctx, blocks in ((16, 4), (64, 4), (64, 16), (64, 1), (64, 64)):
            spread = min(3, n_ctx // blocks)
            pattern = make_pattern(kind, n_ctx, blocks, spread, 9, 5)
            found = torch.zeros(n_ctx, 3, dtype=torch.int32)
            table[(1,)](found, n_ctx, *pattern.integers())
            wanted = torch.tensor(pattern.addresses())
            reads = wanted[:, 2] > 0  # of nothing there is no first
            assert torch.equal(found[:, 0].long(), wanted[:, 0]), (kind, n_ctx, blocks)
            assert torch.equal(found[:, 2].long(), wanted[:, 2]), (kind, n_ctx, blocks)
            assert torch.equal(found[reads, 1].long(), wanted[reads, 1]), (kind, n_ctx, blocks)
            yield f"{kind} {n_ctx} {blocks}"


def compiled(part: int) -> Iterator[str]:
    """Kernels of real sizes compile for GPUs without spilling registers; if early, weights come before the wait."""
    import triton
    from apex.decode import FusedLayers
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64"}

    def compile_one(launch: Any, architecture: int) -> Any:
        signature, aligned, arguments = {}, {}, iter(launch.arguments)
        for i, name in enumerate(launch.kernel.arg_names):
            if name in launch.constants:
                signature[name] = "constexpr"
                continue
            argument = next(arguments)
            if isinstance(argument, Tensor):
                signature[name], aligned[i,] = names[argument.dtype], [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32" if isinstance(argument, float) else "i32"
        constants = {name: launch.constants[name] for name, kind in signature.items() if kind == "constexpr"}
        options = {name: value for name, value in launch.constants.items() if name not in constants}
        source = ASTSource(launch.kernel, signature, constexprs=constants, attrs=aligned)
        return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)

    for width, heads, n, dtype, architecture, *addresses in (
        (1920, 1, 1, torch.float16, 90),
        (4800, 8, 1, torch.bfloat16, 90),
        (1920, 1, 16, torch.float16, 90),
        (2048, 2, 64, torch.bfloat16, 80),
        (2048, 2, 16, torch.float16, 90, (0, 102, 64)),  # dense: 32 parts to join
    ):
        layer, position = empty_layer(width, heads, n, dtype, *addresses), torch.zeros(1, dtype=torch.long)
        early = architecture >= 90
        for launch in FusedLayers([layer], n, position, early=early)._launches:
            kernel = compile_one(launch, architecture)
            text, name = kernel.asm["ptx"], launch.kernel.__name__
            assert ("griddepcontrol.wait" in text) == ("griddepcontrol.launch_dependents" in text) == early, name
            if early and name.startswith("product"):
                before = text[: text.index("griddepcontrol.wait")]
                assert "ld.global" in before, f"{name} loads no weights before it waits"
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(kernel.asm["cubin"])
                file.flush()
                command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
                usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert "STACK:0 " in usage, f"{name} of {n} songs spills registers: {usage}"
            assert kernel.metadata.shared <= SHARED[architecture], f"{name} of {n} songs does not fit a multiprocessor"
            yield f"{architecture} {name} {n} {width} {launch.grid}"


def empty_layer(
    width: int, heads: int, n: int, dtype: torch.dtype, addresses: tuple[int, int, int] = (2, 64, 128)
) -> Any:
    """A layer of a released size over up to 8,192 positions; without addresses it has column attention."""
    from apex.decode import Addresses, Layer, Matrix

    def matrix(n_out: int, n_in: int) -> Matrix:
        return Matrix(torch.empty(n_out, n_in, dtype=dtype), torch.empty(n_out))

    state, norm = width // 4, (torch.empty(width), torch.empty(width))
    kv = torch.empty(n, 2, heads, 8192, state // heads, dtype=dtype, device="meta")
    qkv, proj, fc, out = matrix(3 * state, width), matrix(width, state), matrix(width, width), matrix(width, width)
    return Layer(norm, qkv, proj, norm, fc, out, kv, Addresses(*addresses))


def rest(part: int) -> Iterator[str]:
    yield from types(part)
    yield from ways(part)
    yield from addresses(part)


CASES = [(orders, 0, 15), (orders, 1, 10), (orders, 2, 10), (positions, 0, 7), (rest, 0, 48), (compiled, 0, 45)]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed (requirements-dev.txt has it on Linux), so no kernel can run",
)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("what", "part", "count"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_kernels_agree_with_the_twin(what: Any, part: int, count: int, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["TRITON_INTERPRET"] = "0" if what is compiled else "1"
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT / "apex", ROOT)))
    command = [sys.executable, __file__, what.__name__, str(part)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(result.stdout.splitlines()) == count, result.stdout


@needs_triton
def test_why_the_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    layers = load_layers()
    cpu, card = torch.device("cpu"), torch.device("cuda")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert layers.why_not(cpu) == "they are for GPUs, not for cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert layers.why_not(cpu) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert layers.why_not(card) == "the GPU has compute capability 7.5, below 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert layers.why_not(card) == ""
    monkeypatch.setattr(triton, "__version__", "3.1.0")
    assert layers.why_not(card) == "Triton 3.1.0 is older than 3.4"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert layers.why_not(card) == "Triton is not installed"


def test_tensors_that_do_not_fit_are_refused() -> None:
    layers = load_layers()
    with pytest.raises(ValueError, match="in one piece"):
        layers.Matrix(torch.zeros(4, 6).t(), torch.zeros(6))
    with pytest.raises(ValueError, match="weights in torch.int8"):
        layers.Matrix(torch.zeros(4, 6, dtype=torch.int8), torch.zeros(4))
    with pytest.raises(ValueError, match=r"bias must be float32 \[4\], not torch.float32 \[6\]"):
        layers.Matrix(torch.zeros(4, 6), torch.zeros(6))


def load_layers() -> Any:
    """`apex.decode.layers`, which needs no Triton, from its file: `apex` itself need not be installed."""
    spec = importlib.util.spec_from_file_location("decode_layers", ROOT / "apex" / "apex" / "decode" / "layers.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


def patch_once() -> None:
    """Makes the interpreter quick: it patches all of Triton's language again at each call of a function in a kernel."""
    import triton.runtime.interpreter as interpreter

    is_builtin = interpreter.tl.core.is_builtin

    @functools.cache
    def names(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if is_builtin(member)]

    def patch(package: Any, builder: Any, scope: Any) -> None:
        if names(package) and is_builtin(getattr(package, names(package)[0])):
            for name in names(package):
                interpreter._patch_attr(package, name, getattr(package, name), builder, scope)

    interpreter._patch_builtin = patch


if __name__ == "__main__":
    if sys.argv[1] != "compiled":
        patch_once()
    for line in globals()[sys.argv[1]](int(sys.argv[2])):
        print(line, flush=True)
