"""Where the files of a run are, and which checkpoint a user means."""

from __future__ import annotations

from pathlib import Path

import pytest

from jukebox.utils.errors import UserError
from jukebox.utils.run_files import LATEST, RunFiles, find_checkpoint


def test_the_newest_checkpoint_of_a_run(tmp_path: Path) -> None:
    files = RunFiles(str(tmp_path / "run"))
    assert files.newest() == "" and files.checkpoints() == []
    (tmp_path / "run").mkdir()
    for name in (".checkpoint_latest.pth.tar.x.tmp", "checkpoint_step_3.pth.tar", "notes.txt"):
        (tmp_path / "run" / name).write_text("")
    assert files.newest() == "" and files.checkpoints() == [files.kept(3)]
    assert ".checkpoint_latest.pth.tar.x.tmp" in files.names()  # another run may be writing it
    files.remove_unfinished()
    assert sorted(files.names()) == ["checkpoint_step_3.pth.tar", "notes.txt"]
    Path(files.latest).write_text("")
    assert files.newest() == files.latest == str(tmp_path / "run" / LATEST)


def test_a_checkpoint_is_named_by_its_file_or_its_run(tmp_path: Path) -> None:
    latest = tmp_path / LATEST
    with pytest.raises(UserError, match=f"--restore: .* holds no {LATEST}; give the folder of a training run"):
        find_checkpoint(str(tmp_path), "--restore")
    latest.write_text("")
    assert find_checkpoint(str(tmp_path)) == find_checkpoint(str(latest)) == str(latest)
    with pytest.raises(UserError, match="--model: there is no run or checkpoint .*none"):
        find_checkpoint(str(tmp_path / "none"))
