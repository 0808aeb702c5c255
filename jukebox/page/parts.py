"""What all pages are made of: their frame, templates and styles from this folder, text that any page can hold.

Change here, and in `frame.html`, what every page has; what one kind of page says is in `save_html.py` and in
`reconstruction/page.py`.
"""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8").strip()


def template(name: str) -> Template:
    """A file of this folder as a template with $names."""
    return Template(asset(name))


def digest(text: str) -> str:
    """What a content security policy calls an inlined style or script that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def clean(text: str, keep: str = "") -> str:
    """Text that any page can hold: control characters, but those to keep, and halves of characters are replaced.

    Each is replaced by one character, so that indices stay.
    """
    bad = {ord(c): "\ufffd" for c in set(text) if unicodedata.category(c) in ("Cc", "Cs") and c not in keep}
    return text.translate(bad)


def clock(seconds: float) -> str:
    """Minutes and seconds, rounded, as 1:05."""
    whole = int(seconds + 0.5)
    return f"{whole // 60}:{whole % 60:02d}"


class Said(str):
    """Words of the page itself, which `language.js` says in the language of the browser; no user's text."""


def definitions(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names and values as HTML, without the empty ones; "" if none is left."""
    pairs = "".join(
        f'<div><dt data-say>{escape(k)}</dt><dd dir="auto"{" data-say" * isinstance(v, Said)}>{escape(v)}</dd></div>'
        for k, v in rows
        if v
    )
    return f"<dl>{pairs}</dl>" if pairs else ""


def frame(
    title: str,
    about: str,
    what: str,
    count: int,
    main: str,
    footer: str,
    style: str,
    script: str,
    data: str = "",
    levels: str = "",
) -> str:
    """A whole page, whose policy allows the given style and script and the files beside it, and nothing else.

    Args:
        title: text; about: words of the page, with text of users in them.
        what: the word for the parts that the page lists, such as "songs"; count: how many there are, `#item_0` on.
        main, footer: HTML.
        style, script: inlined, after the style and the script that all pages have.
        data: JSON for the script, from its element `data`; "" for none.
        levels: HTML of the links to other levels.
    """
    style, script = f"{asset('player.css')}\n{style}", f"{asset('language.js')}\n{script}"
    entries = "".join(f'<li><a href="#item_{i}">{i}</a></li>' for i in range(count))
    name = what.capitalize()
    links = f'<nav aria-label="{name}" data-say><span data-say aria-hidden="true">{name}</span><ul>{entries}</ul></nav>'
    safe = data.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
    return template("frame.html").substitute(
        title=escape(title),
        about=escape(about),
        what=what,
        links=levels + (links if count > 1 else ""),
        main=main,
        footer=footer,
        data=f'<script type="application/json" id="data">{safe}</script>\n' if data else "",
        style=style,
        script=script,
        style_hash=digest(style),
        script_hash=digest(script),
    )
