"""The reference's numbers, as `python tests/golden.py tests/golden` compares them."""

import re
from pathlib import Path

import golden
import pytest
import torch

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", golden.cases(FOLDER), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    status, text = golden.run(path)
    assert status == "ok", text


def test_lines_name_the_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(FOLDER), "--device=cpu", "labelcond_notime"]) == 0
    assert re.match(r"ok +labelcond_notime +on cpu: 2 compared", capsys.readouterr().out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([str(FOLDER), "--device=cuda"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: --device=cuda") and printed.err.count("\n") == 1


def test_a_case_is_loaded_to_its_device() -> None:
    inputs = golden.load(FOLDER / "labelcond_notime.pt", "meta")
    found = torch.utils._pytree.tree_leaves(inputs)
    assert {leaf.device.type for leaf in found if isinstance(leaf, torch.Tensor)} == {"meta"}
