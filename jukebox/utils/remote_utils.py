"""Files that belong to released models: fetched once, atomically, and checked.

`fetch(url)` is what loaders call: it returns a path in the cache and downloads only what is missing or damaged.
`download(url, path)` does the work of one file: a part file that a later try resumes, size and SHA-256 checks,
and an atomic rename. Beside each file is FILE.sha256 (as `sha256sum` writes it), so that damage is noticed later,
too.

    JUKEBOX_CACHE     folder of the cache instead of ~/.cache/jukebox
    JUKEBOX_MIRROR    one or more prefixes (comma-separated) that are tried in order, before the release's own hosts

Change here: where files come from and how much is tried. What the files hold is their loaders' business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from jukebox.utils.errors import UserError
from jukebox.utils.files import atomic_write
from jukebox.utils.json_text import read_json
from jukebox.utils.progress import progress_bar

# What precedes `jukebox/...` in the addresses of released files; a mirror holds the same tree.
PREFIXES = (
    "https://openaipublic.azureedge.net/",
    "https://raw.githubusercontent.com/openai/jukebox/master/",
)
# Other hosts of the release with the same tree, by prefix. The first host of the weights is often not there.
ALSO = {PREFIXES[0]: ("https://openaipublic.blob.core.windows.net/",)}
# File name -> what to type where no host has it.
ON_THE_HUB = {
    "models/5b/": "openai/jukebox-5b",
    "models/5b_lyrics/": "openai/jukebox-5b-lyrics",
    "models/1b_lyrics/": "openai/jukebox-1b-lyrics",
}
# File name -> (bytes, SHA-256) of the released files for which they are known. The weights have no published digest.
KNOWN = {
    "v2_artist_ids.txt": (71676, "fce2ecc0c7b00838cf8cc90273609c5460fa1ec8d3211ce9f6546ed792feb001"),
    "v2_genre_ids.txt": (1216, "04d7c5e5f0002c74789ee2a72a1e33f11057eb6c183ed0cf8f4b140164197e48"),
    "v3_artist_ids.txt": (141064, "85ab98ca035945a917ec3d3e1f06bcd938767196281cfb8caecf058872a9e9ed"),
    "v3_genre_ids.txt": (9414, "f85f72dca1e6052da129041bb927e29eb143e5f1450951006565f4a8af6f31cb"),
}
CHUNK = 1 << 20  # bytes read at a time
TRIES = 5  # in a row that bring no new byte
FIRST_WAIT = 1.0  # seconds before the second try; doubled after each
TIMEOUT = 30.0  # seconds without a byte
LEAST_RATE = 1000.0  # bytes a second, as a mean over
SLOW = 30.0  # seconds, under which a connection is given up
MOST_SECONDS = 24 * 3600.0  # of one file
# First bytes of a checkpoint: a zip archive, or the pickle of older versions of PyTorch.
CHECKPOINT = (b"PK\x03\x04", b"\x80")


class _Passing(Exception):
    """Trouble that another try may get over: a broken connection or a server error."""


class _Slow(_Passing):
    """Bytes come, too few of them to ever end."""


class _Spoilt(Exception):
    """The file came whole, but it is not the right one."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint's name is an address rather than a file."""
    return str(path).startswith(("http://", "https://"))


def is_released(path: str | os.PathLike[str]) -> bool:
    """Whether an address is one of the release, which a checkpoint may name."""
    return bool(_prefix(str(path)))


def cache_folder() -> Path:
    """The folder that holds everything fetched."""
    return Path(os.environ.get("JUKEBOX_CACHE") or Path.home() / ".cache" / "jukebox").expanduser()


def cache_path(remote_path: str) -> Path:
    """Where the file of an address is once it has been fetched.

    Released files keep their path after `jukebox/` (`models/5b/vqvae.pth.tar`); others are under `other/HOST/`.
    """
    prefix, parts = _prefix(remote_path), _split_address(remote_path, remote_path)
    if prefix:
        inner = remote_path[len(prefix) :].partition("?")[0].removeprefix("jukebox/")
    else:
        inner = f"other/{parts.netloc.replace(':', '_')}/{parts.path}"
    if parts.query:  # which says what file it is
        folder, _, name = inner.rpartition("/")
        inner = f"{folder}/{hashlib.sha256(parts.query.encode()).hexdigest()[:12]}_{name}"
    return cache_folder().joinpath(*[piece for piece in inner.split("/") if piece not in ("", ".", "..")])


def addresses(remote_path: str) -> list[str]:
    """The addresses to try for a file, in order: at the mirrors, its own, and at the release's other hosts.

    Raises:
        UserError: a mirror is not an address.
    """
    mirrors = [mirror.strip() for mirror in os.environ.get("JUKEBOX_MIRROR", "").split(",") if mirror.strip()]
    for mirror in mirrors:
        parts = _split_address(mirror, f"JUKEBOX_MIRROR={mirror}")
        if parts.scheme not in ("http", "https", "file") or not (parts.netloc or parts.scheme == "file"):
            raise UserError(f"JUKEBOX_MIRROR={mirror}: give addresses such as https://HOST/FOLDER, separated by commas")
    prefix = _prefix(remote_path)
    if not prefix:
        return [remote_path]
    places = [*(f"{mirror.rstrip('/')}/" for mirror in mirrors), prefix, *ALSO.get(prefix, ())]
    return [place + remote_path[len(prefix) :] for place in places]


def _split_address(address: str, shown: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(address)
        _ = parts.port  # looked at only when it is asked for
        return parts
    except ValueError as error:
        raise UserError(f"{shown} is not an address ({error}): give one such as https://HOST/FOLDER") from error


def _prefix(remote_path: str) -> str:
    return next((prefix for prefix in PREFIXES if remote_path.startswith(prefix)), "")


def fetch(remote_path: str, again: bool = False, progress: bool = True) -> str:
    """Returns the path of a file in the cache, downloaded first if it is missing or damaged.

    Several processes may ask at once: one downloads, the others wait for it.

    Args:
        remote_path: the file's address.
        again: the file is there and does not load: download it again. It stays until the new one is whole.
        progress: draw a bar on stderr.

    Raises:
        UserError: the file cannot be fetched; the message says what was tried and where to put it by hand.
    """
    path = cache_path(remote_path)
    size, sha256 = KNOWN.get(path.name, (None, None)) if _prefix(remote_path) else (None, None)
    with locked(path):
        if path.is_file():
            problem = "it does not load" if again else damage(path, size, sha256)
            if not problem:
                return str(path)
            print(f"{path} is damaged ({problem}): fetching it again", file=sys.stderr)
        download(remote_path, str(path), sha256=sha256, size=size, progress=progress)
    return str(path)


def damage(path: Path, size: int | None = None, sha256: str | None = None) -> str:
    """What is wrong with a downloaded file, or "".

    The whole file is read only if it changed after its digest was noted. A file without such a note came by another
    way: it is taken as it is and its digest is noted. It is refused if it is empty, or if it has another size or digest
    than the given one.
    """
    found = path.stat()
    if found.st_size == 0:
        return "it is empty"
    if size is not None and found.st_size != size:
        return f"{found.st_size:,} bytes instead of {size:,}"
    note = _note(path)
    noted = note.read_text(encoding="utf-8").split()[:1] if note.is_file() else []
    if noted and found.st_mtime_ns <= note.stat().st_mtime_ns and sha256 in (None, noted[0]):
        return ""
    expected = sha256 or (noted[0] if noted else "")
    digest = file_digest(path)
    if expected and digest != expected:
        return f"SHA-256 {digest[:12]}... instead of {expected[:12]}..."
    _write_note(path, digest)
    return ""


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


def download(
    remote_path: str,
    local_path: str | os.PathLike[str],
    sha256: str | None = None,
    size: int | None = None,
    progress: bool = True,
    tries: int = TRIES,
    first_wait: float | None = None,
) -> None:
    """Downloads one file; `local_path` appears only when it is whole and right.

    What came of an interrupted download is kept in `local_path` + ".part" and resumed, also by a later call. A
    file that turns out wrong is thrown away and fetched once more from the start.

    Args:
        remote_path: address; JUKEBOX_MIRROR applies if it is a released one.
        local_path: the file to write; its folder is made.
        sha256: its digest in hexadecimal, if known.
        size: its bytes, if known.
        progress: draw a bar on stderr.
        tries: how often in a row a broken connection or a server error may bring nothing new.
        first_wait: seconds before the second try, `FIRST_WAIT` where None; doubled after each.

    Raises:
        UserError: it cannot be fetched; the message says what was tried and what to do.
    """
    path, first_wait = Path(local_path), FIRST_WAIT if first_wait is None else first_wait
    problems, places = [], addresses(remote_path)
    for address in places:
        last = address == places[-1]
        for _ in range(2):
            try:
                digest = _Transfer(address, path, size, progress).run(tries if last else min(2, tries), first_wait)
                if sha256 and digest != sha256:
                    raise _Spoilt(f"SHA-256 {digest} instead of {sha256}")
            except _Spoilt as spoilt:
                _forget_part(path)
                problem = f"what came is not the right file: {spoilt}"
                continue
            except _Passing as passing:
                problem = f"{passing}, {tries if last else min(2, tries)} times in a row"
                break
            except urllib.error.HTTPError as refused:
                problem = f"the server answers {refused.code} {refused.reason}"
                break
            part, state = _part(path)
            try:
                os.replace(part, path)
                state.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror}; what has come is in {part}") from error
            _write_note(path, digest)
            return
        problems.append(f"{address}: {problem}")
    hub = next((name for folder, name in ON_THE_HUB.items() if folder in path.as_posix()), "")
    raise UserError(
        f"cannot download {path.name}: {'; '.join(problems)}. Repeat the command to resume where it stopped, "
        f"set JUKEBOX_MIRROR to another place, {f'add --weights_from={hub}, ' if hub else ''}or put the file at "
        f"{path} by hand"
    )


class _Transfer:
    """One file from one address, over as many connections as it takes."""

    def __init__(self, address: str, path: Path, size: int | None, progress: bool) -> None:
        self.address, self.path, self.size, self.progress = address, path, size, progress
        self.part, self.state = _part(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {path.parent}: {error.strerror}; set JUKEBOX_CACHE to a folder that you may "
                "write to"
            ) from error

    def run(self, tries: int, first_wait: float) -> str:
        """Returns the digest of the part file once it is complete."""
        failures, end = 0, time.monotonic() + MOST_SECONDS
        while True:
            before = _size(self.part)
            try:
                total = self._connect()
                got = _size(self.part)
                if total is not None and got < total:
                    raise _Passing(f"the connection ended after {got:,} of {total:,} bytes")
                if self.size is not None and got != self.size:
                    raise _Spoilt(f"{got:,} bytes instead of {self.size:,}")
                if got == 0:
                    raise _Spoilt("it is empty")
                self._sniff()
                return file_digest(self.part)
            except _Passing as passing:
                moved = _size(self.part) > before and not isinstance(passing, _Slow)
                failures = 1 if moved else failures + 1
                if failures >= tries or time.monotonic() > end:
                    raise
                time.sleep(first_wait * 2 ** (failures - 1))

    def _connect(self) -> int | None:
        """Adds to the part file what one connection brings; returns the size of the whole, if the server says it."""
        version = self._noted()
        if not version.get("tag"):  # nothing says which version of the file the part is of
            _forget_part(self.path)
        have = _size(self.part)
        request = urllib.request.Request(self.address, headers={"User-Agent": "jukebox", "Accept-Encoding": "identity"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", version["tag"])
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as answer:
                return self._receive(answer, have)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is beyond what we have: it is whole, or it is not this file
                total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
                if total.isdigit() and int(total) == have:
                    return have
                _forget_part(self.path)
                raise _Passing("the part already here does not fit the file") from error
            if error.code >= 500 or error.code in (408, 425, 429):
                raise _Passing(f"the server answers {error.code} {error.reason}") from error
            raise
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError, ValueError) as error:
            raise _Passing(str(getattr(error, "reason", "") or error) or type(error).__name__) from error
        except OSError as error:
            raise UserError(f"cannot write {self.part}: {error.strerror}; what has come so far is kept") from error

    def _receive(self, answer: Any, have: int) -> int | None:
        length = answer.headers.get("Content-Length") or ""
        packed = [answer.headers.get(name) or "" for name in ("Content-Encoding", "Transfer-Encoding")]
        if any(word.strip().lower() not in ("", "identity", "chunked") for said in packed for word in said.split(",")):
            raise _Spoilt(f"the server sends it packed ({', '.join(filter(None, packed))})")
        goes_on = answer.status == 206
        if goes_on:
            first, total = _content_range(answer.headers.get("Content-Range") or "")
            noted = self._noted().get("total")
            if first != have or None not in (total, noted) and total != noted:
                _forget_part(self.path)
                raise _Passing("the server continues with another place or version of the file")
        else:
            have = 0
            total = int(length) if length.isdecimal() else None
        free = shutil.disk_usage(self.path.parent).free
        if total is not None and total - have > free:
            raise UserError(
                f"no space for {self.path}: {(total - have) / 1e9:.2f} GB are to come, {free / 1e9:.2f} GB are free; "
                "free some space, or set JUKEBOX_CACHE to another disk"
            )
        tag = answer.headers.get("ETag") or ""
        if not tag or tag.startswith("W/"):  # a weak one is of several versions
            tag = answer.headers.get("Last-Modified") or ""
        self.state.write_text(json.dumps({"tag": tag, "total": total}), encoding="utf-8")
        with open(self.part, "ab" if goes_on else "wb") as file, self._bar(total, have) as bar:
            try:
                since, came = time.monotonic(), 0
                while chunk := answer.read1(CHUNK) if hasattr(answer, "read1") else answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                    came, passed = came + len(chunk), time.monotonic() - since
                    if passed > SLOW:
                        if came < LEAST_RATE * passed:
                            raise _Slow(f"the server sends under {LEAST_RATE / 1000:g} kB a second")
                        since, came = time.monotonic(), 0
            finally:
                file.flush()
                os.fsync(file.fileno())
        return total

    def _sniff(self) -> None:
        """Refuses a page in place of a file: a checkpoint begins in one of two ways, nothing of ours with a tag."""
        with open(self.part, "rb") as file:
            start = file.read(64)
        checkpoint = self.path.name.endswith((".pth.tar", ".pth", ".pt"))
        if start.lstrip().startswith(b"<") or (checkpoint and not start.startswith(CHECKPOINT)):
            raise _Spoilt(f"it begins with {start[:16]!r}, as no file of this kind does")

    def _noted(self) -> dict[str, Any]:
        """What the part file is of: `tag`, the server's name or date of the version, and `total`, its bytes."""
        try:
            noted = read_json(self.state)
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) and isinstance(noted.get("tag"), str) else {}

    def _bar(self, total: int | None, have: int) -> Any:
        return progress_bar(
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            desc=self.path.name,
            disable=not self.progress,
            leave=False,
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another place, unless a protected connection would become an open one."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(req.full_url, code, f"{msg}, to {newurl}, which is not https", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_Redirects)


def _content_range(header: str) -> tuple[int | None, int | None]:
    """First byte and size of the whole of `bytes 1000-1999/5000`; None for what it does not say."""
    found = re.fullmatch(r"bytes\s+(\d+)-\d+/(\d+|\*)", header.strip())
    if not found:
        return None, None
    return int(found[1]), int(found[2]) if found[2] != "*" else None


def _part(path: Path) -> tuple[Path, Path]:
    """The file that collects what came, and the note of what it is a part of."""
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")


def _forget_part(path: Path) -> None:
    for file in _part(path):
        file.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _write_note(path: Path, digest: str) -> None:
    """Notes the digest. A cache that cannot be written to (a shared one, say) is used without."""
    with contextlib.suppress(UserError, OSError), atomic_write(_note(path), "w") as file:
        file.write(f"{digest}  {path.name}\n")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out; the system opens the lock by itself when its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path.with_name(path.name + ".lock"), "a+b")  # noqa: SIM115
    except OSError:  # a cache that may only be read: nothing will be written there
        yield
        return
    with file:
        _acquire(file)
        try:
            yield
        finally:
            _release(file)


if sys.platform == "win32":
    import msvcrt

    def _acquire(file: IO[bytes]) -> None:
        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
            except OSError:  # it gives up by itself after ten seconds
                continue

    def _release(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _acquire(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _release(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
