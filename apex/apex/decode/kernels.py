"""One token through the layers of a sparse transformer, as Triton kernels; `step.py` says which runs when.

A layer computes, with the token's residual stream x in float32 and every sum in float32:

    y = x + proj(attention(qkv(norm_0(x))))         x = y + out(activation(fc(norm_1(y))))

Weights are [outputs, inputs], so that what one output reads is in one piece. There are two ways to multiply:

    rows    for a few songs: a program keeps some rows of a matrix in registers and passes each song's vector by them.
            Norm, activation, residual sum and the cache's writes are part of the same kernel. Only a vector that is
            too wide for registers is normed before.
    tiles   for many songs: a program multiplies a tile of rows and inputs with all songs at once, on tensor cores.
            The inputs are split over programs, so that the whole card works; a second kernel sums the splits. The
            parts of attention are joined by a kernel of their own.

With EARLY a kernel loads its first weights before the kernel ahead of it has ended, and waits only then (programmatic
dependent launch). What it loads before that wait must not change during a step: weights, and the position. It also asks
for what a later kernel reads (AHEAD) to be brought from memory to the L2 cache, so that memory never rests.

Importing this module needs Triton. With TRITON_INTERPRET=1 in the environment before the first import of Triton the
kernels run on the CPU, slowly, which is how machines without a GPU test them.
"""

from __future__ import annotations

import triton
import triton.language as tl

# What a product reads (SOURCE): the vector as it is, its norm, or the parts of attention, which it joins.
PLAIN, NORM, PARTS = (tl.constexpr(i) for i in range(3))
# What becomes of a product (TARGET): queries, keys and values; the activation; the residual sum.
QKV, ACTIVATION, RESIDUAL = (tl.constexpr(i) for i in range(3))
# Kinds of attention pattern, by the numbers that the layers carry.
DENSE, BLOCK, COLUMN, PREVIOUS, SUMMARY, CROSS, PREFIX = (tl.constexpr(i) for i in (0, 1, 2, 3, 5, 6, 7))


@triton.jit
def own_slot(p, KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr, EXTRA: tl.constexpr):
    """Slot of position p's key in the cache, null keys counted; -1 if it is not kept.

    LENGTH is that of a block in tokens, BLOCKS their number. EXTRA is for SUMMARY the positions kept of a block, and as
    many null keys; for PREFIX and CROSS the number of positions that are read at most.
    """
    if KIND == BLOCK:
        return p % LENGTH
    elif KIND == COLUMN:
        return p % LENGTH * BLOCKS + p // LENGTH
    elif KIND == PREVIOUS:
        return p % (2 * LENGTH)
    elif KIND == SUMMARY:
        kept = (p % LENGTH >= LENGTH - EXTRA) & (p < LENGTH * (BLOCKS - 1))
        return tl.where(kept, p // LENGTH * EXTRA + p % LENGTH - (LENGTH - EXTRA) + EXTRA, -1)
    elif KIND == PREFIX:
        return tl.where(p < EXTRA, p, -1)
    elif KIND == CROSS:
        return p * 0 - 1
    else:
        return p


@triton.jit
def slots_read(p, KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr, EXTRA: tl.constexpr):
    """First slot that the query at position p reads, and how many it reads, its own included."""
    if KIND == BLOCK:
        return p * 0, p % LENGTH + 1
    elif KIND == COLUMN:
        return p % LENGTH * BLOCKS, p // LENGTH + 1
    elif KIND == PREVIOUS:
        return (p // LENGTH + 1) % 2 * LENGTH, tl.where(p < LENGTH, 0, LENGTH)
    elif KIND == SUMMARY:
        n = tl.minimum(p + 1, LENGTH * (BLOCKS - 1))
        return p * 0, EXTRA + n // LENGTH * EXTRA + tl.maximum(0, n % LENGTH - (LENGTH - EXTRA))
    elif KIND == PREFIX:
        return p * 0, tl.minimum(p + 1, EXTRA)
    elif KIND == CROSS:
        return p * 0, p * 0 + EXTRA
    else:
        return p * 0, p + 1


@triton.jit
def _wait(EARLY: tl.constexpr):
    """Lets the next kernel start, then waits for the one ahead to end."""
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _fetch(pointers):
    """Asks for the lines of 128 bytes at some addresses to be brought to the L2 cache; waits for nothing."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers.to(tl.int64)], tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _fetch_share(ahead_ptr, program, programs, AHEAD: tl.constexpr, LINES: tl.constexpr):
    """Fetches one program's share of the AHEAD elements of a later matrix; LINES is at least its number of lines."""
    LINE: tl.constexpr = 1024 // ahead_ptr.dtype.element_ty.primitive_bitwidth
    line = program + tl.arange(0, LINES).to(tl.int64) * programs
    _fetch(ahead_ptr + tl.minimum(line * LINE, AHEAD - 1))


@triton.jit
def _weights(w_ptr, rows, columns, end, OUT: tl.constexpr, IN: tl.constexpr):
    """A tile [rows, columns] of a matrix; rows from OUT and columns from `end` on are zero."""
    inside = (rows < OUT)[:, None] & (columns < end)[None, :]
    return tl.load(w_ptr + rows[:, None] * IN + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _mean_and_scale(x, inside, eps, IN: tl.constexpr):
    """Of layer norms over rows [B, inputs] that are zero outside: the means [B], and 1 / standard deviation."""
    mean = tl.sum(x, 1) / IN
    centred = tl.where(inside, x - mean[:, None], 0.0)
    return mean, 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / IN + eps)


@triton.jit
def _activation(x):
    """x * sigmoid(1.702 x)"""
    return x / (1.0 + tl.exp(-1.702 * x))


@triton.jit
def _base_and_middle(base_ptr, middle_ptr, at, inside, SCALE: tl.constexpr):
    """What a residual sum adds to, loaded early: what came into the layer, which only a scale needs, and the stream."""
    middle = tl.load(middle_ptr + at, mask=inside, other=0.0)
    base = middle
    if SCALE != 1.0:
        base = tl.load(base_ptr + at, mask=inside, other=0.0)
    return base, middle


@triton.jit
def _residual(value, base, middle, SCALE: tl.constexpr):
    """middle + value; with a scale base + SCALE * (middle - base + value)."""
    if SCALE == 1.0:
        return middle + value
    return base + SCALE * (middle - base + value)


@triton.jit
def _store_qkv(
    value, song, rows, inside, q_ptr, kv_ptr, p, SLOTS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """Stores queries [N, HEADS * WIDTH], and keys and values in their slot of [N, 2, HEADS, SLOTS, WIDTH]."""
    STATE: tl.constexpr = HEADS * WIDTH
    tl.store(q_ptr + song * STATE + rows, value, mask=inside & (rows < STATE))
    if KIND != CROSS:
        slot = own_slot(p, KIND, LENGTH, BLOCKS, EXTRA)
        plane = song.to(tl.int64) * 2 * HEADS + rows // WIDTH - HEADS  # of a song: keys of all heads, then values
        at = (plane * SLOTS + slot) * WIDTH + rows % WIDTH
        tl.store(kv_ptr + at, value.to(kv_ptr.dtype.element_ty), mask=inside & (rows >= STATE) & (slot >= 0))


@triton.jit
def _joined(
    value_ptr, most_ptr, mass_ptr, song, columns, inside,
    SPLITS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The attended value of songs and columns, from what `attention` left of each part; zero if no key was read."""
    STATE: tl.constexpr = HEADS * WIDTH
    part = (song * HEADS + columns // WIDTH) * SPLITS
    top = tl.load(most_ptr + part, mask=inside, other=0.0)
    for s in tl.static_range(1, SPLITS):
        top = tl.maximum(top, tl.load(most_ptr + part + s, mask=inside, other=0.0))
    top = tl.where(top == float("-inf"), 0.0, top)
    mass = 0.0 * top
    value = 0.0 * top
    for s in tl.static_range(SPLITS):
        share = tl.exp(tl.load(most_ptr + part + s, mask=inside, other=0.0) - top)
        mass += share * tl.load(mass_ptr + part + s, mask=inside, other=0.0)
        value += share * tl.load(value_ptr + (song * SPLITS + s) * STATE + columns, mask=inside, other=0.0)
    return value / tl.where(mass == 0.0, 1.0, mass)


@triton.jit
def attention(
    q_ptr, kv_ptr, position_ptr, value_ptr, most_ptr, mass_ptr, scale,
    SLOTS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr, EXTRA: tl.constexpr,
    SPLITS: tl.constexpr, KEYS: tl.constexpr, PADDED: tl.constexpr, EARLY: tl.constexpr, FETCH: tl.constexpr,
):  # fmt: skip
    """What a song's head attends to, over one part of the keys. Grid: songs * heads, SPLITS.

    Leaves the sum of values [N, SPLITS, HEADS * WIDTH], not yet divided by the mass of their weights [N, HEADS,
    SPLITS], and the largest score, which the weights are relative to; -inf if the part has no key.
    """
    plane, split = tl.program_id(0), tl.program_id(1)
    song, head = plane // HEADS, plane % HEADS
    d = tl.arange(0, PADDED)
    inside = d < WIDTH
    first, count = slots_read(tl.load(position_ptr).to(tl.int32), KIND, LENGTH, BLOCKS, EXTRA)
    size = (count + SPLITS - 1) // SPLITS
    begin = split * size
    end = tl.minimum(begin + size, count)
    k_ptr = kv_ptr + ((song.to(tl.int64) * 2 * HEADS + head) * SLOTS + first) * WIDTH
    v_ptr = k_ptr + HEADS * SLOTS * WIDTH
    if FETCH:
        line = tl.arange(0, PADDED // 16) * 16
        for start in range(begin, end, KEYS):
            at = tl.minimum(start + tl.arange(0, KEYS), end - 1)[:, None] * WIDTH + tl.minimum(line, WIDTH - 1)[None, :]
            _fetch(k_ptr + at)
            _fetch(v_ptr + at)
    _wait(EARLY)
    q = tl.load(q_ptr + plane * WIDTH + d, mask=inside, other=0.0) * scale
    most = tl.full((), float("-inf"), tl.float32)
    mass = tl.full((), 0.0, tl.float32)
    value = tl.full((PADDED,), 0.0, tl.float32)
    for start in range(begin, end, KEYS):
        key = start + tl.arange(0, KEYS)
        held = (key < end)[:, None] & inside[None, :]
        at = key[:, None] * WIDTH + d[None, :]
        k = tl.load(k_ptr + at, mask=held, other=0.0).to(tl.float32)
        v = tl.load(v_ptr + at, mask=held, other=0.0).to(tl.float32)
        score = tl.where(key < end, tl.sum(q[None, :] * k, 1), float("-inf"))
        top = tl.maximum(most, tl.max(score, 0))
        weight = tl.exp(score - top)
        before = tl.exp(most - top)
        mass = mass * before + tl.sum(weight, 0)
        value = value * before + tl.sum(weight[:, None] * v, 0)
        most = top
    tl.store(value_ptr + (song * SPLITS + split) * HEADS * WIDTH + head * WIDTH + d, value, mask=inside)
    tl.store(most_ptr + plane * SPLITS + split, most)
    tl.store(mass_ptr + plane * SPLITS + split, mass)


@triton.jit
def product_of_rows(
    w_ptr, bias_ptr, source_ptr, norm_w_ptr, norm_b_ptr, eps, most_ptr, mass_ptr,
    target_ptr, base_ptr, middle_ptr, kv_ptr, position_ptr, ahead_ptr,
    SONGS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SOURCE: tl.constexpr, TARGET: tl.constexpr,
    SCALE: tl.constexpr, SPLITS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    SLOTS: tl.constexpr, KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr, EXTRA: tl.constexpr,
    ROWS: tl.constexpr, CHUNK: tl.constexpr, BATCH: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr,
    LINES: tl.constexpr,
):  # fmt: skip
    """Some rows of a product, for each of SONGS, with what is before and after it. Grid: OUT / ROWS.

    SOURCE and TARGET are named at the top of this file. CHUNK: inputs that are in registers at once, for NORM all of
    them; BATCH: SONGS, rounded up to a power of two.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = rows < OUT
    first_weights = _weights(w_ptr, rows, tl.arange(0, CHUNK), IN, OUT, IN)
    bias = tl.load(bias_ptr + rows, mask=real, other=0.0)
    p = tl.load(position_ptr).to(tl.int32)
    if SOURCE == NORM:
        first = tl.arange(0, CHUNK)
        norm_w = tl.load(norm_w_ptr + first, mask=first < IN, other=0.0)
        norm_b = tl.load(norm_b_ptr + first, mask=first < IN, other=0.0)
    if AHEAD:
        _fetch_share(ahead_ptr, tl.program_id(0), tl.num_programs(0), AHEAD, LINES)
    _wait(EARLY)
    if SOURCE == NORM:
        songs = tl.arange(0, BATCH)
        x = tl.load(
            source_ptr + songs[:, None] * IN + first[None, :],
            mask=(songs < SONGS)[:, None] & (first < IN)[None, :],
            other=0.0,
        )
        means, scales = _mean_and_scale(x, (first < IN)[None, :], eps, IN)
    for number in tl.static_range(SONGS):
        song = p * 0 + number
        if TARGET == RESIDUAL:
            base, middle = _base_and_middle(base_ptr, middle_ptr, song * OUT + rows, real, SCALE)
        if SOURCE == NORM:
            mean = tl.sum(tl.where(songs == number, means, 0.0), 0)
            scale = tl.sum(tl.where(songs == number, scales, 0.0), 0)
        total = tl.full((ROWS, CHUNK), 0.0, tl.float32)
        for start in tl.static_range(0, IN, CHUNK):
            columns = start + tl.arange(0, CHUNK)
            inside = columns < IN
            if start == 0:
                w = first_weights
            else:
                w = _weights(w_ptr, rows, columns, IN, OUT, IN)
            if SOURCE == PARTS:
                x = _joined(source_ptr, most_ptr, mass_ptr, song, columns, inside, SPLITS, HEADS, WIDTH)
            else:
                x = tl.load(source_ptr + song * IN + columns, mask=inside, other=0.0)
            if SOURCE == NORM:
                x = (x - mean) * scale * norm_w + norm_b
            total += w.to(tl.float32) * x[None, :]
        value = tl.sum(total, 1)
        value += bias
        if TARGET == QKV:
            _store_qkv(value, song, rows, real, target_ptr, kv_ptr, p, SLOTS, HEADS, WIDTH, KIND, LENGTH, BLOCKS, EXTRA)
        elif TARGET == ACTIVATION:
            tl.store(target_ptr + song * OUT + rows, _activation(value), mask=real)
        else:
            tl.store(target_ptr + song * OUT + rows, _residual(value, base, middle, SCALE), mask=real)


@triton.jit
def join_parts(
    value_ptr, most_ptr, mass_ptr, target_ptr,
    SPLITS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The attended values [N, HEADS * WIDTH] from what `attention` left. Grid: songs, HEADS * WIDTH / COLUMNS."""
    song = tl.program_id(0)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < HEADS * WIDTH
    _wait(EARLY)
    value = _joined(value_ptr, most_ptr, mass_ptr, song, columns, inside, SPLITS, HEADS, WIDTH)
    tl.store(target_ptr + song * HEADS * WIDTH + columns, value.to(target_ptr.dtype.element_ty), mask=inside)


@triton.jit
def product_of_tiles(
    w_ptr, source_ptr, sums_ptr, ahead_ptr, songs,
    OUT: tl.constexpr, IN: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, SHARE: tl.constexpr,
    SONGS: tl.constexpr, TYPE: tl.constexpr, EARLY: tl.constexpr, AHEAD: tl.constexpr, LINES: tl.constexpr,
):  # fmt: skip
    """A tile of a product for up to SONGS songs, over SHARE of the inputs. Grid: OUT / ROWS, IN / SHARE, songs / SONGS.

    Leaves sums [splits, songs, OUT] without bias. TYPE is that of the multiplication; sums are float32.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.program_id(1) * SHARE
    song = tl.program_id(2) * SONGS + tl.arange(0, SONGS)
    end = tl.minimum(begin + SHARE, IN)
    w = _weights(w_ptr, rows, begin + tl.arange(0, CHUNK), end, OUT, IN)
    if AHEAD:
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        _fetch_share(ahead_ptr, program, tl.num_programs(0) * tl.num_programs(1), AHEAD, LINES)
    _wait(EARLY)
    total = tl.full((ROWS, SONGS), 0.0, tl.float32)
    for start in range(0, SHARE, CHUNK):
        columns = begin + start + tl.arange(0, CHUNK)
        inside = (columns < end)[:, None] & (song < songs)[None, :]
        x = tl.load(source_ptr + song[None, :] * IN + columns[:, None], mask=inside, other=0.0)
        total = tl.dot(w.to(TYPE), x.to(TYPE), total, input_precision="ieee")
        w = _weights(w_ptr, rows, columns + CHUNK, end, OUT, IN)
    at = (tl.program_id(1) * songs + song)[None, :] * OUT + rows[:, None]
    tl.store(sums_ptr + at, total, mask=(rows < OUT)[:, None] & (song < songs)[None, :])


@triton.jit
def _summed(
    sums_ptr, bias_ptr, song, songs, rows, inside,
    OUT: tl.constexpr, SHARES: tl.constexpr,
):  # fmt: skip
    """One song's outputs, from what `product_of_tiles` left of each split."""
    value = tl.load(sums_ptr + song * OUT + rows, mask=inside, other=0.0)
    for s in tl.static_range(1, SHARES):
        value += tl.load(sums_ptr + (s * songs + song) * OUT + rows, mask=inside, other=0.0)
    return value + tl.load(bias_ptr + rows, mask=inside, other=0.0)


@triton.jit
def sum_of_tiles(
    sums_ptr, bias_ptr, target_ptr, kv_ptr, position_ptr, songs,
    OUT: tl.constexpr, SHARES: tl.constexpr, TARGET: tl.constexpr, SLOTS: tl.constexpr,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, KIND: tl.constexpr, LENGTH: tl.constexpr, BLOCKS: tl.constexpr,
    EXTRA: tl.constexpr, ROWS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Sums the splits of a product; then queries, keys and values, or the activation. Grid: songs, OUT / ROWS."""
    song = tl.program_id(0)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    p = tl.load(position_ptr).to(tl.int32)
    _wait(EARLY)
    value = _summed(sums_ptr, bias_ptr, song, songs, rows, rows < OUT, OUT, SHARES)
    if TARGET == QKV:
        _store_qkv(
            value, song, rows, rows < OUT, target_ptr, kv_ptr, p,
            SLOTS, HEADS, WIDTH, KIND, LENGTH, BLOCKS, EXTRA,
        )  # fmt: skip
    else:
        value = _activation(value).to(target_ptr.dtype.element_ty)
        tl.store(target_ptr + song * OUT + rows, value, mask=rows < OUT)


@triton.jit
def norm_of_tiles(
    sums_ptr, bias_ptr, base_ptr, middle_ptr, stream_ptr, norm_w_ptr, norm_b_ptr, eps, target_ptr, songs,
    OUT: tl.constexpr, SHARES: tl.constexpr, SCALE: tl.constexpr, NORMED: tl.constexpr,
    PADDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Sums the splits of a product into the residual stream, and norms it. Grid: songs.

    SHARES = 0: there is no product ahead, the stream is only read. NORMED = False: the last layer, there is no norm.
    """
    song = tl.program_id(0)
    columns = tl.arange(0, PADDED)
    inside = columns < OUT
    at = song * OUT + columns
    if NORMED:
        norm_w = tl.load(norm_w_ptr + columns, mask=inside, other=0.0)
        norm_b = tl.load(norm_b_ptr + columns, mask=inside, other=0.0)
    _wait(EARLY)
    if SHARES:
        base, middle = _base_and_middle(base_ptr, middle_ptr, at, inside, SCALE)
        x = _summed(sums_ptr, bias_ptr, song, songs, columns, inside, OUT, SHARES)
        x = _residual(x, base, middle, SCALE)
        tl.store(stream_ptr + at, x, mask=inside)
    else:
        x = tl.load(stream_ptr + at, mask=inside, other=0.0)
    if NORMED:
        mean, scale = _mean_and_scale(x[None, :], inside[None, :], eps, OUT)
        x = (x - tl.sum(mean, 0)) * tl.sum(scale, 0) * norm_w + norm_b
        tl.store(target_ptr + at, x.to(target_ptr.dtype.element_ty), mask=inside)
