// Draws tokens from an autoregressive transformer on a processor: one call makes many tokens of a batch.
//
// What a token passes: embedding, then for each layer norm, queries with keys and values, attention, projection, norm,
// MLP, then the output head and the draw. A layer's attention pattern is a table of three integers per position (where
// its keys go, the first slot it reads, how many), so that this file knows no pattern. Python makes all tables and owns
// all memory; `steps.py` mirrors the structs below.
//
// The work is cut into stages, a stage into chunks. Threads take the chunks of the current stage as they come; who
// finishes the last one does the small serial part (norm, joins, draw) and opens the next stage. Nobody waits for a
// thread that holds no chunk, so a thread that the system has put aside delays little.

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum Type : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

struct Matrix {
    const void* w;       // [rows, cols]
    const float* bias;   // [rows] or null
    const float* scale;  // [rows], factor of int8 weights, or null
    int64_t rows, cols;
    int64_t type;
};

struct Layer {
    Matrix qkv, proj, fc, out;
    const float *norm_0_weight, *norm_0_bias, *norm_1_weight, *norm_1_bias;
    const int32_t* addresses;  // [n_ctx, 3]: slot of the position's key or -1, first slot that it reads, slots it reads
    void* kv;                  // [n, 2, heads, slots, head_dim]
    int64_t slots;
};

struct Model {
    const Layer* layers;
    Matrix head;
    const float* embedding;  // [bins, width]
    const float* positions;  // [n_ctx, width]
    const float* first;      // [n, width]: what position 0 holds
    const float* cond;       // conditioning of song b at position i: cond + b * cond_song + i * cond_position, or null
    int64_t first_song, cond_song, cond_position, cond_after;
    int64_t n, n_ctx, width, heads, head_dim, depth, kv_type;
    double eps, res_scale, temp, top_p;
    int64_t top_k;
    int64_t threads;
    int64_t level;  // instruction set: 0 plain, 1 AVX2, 2 AVX-512
};

struct Part {
    float most, sum;
};

struct Kernels {
    void (*rows)(const Matrix&, const float*, long, long, long, float*, long);
    void (*layer_norm)(const float*, const float*, const float*, float, long, float*);
    void (*activation)(float*, long);
    float (*maximum)(const float*, long);
    float (*exponentials)(float*, long, float);
    void (*attend)(const float*, const void*, const void*, int, long, long, float*, Part*, float*);
};

static inline float number(float x) { return x; }
static inline float number(int8_t x) { return x; }
static inline float number(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
static inline uint16_t to_bfloat16(float x) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (x != x) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define NS plain
#define W 4
#define ACCUMULATORS 8
#define TARGET
#define WIDEN(p) (Ints{p[0], p[1], p[2], p[3]})
#define SUM(x) ((x[0] + x[2]) + (x[1] + x[3]))
#include "kernels.h"

#if defined(__x86_64__)
#define NS avx2
#define W 8
#define ACCUMULATORS 8
#define TARGET __attribute__((target("avx2,fma")))
#define WIDEN(p) ((Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p))))
#define SUM(x) sum_of_8((__m256)(x))
TARGET static inline float sum_of_8(__m256 x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
#include "kernels.h"

#define NS avx512
#define W 16
#define ACCUMULATORS 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define WIDEN(p) ((Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(p))))
#define SUM(x) _mm512_reduce_add_ps((__m512)(x))
#include "kernels.h"
#endif

extern "C" int64_t jukebox_best_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

static const Kernels& kernels_of(int64_t level) {
#if defined(__x86_64__)
    if (level == 2) return avx512::kernels;
    if (level == 1) return avx2::kernels;
#endif
    return plain::kernels;
}

static inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

enum Stage { QKV, ATTEND, PROJECT, HIDDEN, OUT, HEAD };

static const long KEYS = 64;        // most keys of one part of attention; threads and songs do not change the parts
static const long BYTES = 1 << 16;  // weights of one chunk of a product

class Run {
   public:
    Run(const Model& model, int64_t start, int64_t count, int64_t* tokens, const float* noise, float* logits)
        : m(model), k(kernels_of(model.level)), end(start + count), first(start), tokens(tokens), noise(noise),
          kept_logits(logits) {
        long most_state = 0, most_hidden = 0, most_keys = 1;
        for (int64_t i = 0; i < m.depth; i++) {
            const Layer& layer = m.layers[i];
            most_state = std::max(most_state, (long)layer.qkv.rows);
            most_hidden = std::max(most_hidden, (long)layer.fc.rows);
            for (int64_t p = start; p < end; p++) most_keys = std::max(most_keys, (long)layer.addresses[3 * p + 2]);
        }
        state = m.heads * m.head_dim;
        parts_per_head = (most_keys + KEYS - 1) / KEYS;
        x.resize(m.n * m.width);
        y.resize(m.n * m.width);
        normed.resize(m.n * m.width);
        added.resize(m.n * m.width);
        qkv.resize(m.n * most_state);
        attended.resize(m.n * state);
        hidden.resize(m.n * most_hidden);
        scored.resize(m.n * m.head.rows);
        mass.resize(m.head.rows);
        parts.resize(m.n * m.heads * parts_per_head);
        part_values.resize(m.n * m.heads * parts_per_head * m.head_dim);
    }

    // Returns -1, or the position whose logits are not finite.
    int64_t go() {
        begin(first);
        std::vector<std::thread> team;
        for (int64_t i = 1; i < m.threads; i++) {
            try {
                team.emplace_back([this] { work(); });
            } catch (...) {  // no thread to be had: those that are here do the work
                break;
            }
        }
        work();
        for (auto& thread : team) thread.join();
        return failed;
    }

   private:
    const Model& m;
    const Kernels& k;
    const int64_t end, first;
    int64_t* const tokens;     // [.., n], a row per position
    const float* const noise;  // the same
    float* const kept_logits;  // [count, n, bins] or null
    long state, parts_per_head;
    std::vector<float> x, y, normed, added, qkv, attended, hidden, scored, mass, part_values;
    std::vector<Part> parts;
    int64_t failed = -1;

    // The stage at work. Written by the one thread that opens it, before `ticket` says so.
    int64_t position = 0, layer_number = 0;
    Stage stage = QKV;
    long splits = 1;
    std::atomic<uint64_t> ticket{0};  // number of the stage (32 bits), its chunks (16), the next chunk to take (16)
    std::atomic<uint32_t> finished{0};
    std::atomic<int> sleepers{0};
    std::mutex lock;
    std::condition_variable opened;
    static const uint32_t OVER = 0xffffffff;

    const Layer& layer() const { return m.layers[layer_number]; }
    const int32_t* address() const { return layer().addresses + 3 * position; }

    // ------------------------------------------------------------------------------------------------ the team

    void work() {
        std::vector<float> scores(KEYS);
        uint64_t now = ticket.load(std::memory_order_acquire);
        while ((uint32_t)(now >> 32) != OVER) {
            uint32_t chunks = now >> 16 & 0xffff, next = now & 0xffff;
            if (next >= chunks) {
                now = wait_after(now >> 32);
                continue;
            }
            if (!ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel, std::memory_order_acquire))
                continue;
            do_chunk(next, chunks, scores.data());
            if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == chunks) advance(now >> 32);
            now = ticket.load(std::memory_order_acquire);
        }
    }

    // A little while awake, since the next stage usually opens within microseconds; then asleep, so that others who
    // want this core get it.
    uint64_t wait_after(uint32_t number) {
        uint64_t now;
        auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(40);
        do {
            for (int i = 0; i < 64; i++) {
                now = ticket.load(std::memory_order_acquire);
                if ((uint32_t)(now >> 32) != number) return now;
                relax();
            }
        } while (std::chrono::steady_clock::now() < until);
        std::unique_lock<std::mutex> held(lock);
        sleepers.fetch_add(1);
        opened.wait(held, [&] { return (uint32_t)((now = ticket.load()) >> 32) != number; });
        sleepers.fetch_sub(1);
        return now;
    }

    void open(uint32_t number, long chunks) {
        finished.store(0, std::memory_order_relaxed);
        ticket.store((uint64_t)number << 32 | (uint64_t)chunks << 16);
        if (sleepers.load()) {
            std::lock_guard<std::mutex> held(lock);
            opened.notify_all();
        }
    }

    // ------------------------------------------------------------------------------------------------ chunks

    const Matrix& matrix() const {
        switch (stage) {
            case QKV: return layer().qkv;
            case PROJECT: return layer().proj;
            case HIDDEN: return layer().fc;
            case OUT: return layer().out;
            default: return m.head;
        }
    }

    long chunks_now() {
        if (stage == ATTEND) {
            splits = std::max<long>(1, (address()[2] + KEYS - 1) / KEYS);
            return m.threads == 1 ? 1 : std::min(m.n * m.heads * splits, 8 * m.threads);
        }
        if (m.threads == 1) return 1;
        const Matrix& a = matrix();
        long bytes = a.rows * a.cols * (a.type == FLOAT32 ? 4 : a.type == BFLOAT16 ? 2 : 1) * std::min<long>(m.n, 4);
        return std::min({std::max(1L, bytes / BYTES), (long)((a.rows + 7) / 8), (long)(16 * m.threads)});
    }

    void do_chunk(long chunk, long chunks, float* scores) {
        if (stage == ATTEND) {
            long all = m.n * m.heads * splits;
            for (long i = all * chunk / chunks; i < all * (chunk + 1) / chunks; i++) attend(i, scores);
            return;
        }
        const Matrix& a = matrix();
        long groups = (a.rows + 7) / 8;  // whole tiles of rows
        long from = groups * chunk / chunks * 8, to = std::min<long>(a.rows, groups * (chunk + 1) / chunks * 8);
        switch (stage) {
            case QKV:
                k.rows(a, normed.data(), m.n, from, to, qkv.data(), a.rows);
                break;
            case PROJECT:
                k.rows(a, attended.data(), m.n, from, to, added.data(), a.rows);
                for (long b = 0; b < m.n; b++)
                    for (long r = from; r < to; r++) y[b * m.width + r] = x[b * m.width + r] + added[b * m.width + r];
                break;
            case HIDDEN:
                k.rows(a, normed.data(), m.n, from, to, hidden.data(), a.rows);
                for (long b = 0; b < m.n; b++) k.activation(hidden.data() + b * a.rows + from, to - from);
                break;
            case OUT:
                k.rows(a, hidden.data(), m.n, from, to, normed.data(), a.rows);
                for (long i = 0; i < m.n; i++)
                    for (long j = i * m.width + from; j < i * m.width + to; j++)
                        x[j] = m.res_scale == 1.0 ? y[j] + normed[j] : x[j] + (float)m.res_scale * (added[j] + normed[j]);
                break;
            default:
                k.rows(a, x.data(), m.n, from, to, scored.data(), a.rows);
        }
    }

    const char* keys_of(long song, int which, long head, long slot) const {
        long size = m.kv_type == FLOAT32 ? 4 : 2;
        return (const char*)layer().kv +
               (((song * 2 + which) * m.heads + head) * layer().slots + slot) * m.head_dim * size;
    }

    void attend(long i, float* scores) {
        long split = i % splits, head = i / splits % m.heads, song = i / splits / m.heads;
        long keys = address()[2], from = keys * split / splits, to = keys * (split + 1) / splits;
        long place = (song * m.heads + head) * parts_per_head + split;
        const float* q = qkv.data() + song * layer().qkv.rows + head * m.head_dim;
        if (from == to) {
            parts[place] = {0, 0};
            std::fill_n(&part_values[place * m.head_dim], m.head_dim, 0.0f);
            return;
        }
        k.attend(q, keys_of(song, 0, head, address()[1] + from), keys_of(song, 1, head, address()[1] + from),
                 (int)m.kv_type, to - from, m.head_dim, scores, &parts[place], &part_values[place * m.head_dim]);
    }

    // ------------------------------------------------------------------------------------------------ between stages

    void advance(uint32_t number) {
        switch (stage) {
            case QKV:
                keep_keys();
                stage = ATTEND;
                break;
            case ATTEND:
                join_parts();
                stage = PROJECT;
                break;
            case PROJECT:
                norm(y.data(), layer().norm_1_weight, layer().norm_1_bias);
                stage = HIDDEN;
                break;
            case HIDDEN:
                stage = OUT;
                break;
            case OUT:
                if (++layer_number < m.depth) {
                    norm(x.data(), layer().norm_0_weight, layer().norm_0_bias);
                    stage = QKV;
                } else {
                    if (m.cond && m.cond_after) add_cond();
                    stage = HEAD;
                }
                break;
            case HEAD:
                if (!draw() || position + 1 == end) {
                    open(OVER, 0);
                    return;
                }
                embed(position + 1);
                stage = QKV;
        }
        open(number + 1, chunks_now());
    }

    void begin(int64_t at) {
        embed(at);
        stage = QKV;
        open(0, chunks_now());
    }

    void embed(int64_t at) {
        position = at;
        layer_number = 0;
        for (long b = 0; b < m.n; b++) {
            const float* held = at == 0 ? m.first + b * m.first_song : m.embedding + tokens[(at - 1) * m.n + b] * m.width;
            const float* place = m.positions + at * m.width;
            for (long i = 0; i < m.width; i++) x[b * m.width + i] = held[i] + place[i];
        }
        if (m.cond) add_cond();
        norm(x.data(), layer().norm_0_weight, layer().norm_0_bias);
    }

    void add_cond() {
        for (long b = 0; b < m.n; b++) {
            const float* cond = m.cond + b * m.cond_song + position * m.cond_position;
            for (long i = 0; i < m.width; i++) x[b * m.width + i] += cond[i];
        }
    }

    void norm(const float* from, const float* weight, const float* bias) {
        for (long b = 0; b < m.n; b++)
            k.layer_norm(from + b * m.width, weight, bias, (float)m.eps, m.width, normed.data() + b * m.width);
    }

    void keep_keys() {
        long slot = address()[0];
        if (slot < 0) return;
        for (long b = 0; b < m.n; b++)
            for (int which = 0; which < 2; which++)
                for (long head = 0; head < m.heads; head++) {
                    const float* from = qkv.data() + b * 3 * state + (1 + which) * state + head * m.head_dim;
                    char* to = const_cast<char*>(keys_of(b, which, head, slot));
                    if (m.kv_type == FLOAT32)
                        std::memcpy(to, from, m.head_dim * sizeof(float));
                    else
                        for (long i = 0; i < m.head_dim; i++) ((uint16_t*)to)[i] = to_bfloat16(from[i]);
                }
    }

    void join_parts() {
        for (long i = 0; i < m.n * m.heads; i++) {
            const Part* part = &parts[i * parts_per_head];
            const float* values = &part_values[i * parts_per_head * m.head_dim];
            float* out = &attended[i * m.head_dim];
            float most = part[0].most, total = 0;
            for (long s = 1; s < splits; s++) most = std::max(most, part[s].most);
            std::fill_n(out, m.head_dim, 0.0f);
            for (long s = 0; s < splits; s++) {
                float factor = splits == 1 ? 1.0f : std::exp(part[s].most - most);
                total += factor * part[s].sum;
                for (long j = 0; j < m.head_dim; j++) out[j] += factor * values[s * m.head_dim + j];
            }
            if (total > 0)  // a query that reads nothing attends to zero
                for (long j = 0; j < m.head_dim; j++) out[j] /= total;
        }
    }

    // ------------------------------------------------------------------------------------------------ the draw

    // As `draw` of prior/logits.py. False where logits are not finite.
    bool draw() {
        long bins = m.head.rows;
        if (kept_logits)
            std::memcpy(kept_logits + (position - first) * m.n * bins, scored.data(), m.n * bins * sizeof(float));
        for (long b = 0; b < m.n; b++) {
            float* row = scored.data() + b * bins;
            bool finite = true;
            for (long i = 0; i < bins; i++) finite &= std::fabs(row[i]) <= FLT_MAX;
            if (!finite) {
                failed = position;
                return false;
            }
            tokens[position * m.n + b] = choose(row, bins, noise[position * m.n + b]);
        }
        return true;
    }

    int64_t choose(float* row, long bins, float uniform) {
        if (m.top_k == 1) return std::max_element(row, row + bins) - row;
        if (m.temp != 1.0)
            for (long i = 0; i < bins; i++) row[i] /= (float)m.temp;
        if (m.top_k) keep_likeliest(row, bins);
        if (m.top_p > 0) keep_mass(row, bins);
        float total = k.exponentials(row, bins, k.maximum(row, bins));
        double reached = 0;
        for (long i = 0; i < bins; i++) mass[i] = (float)(reached += row[i] / total);
        float whole = mass[bins - 1];
        float wanted = std::min(uniform * whole, std::nextafterf(whole, 0.0f));
        return std::upper_bound(mass.begin(), mass.begin() + bins, wanted) - mass.begin();
    }

    void keep_likeliest(float* row, long bins) {
        long count = std::min<long>(m.top_k, bins);
        std::copy(row, row + bins, mass.begin());
        std::nth_element(mass.begin(), mass.begin() + (count - 1), mass.begin() + bins, std::greater<float>());
        float smallest = mass[count - 1];
        for (long i = 0; i < bins; i++)
            if (row[i] < smallest) row[i] = -INFINITY;
    }

    void keep_mass(float* row, long bins) {
        std::vector<int32_t> order(bins);
        std::iota(order.begin(), order.end(), 0);
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
        for (long i = 0; i < bins; i++) mass[i] = row[order[i]];
        float total = k.exponentials(mass.data(), bins, mass[0]);
        double reached = 0;
        for (long i = 0; i < bins; i++) {
            if ((float)reached > (float)m.top_p) row[order[i]] = -INFINITY;
            reached += mass[i] / total;
        }
    }
};

// Draws tokens [start, start + count) of n songs. tokens and noise are [.., n], a row per position from 0 on; the token
// before `start` must be there. Returns -1, or the position whose logits are not finite: tokens before it are drawn.
extern "C" int64_t jukebox_draw(const Model* model, int64_t start, int64_t count, int64_t* tokens, const float* noise,
                                float* logits) {
    return Run(*model, start, count, tokens, noise, logits).go();
}

extern "C" int64_t jukebox_sizes() { return sizeof(Matrix) * 1000000 + sizeof(Layer) * 1000 + sizeof(Model); }
