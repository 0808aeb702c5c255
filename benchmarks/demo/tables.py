"""The figures of `report.py` as markdown tables.

Change here how they look; what is measured is in `measures.py`.
"""

from __future__ import annotations

from typing import Any

from demo.intervals import show, table

EARS = {"real": "knows real songs", "codec": "knows the VQ-VAE too"}
TIMES = {"true": "as sung", "lit": "as lit by the model", "score": "as the synthesiser would sing"}
GOALS_DB = (-16, -12, -10)


def tables(results: dict[str, Any]) -> str:
    """All tables that the figures allow, each under its heading."""
    s = results["settings"]
    text = [
        f"{s['samples']} held-out songs of {s['song_seconds']:g} s"
        + (
            f", and {s['samples']} songs of {s['made_seconds']:.2f} s made for the same artists, genres and lyrics "
            f"(temperature {', '.join(f'{t:g}' for t in s['temp'])} of levels 0, 1, 2)."
            if "sound" in results
            else "."
        )
        + " In brackets 95 % intervals: Wilson's for shares of songs, else a bootstrap over songs.",
        _codes(results["codes"]),
        *[_bits(level, found) for level, found in results["bits"].items()],
        _songs(results),
        _letters(results["heard"]),
    ]
    if "lit" in results:
        text.append(_lit(results))
    if "sound" in results:
        text.append(_sound(results["sound"]))
    return "\n\n".join(text) + "\n"


def _codes(levels: list[dict[str, Any]]) -> str:
    head = ["level", "spectral convergence, dB", "goal", "codes used", "entropy, bits", "kbit/s"]
    rows = []
    for i, found in enumerate(levels):
        rows.append(
            [
                str(i),
                show(found["spectral_convergence_db"], 1),
                str(GOALS_DB[i]) if i < len(GOALS_DB) else "-",
                f"{found['codes_used']} of {found['codes']}",
                f"{found['entropy_bits']:.2f}",
                f"{found['kbit_per_second']:.2f}",
            ]
        )
    note = "Spectral convergence: 20 log10 of its mean over songs; 0 dB is silence, lower is better."
    return f"### What the codes keep\n\n{table(head, rows)}\n\n{note}"


def _bits(level: str, found: dict[str, Any]) -> str:
    head = ["given", "bits per code", "more", "bits, first 64 codes", "more"]
    rows = [
        [
            name,
            show(figures["bits"]),
            show(figures.get("more"), 3),
            show(figures["first_bits"]),
            show(figures.get("more_first"), 3),
        ]
        for name, figures in found.items()
    ]
    note = "Teacher-forced; more: than the first row, song by song."
    return f"### Bits per code, level {level}\n\n{table(head, rows)}\n\n{note}"


def _songs(results: dict[str, Any]) -> str:
    rows = results["heard"]
    head = ["audio", *(f"{kind}: {text}" for kind in ("artist", "genre") for text in EARS.values())]
    body = [[row["audio"], *(show(row[kind][ear]) for kind in ("artist", "genre") for ear in EARS)] for row in rows]
    body.append(
        [
            "chance: the same guesses dealt out",
            *(f"{rows[-1][kind][ear]['chance']:.2f}" for kind in ("artist", "genre") for ear in EARS),
        ]
    )
    text = f"### Artist and genre, by ear\n\n{table(head, body)}"
    for kind, counts in results.get("confusion", {}).items():
        body = [[asked, *(str(n) for n in heard.values())] for asked, heard in counts.items()]
        text += f"\n\n{table([f'{kind} asked for', *(f'heard {name}' for name in counts)], body)}"
    return text


def _letters(rows: list[dict[str, Any]]) -> str:
    head = [
        "audio",
        "times of the letters",
        *(f"{kind}: {text}" for kind in ("vowel", "consonant") for text in EARS.values()),
    ]
    head.append("vowels")
    body = []
    for row in rows:
        for source in row["vowel"]:
            figures = [show(row[kind][source][ear]) for kind in ("vowel", "consonant") for ear in EARS]
            body.append([row["audio"], TIMES[source], *figures, str(row["vowel"][source]["real"]["letters"])])
    last = rows[-1]
    source = next(iter(last["vowel"]))
    levels = [f"{last[kind][source][ear]['chance']:.2f}" for kind in ("vowel", "consonant") for ear in EARS]
    body.append(["chance: the same guesses dealt out", "", *levels, ""])
    return f"### Sung letters, by ear\n\n{table(head, body)}"


def _lit(results: dict[str, Any]) -> str:
    lit, head = results["lit"], results["head"]
    rows = [
        [text, show(lit[f"{key}_mean_ms"], 0), show(lit[f"{key}_median_ms"], 0), show(lit[f"{key}_exact"])]
        for key, text in (("lit", "lit by the model"), ("even", "guess: at an even pace"))
    ]
    used, named = (f"layer {layer}, head {number}" for layer, number in (head["used"], head["named"]))
    return (
        f"### The lit character, held-out songs\n\n{table(['', 'mean ms off', 'median ms off', 'exact'], rows)}\n\n"
        f"`align.py --find` names {named}; the model uses {used}. From a single song it names the same in "
        f"{show(head['single_songs'])} of the songs."
    )


def _sound(found: dict[str, Any]) -> str:
    names = {"rms_db": ("RMS, dB", 1), "flatness": ("spectral flatness", 3), "onsets_per_second": ("onsets/s", 1)}
    head = ["genre", *(f"{text}, {who}" for text, _ in names.values() for who in ("real", "made"))]
    rows = [
        [genre, *(show(figures[key][who], digits) for key, (_, digits) in names.items() for who in ("real", "made"))]
        for genre, figures in found.items()
    ]
    return f"### How the audio is\n\n{table(head, rows)}"
