"""Downloads against a server on this machine that misbehaves in every way we promise to get over."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from jukebox.make_models import load_checkpoint
from jukebox.utils import remote_utils
from jukebox.utils.errors import UserError

BODY = b"PK\x03\x04" + bytes(range(252)) + bytes(range(256)) * 1999  # 512,000 bytes
DIGEST = hashlib.sha256(BODY).hexdigest()
Script = list[Callable[["Handler", int], None]]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next entry of the server's script; the last entry answers all further ones."""

    server: Server

    def do_GET(self) -> None:  # noqa: N802
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked, self.headers.get("If-Range")))
        step = self.server.script.pop(0) if len(self.server.script) > 1 else self.server.script[0]
        step(self, int(asked[6:-1]) if asked else 0)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, start: int = 0, status: int | None = None, length: int | None = None) -> None:
        """Sends body[start:]; `length` announces more than comes."""
        rest = body[start:]
        self.send_response(status or (206 if start else 200))
        self.send_header("Content-Length", str(len(rest) if length is None else length))
        if status is None and start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(BODY)}")
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(rest)

    def versioned(self, body: bytes, start: int, **headers: str) -> None:
        """Sends all or, where the client asks for the version of `headers`, the rest; without a header no ETag."""
        tag = headers.get("ETag", "").removeprefix("W/") or headers.get("Last-Modified")
        if start and self.headers.get("If-Range") not in (None, tag):
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        if start:
            headers.setdefault("Content-Range", f"bytes {start}-{len(BODY) - 1}/{len(BODY)}")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[start:])


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    script: Script
    requests: list[tuple[str, str | None, str | None]]


def good(handler: Handler, start: int) -> None:
    handler.answer(BODY, start)


def cut(after: int) -> Callable[[Handler, int], None]:
    """The connection ends after that many bytes of the whole."""
    return lambda handler, start: handler.answer(BODY[:after], start, length=len(BODY) - start)


def status(code: int) -> Callable[[Handler, int], None]:
    return lambda handler, start: handler.answer(b"<html>no</html>", status=code)


def other(body: bytes) -> Callable[[Handler, int], None]:
    return lambda handler, start: handler.answer(body, 0, status=200)


def no_ranges(handler: Handler, start: int) -> None:
    handler.answer(BODY, 0, status=200)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()


def get(server: Server, path: Path, script: Script, **known: object) -> None:
    server.script = list(script)
    url = f"http://127.0.0.1:{server.server_address[1]}/jukebox/models/w.pth.tar"
    remote_utils.download(url, path, progress=False, first_wait=0.01, **known)  # type: ignore[arg-type]


def assert_good(path: Path) -> None:
    assert path.read_bytes() == BODY
    assert path.with_name(path.name + ".sha256").read_text().split() == [DIGEST, path.name]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.name + ".sha256"]


def test_good(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "new" / "w", [good], size=len(BODY), sha256=DIGEST)
    assert_good(tmp_path / "new" / "w")
    assert server.requests == [("/jukebox/models/w.pth.tar", None, None)]


def test_truncated_is_resumed(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [cut(1000), good])
    assert_good(tmp_path / "w")
    assert [r[1:] for r in server.requests] == [(None, None), ("bytes=1000-", '"one"')]


def test_interrupted_twice(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [cut(1000), cut(300_000), good], sha256=DIGEST)
    assert_good(tmp_path / "w")
    assert [r[1] for r in server.requests] == [None, "bytes=1000-", "bytes=300000-"]


def test_progress_resets_the_count_of_failures(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [*[cut(n * 1000) for n in range(1, 12)], good])
    assert_good(tmp_path / "w")


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ended after 5,000 of 512,000 bytes, 5 times in a row.*Repeat the command"):
        get(server, tmp_path / "w", [cut(5000)])
    assert not (tmp_path / "w").exists()
    assert (tmp_path / "w.part").stat().st_size == 5000
    server.requests.clear()
    get(server, tmp_path / "w", [good])
    assert_good(tmp_path / "w")
    assert server.requests[0][1] == "bytes=5000-"


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [cut(5000), no_ranges])
    assert_good(tmp_path / "w")


def test_part_that_is_already_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(BODY)
    (tmp_path / "w.part.json").write_text('{"tag": "one"}')

    def beyond(handler: Handler, start: int) -> None:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(BODY)}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    get(server, tmp_path / "w", [beyond])
    assert_good(tmp_path / "w")


OTHER = bytes(reversed(BODY))
DATE, LATER = "Wed, 01 Jan 2025 10:00:00 GMT", "Thu, 02 Jan 2025 10:00:00 GMT"


def version(body: bytes, after: int | None = None, **headers: str) -> Callable[[Handler, int], None]:
    """A version of the file; `after`: the connection ends there."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, start: handler.versioned(body[:after], start, **named)


@pytest.mark.parametrize(
    "first, second",
    [
        (dict(), dict()),
        (dict(ETag='W/"weak"'), dict(ETag='W/"weak"')),
        (dict(Last_Modified=DATE), dict(Last_Modified=LATER)),
        (dict(ETag='"one"'), dict(ETag='"two"')),
    ],
)
def test_two_versions_are_not_joined(
    server: Server, tmp_path: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    get(server, tmp_path / "w", [version(OTHER, 5000, **first), version(BODY, **second)])
    assert_good(tmp_path / "w")


def test_the_date_of_a_version_will_do(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [version(BODY, 5000, Last_Modified=DATE), version(BODY, Last_Modified=DATE)])
    assert_good(tmp_path / "w")
    assert server.requests[1][1:] == ("bytes=5000-", DATE)


@pytest.mark.parametrize("said", ["bytes 4000-511999/512000", "bytes 5000-511999/511999", "nonsense"])
def test_an_answer_with_another_place_starts_anew(server: Server, tmp_path: Path, said: str) -> None:
    wrong = version(OTHER, ETag='"one"', Content_Range=said)
    get(server, tmp_path / "w", [cut(5000), wrong, good])
    assert_good(tmp_path / "w")
    assert [r[1] for r in server.requests] == [None, "bytes=5000-", None]


def test_a_part_of_an_unknown_version_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(b"x" * 5000)
    get(server, tmp_path / "w", [good])
    assert_good(tmp_path / "w")
    assert server.requests[0][1] is None


@pytest.mark.parametrize("mirror", ["foo", "http://[bad", "http://host:port/x", "https://", "ftp://host/x"])
def test_mirrors_that_are_no_address(mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    monkeypatch.setenv("JUKEBOX_MIRROR", mirror)
    with pytest.raises(UserError, match="^JUKEBOX_MIRROR=.*such as https://HOST/FOLDER"):
        remote_utils.fetch(remote_utils.PREFIXES[0] + "jukebox/models/5b/w.pth.tar", progress=False)
    with pytest.raises(UserError, match="is not an address"):
        remote_utils.fetch("http://[bad/x", progress=False)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_cache_that_is_no_folder(server: Server, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / place))
    with pytest.raises(UserError, match="cannot make the folder .*; set JUKEBOX_CACHE to a folder"):
        remote_utils.fetch(f"http://127.0.0.1:{server.server_address[1]}/w", progress=False)


def test_wrong_size(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="512,000 bytes instead of 512,001"):
        get(server, tmp_path / "w", [good], size=len(BODY) + 1)
    assert list(tmp_path.iterdir()) == []


def test_wrong_digest_is_fetched_again(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [other(b"x" * len(BODY)), good], sha256=DIGEST, size=len(BODY))
    assert_good(tmp_path / "w")
    with pytest.raises(UserError, match="not the right file: SHA-256"):
        get(server, tmp_path / "v", [other(b"x" * len(BODY))], sha256=DIGEST)
    assert not (tmp_path / "v").exists() and not (tmp_path / "v.part").exists()


def test_empty_answer_is_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is empty"):
        get(server, tmp_path / "w", [other(b"")])
    assert not (tmp_path / "w").exists()


def test_404(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"w\.pth\.tar: the server answers 404.*by hand"):
        get(server, tmp_path / "w", [status(404)])
    assert len(server.requests) == 1
    assert not (tmp_path / "w").exists()


def test_500_then_good(server: Server, tmp_path: Path) -> None:
    get(server, tmp_path / "w", [status(500), status(503), good])
    assert_good(tmp_path / "w")


def test_500_for_ever(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="503 .*, 5 times in a row"):
        get(server, tmp_path / "w", [status(503)])
    assert len(server.requests) == 5


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused"):
        remote_utils.download("http://127.0.0.1:9/w", tmp_path / "w", progress=False, first_wait=0.01)


def test_cache_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    weights, tables = remote_utils.PREFIXES
    assert remote_utils.cache_path(weights + "jukebox/models/5b/vqvae.pth.tar") == tmp_path / "models/5b/vqvae.pth.tar"
    assert (
        remote_utils.cache_path(tables + "jukebox/data/ids/v2_genre_ids.txt") == tmp_path / "data/ids/v2_genre_ids.txt"
    )
    assert remote_utils.cache_path("http://a.b:80/x/../../y") == tmp_path / "other/a.b_80/x/y"
    monkeypatch.delenv("JUKEBOX_CACHE")
    assert remote_utils.cache_folder() == Path.home() / ".cache" / "jukebox"


@pytest.fixture
def mirrored(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    base = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    monkeypatch.setenv("JUKEBOX_MIRROR", f"{base}/bad/, {base}/m")
    monkeypatch.setattr(remote_utils, "FIRST_WAIT", 0.01)
    released = remote_utils.addresses  # and nobody is asked outside of this machine
    monkeypatch.setattr(remote_utils, "addresses", lambda url: [a for a in released(url) if a.startswith(base)])
    return server


def test_mirrors_in_order(mirrored: Server, tmp_path: Path) -> None:
    mirrored.script = [status(404), good]
    url = remote_utils.PREFIXES[0] + "jukebox/models/5b/vqvae.pth.tar"
    path = Path(remote_utils.fetch(url, progress=False))
    assert path == tmp_path / "models/5b/vqvae.pth.tar" and path.read_bytes() == BODY
    assert [r[0] for r in mirrored.requests] == [
        "/bad/jukebox/models/5b/vqvae.pth.tar",
        "/m/jukebox/models/5b/vqvae.pth.tar",
    ]
    assert remote_utils.fetch(url, progress=False) == str(path) and len(mirrored.requests) == 2


@pytest.mark.parametrize("harm", ["truncated", "empty", "changed"])
def test_damaged_file_is_named_and_fetched_again(
    mirrored: Server, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mirrored.script = [good]
    url = remote_utils.PREFIXES[0] + "jukebox/models/5b/w.pth.tar"
    path = Path(remote_utils.fetch(url, progress=False))
    noted = path.with_name(path.name + ".sha256").stat().st_mtime_ns
    path.write_bytes({"truncated": BODY[:1000], "empty": b"", "changed": b"!" + BODY[1:]}[harm])
    os.utime(path, ns=(noted + 10**9, noted + 10**9))
    assert remote_utils.fetch(url, progress=False) == str(path)
    assert path.read_bytes() == BODY
    assert f"{path} is damaged" in capsys.readouterr().err


def test_file_that_does_not_load_is_fetched_again(mirrored: Server, capsys: pytest.CaptureFixture[str]) -> None:
    content = io.BytesIO()
    torch.save({"model": {"w": torch.arange(3.0)}, "hps": {}}, content)
    mirrored.script = [other(content.getvalue())]
    url = remote_utils.PREFIXES[0] + "jukebox/models/5b/w.pth.tar"
    path = remote_utils.cache_path(url)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"<html>blocked by the proxy</html>")  # as wget may leave it
    assert load_checkpoint(url)["model"]["w"].tolist() == [0, 1, 2]
    assert f"{path} is damaged (it does not load): fetching it again" in capsys.readouterr().err
    path.write_bytes(b"bad")
    mirrored.script = [status(404)]
    with pytest.raises(UserError, match="cannot download w.pth.tar"):
        remote_utils.fetch(url, again=True, progress=False)
    assert path.read_bytes() == b"bad"


def test_file_put_there_by_hand_is_taken(mirrored: Server, tmp_path: Path) -> None:
    mirrored.script = [status(404)]
    path = tmp_path / "models/5b/w.pth.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(BODY)
    assert remote_utils.fetch(remote_utils.PREFIXES[0] + "jukebox/models/5b/w.pth.tar", progress=False) == str(path)
    assert mirrored.requests == []


def test_released_tables_are_checked_against_their_digests(mirrored: Server) -> None:
    mirrored.script = [other(b"the;1\nwrong;2\n")]
    with pytest.raises(UserError, match="14 bytes instead of 1,216"):
        remote_utils.fetch(remote_utils.PREFIXES[1] + "jukebox/data/ids/v2_genre_ids.txt", progress=False)


def test_two_at_once_download_once(mirrored: Server) -> None:
    mirrored.script = [good]
    url = remote_utils.PREFIXES[0] + "jukebox/models/5b/w.pth.tar"
    paths: list[str] = []
    threads = [threading.Thread(target=lambda: paths.append(remote_utils.fetch(url, progress=False))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3 and len(mirrored.requests) == 1


def test_full_disk_is_said_before(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(remote_utils.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="JUKEBOX_CACHE"):
        get(server, tmp_path / "w", [good])


# ------------------------------------------------------------------------------------------------- hostile servers


def raw(head: str, body: bytes = b"") -> Callable[[Handler, int], None]:
    """Exactly these lines and bytes."""
    return lambda handler, start: handler.wfile.write(head.replace("\n", "\r\n").encode() + body) and None


def drip(handler: Handler, start: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(BODY)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        for i in range(1000):
            handler.wfile.write(BODY[i : i + 1])
            time.sleep(0.02)


def silent(handler: Handler, start: int) -> None:
    time.sleep(1.0)


OK = "HTTP/1.0 200 OK\n"
CHUNKED = "HTTP/1.1 200 OK\nTransfer-Encoding: {}chunked\n\n"
HOSTILE = {
    "drips": (drip, r"under 1 kB a second, 5 times in a row"),
    "says nothing": (silent, "timed out, 5 times"),
    "gzip": (raw(f"{OK}Content-Encoding: gzip\nContent-Length: 4\n\n", b"PK\x03\x04"), r"packed \(gzip\)"),
    "gzip, chunked": (raw(CHUNKED.format("gzip, "), b"4\r\nPK\x03\x04\r\n0\r\n\r\n"), "packed"),
    "a page": (other(b"\n <!DOCTYPE html><html>sign in</html>"), "it begins with"),
    "a short text": (raw(f"{OK}\n", b"not found"), "it begins with b'not found'"),
    "a negative chunk": (raw(CHUNKED.format(""), b"-5\r\nPK\x03\x04\r\n"), "cannot download"),
    "a chunk of no number": (raw(CHUNKED.format(""), b"zz\r\nPK\x03\x04\r\n"), "5 times"),
    "no HTTP": (raw("hello\n\n"), "5 times"),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_hostile_servers(kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, message = HOSTILE[kind]
    monkeypatch.setattr(remote_utils, "SLOW", 0.1)
    monkeypatch.setattr(remote_utils, "TIMEOUT", 0.2 if kind == "says nothing" else 10.0)
    with pytest.raises(UserError, match=message):
        get(server, tmp_path / "w.pth.tar", [answer])
    assert not (tmp_path / "w.pth.tar").exists()
    get(server, tmp_path / "w.pth.tar", [good])
    assert (tmp_path / "w.pth.tar").read_bytes() == BODY


def test_a_query_belongs_to_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    urls = [f"{start}jukebox/w.pth.tar{end}" for start in ("https://a.b/", remote_utils.PREFIXES[0])
            for end in ("", "?version=1", "?version=2")]  # fmt: skip
    paths = [remote_utils.cache_path(url) for url in urls]
    assert len(set(paths)) == len(urls) and all(path.name.endswith("w.pth.tar") for path in paths)


def test_a_protected_connection_is_not_given_up() -> None:
    ask = remote_utils._Redirects().redirect_request
    request = urllib.request.Request("https://a.b/w")
    with pytest.raises(urllib.error.HTTPError, match="which is not https"):
        ask(request, None, 302, "Found", {}, "http://a.b/w")
    assert ask(request, None, 302, "Found", {}, "https://c.d/w").full_url == "https://c.d/w"
