"""Lyrics as tokens: which characters a model knows, and how text is brought to them.

The vocabulary is data: a string whose i-th character has token i + 1, while token 0 is padding and unknown. The
two of the released models are below; another alphabet is a file (`read_vocabulary`). Change here how text is cleaned;
what is cleaned for one vocabulary must stay so, because models were trained on it.

    text      Café 😀 a\\b             any characters, also some that the vocabulary lacks
    clean     Cafe  a⏎b               transliterated, backslashes are line ends, the rest dropped
    tokens    [3, 27, 32, 31, ...]    one per cleaned character
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

from jukebox.utils.errors import UserError

VOCABULARY = "vocab.txt"  # in a folder of custom labels
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?-"
_REST = "'\"()[] \t\n"
VOCAB_V2 = _LETTERS + "+" + _REST  # the 5b models
VOCAB_V3 = _LETTERS + _REST  # the 1b model and custom models


def make_vocabulary(characters: Iterable[str]) -> str:
    """The different characters of a text in order of first appearance, carriage returns left out."""
    text = unicodedata.normalize("NFC", "".join(characters))
    return "".join(dict.fromkeys(c for c in text if c not in "\r\ufeff\0"))


def read_vocabulary(path: str | os.PathLike[str]) -> str:
    """Reads a vocabulary file: every different character of the file is one token, in order of first appearance.

    The space and the line end count like all others, so a file of several lines has the line end among its characters.

    Raises:
        UserError: no such file, not utf-8, or no characters in it.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            vocabulary = make_vocabulary(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the vocabulary {os.fspath(path)}: {error}; it must be a utf-8 text file"
        ) from error
    if not vocabulary:
        raise UserError(f"the vocabulary {os.fspath(path)} is empty; write the characters that lyrics may have into it")
    return vocabulary


class TextProcessor:
    """Cleans and tokenises lyrics.

    Args:
        v3: the vocabulary of the 1b model, without "+", instead of that of the 5b models.
        vocab: characters of a custom vocabulary; wins over `v3`.
    """

    def __init__(self, v3: bool = False, vocab: str | None = None) -> None:
        characters = vocab if vocab is not None else VOCAB_V3 if v3 else VOCAB_V2
        if len(set(characters)) != len(characters):
            raise ValueError("a character is in the vocabulary twice")
        self.vocab = characters
        self.n_vocab = len(characters) + 1
        self.tokens = {character: i + 1 for i, character in enumerate(characters)}
        self.characters = {0: "", **{i: character for character, i in self.tokens.items()}}
        self._compose = not characters.isascii()
        self._cleaned = {character: character for character in characters}  # what single characters become

    def clean(self, text: str) -> str:
        """Brings text to the vocabulary.

        A character of the vocabulary stays; a backslash becomes a line end; any other is transliterated to ASCII, of
        which the known characters stay. Each character is cleaned by itself, so clean(a + b) == clean(a) + clean(b).
        Only a vocabulary beyond ASCII first composes accents with their letters (NFC).
        """
        if self._compose:
            text = unicodedata.normalize("NFC", text)
        return "".join(map(self.clean_character, text))

    def clean_character(self, character: str) -> str:
        """What one character becomes: any number of characters of the vocabulary."""
        known = self._cleaned.get(character)
        if known is None:
            from unidecode import unidecode

            plain = unidecode(character).replace("\\", "\n")
            known = self._cleaned[character] = "".join(c for c in plain if c in self.tokens)
        return known

    def tokenise(self, text: str) -> list[int]:
        """Tokens of cleaned text.

        Raises:
            KeyError: a character is not in the vocabulary; clean the text first.
        """
        return [self.tokens[character] for character in text]

    def textise(self, tokens: Iterable[int]) -> str:
        """The text of tokens; token 0 is nothing."""
        return "".join(self.characters[int(token)] for token in tokens)
