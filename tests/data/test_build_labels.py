"""Custom label tables, through the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jukebox.data.build_labels import LabelSet, command, make_label_set
from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.data.labels import Labeller
from jukebox.data.metadata import SongLabels
from jukebox.hparams import setup_hparams
from jukebox.utils.audio.write import write_audio

SR = 8000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    songs = [
        (4, dict(artist="Nina", genre="Jazz", lyrics="мама\nмыла")),
        (6, dict(artist="nina", genre=["Hip-Hop", "Jazz"], lyrics="раму")),
        (9, dict(artist="AC/DC", genre="Hard Rock", lyrics="La")),
        (5, dict(artist="", genre=None)),
    ]
    for i, (seconds, labels) in enumerate(songs):
        write_audio(tmp_path / "songs" / f"{i}.wav", np.zeros(seconds * SR), SR)
        (tmp_path / "songs" / f"{i}.json").write_text(json.dumps(labels))
    return tmp_path / "songs"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        command(list(words))
    out = capsys.readouterr()
    return int(end.value.code or 0), out.out, out.err


def flags(printed: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+)=(\S+)", printed.rpartition("train with")[2]))


def test_tables_and_flags_that_train(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "build", f"--audio_files_dir={folder}")
    assert (status, err) == (0, "")
    assert (folder / "artist_ids.txt").read_text() == "unknown;0\nnina;1\nac/dc;2\n"
    assert (folder / "genre_ids.txt").read_text() == "unknown;0\nhard rock;1\nhip-hop;2\njazz;3\n"
    assert not (folder / "vocab.txt").exists()
    assert "'мама' is sung as 'mama' (--vocab=auto keeps all)" in out
    given = flags(out)
    assert given == dict(
        labels="True",
        labels_v3="True",
        labels_dir=str(folder),
        y_bins="4,3",
        max_bow_genre_size="1",
        min_duration="4",
        max_duration="11",
        n_vocab="79",
    )
    values = dict(audio_files_dir=str(folder), sr=SR, sample_length=SR, labels=True, labels_v3=True)
    values |= dict(labels_dir=str(folder), y_bins=[4, 3], max_bow_genre_size=1, min_duration=4.0, max_duration=11.0)
    data = FilesAudioDataset(setup_hparams("", values))
    assert len(data.files) == 4 and data[0][1].tolist()[3:5] == [1, 3] and data[5][1].tolist()[3:5] == [1, 2]


def test_words_as_genres(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "build", f"--audio_files_dir={folder}", "--labels_v3=False", f"--out={folder / 'v2'}")
    assert status == 0
    assert (folder / "v2" / "genre_ids.txt").read_text().split() == [
        "unknown;0",
        "jazz;1",
        "hard;2",
        "hip;3",
        "hop;4",
        "rock;5",
    ]
    assert (folder / "v2" / "artist_ids.txt").read_text().split() == ["unknown;0", "nina;1", "ac_dc;2"]
    assert flags(out)["y_bins"] == "6,3" and flags(out)["max_bow_genre_size"] == "3" and flags(out)["n_vocab"] == "80"


def test_another_alphabet(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("амлы \n", encoding="utf-8")
    status, out, _ = run(capsys, "build", f"--audio_files_dir={folder}", f"--vocab={tmp_path / 'mine.txt'}")
    assert status == 0 and flags(out)["n_vocab"] == "7"
    assert "left out: р у L a (--vocab=auto keeps all)" in out
    labeller = Labeller.from_folder(folder, 1, 4, 100, v3=True)
    assert labeller.get_label("nina", "jazz", "мама\nмыла", 1000, 0)["info"]["lyrics"] == "мама\nмыла"
    status, out, _ = run(capsys, "build", f"--audio_files_dir={folder}", "--vocab=auto")
    assert status == 0 and (folder / "vocab.txt").read_text(encoding="utf-8") == "\nLaалмруы" and "lacks" not in out
    status, _, err = run(capsys, "build", f"--audio_files_dir={folder}")
    assert status == 2 and "vocab.txt is there from before" in err


def test_a_known_chunk_sets_the_lower_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "build", f"--audio_files_dir={folder}", f"--sample_length={5 * SR + 1}", f"--sr={SR}")
    assert flags(out)["min_duration"] == "6" and ": 2 songs" in out


def test_a_function_of_ones_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text("def get_metadata(filename, test):\n    return 'Me', 'mine', ''\n")
    run(capsys, "build", f"--audio_files_dir={folder}", f"--metadata_py={tmp_path / 'mine.py'}")
    assert (folder / "artist_ids.txt").read_text() == "unknown;0\nme;1\n"


def test_timed_lyrics_of_every_source(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "0.json").write_text(json.dumps(dict(lyrics="[ar:x][00:01,50]mi <00:02.0>la\n[00:01,50]ми ла")))
    (folder / "1.mp3.json").unlink(missing_ok=True)
    (folder / "1.json").unlink()
    (folder / "1.LRC").write_text("[00:00:01.10]mi[00:01.30]la [00:02.00]")
    (folder / "2.json").unlink()
    (folder / "2.txt").write_text("1\n00:00:01,000 --> 00:00:02,000\nla\n")
    (folder / "3.json").unlink()
    (folder / "metadata.csv").write_text(
        'sep=;\nfile;lyrics\nC:\\M\\3.wav;"[1500,900]ma(1500,300)(1,2)"\nx.wav;"la"\n;\n'
    )
    (folder / "gone.lrc").write_text("[00:01.00]la")
    status, out, _ = run(capsys, "build", f"--audio_files_dir={folder}", "--vocab=auto", "--lyric_line=1")
    assert status == 0 and (folder / "vocab.txt").read_text() == "\n ailm".replace("\n", "")
    assert "1 of the 2 rows of metadata.csv name no file here: row 4 'x.wav'" in out
    assert "1 file of labels or lyrics without a song here: gone.lrc" in out
    assert "'mi la', not 'ми ла'" in out and "--lyric_line" not in out.rpartition("train with")[2]
    status, out, _ = run(capsys, "build", f"--audio_files_dir={folder}", "--vocab=auto", "--lyric_line=2")
    assert "л" in (folder / "vocab.txt").read_text() and out.rstrip().endswith("--lyric_line=2")
    assert run(capsys, "build", f"--audio_files_dir={folder}", "--lyric_line=0")[0] == 2


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)[0] == 2
    assert "is not a folder" in run(capsys, "build")[2]
    (tmp_path / "bad.wav").write_text("x")
    assert "no audio file that can be decoded" in run(capsys, "build", f"--audio_files_dir={tmp_path}")[2]
    assert "did you mean --vocab" in run(capsys, "build", "--vokab=x")[2]
    assert "--vocab" in run(capsys, "--help")[1]


def test_as_a_module(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jukebox.data.labels", "build", f"--audio_files_dir={folder}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and "--y_bins=4,3" in done.stdout and done.stderr == ""


def test_ids_go_by_frequency() -> None:
    songs = [(SongLabels(artist), 10.0) for artist in ("b", "a", "c", "c", "unknown", "")]
    made = make_label_set(songs)
    assert isinstance(made, LabelSet)
    assert made.artist_ids == {"unknown": 0, "c": 1, "a": 2, "b": 3}
    assert (made.min_duration, made.max_duration, made.genre_ids) == (10.0, 12.0, {"unknown": 0})
