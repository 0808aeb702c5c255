"""Lyrics as tokens; the released vocabularies themselves are checked by the golden cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from jukebox.data.text_processor import VOCAB_V2, VOCAB_V3, TextProcessor, make_vocabulary, read_vocabulary
from jukebox.utils.errors import UserError


def test_sizes_and_the_one_character_between_them() -> None:
    assert TextProcessor().n_vocab == 80 and TextProcessor(v3=True).n_vocab == 79
    assert set(VOCAB_V2) - set(VOCAB_V3) == {"+"}


def test_cleaning_goes_character_by_character() -> None:
    processor = TextProcessor(v3=True)
    text = "Ünïcode—“ok” \\ 日本 😀\r\n"
    assert processor.clean(text) == "".join(processor.clean(c) for c in text) == 'Unicode--"ok" \n Ri Ben  \n'
    tokens = processor.tokenise(processor.clean(text))
    assert processor.textise([0, *tokens, 0]) == processor.clean(text)
    with pytest.raises(KeyError):
        processor.tokenise("é")


def test_another_alphabet_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\ufeffабвгд é\r\nабв", encoding="utf-8")
    vocab = read_vocabulary(path)
    assert vocab == "абвгд é\n"
    processor = TextProcessor(vocab=vocab)
    assert processor.n_vocab == 9
    assert processor.clean("да! ва\\e\u0301 ж") == "да ва\né "  # composed; what is foreign is dropped
    assert processor.tokenise("да") == [5, 1]
    assert make_vocabulary(["abca", "\r\n", "a"]) == "abc\n"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"\r\n"[:1]])
def test_an_unusable_vocabulary_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"vocab\.txt"):
        read_vocabulary(path)
    with pytest.raises(UserError, match="missing"):
        read_vocabulary(tmp_path / "missing")


def test_a_character_twice_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        TextProcessor(vocab="aba")
