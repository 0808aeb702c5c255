"""The reference's numbers, as `python tests/golden.py tests/golden` compares them."""

from pathlib import Path

import golden
import pytest

FOLDER = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", golden.cases(FOLDER), ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    status, text = golden.run(path)
    assert status == "ok", text
