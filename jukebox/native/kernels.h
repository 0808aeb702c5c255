// The arithmetic of one token, written once over vectors of W floats. step.cpp includes this file once for each
// instruction set, with NS (a namespace), W (floats in a register), ACCUMULATORS (sums that fit the registers), TARGET
// (the attribute that lets the compiler use the set), WIDEN (W bytes as whole numbers of 32 bits) and SUM (of a register).
//
// All sums are float32. Weights and caches may be float32, bfloat16 (uint16_t here) or int8.

namespace NS {

typedef float Floats __attribute__((vector_size(W * 4)));
typedef int32_t Ints __attribute__((vector_size(W * 4)));
typedef float AnyFloats __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint16_t AnyHalves __attribute__((vector_size(W * 2), aligned(2), may_alias));

#define INLINE TARGET static inline __attribute__((always_inline))

INLINE Floats load(const float* p) { return *(const AnyFloats*)p; }
INLINE Floats load(const uint16_t* p) { return (Floats)(__builtin_convertvector(*(const AnyHalves*)p, Ints) << 16); }
INLINE Floats load(const int8_t* p) { return __builtin_convertvector(WIDEN(p), Floats); }
INLINE void store(float* p, Floats x) { *(AnyFloats*)p = x; }
INLINE Floats all(float x) { return Floats{} + x; }
INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }

INLINE float largest(Floats x) {
    float most = x[0];
    for (int i = 1; i < W; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// e^x to 2 units in the last place; 0 below -87, where float32 has no normal numbers left.
INLINE Floats exponential(Floats x) {
    Ints kept = x > all(-87.0f);
    x = larger(x, all(-87.0f));
    x = x < all(88.0f) ? x : all(88.0f);
    const Floats shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    Floats whole = (x * 1.44269504088896341f + shift) - shift;
    Floats r = x - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    // Minimax polynomial of e^r on [-ln 2 / 2, ln 2 / 2].
    Floats p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
    return (Floats)((Ints)(p * (Floats)power) & kept);
}

// R rows of a matrix times B vectors: out[b * out_step + r]. The order of each sum does not depend on R and B, so what a
// song gets does not depend on the songs beside it. `fetch`: asks memory for the R rows that follow, in the order in
// which they are there: read side by side, R long rows are several streams, which memory serves at half the speed.
template <int R, int B, class T>
INLINE void tile(const T* w, const float* x, long k, float* out, long out_step, bool fetch) {
    const int lines = R * W * sizeof(T) > 64 ? R * W * sizeof(T) / 64 : 1;
    const char* next = (const char*)(w + R * k);
    Floats total[R][B];
    for (int r = 0; r < R; r++)
        for (int b = 0; b < B; b++) total[r][b] = Floats{};
    long i = 0;
    for (; i + W <= k; i += W) {
        Floats in[B];
        if (fetch) {
#pragma GCC unroll 8
            for (int line = 0; line < lines; line++) __builtin_prefetch(next + 64 * line, 0, 2);
            next += R * W * sizeof(T);
        }
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) in[b] = load(x + b * k + i);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            Floats weight = load(w + r * k + i);
#pragma GCC unroll 8
            for (int b = 0; b < B; b++) total[r][b] += weight * in[b];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) {
            float s = SUM(total[r][b]);
            for (long j = i; j < k; j++) s += number(w[r * k + j]) * x[b * k + j];
            out[b * out_step + r] = s;
        }
}

template <int B, class T>
TARGET static void some_rows(const T* w, long k, const float* x, long from, long to, float* out, long out_step,
                             bool fetch) {
    const int R = B * 4 <= ACCUMULATORS ? 4 : 2;
    long r = from;
    if constexpr (B == 1)  // long rows from memory: 6 % quicker than by four
        if (fetch && k * (long)sizeof(T) >= 4096)
            for (; r + 8 <= to; r += 8) tile<8, B, T>(w + r * k, x, k, out + r, out_step, true);
    if (fetch)
        for (; r + R <= to; r += R) tile<R, B, T>(w + r * k, x, k, out + r, out_step, true);
    for (; r + R <= to; r += R) tile<R, B, T>(w + r * k, x, k, out + r, out_step, false);
    for (; r < to; r++) tile<1, B, T>(w + r * k, x, k, out + r, out_step, false);
}

// Rows from..to of w [rows, k] times n vectors of k floats each. Weights are read once from memory: with more than four
// vectors few rows at a time, which are in the first cache when further vectors come.
template <class T>
TARGET static void typed_rows(const T* w, long k, const float* x, long n, long from, long to, float* out,
                              long out_step) {
    long group = n <= 4 ? to - from : 8;
    for (long r = from; r < to; r += group) {
        long end = r + group < to ? r + group : to, b = 0;
        for (; b + 4 <= n; b += 4) some_rows<4, T>(w, k, x + b * k, r, end, out + b * out_step, out_step, b == 0);
        if (n - b == 3) some_rows<3, T>(w, k, x + b * k, r, end, out + b * out_step, out_step, b == 0);
        if (n - b == 2) some_rows<2, T>(w, k, x + b * k, r, end, out + b * out_step, out_step, b == 0);
        if (n - b == 1) some_rows<1, T>(w, k, x + b * k, r, end, out + b * out_step, out_step, b == 0);
    }
}

// out[b * out_step + r] = scale[r] * (w[r] . x[b]) + bias[r]
TARGET static void rows(const Matrix& m, const float* x, long n, long from, long to, float* out, long out_step) {
    if (m.type == FLOAT32) typed_rows((const float*)m.w, m.cols, x, n, from, to, out, out_step);
    if (m.type == BFLOAT16) typed_rows((const uint16_t*)m.w, m.cols, x, n, from, to, out, out_step);
    if (m.type == INT8) typed_rows((const int8_t*)m.w, m.cols, x, n, from, to, out, out_step);
    for (long b = 0; b < n; b++) {
        float* y = out + b * out_step;
        if (m.scale)
            for (long r = from; r < to; r++) y[r] *= m.scale[r];
        if (m.bias)
            for (long r = from; r < to; r++) y[r] += m.bias[r];
    }
}

TARGET static void layer_norm(const float* x, const float* weight, const float* bias, float eps, long k, float* out) {
    Floats total = Floats{}, square = Floats{};
    long i = 0;
    for (; i + W <= k; i += W) total += load(x + i);
    float mean = SUM(total);
    for (; i < k; i++) mean += x[i];
    mean /= k;
    for (i = 0; i + W <= k; i += W) {
        Floats d = load(x + i) - mean;
        square += d * d;
    }
    float variance = SUM(square);
    for (; i < k; i++) variance += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / __builtin_sqrtf(variance / k + eps);
    for (i = 0; i + W <= k; i += W) store(out + i, (load(x + i) - mean) * factor * load(weight + i) + load(bias + i));
    for (; i < k; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

// Applies a function of vectors in place to any number of floats.
#define MAP(x, count, expression)                                        \
    {                                                                    \
        long i_ = 0;                                                     \
        for (; i_ + W <= (count); i_ += W) {                             \
            Floats v = load((x) + i_);                                   \
            store((x) + i_, expression);                                 \
        }                                                                \
        if (i_ < (count)) {                                              \
            Floats v = Floats{};                                         \
            __builtin_memcpy(&v, (x) + i_, ((count)-i_) * sizeof(float)); \
            v = expression;                                              \
            __builtin_memcpy((x) + i_, &v, ((count)-i_) * sizeof(float)); \
        }                                                                \
    }

// x * sigmoid(1.702 x), arXiv 1606.08415, section 2
TARGET static void activation(float* x, long count) { MAP(x, count, v / (exponential(v * -1.702f) + 1.0f)) }

TARGET static float maximum(const float* x, long count) {
    float most = x[0];
    long i = 0;
    if (count >= W) {
        Floats best = load(x);
        for (i = W; i + W <= count; i += W) best = larger(best, load(x + i));
        most = largest(best);
    }
    for (; i < count; i++) most = x[i] > most ? x[i] : most;
    return most;
}

// x becomes e^(x - most); returns the sum.
TARGET static float exponentials(float* x, long count, float most) {
    MAP(x, count, exponential(v - most))
    Floats total = Floats{};
    long i = 0;
    for (; i + W <= count; i += W) total += load(x + i);
    float s = SUM(total);
    for (; i < count; i++) s += x[i];
    return s;
}

// The attention of one query [d] over `count` keys and values [count, d], not yet divided by the sum of weights.
template <class T>
TARGET static void typed_attend(const float* q, const T* k, const T* v, long count, long d, float* scores, Part* part,
                                float* out) {
    float scale = 1.0f / __builtin_sqrtf((float)d);
    some_rows<1, T>(k, d, q, 0, count, scores, count, true);
    for (long j = 0; j < count; j++) scores[j] *= scale;
    part->most = maximum(scores, count);
    part->sum = exponentials(scores, count, part->most);
    long i = 0;
    for (; i + 4 * W <= d; i += 4 * W) {
        Floats a = Floats{}, b = Floats{}, c = Floats{}, e = Floats{};
        const T* from = v + i;
        for (long j = 0; j < count; j++, from += d) {
            a += scores[j] * load(from);
            b += scores[j] * load(from + W);
            c += scores[j] * load(from + 2 * W);
            e += scores[j] * load(from + 3 * W);
        }
        store(out + i, a);
        store(out + i + W, b);
        store(out + i + 2 * W, c);
        store(out + i + 3 * W, e);
    }
    for (; i + W <= d; i += W) {
        Floats a = Floats{};
        for (long j = 0; j < count; j++) a += scores[j] * load(v + j * d + i);
        store(out + i, a);
    }
    for (; i < d; i++) {
        float a = 0;
        for (long j = 0; j < count; j++) a += scores[j] * number(v[j * d + i]);
        out[i] = a;
    }
}

TARGET static void attend(const float* q, const void* k, const void* v, int type, long count, long d, float* scores,
                          Part* part, float* out) {
    if (type == FLOAT32)
        typed_attend(q, (const float*)k, (const float*)v, count, d, scores, part, out);
    else
        typed_attend(q, (const uint16_t*)k, (const uint16_t*)v, count, d, scores, part, out);
}

static const Kernels kernels = {rows, layer_norm, activation, maximum, exponentials, attend};

#undef INLINE
#undef MAP
}  // namespace NS

// The next instruction set defines its own.
#undef WIDEN
#undef SUM
#undef NS
#undef W
#undef ACCUMULATORS
#undef TARGET
