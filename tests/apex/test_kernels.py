"""The kernels compile for real GPUs, which needs none: what the interpreter of `test_fused_adam.py` cannot show."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

APEX = Path(__file__).parents[2] / "apex"

# Prints the kind of parameter, the target and the machine code's rounding of each compiled variant.
COMPILE = """
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from apex.optimizers import kernels

NUMBERS = dict.fromkeys("step_size beta1 rest1 beta2 rest2 eps weight_decay decay rest".split(), "fp32")
POINTERS = dict.fromkeys("average_ptr m_scale_ptr v_scale_ptr new_scale_ptr largest_ptr scale_ptr".split(), "*fp32")

def code(function, parameter, moment, constants, target):
    types = dict(NUMBERS, **POINTERS, n="i32", p_ptr=parameter, g_ptr=parameter, m_ptr=moment, v_ptr=moment)
    signature = {name: types.get(name, "constexpr") for name in function.arg_names}
    compiled = triton.compile(ASTSource(function, signature, constexprs=constants), target=target)
    return compiled.asm.get("ptx") or compiled.asm["amdgcn"]

for target in (GPUTarget("cuda", 75, 32), GPUTarget("cuda", 90, 32), GPUTarget("hip", "gfx942", 64)):
    for parameter in ("*fp32", "*bf16", "*fp16"):
        for half in ([False, True] if parameter == "*fp16" else [False]):
            moment = "*fp16" if half else "*fp32"
            for average in (False, True):
                constants = {"HALF": half, "AVERAGE": average, "BLOCK": kernels.BLOCK}
                text = code(kernels._adam, parameter, moment, constants, target)
                if half:
                    code(kernels._store_half_moments, parameter, moment, {"BLOCK": kernels.BLOCK}, target)
                found = sorted(set(re.findall(r"(?:div|sqrt)\\.\\w+\\.f32|cvt\\.\\w+\\.(?:b?f16)(?:x2)?\\.f32", text)))
                print(parameter, moment, average, target.arch, *found)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed (requirements-dev.txt has it on Linux), so no kernel can be compiled",
)
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    script = tmp_path / "compile_kernels.py"
    script.write_text(COMPILE, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(APEX), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    result = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]

    lines = [line.split() for line in result.stdout.splitlines()]
    assert len(lines) == 3 * 4 * 2
    for parameter, _, _, arch, *rounding in lines:
        if arch == "90":  # division and root are correctly rounded, and so is the parameter, to nearest
            assert {"div.rn.f32", "sqrt.rn.f32"} <= set(rounding)
            converted = {r.split(".")[2].removesuffix("x2") for r in rounding if r.startswith("cvt.rn.")}
            assert converted == {"*fp32": set(), "*bf16": {"bf16"}, "*fp16": {"f16"}}[parameter]
