"""A folder of real encoded files as a data set."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jukebox.data.build_labels import make_label_set, read_labels, write_label_set
from jukebox.data.files_dataset import FilesAudioDataset
from jukebox.data.metadata import Notices
from jukebox.hparams import Hyperparams, setup_hparams
from jukebox.utils.audio.read import load_audio
from jukebox.utils.audio.write import write_audio
from jukebox.utils.errors import UserError

SR, CHUNK = 16000, 16384


def hparams(folder: Path, **values: Any) -> Hyperparams:
    base = dict(audio_files_dir=str(folder), sr=SR, sample_length=CHUNK, labels=False)
    return setup_hparams("", {**base, **values})


@pytest.fixture(scope="module")
def label_folder(song_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labels")
    write_label_set(make_label_set(read_labels(str(song_folder), "", Notices())), out)
    return out


def labelled(folder: Path, label_folder: Path, **values: Any) -> Hyperparams:
    more = dict(
        labels=True, labels_v3=True, labels_dir=str(label_folder), max_bow_genre_size=1, y_bins=[9, 9], n_vocab=79
    )
    return hparams(folder, **{**more, "n_tokens": 16, "use_tokens": True, **values})


def test_items_are_the_songs_in_order(song_folder: Path) -> None:
    data = FilesAudioDataset(hparams(song_folder))
    assert len(data.files) == 12 and data.names == sorted(data.names)
    assert len(data) == sum(data.durations) // CHUNK
    assert {Path(f).suffix for f in data.files} == {".wav", ".flac", ".mp3", ".m4a", ".opus", ".ogg"}
    for item in (0, 7, len(data) - 1, -1):
        x = data[item]
        assert x.shape == (CHUNK, 2) and x.dtype == np.float32
        song, offset = data.locate(item % len(data), 0)
        expected, _ = load_audio(data.files[song], SR, offset, CHUNK)
        assert np.array_equal(x, expected.T)
        assert np.abs(x).max() > 0.05
    with pytest.raises(IndexError):
        data[len(data)]


def test_mono_is_a_setting(song_folder: Path) -> None:
    assert FilesAudioDataset(hparams(song_folder, channels=1))[3].shape == (CHUNK, 1)


def test_shifts_depend_on_seed_epoch_and_item_alone(song_folder: Path) -> None:
    def places(**values: Any) -> list[list[tuple[int, int]]]:
        data = FilesAudioDataset(hparams(song_folder, **values))
        return [[data.locate(item, epoch) for item in range(len(data))] for epoch in (0, 1)]

    plain, shifted = places(), places(aug_shift=True)
    assert plain[0] == plain[1] and shifted[0] != shifted[1] and shifted[0] != plain[0]
    assert places(aug_shift=True) == shifted and places(aug_shift=True, seed=1) != shifted
    data = FilesAudioDataset(hparams(song_folder, aug_shift=True))
    assert np.array_equal(data[1, 5], data[1, 5]) and np.array_equal(data[0, 5], data[5])
    assert not np.array_equal(data[1, 5], data[0, 5])
    songs = [song for song, _ in shifted[0]]
    assert len(set(songs)) == 12


def test_split_holds_out_whole_songs(song_folder: Path) -> None:
    data = FilesAudioDataset(hparams(song_folder, aug_shift=True))
    train, test = data.split(0.75)
    assert len(train.songs) == 9 and len(test.songs) == 3 and not set(train.songs) & set(test.songs)
    for part in (train, test):
        assert {part.locate(item, epoch)[0] for item in range(len(part)) for epoch in range(5)} == set(part.songs)
    assert np.array_equal(test[3, 0], test[4, 0])  # held-out chunks are not shifted
    assert len(data) >= len(train) + len(test)


# --------------------------------------------------------------------------------------------------- labels


def test_labels_of_sidecars(song_folder: Path, label_folder: Path) -> None:
    data = FilesAudioDataset(labelled(song_folder, label_folder))
    for item in range(0, len(data), 5):
        x, y = data[item]
        song, offset = data.locate(item, 0)
        said = json.loads(Path(data.files[song]).with_suffix(".json").read_text())
        assert x.shape == (CHUNK, 2) and y.shape == (4 + 1 + 16,) and y.dtype == np.int64
        assert y[:3].tolist() == [data.durations[song], offset, CHUNK]
        assert data.labeller is not None
        described = data.labeller.describe_label(y)
        assert (described["artist"], described["genre"]) == (said["artist"], said["genre"])
        assert described["lyrics"] in said["lyrics"] and len(described["lyrics"]) == 16
    assert not any("unknown" in line or "lyrics" in line for line in data.describe())


def test_times_follow_the_lrc_files(song_folder: Path, label_folder: Path) -> None:
    data = FilesAudioDataset(labelled(song_folder, label_folder), with_times=True)
    for item in range(len(data)):
        x, y, times = data[item]
        assert times.shape == (16, 2) and (times[:, 1] >= times[:, 0]).all()
        # The window of lyrics is centred on what is sung in this chunk.
        inside = (times[:, 1] > 0) & (times[:, 0] < CHUNK)
        if inside.any():
            place = np.arange(16)[inside].mean()
            first, last = times[0, 0] <= 0, times[-1, 1] >= CHUNK
            assert not (first and last) or 4 <= place <= 11
    # A sung "s" hisses just where its time says.
    hits = []
    for item in range(len(data)):
        x, y, times = data[item]
        text = [data.labeller.text_processor.characters[t] for t in y[-16:].tolist()]  # type: ignore[union-attr]
        for c, (start, end) in zip(text, times.tolist(), strict=True):
            if c in "sml" and start >= 0 and start + 900 <= end <= CHUNK:
                piece = torch.from_numpy(x[start:end]).mean(dim=1)
                spectrum = torch.fft.rfft(piece * torch.hann_window(len(piece))).abs().square()
                hz = torch.arange(len(spectrum)) * SR / len(piece)
                hits.append((c, (spectrum[(hz > 3000) & (hz < 5600)].sum() / spectrum.sum()).item()))
    hiss = np.mean([v for c, v in hits if c == "s"])
    hum = np.mean([v for c, v in hits if c in "ml"])
    assert len(hits) > 20 and hiss > 0.4 and hum < 0.1


def test_tables_that_do_not_fit_are_refused_with_the_right_numbers(song_folder: Path, label_folder: Path) -> None:
    with pytest.raises(UserError, match=r"--y_bins=\d,\d"):
        FilesAudioDataset(labelled(song_folder, label_folder, y_bins=[2, 2]))
    with pytest.raises(UserError, match="--n_vocab=79"):
        FilesAudioDataset(labelled(song_folder, label_folder, n_vocab=40))
    with pytest.raises(UserError, match="labels build"):
        FilesAudioDataset(labelled(song_folder, song_folder))
    with pytest.raises(UserError, match="--labels=False"):
        FilesAudioDataset(hparams(song_folder, labels=True, prior=True))
    assert not FilesAudioDataset(hparams(song_folder, labels=True)).labels  # a VQ-VAE has no use for them


def test_one_line_for_each_kind_of_trouble(song_folder: Path, label_folder: Path, tmp_path: Path) -> None:
    for i in range(4):
        shutil.copy(song_folder / "wav" / "song_0000.wav", tmp_path / f"{i}.wav")
    (tmp_path / "0.json").write_text(json.dumps(dict(artist="Ana Bel", genre="waltz", lyrics="la")))
    (tmp_path / "1.json").write_text("{")
    data = FilesAudioDataset(labelled(tmp_path, label_folder))
    lines = data.describe()
    assert sum("not in the label table" in line for line in lines) == 1
    assert any("'Ana Bel', nearest are anna bell" in line for line in lines)
    assert any("no lyrics" in line and line.startswith("3 of") for line in lines)
    assert any("not a JSON object" in line for line in lines)
    assert all(data[i][1].shape == (21,) for i in range(len(data)))


class Mine(FilesAudioDataset):
    """Labels by a custom function, which fails now and then."""

    def get_metadata(self, filename: str, test: bool) -> tuple[Any, Any, Any]:
        if "mp3" in filename:
            raise RuntimeError("no database")
        if "ogg" in filename:
            return None  # type: ignore[return-value]
        return "clara reed", "blues", 1234 if "wav" in filename else "la la la"


def test_overriding_get_metadata(song_folder: Path, label_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Mine(labelled(song_folder, label_folder, y_bins=[9, 9]))
    assert data.labeller is not None
    said = {}
    for item in range(len(data)):
        song, _ = data.locate(item, 0)
        said[Path(data.files[song]).suffix] = data.labeller.describe_label(data[item][1])
    assert said[".mp3"] == said[".ogg"] == dict(artist="unknown", genre="unknown", lyrics="")
    assert said[".flac"]["lyrics"] == "la la la" and said[".wav"]["lyrics"] == "1234"
    printed = capsys.readouterr().err
    assert printed.count("no database") == 1 and printed.count("did not return") == 1


def test_a_function_from_a_file(song_folder: Path, label_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def get_metadata(filename, test):\n    return 'otto organ', 'disco', 'test' if test else 'train'\n"
    )
    data = FilesAudioDataset(labelled(song_folder, label_folder, metadata_py=str(path), aug_shift=True))
    train, test = data.split(0.5)
    train = pickle.loads(pickle.dumps(train))  # as workers get it where processes are spawned
    assert data.labeller is not None
    assert data.labeller.describe_label(train[0][1])["lyrics"] == "train"
    assert data.labeller.describe_label(test[0][1])["lyrics"] == "test"
    with pytest.raises(UserError, match="is not a file"):
        FilesAudioDataset(labelled(song_folder, label_folder, metadata_py=str(tmp_path / "none.py")))


# -------------------------------------------------------------------------------------------- unusable folders


def test_folders_that_cannot_be_used_say_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        FilesAudioDataset(hparams(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"found nothing; accepted are \.wav"):
        FilesAudioDataset(hparams(tmp_path))
    for name in ("a.txt", "b.txt", "c.mid", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=r"found 2 \.txt, 1 without an ending, 1 \.mid"):
        FilesAudioDataset(hparams(tmp_path))
    (tmp_path / "broken.mp3").write_text("x")
    with pytest.raises(UserError, match=r"found 1 \.mp3, none of which can be decoded"):
        FilesAudioDataset(hparams(tmp_path))
    for i in range(3):
        write_audio(tmp_path / f"{i}.wav", np.zeros(SR), SR)
    with pytest.raises(
        UserError, match=r"3 \.wav, 1 \.mp3, 1\.0 to 1\.0 s long; songs must be 2 s or longer .*is 1\.0 s"
    ):
        FilesAudioDataset(hparams(tmp_path))
    with pytest.raises(UserError, match=r"--min_duration=2"):
        FilesAudioDataset(hparams(tmp_path, min_duration=1.0))
    with pytest.raises(UserError, match="sample_length=0"):
        FilesAudioDataset(hparams(tmp_path, sample_length=0))


def test_limits_of_duration(tmp_path: Path) -> None:
    for seconds in (1, 3, 5):
        write_audio(tmp_path / f"{seconds}.wav", np.zeros(seconds * SR), SR)
    data = FilesAudioDataset(hparams(tmp_path, max_duration=5.0))
    assert data.names == ["3.wav"]
    assert data.describe()[0].endswith("2 left out, songs must be 2 s or longer and shorter than 5 s")
    assert FilesAudioDataset(hparams(tmp_path, sample_length=SR)).names == ["1.wav", "3.wav", "5.wav"]


def test_broken_files_are_named_once_and_left_out(tmp_path: Path, song_folder: Path) -> None:
    shutil.copy(song_folder / "mp3" / "song_0000.mp3", tmp_path / "good.mp3")
    (tmp_path / "bad.mp3").write_bytes(b"\0" * 2000)
    lines = FilesAudioDataset(hparams(tmp_path)).describe()
    assert lines[0].startswith("1 song,") and sum("bad.mp3" in line for line in lines) == 1


def test_a_file_that_breaks_is_told_by_one_worker(
    tmp_path: Path, song_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        shutil.copy(song_folder / "flac" / "song_0000.flac", tmp_path / f"{i}.flac")
    data = FilesAudioDataset(hparams(tmp_path))
    (tmp_path / "1.flac").write_bytes(b"gone bad")
    for _ in range(2):  # a worker of its own each time
        assert len(list(torch.utils.data.DataLoader(data, num_workers=1))) == len(data)
    assert capfd.readouterr().err.count("1.flac") == 1


def test_a_file_that_breaks_while_training(
    tmp_path: Path, song_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        shutil.copy(song_folder / "flac" / "song_0000.flac", tmp_path / f"{i}.flac")
    data = FilesAudioDataset(hparams(tmp_path))
    (tmp_path / "1.flac").write_bytes(b"gone bad")
    assert all(np.abs(data[item]).max() > 0 for item in range(len(data)))
    assert capsys.readouterr().err.count("1.flac") == 1
    for i in range(3):
        (tmp_path / f"{i}.flac").unlink()
    with pytest.raises(UserError, match="any more"):
        data[0]


def test_labels_without_tables_say_how_to_make_some(
    song_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUKEBOX_CACHE", str(tmp_path))
    monkeypatch.setenv("JUKEBOX_MIRROR", "http://127.0.0.1:9")  # where no server answers
    monkeypatch.setattr("jukebox.utils.remote_utils.time.sleep", lambda _: None)
    values = dict(labels=True, labels_v3=True, max_bow_genre_size=1, y_bins=[9, 9], n_vocab=79)
    with pytest.raises(UserError, match="python -m jukebox.data.labels build --audio_files_dir=.*--labels_dir="):
        FilesAudioDataset(hparams(song_folder, **values))
