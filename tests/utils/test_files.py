"""Files are whole or not there; damaged ones are named."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from faults import Tried

from jukebox.utils.errors import UserError
from jukebox.utils.files import (
    WriteError,
    _archive_damage,
    atomic_write,
    link_or_copy,
    load_torch,
    only_writer,
    save_torch,
    try_folder,
)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("Motörhead\n")
    with pytest.raises(RuntimeError), atomic_write(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_bytes() == "Motörhead\n".encode()
    assert os.listdir(path.parent) == ["file.txt"]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new") as file:
        file.write(b"x")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new").read_bytes() == b"x"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_the_usual_ones_or_those_of_the_old_file(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with atomic_write(tmp_path / "a") as file:
            file.write(b"x")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
        os.chmod(tmp_path / "a", 0o600)
        with atomic_write(tmp_path / "a") as file:
            file.write(b"y")
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)


def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    save_torch({"step": 1}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left.*checkpoint.pth.tar.*the earlier file is kept"):
        save_torch({"step": 2}, path)
    assert load_torch(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["checkpoint.pth.tar"]


IMPOSSIBLE = ["file/x", "file/x/y", "n" * 300, f"deep/{'n' * 300}", "/proc/nope/x", "/dev/null/x"]


@pytest.mark.skipif(os.name == "nt", reason="names of POSIX")
@pytest.mark.parametrize("name", [*IMPOSSIBLE, "folder"])
def test_what_cannot_be_written_is_a_users_error(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("folder").mkdir()
    with pytest.raises(WriteError, match="cannot write .*; choose a folder") as caught, atomic_write(name) as file:
        file.write(b"x")
    assert "\n" not in str(caught.value) and caught.value.what in str(caught.value)


def test_errors_about_other_files_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "new" / "a") as file:
        file.write((tmp_path / "source").read_bytes())


@pytest.mark.skipif(os.name == "nt", reason="names of POSIX")
def test_a_folder_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for name in [*IMPOSSIBLE, "file", "/dev/null"]:
        with pytest.raises(UserError, match=r"^--name=.*: cannot write there \(.*\); give a folder"):
            try_folder(name, "name")
    assert os.listdir() == ["file"]
    try_folder("a/b", "name", keep=False)
    assert os.listdir() == ["file"]
    try_folder("a/b", "name")
    try_folder("a/b", "name", keep=False)  # it was there before
    assert os.listdir("a/b") == []


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with only_writer(tmp_path, "name"):
        with pytest.raises(UserError, match="another process is writing to this folder; wait .* another --name"):
            with only_writer(tmp_path, "name"):
                raise AssertionError
        (tmp_path / "other").mkdir()
        with only_writer(tmp_path / "other", "name"):
            pass
    with only_writer(tmp_path, "name"):
        pass


@pytest.mark.faults("one command at a time writes to a folder", "children of a killed writer")
def test_the_children_of_a_killed_writer_keep_no_lock(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    program = (
        "import os, sys; from jukebox.utils.files import only_writer\n"
        "with only_writer(sys.argv[1], 'name'):\n"
        "    if os.fork():\n"
        "        os.read(0, 1), os._exit(0)\n"
        "    print('lives', flush=True), os.read(int(sys.argv[2]), 1)\n"
    )
    read, write = os.pipe()  # the child lives until we close this
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(read)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[read],
        cwd=Path(__file__).parents[2],
    ) as job:
        assert job.stdout is not None and job.stdin is not None
        assert job.stdout.readline() == b"lives\n"
        with pytest.raises(UserError, match="another process"), only_writer(tmp_path, "name"):
            raise AssertionError
        job.stdin.write(b".")
        job.stdin.close()
        assert job.wait() == 0
        with only_writer(tmp_path, "name"):
            os.close(read)
            os.close(write)


@pytest.mark.faults("a file is whole or as it was before", "a full disk in the middle of a tensor")
@pytest.mark.skipif(os.name == "nt", reason="resource limits are not of Windows")
def test_a_full_disk_in_the_middle_of_a_tensor(tmp_path: Path) -> None:
    """The zip writer of torch wraps the error of its file: it is still told apart from a bug."""
    program = (
        "import resource, signal, torch\n"
        "from jukebox.utils.files import save_torch\n"
        "from jukebox.utils.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))\n"
        "try:\n    save_torch({'w': torch.zeros(10**6)}, 'x.pth.tar')\n"
        "except UserError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "no space left" in done.stdout and "nothing was written" in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.faults("a file is whole or as it was before", "SIGKILL of a process that only writes")
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not of Windows")
def test_killed_while_writing(tmp_path: Path) -> None:
    """A process that saves all the time is killed at any moment: the file is always one that was meant."""
    path = tmp_path / "state.pth.tar"
    program = (
        "import torch, itertools\n"
        "from jukebox.utils.files import save_torch\n"
        "for i in itertools.count():\n"
        f"    save_torch({{'i': i, 'w': torch.full((300000,), float(i))}}, {str(path)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for delay in (0.003, 0.031):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", program], env=environment)
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = load_torch(path)
        assert torch.equal(state["w"], torch.full((300000,), float(state["i"])))


def test_link_or_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, links in enumerate((True, True, False)):
        (tmp_path / "source").unlink(missing_ok=True)
        (tmp_path / "source").write_bytes(bytes([i]))
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
        link_or_copy(tmp_path / "source", tmp_path / "name")
        link_or_copy(tmp_path / "source", tmp_path / "name")
        assert (tmp_path / "name").read_bytes() == bytes([i])
        assert sorted(os.listdir(tmp_path)) == ["name", "source"]


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth.tar"
    save_torch({"w": torch.arange(5000.0), "hps": {"a": [1, None, "x"]}}, whole)
    data = whole.read_bytes()
    for name, content in {"cut": data[:-100], "empty": b"", "text": b"<html>404</html>", "head": data[:3]}.items():
        (tmp_path / name).write_bytes(content)
        for mmap in (False, True):
            with pytest.raises(UserError, match=f"{name} is damaged or not a PyTorch file"):
                load_torch(tmp_path / name, mmap=mmap)
    with pytest.raises(UserError, match="nothere does not exist"):
        load_torch(tmp_path / "nothere")
    with pytest.raises(UserError, match="is a folder"):
        load_torch(tmp_path)


def test_code_in_a_file_is_refused(tmp_path: Path) -> None:
    torch.save({"path": Path("x")}, tmp_path / "code")
    with pytest.raises(UserError, match="objects other than tensors"):
        load_torch(tmp_path / "code")


def test_older_format_loads_mapped_or_not(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(5.0)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_torch({"w": torch.arange(5.0)}, tmp_path / "new")
    for name in ("old", "new"):
        for mmap in (False, True):
            assert torch.equal(load_torch(tmp_path / name, mmap=mmap)["w"], torch.arange(5.0))


def test_whole_archives_are_found_whole_each_time(tmp_path: Path) -> None:
    """Threads that shared one archive took its parts for damaged, at times, in Python 3.12."""
    file = tmp_path / "a.pth"
    torch.save([torch.zeros(64) for _ in range(60)], file)
    assert {_archive_damage(str(file), file.stat().st_size, i) for i in range(60)} == {""}


@pytest.mark.faults("a file is whole or as it was before", "full disks of several sizes")
@pytest.mark.skipif(os.name == "nt", reason="resource limits are not of Windows")
def test_full_disks_of_several_sizes(tmp_path: Path, tried: Tried) -> None:
    sizes = [0, 1, 4095, 4096, 8193, 65536, 99_999]
    program = (
        "import resource, signal, sys\n"
        "from jukebox.utils.files import atomic_write\n"
        "from jukebox.utils.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for size in map(int, sys.argv[1:]):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, 10**6))\n"
        "    for path in ('old', f'new {size}'):\n"
        "        try:\n"
        "            with atomic_write(path) as file:\n"
        "                for _ in range(100): file.write(b'x' * 1000)\n"
        "        except UserError as error:\n            print(error)\n"
    )
    (tmp_path / "old").write_bytes(b"as it was")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, *map(str, sizes)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("no space left") == 2 * len(sizes) == 2 * done.stdout.count("earlier file is kept")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"as it was"
    tried.add(2 * len(sizes))


@pytest.mark.faults("a file is whole or as it was before", "names of 250 bytes, spaces, quotes, unicode, old encodings")
@pytest.mark.parametrize(
    "name", ["n" * 250, " a  b ", 'it\'s "so" `$(x)`', "日本語" * 25, "Zo\u0308e\u202e", "caf\udce9", "a\nb", "-rf *"]
)
def test_names_of_all_kinds(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / name
    for content in (b"first", b"second"):
        with atomic_write(path) as file:
            file.write(content)
        assert path.read_bytes() == content and os.listdir(path.parent) == [name]
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"third" if 1 / 0 else b"")
    assert path.read_bytes() == b"second" and os.listdir(path.parent) == [name]


@pytest.mark.faults("a file is whole or as it was before", "a folder or an unfinished file is removed meanwhile")
@pytest.mark.parametrize("what", ["folder", "unfinished file"])
def test_what_is_removed_meanwhile(tmp_path: Path, what: str) -> None:
    """The unfinished file goes where another process, whose clock has jumped, takes it for an old one."""
    path = tmp_path / "out/file"
    with atomic_write(path) as file:
        file.write(b"first")
    with pytest.raises(WriteError, match=r"cannot write .*: No such file or directory"), atomic_write(path) as file:
        file.write(b"second")
        if what == "folder":
            shutil.rmtree(path.parent)
        else:
            next(path.parent.glob(".*.tmp")).unlink()
    assert (path.read_bytes() if path.exists() else b"") == (b"" if what == "folder" else b"first")
    with atomic_write(path) as file:
        file.write(b"third")
    assert path.read_bytes() == b"third" and os.listdir(path.parent) == ["file"]


@pytest.mark.faults("a file is whole or as it was before", "a folder or a disk that may only be read")
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.replace"])
def test_what_may_only_be_read(tmp_path: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_bytes(b"as it was")

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, refused)
    with pytest.raises(WriteError, match=os.strerror(number)), atomic_write(tmp_path / "old") as file:
        file.write(b"new")
    assert os.listdir(tmp_path) == ["old"] and (tmp_path / "old").read_bytes() == b"as it was"
