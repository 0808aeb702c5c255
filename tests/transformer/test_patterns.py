"""The four answers of every pattern agree with each other, for geometries that the reference's numbers do not cover."""

from __future__ import annotations

import pytest
import torch

from jukebox.transformer.patterns import KINDS, ORDERS, layer_kinds, make_pattern

GEOMETRIES = [dict(n_ctx=24, blocks=4), dict(n_ctx=30, blocks=5), dict(n_ctx=16, blocks=16), dict(n_ctx=12, blocks=1)]
CASES = [
    (kind, dict(geometry, **extra))
    for kind in KINDS
    if kind != 6
    for geometry in GEOMETRIES
    for extra in ({5: [dict(spread=1), dict(spread=3)], 7: [dict(prime_len=n) for n in (1, 5, 8)]}.get(kind, [{}]))
    if extra.get("spread", 1) <= geometry["n_ctx"] // geometry["blocks"]
]


@pytest.mark.parametrize(("kind", "geometry"), CASES)
def test_reads_and_slots_say_what_visible_says(kind: int, geometry: dict[str, int]) -> None:
    pattern = make_pattern(kind, **geometry)
    p = torch.arange(pattern.n_ctx)
    slots = pattern.slot(p)
    assert slots.max() < pattern.capacity or pattern.capacity == 0
    holder: dict[int, int] = {}  # slot -> position that is there
    for q in range(pattern.n_ctx):
        if slots[q] >= 0:
            holder[int(slots[q])] = q
        reads = pattern.reads(q)
        read = {holder[slot] for slot in range(reads.start, reads.stop)}
        visible = set(p[pattern.visible(torch.tensor(q), p)].tolist())
        assert read == visible, f"query {q}"
        held = set(pattern.held(q + 1).tolist())
        assert len(held) == pattern.kept(q + 1)
        assert visible <= held <= set(holder.values())


@pytest.mark.parametrize(("kind", "geometry"), CASES)
def test_no_pattern_sees_the_future(kind: int, geometry: dict[str, int]) -> None:
    pattern = make_pattern(kind, **geometry)
    p = torch.arange(pattern.n_ctx)
    assert not (pattern.visible(p[:, None], p[None, :]) & (p[None, :] > p[:, None])).any()


def test_block_column_and_previous_connect_any_two_positions_in_two_steps() -> None:
    """Why orders repeat 1, 2, 3: what the block and the column of a position reach together is every earlier block."""
    p = torch.arange(24)
    seen = {kind: make_pattern(kind, 24, 4).visible(p[:, None], p[None, :]).float() for kind in (1, 2, 3)}
    reach = (seen[3] @ seen[2] + seen[2] @ seen[1] + seen[1]).bool()
    assert reach[23, :18].all()


def test_lyric_prefix_is_rounded_by_the_number_of_blocks() -> None:
    assert make_pattern(7, 6528, 64, prime_len=384).prefix == 448  # type: ignore[attr-defined]
    assert make_pattern(7, 48, 4, prime_len=14).prefix == 16  # type: ignore[attr-defined]


def test_layer_kinds() -> None:
    assert layer_kinds(2, 5) == [1, 2, 3, 1, 2]
    kinds = layer_kinds(10, 79)
    assert len(ORDERS[10]) == 79
    assert [i for i, kind in enumerate(kinds) if kind == 6] == [18, 28, 38, 48, 58, 68, 78]
    kinds = layer_kinds(12, 72)
    assert {i: kind for i, kind in enumerate(kinds) if kind not in (1, 2, 3)} == {15: 7, 31: 7, 47: 0, 63: 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kind=8, n_ctx=8), "choose one of"),
        (dict(kind=1, n_ctx=10, blocks=4), "does not divide"),
        (dict(kind=2, n_ctx=8), "needs blocks"),
        (dict(kind=5, n_ctx=8, blocks=2), "needs spread"),
        (dict(kind=5, n_ctx=8, blocks=4, spread=3), "longer than a block"),
        (dict(kind=6, n_ctx=8), "lyric encoder"),
        (dict(kind=7, n_ctx=8, blocks=2), "lyric characters"),
    ],
)
def test_wrong_geometry_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_pattern(**arguments)


def test_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="attn_order=13"):
        layer_kinds(13, 4)
