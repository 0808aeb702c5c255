"""Draws the attention patterns into docs/: python tools/pattern_drawings.py

Writes docs/attention_patterns.svg, and the tables and drawings between the markers of docs/architecture.md. Nothing is
drawn by hand: every mark is an answer of `Pattern.visible` in `jukebox/transformer/patterns.py`. Run this again after a
change there; `tests/docs/test_docs.py` fails where the pages are out of date.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from xml.sax.saxutils import escape

import torch

from jukebox.hparams import HPARAMS_REGISTRY, all_defaults
from jukebox.transformer.orders import known_orders
from jukebox.transformer.patterns import CROSS_KIND, KINDS, Pattern, layer_kinds, make_pattern

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "architecture.md", DOCS / "attention_patterns.svg"

LENGTH, BLOCKS, LYRICS, SPREAD = 16, 4, 6, 2  # of the drawings
REAL = dict(n_ctx=8192, blocks=128, spread=4, prime_len=384, encoder_len=512)  # of the column that counts slots
CELL, GAP = 9, 10  # pixels
COLOURS = {"#": "#2f6f9f", "L": "#c0672f", "0": "#6b6f76", ".": "#e9edf1"}
MEANING = {"#": "music seen", "L": "lyrics seen", "0": "null key of zeros", ".": "not seen"}


def small(kind: int) -> Pattern:
    """The pattern of a kind at the size of the drawings."""
    blocks = BLOCKS if kind not in (0, CROSS_KIND) else None
    return make_pattern(kind, LENGTH, blocks, SPREAD, LYRICS, LYRICS)


def rows(kind: int) -> list[str]:
    """One line per query: null keys in front, then one character per key; letters as in MEANING."""
    pattern = small(kind)
    n_keys = LYRICS if kind == CROSS_KIND else LENGTH
    seen = pattern.visible(torch.arange(LENGTH)[:, None], torch.arange(n_keys)[None, :])
    n_lyrics = pattern.prime_len if kind == 7 else n_keys if kind == CROSS_KIND else 0
    lines = []
    for query in seen.tolist():
        marks = ["." if not one else "L" if key < n_lyrics else "#" for key, one in enumerate(query)]
        lines.append("0" * pattern.null_keys + "".join(marks))
    return lines


def title(kind: int) -> str:
    """How a drawing is called."""
    return f"{kind} {KINDS[kind].name}" + (f", spread {SPREAD}" if kind == 5 else "")


def text_drawing() -> str:
    """All patterns in letters, four beside each other."""
    lines = []
    for first in range(0, len(KINDS), 4):
        kinds = range(first, min(first + 4, len(KINDS)))
        width = LENGTH + SPREAD + 4
        lines.append("".join(f"{title(kind):{width}}" for kind in kinds).rstrip())
        lines += ["".join(f"{row:{width}}" for row in query).rstrip() for query in zip(*map(rows, kinds), strict=True)]
        lines.append("")
    return "\n".join(lines[:-1])


def picture() -> str:
    """All patterns as an SVG, four panels in a row."""
    panel = (LENGTH + SPREAD) * CELL + GAP
    across, down = panel + 30, LENGTH * CELL + 46
    n_rows = -(-len(KINDS) // 4)
    width, height = 4 * across + 30, n_rows * down + 82
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f"<title>The attention patterns for {LENGTH} positions in {BLOCKS} blocks</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    for kind in KINDS:
        x, y = 30 + kind % 4 * across, 30 + kind // 4 * down
        out.append(f'<text x="{x}" y="{y}" font-weight="bold" fill="#20242a">{escape(title(kind))}</text>')
        n_null = small(kind).null_keys
        for q, row in enumerate(rows(kind)):
            for k, mark in enumerate(row):
                left = x + k * CELL + (GAP if n_null and k >= n_null else 0)
                out.append(
                    f'<rect x="{left}" y="{y + 10 + q * CELL}" width="{CELL - 1}" height="{CELL - 1}" '
                    f'fill="{COLOURS[mark]}"/>'
                )
    y = n_rows * down + 34
    out.append(f'<text x="30" y="{y}" fill="#20242a">rows: queries in time, downwards; columns: keys</text>')
    x, y = 30, y + 24
    for mark, meaning in MEANING.items():
        out.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLOURS[mark]}"/>')
        out.append(f'<text x="{x + 18}" y="{y}" fill="#20242a">{meaning}</text>')
        x += 150
    return "\n".join([*out, "</svg>", ""])


def kinds_table() -> str:
    """What each kind sees, in the words of its class, and how much of it a sampling cache keeps."""
    head = f"slots kept with `n_ctx={REAL['n_ctx']}`, `blocks={REAL['blocks']}`"
    lines = [f"| kind | name | a position sees | {head} |", "| --- | --- | --- | --- |"]
    for kind, of in KINDS.items():
        sees = " ".join(inspect.cleandoc(of.__doc__ or "").split("\n\n")[0].split())
        pattern = make_pattern(kind, **REAL)
        more = f", spread {REAL['spread']}" if kind == 5 else ""
        lengths = {6: f", {REAL['encoder_len']} characters", 7: f", {REAL['prime_len']} characters"}.get(kind, "")
        lines.append(f"| {kind} | {of.name} | {sees} | {pattern.capacity}{more}{lengths} |")
    return "\n".join(lines)


def orders_table() -> str:
    """Which kinds each order gives to the layers, and the sets that use it."""
    depth = 80
    lines = ["| order | kinds of layers 0 to 15 | layers of kind 0, 6 or 7 below 80 | used by |", "| --- " * 4 + "|"]
    for order in known_orders():
        kinds = layer_kinds(order, depth)
        rare = [f"{i} ({kind})" for i, kind in enumerate(kinds) if kind in (0, 6, 7)]
        shown = "every one" if len(rare) == depth else every(rare) or "none"
        used = ["the default, lyric encoders too"] if order == all_defaults().attn_order else []
        used += [f"`{name}`" for name, hps in HPARAMS_REGISTRY.items() if hps.get("attn_order") == order]
        used += [f"`{n}` (lyrics)" for n, hps in HPARAMS_REGISTRY.items() if hps.get("prime_attn_order") == order]
        lines.append(f"| {order} | {' '.join(map(str, kinds[:16]))} | {shown} | {', '.join(used) or 'no set'} |")
    return "\n".join(lines)


def every(layers: list[str]) -> str:
    """A list of layers, shortened where it is long."""
    return ", ".join(layers) if len(layers) <= 8 else ", ".join([*layers[:3], "...", layers[-1]])


def fill(page: str) -> str:
    """The page with everything between its markers written again."""
    parts = {"kinds": kinds_table(), "drawings": f"```text\n{text_drawing()}\n```", "orders": orders_table()}
    for name, text in parts.items():
        begin, end = f"<!-- {name}: python tools/pattern_drawings.py -->", f"<!-- end of {name} -->"
        pieces = re.split(f"{re.escape(begin)}.*?{re.escape(end)}", page, flags=re.S)
        if len(pieces) != 2:
            raise SystemExit(f"{PAGE} must have each of these lines once: {begin} and {end}")
        page = f"{begin}\n\n{text}\n\n{end}".join(pieces)
    return page


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PICTURE} and {PAGE}")
