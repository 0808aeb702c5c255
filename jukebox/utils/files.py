"""Files that are whole or not there: atomic writing, and loading that names what is damaged.

Everything a user would miss is written through `atomic_write`. The format of a file is its writer's business; only the
way onto the disk is decided here.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from jukebox.utils.errors import UserError


class WriteError(UserError):
    """A file could not be written; `what` says which and why, without the advice that the message ends with."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)


def _os_error(error: BaseException | None) -> OSError | None:
    """The operating system's error that caused another one: torch's zip writer wraps what its file object raised."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _sync_folder(folder: str) -> None:
    """Makes a rename last through a power cut, if the system can open folders (not on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _mode(path: str) -> int:
    """Permissions of the file to be replaced, or those that a new file gets."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a file that appears under its name only when it is complete and on the disk.

    A crash, a kill or a full disk at any moment leaves what was there before. Missing folders are made.

    Args:
        path: where the file will be.
        mode: "wb", or "w" for text, which is written as utf-8 with newlines as they are. What is not utf-8, as in old
            names of files, becomes `\\udcXX`, which JSON reads as the same name.

    Raises:
        WriteError: the disk is full, or the file cannot be written for another reason of the system's. What the block
            says about other files passes.
    """
    path = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(path)
    temporary = ""
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{name[:40]}.", suffix=".tmp", dir=folder)
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        cause = _os_error(error) if isinstance(error, (OSError, RuntimeError)) else None
        if cause is None or cause.errno is None or not _concerns(cause, folder):
            raise
        kept = "the earlier file is kept" if os.path.exists(path) else "nothing was written"
        raise write_error(cause, path, kept) from error


def write_error(error: OSError, path: str, kept: str) -> WriteError:
    """What to tell a user about a file that the system did not let us write; `kept` says what of it is there."""
    if error.errno in _FULL:
        return WriteError(f"no space left to write {path}: {kept}", "free some space and repeat the command")
    return WriteError(f"cannot write {path}: {error.strerror or error}", "choose a folder that you may write to")


def _concerns(error: OSError, folder: str) -> bool:
    """Whether an error is about the file that is being written: about no named file, or one on the way to it."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return True
    about = os.path.abspath(os.fspath(error.filename))
    return os.path.dirname(about) == folder or f"{folder}{os.sep}".startswith(about.rstrip(os.sep) + os.sep)


def try_folder(folder: str | os.PathLike[str], flag: str, keep: bool = True) -> None:
    """Makes a folder and writes to it for a moment, so that one that cannot be used is refused before any work.

    Args:
        folder: where results will be.
        flag: name of the flag that gave it, for the message.
        keep: leave the folder there; else what was made is removed again.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    made: list[str] = []
    place = os.path.abspath(os.fspath(folder))
    try:
        missing = place
        while not os.path.lexists(missing):
            made.append(missing)
            missing = os.path.dirname(missing)
        os.makedirs(place, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".probe.", suffix=".tmp", dir=place)
        os.close(handle)
        os.unlink(probe)
    except OSError as error:
        keep = False
        shown = os.fspath(folder)
        shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
        raise UserError(
            f"--{flag}={shown}: cannot write there ({error.strerror}); give a folder that can be made and written to"
        ) from error
    finally:
        for path in [] if keep else made:
            with contextlib.suppress(OSError):
                os.rmdir(path)


_locks: set[int] = set()  # handles of the folders that this process has for itself


def _drop_locks() -> None:
    """In a child that was forked, such as a loader's worker: it must not keep the lock of a parent that was killed."""
    for handle in _locks:
        os.close(handle)
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_locks)


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike[str], flag: str) -> Iterator[None]:
    """Keeps other processes from writing to a folder while the block runs; the system lets go when its holder dies.

    Systems and file systems that have no such locks are worked on without.

    Raises:
        UserError: another process is at work there.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    _locks.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--{flag}={os.fspath(folder)}: another process is writing to this folder; wait until it has ended, or "
                f"choose another --{flag}"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        if handle in _locks:  # else we are a child
            _locks.remove(handle)
            os.close(handle)


def path_inside(folder: str | os.PathLike[str], name: Any) -> str:
    """The path of a file that another file names, in a folder.

    Raises:
        UserError: the name leads elsewhere.
    """
    text = str(name)
    if not text or text in (".", "..") or set(text) & set("/\\\0:"):
        raise UserError(f"{text[:100]!r} is not a name in the folder")
    return os.path.join(folder, text)


def link_or_copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Makes a finished file appear under a second name as well, atomically; a copy only if links do not exist."""
    path = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:40]}.{os.getpid()}.tmp")
    try:
        os.link(source, temporary)
        os.replace(temporary, path)  # does nothing if both are one file already
    except OSError:  # a file system without hard links
        with open(source, "rb") as old, atomic_write(path) as new:
            shutil.copyfileobj(old, new, 1 << 24)
        return
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _sync_folder(folder)


def save_torch(obj: Any, path: str | os.PathLike[str]) -> None:
    """Saves plain types and tensors atomically, in PyTorch's format.

    Raises:
        UserError: the disk is full or the folder cannot be written; an earlier file of that name is kept.
    """
    import torch

    with atomic_write(path) as file:
        torch.save(obj, file)


def load_torch(path: str | os.PathLike[str], mmap: bool = False) -> Any:
    """Loads a file of tensors and plain types into host memory; nothing in it is executed.

    Args:
        path: a file written by `torch.save`, in the current format or the one before PyTorch 1.6.
        mmap: leave tensors on the disk until they are read. Files of the older format are read at once.

    Returns:
        What was saved.

    Raises:
        UserError: no such file, a damaged one by its checksums, or one that holds more than tensors and plain types.
    """
    import torch

    from jukebox.utils.safe_load import load_pickled

    path = os.fspath(path)
    if not os.path.isfile(path):
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UserError(
            f"{path} {found}: give the path of a checkpoint file, such as logs/RUN/checkpoint_latest.pth.tar"
        )
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    whole = _is_archive(path)  # the older format is a bare pickle, which cannot be mapped
    status = os.stat(path)
    if damage := _archive_damage(path, status.st_size, status.st_mtime_ns, status.st_ino) if whole else "":
        raise UserError(f"{path} is damaged or not a PyTorch file ({damage}): fetch it again or use an older one")
    try:
        return load_pickled(path, mmap and whole)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = str(error)
        if "allocate" in text or "deserialize object on" in text:  # no memory, or no such device: the file is well
            raise
        raise UserError(_why_not_loaded(path, text)) from error


def _is_archive(path: str) -> bool:
    """Whether a file begins or ends as an archive does; of a damaged end, Python's own function raises an error."""
    try:
        return zipfile.is_zipfile(path)
    except (zipfile.BadZipFile, ValueError, OSError):
        return True


@functools.lru_cache(maxsize=256)
def _archive_damage(path: str, size: int, *_: int) -> str:
    """The first part of an archive that does not fit its checksum, which PyTorch does not look at; "" if all do.

    The other arguments say which state of the file was looked at, so that it is read once.
    """

    def damage(part: int) -> str:
        with zipfile.ZipFile(path) as mine:  # each thread its own: to share one fails at times in Python 3.12
            for member in mine.infolist()[part::parts]:
                if member.compress_type != zipfile.ZIP_STORED:
                    return f"{member.filename[:100]} is compressed"
                try:
                    with mine.open(member) as content:
                        while content.read(1 << 24):
                            pass
                except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
                    return f"{member.filename[:100]} does not fit its checksum"
        return ""

    parts = min(4, os.cpu_count() or 1)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > size:
                return "its parts overlap"
        with ThreadPoolExecutor(parts) as pool:
            return next(filter(None, pool.map(damage, range(parts))), "")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        return str(error)


def _why_not_loaded(path: str, error: str) -> str:
    """Whether a file that PyTorch refuses is damaged, or holds what is not read."""
    from jukebox.utils.safe_load import OBJECTS, find_refused

    if OBJECTS in error:
        return f"{path} holds {OBJECTS}: save it again as a dict of tensors, numbers and strings"
    with contextlib.suppress(Exception):  # of a damaged file, anything
        refused, protocol = find_refused(path)
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        if refused:
            return (
                f"{path} holds Python objects other than tensors and plain types, which could run code when loaded: "
                f"{'; '.join(refused[:3])}{more}; save it again as a dict of tensors, numbers and strings"
            )
        if protocol > 2:
            return (
                f"{path} was written with pickle_protocol={protocol}, which is not read: save it again with torch.save "
                "as it is by default"
            )
    return (
        f"{path} is damaged or not a PyTorch file ({os.path.getsize(path):,} bytes): "
        "give a .pth.tar file; if this was one, fetch it again or use an older one"
    )
