"""The index of a folder: files are opened once, changes are seen, and no place to write is not a problem."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jukebox.utils.audio import scan
from jukebox.utils.audio.index import INDEX_NAME, AudioIndex, find_audio_files, get_duration_sec
from jukebox.utils.audio.reader import AudioError
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "music"
    for i in range(3):
        write_audio(root / f"{i}.wav", np.zeros(8000 * (i + 1)), 8000, tags=dict(artist=f"a{i}"))
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were opened."""
    names: list[str] = []
    original = scan.about_audio
    monkeypatch.setattr(scan, "about_audio", lambda path: (names.append(Path(path).name), original(path))[1])
    return names


def test_files_are_opened_once_and_again_when_they_change(folder: Path, opened: list[str]) -> None:
    names = ["0.wav", "1.wav", "2.wav"]
    entries = AudioIndex(folder).look_up(names)
    assert list(entries) == names and [e.seconds for e in entries.values()] == [1.0, 2.0, 3.0]
    assert entries["1.wav"].tags["artist"] == "a1" and sorted(opened) == names
    assert AudioIndex(folder).look_up(names) == entries and len(opened) == 3
    write_audio(folder / "1.wav", np.zeros(4000), 8000)
    assert AudioIndex(folder).look_up(names)["1.wav"].seconds == 0.5
    assert opened[3:] == ["1.wav"]
    (folder / "0.wav").unlink()
    (folder / "2.wav").touch()
    AudioIndex(folder).look_up(names[1:])
    assert set(json.loads((folder / INDEX_NAME).read_text())["files"]) == {"1.wav", "2.wav"}


def test_one_small_index_file_beside_the_data_or_in_the_cache(folder: Path, opened: list[str], tmp_path: Path) -> None:
    AudioIndex(folder).look_up(["0.wav"])
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == [INDEX_NAME]
    (folder / INDEX_NAME).unlink()
    (folder / INDEX_NAME).mkdir()  # as good as a folder that cannot be written
    AudioIndex(folder).look_up(["0.wav"])
    assert AudioIndex(folder).look_up(["0.wav"])["0.wav"].seconds == 1.0 and len(opened) == 2
    assert len(list((tmp_path / "cache" / "audio_index").iterdir())) == 1


def test_nowhere_to_write_is_no_trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / INDEX_NAME).mkdir()
    (folder / "file").write_text("")
    monkeypatch.setenv("JUKEBOX_CACHE", str(folder / "file"))
    assert AudioIndex(folder).look_up(["2.wav"])["2.wav"].seconds == 3.0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 99, "files": {}}', '{"version": 1, "files": {"0.wav": {"x": 1}}}']
)
def test_a_damaged_index_is_made_again(folder: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / INDEX_NAME).write_text(content)
    assert AudioIndex(folder).look_up(["0.wav"])["0.wav"].seconds == 1.0
    told = "" if "version" in content else f"{folder / INDEX_NAME} is damaged: it is made again\n"
    assert capsys.readouterr().err == told
    assert json.loads((folder / INDEX_NAME).read_text())["files"]["0.wav"]["seconds"] == 1.0


def test_broken_files_have_an_error_and_are_tried_again(folder: Path, opened: list[str]) -> None:
    (folder / "bad.mp3").write_bytes(b"nothing")
    stamp = os.stat(folder / "bad.mp3")
    entry = AudioIndex(folder).look_up(["bad.mp3"])["bad.mp3"]
    assert "bad.mp3" in entry.error and entry.seconds == 0
    write_audio(folder / "good.wav", np.zeros(8), 8000)
    (folder / "good.wav").replace(folder / "bad.mp3")
    os.utime(folder / "bad.mp3", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert not AudioIndex(folder).look_up(["bad.mp3"])["bad.mp3"].error
    assert opened == ["bad.mp3", "bad.mp3"]


def test_durations_of_single_files(folder: Path, opened: list[str]) -> None:
    assert get_duration_sec(folder / "1.wav") == get_duration_sec(folder / "1.wav") == 2.0
    assert opened == ["1.wav"]
    assert get_duration_sec(str(folder / "1.wav"), cache=False) == 2.0
    (folder / "bad.ogg").write_bytes(b"")
    with pytest.raises(AudioError, match=r"bad\.ogg"):
        get_duration_sec(folder / "bad.ogg")


def test_finding_files(folder: Path) -> None:
    for name in ("b/Zoë.MP3", "b/.hidden.wav", ".git/x.wav", "notes.txt", "README", "b/cover.jpg", "a.opus"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    names, others, unread = find_audio_files(folder)
    assert names == ["0.wav", "1.wav", "2.wav", "a.opus", "b/Zoë.MP3"]
    assert others == {"txt": 1, "": 1, "jpg": 1} and not unread
    for missing in (folder / "no", folder / "0.wav", ""):
        with pytest.raises(UserError, match="is not a folder"):
            find_audio_files(missing)


def test_links_bring_no_song_twice(tmp_path: Path) -> None:
    music = tmp_path / "music"
    (music / "a").mkdir(parents=True)
    (music / "a" / "one.wav").touch()
    (music / "again").symlink_to(music / "a")
    (music / "loop").symlink_to(music)
    assert find_audio_files(music)[0] == ["a/one.wav"]


def many(folder: Path, count: int) -> list[str]:
    write_audio(folder / "0.wav", np.zeros(800), 8000)
    for i in range(1, count):
        (folder / f"{i}.wav").write_bytes((folder / "0.wav").read_bytes())
    return [f"{i}.wav" for i in range(count)]


def test_many_files_are_opened_by_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan, "MANY", 200)
    names = many(tmp_path, 230)
    (tmp_path / "77.wav").write_text("no music")
    odd = os.fsdecode(b"caf\xe9 \n.wav")
    (tmp_path / odd).write_bytes((tmp_path / "0.wav").read_bytes())
    found = AudioIndex(tmp_path).look_up([*names, odd], workers=3)
    assert list(found) == [*names, odd]
    assert [name for name, entry in found.items() if entry.seconds != 0.1] == ["77.wav"]
    assert "77.wav" in found["77.wav"].error
    assert "scanning audio files: 100%" in capfd.readouterr().err
    monkeypatch.setattr(scan, "MANY", 10**9)
    assert AudioIndex(tmp_path).look_up([*names, odd]) == found


def test_a_file_that_crashes_the_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MANY", 10)
    names = many(tmp_path, 60)
    package = tmp_path / "crash"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        "import os, builtins\nreal = os.stat\n"
        "def stat(path, *a, **k):\n"
        "    if str(path).endswith('/31.wav'): os.abort()\n"
        "    return real(path, *a, **k)\n"
        "os.stat = stat\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package))
    found = AudioIndex(tmp_path).look_up(names, workers=2)
    assert [name for name, entry in found.items() if entry.error] == ["31.wav"]
    assert "31.wav: the decoder crashes" in found["31.wav"].error


def test_what_an_interrupted_scan_knows_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = many(tmp_path, 40)
    original = scan.about_audio

    def about(path: str) -> object:
        if path.endswith("/30.wav"):
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(scan, "about_audio", about)
    with pytest.raises(KeyboardInterrupt):
        AudioIndex(tmp_path).look_up(names, workers=1)
    assert set(names[:25]) <= set(json.loads((tmp_path / INDEX_NAME).read_text())["files"])


@pytest.mark.parametrize(
    "entry",
    [
        {"size": "1"},
        {"mtime_ns": 1.5},
        {"seconds": float("nan")},
        {"seconds": -1.0},
        {"seconds": None},
        {"seconds": 1e300},
        {"tags": ["a"]},
        {"tags": {"artist": 3}},
        {"error": None},
        {"cut": 1},
        {"more": 1},
    ],
)
def test_an_index_that_holds_something_else_is_made_again(
    folder: Path, opened: list[str], entry: dict[str, object]
) -> None:
    AudioIndex(folder).look_up(["0.wav", "1.wav"])
    stored = json.loads((folder / INDEX_NAME).read_text())
    stored["files"]["0.wav"].update(entry)
    (folder / INDEX_NAME).write_text(json.dumps(stored))
    opened.clear()
    assert AudioIndex(folder).look_up(["0.wav", "1.wav"])["0.wav"].seconds == 1.0 and len(opened) == 2


@pytest.mark.parametrize("text", ["[]", "3", '{"version": 2, "files": []}', "[" * 100_000, '{"version": 2}', "\xff"])
def test_an_index_of_another_form_is_made_again(folder: Path, text: str) -> None:
    (folder / INDEX_NAME).write_text(text, encoding="latin-1")
    assert AudioIndex(folder).look_up(["0.wav"])["0.wav"].seconds == 1.0
