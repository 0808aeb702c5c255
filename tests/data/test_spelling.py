"""What lyrics become in an alphabet that lacks their letters, and that it is said."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from jukebox.data import spelling
from jukebox.data.fit_labels import labels_for
from jukebox.data.labels import Labeller
from jukebox.data.metadata import Notices, SongLabels
from jukebox.data.spelling import read_for, spelling_notes
from jukebox.data.text_processor import TextProcessor

READINGS = {"夜": "Yoru", "に": "ni", "駆ける": "kakeru", "空": "Sora", "。": "."}
LINE = "夜に駆ける"


class FakeCutlet:
    """Knows some words and reads them as the real one does."""

    use_foreign_spelling = True

    def tagger(self, text: str) -> list[Any]:
        words = []
        while text:
            text = text.lstrip()
            word = next((word for word in READINGS if text.startswith(word)), text[:1])
            words.append(SimpleNamespace(surface=word))
            text = text[len(word) :]
        return words

    def romaji_tokens(self, words: list[Any]) -> list[Any]:
        after = [*(word.surface for word in words[1:]), ""]
        read = [READINGS.get(word.surface, word.surface) for word in words]
        return [SimpleNamespace(surface=r, space=n not in ("", "。")) for r, n in zip(read, after, strict=True)]


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "cutlet", SimpleNamespace(Cutlet=FakeCutlet))
    spelling._reader.cache_clear()
    yield
    spelling._reader.cache_clear()


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cutlet":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    spelling._reader.cache_clear()
    yield
    spelling._reader.cache_clear()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mila sola\n(la), 'ti'", []),
        ("café", ["spelt with others: 'café' is sung as 'cafe' (K)"]),
        ("la\nпесня ё", ["spelt with others: 'песня ё' is sung as 'pesnia io' (K)"]),
        ("你好 ☃☃", ["left out: ☃ x4 (K)", "'你好 ☃☃' is sung as 'Ni Hao' (K)"]),
        (LINE, ["'夜に駆ける' is sung as 'Ye niQu keru' (K)", "Chinese readings so; the extra `japanese`"]),
        ("かける", ["is sung as 'kakeru' (K)"]),
        ("“la” – lo…", []),  # signs are not letters
        ("é" * 90, ["'" + "é" * 37 + "...'"]),
    ],
)
def test_what_becomes_of_letters_is_said(no_extra: None, text: str, said: list[str]) -> None:
    lines = spelling_notes(TextProcessor(v3=True), [text, text], "K")
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True)), lines


def test_an_alphabet_that_has_the_letters_keeps_them(extra: None) -> None:
    processor = TextProcessor(vocab=LINE + "é ")
    assert read_for(processor, LINE, None) == (LINE, None) and spelling_notes(processor, [LINE, "é"], "K") == []


def test_japanese_is_read_where_the_extra_is_installed(extra: None) -> None:
    processor = TextProcessor(v3=True)
    text = "la la\n夜に駆ける。\n\n空"
    times = [(float(i), i + 1.0) for i in range(len(text))]
    read, spans = read_for(processor, text, times)
    assert read == "la la\nYoru ni kakeru.\n\nSora"
    assert spans is not None and len(spans) == len(read)
    assert spans[0] == (0, 1) and spans[5] == (5, 6)
    assert spans[6] == (6, pytest.approx(6.2)) and spans[11] == (7, pytest.approx(7 + 1 / 3))  # 夜 is "Yoru ", に "ni "
    assert spans[-1] == (pytest.approx(14.75), 15)
    starts = [start for start, _ in spans]
    assert starts == sorted(starts)
    (line,) = spelling_notes(processor, ["la", text], "K")
    assert line == "Japanese lyrics are read: '夜に駆ける。' is sung as 'Yoru ni kakeru.' (K)"
    assert read_for(processor, "你好", None) == ("你好", None)  # Chinese is not Japanese


def test_signs_that_the_reader_does_not_know_stay(extra: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: FakeCutlet, words: list[Any]) -> list[Any]:
        raise KeyError("ゟ")

    monkeypatch.setattr(FakeCutlet, "romaji_tokens", unknown)
    assert read_for(TextProcessor(v3=True), "夜ゟ\nla", None) == ("夜ゟ\nla", None)


def test_training_reads_as_sampling_does(extra: None) -> None:
    labeller = Labeller(1, 8, 100, True, {"unknown": 0, "a": 1}, {"unknown": 0, "b": 1})
    times = tuple((float(i), i + 1.0) for i in range(5))
    notices = Notices()
    labels = labels_for(labeller, SongLabels("a", "b", LINE, times), notices, "x.mp3")
    assert labels.lyrics == "Yoru ni kakeru" and labels.times is not None and len(labels.times) == 14
    assert notices.counts == {}
    assert labeller.get_label("a", "b", labels.lyrics, 5000, 0, labels.times)["info"]["lyrics"] == "Yoru ni kakeru"


def test_with_the_real_reader() -> None:
    pytest.importorskip("cutlet")
    spelling._reader.cache_clear()
    text = "夜に駆ける\n「さよなら」だけだった LA LA"
    read, spans = read_for(TextProcessor(v3=True), text, [(i, i + 1) for i in range(len(text))])
    assert read.splitlines()[0] == "Yoru ni kakeru" and "sayonara" in read and read.endswith("LA LA")
    assert spans is not None and len(spans) == len(read)
