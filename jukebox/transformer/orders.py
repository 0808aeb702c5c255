"""Which attention pattern each layer of a transformer has; the patterns are in `patterns.py`.

No torch here: the checks of a command line read these definitions. A new order is a line in `ORDERS`.
"""

from __future__ import annotations

_GRID = [1, 2, 3]  # block, column, previous: two steps connect any two positions
# Period of kinds for each attention order that simply repeats; layer d has kind order[d % len(order)].
ORDERS: dict[int, list[int]] = {
    0: [0],
    1: [1, 2],
    2: _GRID,
    3: [1, 4],
    4: [1, 5],
    5: [1, 4, 1, 1],
    6: [*_GRID, 6],
    7: [*_GRID * 5, 6],
    8: [*_GRID * 3, 6],
    9: [*_GRID, 0],
    10: [*_GRID * 3, *[*_GRID * 3, 6] * 7],  # 79 layers: nine without lyrics, then a lyric layer every ten
}
# Orders whose every 16th layer is special: two thirds read the lyrics, one third is dense; the grid runs on beneath.
_SPECIAL: dict[int, list[int]] = {11: [6, 6, 0], 12: [7, 7, 0]}


def layer_kinds(attn_order: int, depth: int) -> list[int]:
    """The attention kind of each of `depth` layers.

    Raises:
        ValueError: an unknown order.
    """
    if attn_order in ORDERS:
        period = ORDERS[attn_order]
        return [period[d % len(period)] for d in range(depth)]
    if attn_order in _SPECIAL:
        return [(_SPECIAL[attn_order] if d % 16 == 15 else _GRID)[d % 3] for d in range(depth)]
    raise ValueError(f"attn_order={attn_order}: choose one of {known_orders()}")


def known_orders() -> list[int]:
    """All orders, those that do not simply repeat included."""
    return sorted([*ORDERS, *_SPECIAL])
