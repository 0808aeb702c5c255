"""Help, messages and pages use the words that the table of CONTRIBUTING.md asks for; sentences are short.

Texts in jukebox/ are all strings of the source but docstrings: help of flags, messages, descriptions of
hyper-parameters. Docstrings and comments are held to the same words.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TABLE = "| instead of | write |"
SOURCES = sorted((ROOT / "jukebox").rglob("*.py"))
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "apex/*.md",
        "tensorboardX/*.md",
        "jukebox/page/*.html",
        "jukebox/*.ipynb",
        "Makefile",
    )
    for path in ROOT.glob(pattern)
    if path.name not in ("CONTRIBUTING.md", "README.ja.md")
)
MOST_WORDS = 25  # of a sentence
# What a phrase of the table may be part of.
RIGHT = ("there is no", "there are no", "there was no", "is no longer", "are no longer")
# Words in another sense than the table's: (file, words around them) and why.
EXCEPTIONS = {
    ("jukebox/sampling/songs.py", "Half sunk, a shattered visage lies"): "a poem",
    ("jukebox/Interacting_with_Jukebox.ipynb", "Half sunk, a shattered visage lies"): "a poem",
    ("jukebox/Interacting_with_Jukebox.ipynb", "Stand in the desert"): "a poem",
    ("jukebox/sampling/songs.py", "Stand in the desert"): "a poem",
}


def phrases(rules: str) -> list[str]:
    """The left column of the table."""
    rows = rules.partition(TABLE)[2].partition("\n\n")[0].splitlines()
    return [phrase.strip() for row in rows[2:] for phrase in row.split("|")[1].split(",")]


INSTEAD_OF = "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in phrases(RULES))


def found_in(text: str) -> list[str]:
    """The phrases of the table in a text, each with a few words around it."""
    text = re.sub(rf"\b({'|'.join(RIGHT)})\b", "", " ".join(text.split()), flags=re.I)
    found = re.finditer(rf"\b({INSTEAD_OF})\b", text, re.I)
    return [text[max(0, match.start() - 40) : match.end() + 40] for match in found]


def docstring(node: ast.AST) -> ast.Constant | None:
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    value = first.value if isinstance(first, ast.Expr) else None
    return value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def messages(source: str) -> Iterator[str]:
    """All strings of a module that are not docstrings."""
    nodes = list(ast.walk(ast.parse(source)))
    docs = {id(docstring(node)) for node in nodes}
    yield from (
        n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs
    )


def explanations(source: str) -> Iterator[str]:
    """Docstrings and comments of a module."""
    yield from (docs.value for node in ast.walk(ast.parse(source)) if (docs := docstring(node)))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield from (token.string for token in tokens if token.type == tokenize.COMMENT)


def long_sentences(source: str) -> list[str]:
    """Sentences of docstrings that have too many words; lists, tables, drawings and sections are left out."""
    nodes = ast.walk(ast.parse(source))
    texts = [ast.get_docstring(node) for node in nodes if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))]
    prose = [re.split(r"^(?:Args|Attributes|Returns|Yields|Raises):", text or "", flags=re.M)[0] for text in texts]
    paragraphs = [
        part for text in prose for part in text.split("\n\n") if not re.search(r"^ {4}|\||\S {3}", part, re.M)
    ]
    sentences = [s for part in paragraphs for s in re.split(r"(?<=[.!?])\s+", " ".join(part.split()))]
    return [sentence for sentence in sentences if len(sentence.split()) > MOST_WORDS]


def offences(path: Path, texts: Iterator[str]) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    kept = [words for file, words in EXCEPTIONS if file == name]
    return [f"{name}: ...{each}..." for text in texts for each in found_in(text) if not any(k in each for k in kept)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_use_plain_words(path: Path) -> None:
    found = offences(path, iter([path.read_text(encoding="utf-8")]))
    assert not found, "\n".join(found)


def test_messages_and_help_use_plain_words() -> None:
    found = [line for path in SOURCES for line in offences(path, messages(path.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


def test_docstrings_and_comments_use_plain_words() -> None:
    found = [line for path in SOURCES for line in offences(path, explanations(path.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


def test_sentences_of_docstrings_are_short() -> None:
    found = [f"{path.name}: {text}" for path in SOURCES for text in long_sentences(path.read_text(encoding="utf-8"))]
    assert not found, f"more than {MOST_WORDS} words:\n" + "\n".join(found)


def test_exceptions_are_needed() -> None:
    for file, words in EXCEPTIONS:
        text = " ".join((ROOT / file).read_text(encoding="utf-8").split())
        assert words in text and found_in(words), f"{file} does not need its exception {words!r}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the run cannot be gone on with", 1),
        ("the same command\n goes on", 1),
        ("begins Anew.", 1),
        ("b.txt is no JSON", 1),
        ("there is no such file, and it is no longer needed", 0),
        ("a standard, an alonement, resumes", 0),
        ("one behind the other; nobody shall mend it", 4),
    ],
)
def test_the_finder_of_words(text: str, found: int) -> None:
    assert len(found_in(text)) == found


def test_the_finder_of_long_sentences() -> None:
    long, short = " ".join(["word"] * 26) + ".", " ".join(["word"] * 25) + "."
    assert long_sentences(f'"""{short}\n\n    {long}\n\nArgs:\n    x: {long}\n"""') == []
    assert long_sentences(f'def f():\n    """{short} {long}"""') == [long]


def test_the_reader_of_texts() -> None:
    source = '"""anew"""\ndef f():\n    """anew"""\n    x = 1  # anew\n    raise ValueError("a" "b", f"{x} c")\n'
    assert sorted(messages(source)) == [" c", "ab"]
    assert sorted(explanations(source)) == ["# anew", "anew", "anew"]
    assert {"go on", "anew", "is no", "so many"} <= set(phrases(RULES)) and len(phrases(RULES)) > 30
