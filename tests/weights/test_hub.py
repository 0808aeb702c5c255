"""Weights from the hub, by its own client, and from the release's hosts: a server on this machine plays all of them."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from jukebox.loaders import find_model
from jukebox.utils import remote_utils
from jukebox.utils.errors import UserError
from jukebox.weights import hub
from jukebox.weights.hub import weights_folder

RECORDED = Path(__file__).parents[1] / "parity" / "recorded" / "merged_lyrics"
FILES = {name: (RECORDED / name).read_bytes() for name in ("config.json", "model.safetensors")}
SHA = "0123456789abcdef0123456789abcdef01234567"


class Handler(http.server.BaseHTTPRequestHandler):
    """A repository OWNER/NAME with `FILES`; `server.trouble` says what goes wrong with the weights."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802
        self.do_GET()

    def do_GET(self) -> None:  # noqa: N802
        self.server.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/owner/name/revision/"):
            return self.reply(
                json.dumps({"id": "owner/name", "sha": SHA, "siblings": list(map(sibling, FILES))}).encode()
            )
        name = path.rpartition("/")[2]
        if not path.startswith(f"/owner/name/resolve/{SHA}/") or name not in FILES:
            return self.reply(b"", 404)
        body, announced = FILES[name], len(FILES[name])
        if name == "model.safetensors" and self.command == "GET":
            body = {"cut": body[: len(body) // 2], "wrong": body[:-1] + b"?"}.get(self.server.trouble, body)
        self.reply(body, announced=announced, etag=hashlib.sha256(FILES[name]).hexdigest())

    def reply(self, body: bytes, status: int = 200, announced: int | None = None, etag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        if etag:
            self.send_header("ETag", f'"{etag}"')
            self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    trouble = ""
    asked: list[str]


def sibling(name: str) -> dict[str, object]:
    body = FILES[name]
    lfs = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return {"rfilename": name, "size": len(body), "blobId": SHA, **({"lfs": lfs} if name != "config.json" else {})}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.asked = []
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{running.server_address[1]}")
        monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
        yield running
        running.shutdown()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")


def test_dead_cut_wrong_then_right(
    server: Server, client: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    by_hand = (
        "Download the files of https://huggingface.co/owner/name/tree/v1 by hand .* and give --weights_from=FOLDER"
    )
    there = tmp_path / "cache" / "hub" / "owner--name@v1"
    with monkeypatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(UserError, match=f"cannot be fetched from the Hugging Face hub .*{by_hand}"):
            find_model("", "owner/name@v1")
    for trouble in ("cut", "wrong"):
        server.trouble = trouble
        with pytest.raises(UserError, match=f"there is no such folder, and .* hub .*{by_hand}"):
            find_model("", "owner/name@v1")
        assert not (there / "model.safetensors").exists() and not (there / hub.COMPLETE).exists()
    server.trouble = ""
    model = find_model("", "owner/name@v1")
    assert (there / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert len(model.levels) == 3 and model.vqvae_hps.restore_vqvae == f"{there}#vqvae"
    asked = len(server.asked)
    assert weights_folder("owner/name@v1") == str(there) and len(server.asked) == asked  # once is enough
    (there / "model.safetensors").write_bytes(b"damaged")
    assert weights_folder("owner/name@v1") == str(there)
    assert (there / "model.safetensors").read_bytes() == FILES["model.safetensors"] and len(server.asked) > asked
    with pytest.raises(UserError, match="owner/other: there is no such folder"):
        find_model("", "owner/other")


def test_without_the_client(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="no such folder, .* not installed: pip install huggingface_hub; or download"):
        find_model("1b_lyrics", "openai/jukebox-1b-lyrics")


def test_folders_are_not_looked_for_on_the_hub(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/name").mkdir(parents=True)
    for given in ("owner/name", "a/b/c", "/nowhere", "nowhere"):
        assert weights_folder(given) == given
    assert server.asked == []


@pytest.mark.parametrize("files, wanted", [
    (["model.safetensors", "pytorch_model.bin", "README.md"], ["model.safetensors"]),
    (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "x.bin"], None),
    (["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors", "tf_model.h5"], None),
])  # fmt: skip
def test_which_files_are_taken(files: list[str], wanted: list[str] | None) -> None:
    expected = wanted if wanted is not None else [name for name in files if name not in ("x.bin", "tf_model.h5")]
    assert hub._wanted({name: name for name in files}) == expected


def test_the_hosts_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user's mirror is dead, the first host sends a page, the second one the file."""

    class Hosts(http.server.BaseHTTPRequestHandler):
        bodies = {"/first/": b"<html>gone</html>", "/second/": b"PK\x03\x04weights"}

        def do_GET(self) -> None:  # noqa: N802
            body = next(body for start, body in self.bodies.items() if self.path.startswith(start))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hosts) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        base = f"http://127.0.0.1:{running.server_address[1]}"
        monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
        monkeypatch.setenv("JUKEBOX_MIRROR", "http://127.0.0.1:9/mine")
        monkeypatch.setattr(remote_utils, "FIRST_WAIT", 0.01)
        monkeypatch.setattr(remote_utils, "PREFIXES", (f"{base}/first/",))
        monkeypatch.setattr(remote_utils, "ALSO", {f"{base}/first/": (f"{base}/second/",)})
        url = f"{base}/first/jukebox/models/1b_lyrics/prior_level_2.pth.tar"
        good, Hosts.bodies["/second/"] = Hosts.bodies["/second/"], b"<!doctype html>"
        with pytest.raises(UserError) as caught:
            remote_utils.fetch(url, progress=False)
        for part in (":9/mine/jukebox/models", "/first/jukebox", "/second/jukebox", "begins with b'<!doctype",
                     "set JUKEBOX_MIRROR", "add --weights_from=openai/jukebox-1b-lyrics", "by hand"):  # fmt: skip
            assert part in str(caught.value)
        assert not list(tmp_path.rglob("*.tar"))
        Hosts.bodies["/second/"] = good
        assert Path(remote_utils.fetch(url, progress=False)).read_bytes() == good
        running.shutdown()
