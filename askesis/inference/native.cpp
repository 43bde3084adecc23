// One step of a dense Qwen3 on a CPU: tokens in, next tokens and their log-probabilities out.
//
// Built for small models and many sequences, where a framework spends its time between operations:
// - A column is one token. Activations lie feature-major, [feature][column], so that everything but attention is
//   vectorised across columns, and a weight matrix is read as it lies in memory, row by row: the trainer's own, no copy.
// - Spans of different lengths need no padding: a column knows its cache row and its position, nothing else.
// - Threads share nothing: each takes whole spans through all layers. One hand-over a step.
// - A column's arithmetic does not depend on its neighbours: the same request gives the same bits in any batch.
//
// In float32, or, where the processor multiplies bfloat16 (AVX512-BF16), with the factors of every product rounded to it
// and all sums, norms and what lies between layers in float32. A bfloat16 matrix is a copy, packed for one pass from start
// to end: [rows in panels of 8][pairs of inputs][8 rows][2].
//
// The cache: [row][block of 16 positions][layer][kv][keys, then values of the block]. What is used of a row lies together.
//   float32: keys [hd][16], values [16][hd padded to 16]
//   bfloat16: keys [hd / 2][16][2], values [16 / 2][hd padded to 16][2]

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int MOST_VECTORS = 4;   // of columns in one block
constexpr int SUM_BLOCK = 32;     // vocabulary entries summed in float before double takes over

// y[n][c] = (add ? y[n][c] : 0) + sum over k of w[n][k] x[k][c], for R rows n and all C vectors of columns. The rows after
// them are fetched meanwhile: so many rows at once are more than the processor foresees
template <int R, int C, bool ADD>
inline void tile(const float* w, const Vec* x, Vec* y, int inner) {
  Vec acc[R][C];
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) acc[i][c] = ADD ? y[i * C + c] : Vec{};
  for (int first = 0; first < inner; first += LANES) {
    for (int i = 0; i < R; i++) __builtin_prefetch(w + (int64_t)(R + i) * inner + first, 0, 3);
    const int end = std::min(first + LANES, inner);
    for (int k = first; k < end; k++) {
      Vec in[C];
      for (int c = 0; c < C; c++) in[c] = x[k * C + c];
      for (int i = 0; i < R; i++) {
        const Vec weight = all(w[(int64_t)i * inner + k]);
        for (int c = 0; c < C; c++) acc[i][c] += weight * in[c];
      }
    }
  }
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) y[i * C + c] = acc[i][c];
}

template <int C, bool ADD>
void multiply(const float* w, const Vec* x, Vec* y, int outer, int inner) {
  int n = 0;
  const auto run = [&]<int R>(std::integral_constant<int, R>) {
    if constexpr (R * C <= ACCUMULATORS)
      for (; n + R <= outer; n += R) tile<R, C, ADD>(w + (int64_t)n * inner, x, y + (int64_t)n * C, inner);
  };
  run(std::integral_constant<int, ACCUMULATORS / C>{});
  run(std::integral_constant<int, 8>{});
  run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 2>{});
  run(std::integral_constant<int, 1>{});
}

#if defined(__AVX512BF16__)
inline uint16_t rounded(float x) {
  return (uint16_t)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(x)), 0);
}

// 2^x to about 3e-5; what a bfloat16 cannot tell apart
inline Vec power_of_two(Vec x) {
  x = maximum(x, all(-126.0f));
  const __m512 whole = _mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec r = x - (Vec)whole;  // Taylor's terms of e^(r ln 2), |r| <= 0.5
  Vec p = all(0.00961813f);
  p = p * r + all(0.05550411f);
  p = p * r + all(0.24022651f);
  p = p * r + all(0.69314718f);
  p = p * r + all(1.0f);
  return (Vec)_mm512_scalef_ps((__m512)p, whole);
}

// x / (1 + e^-x), as exactly as a bfloat16 holds it
inline Vec silu(Vec x) {
  return x * (Vec)_mm512_rcp14_ps((__m512)(all(1.0f) + power_of_two(x * all(-1.44269504f))));
}

constexpr int PANEL = 8;  // rows of a packed matrix that lie together

// As `tile`, for R rows of a panel, with inputs in pairs
template <int R, int C, bool ADD>
inline void pair_tile(const int32_t* w, const IntVec* x, Vec* y, int pairs) {
  Vec acc[R][C];
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) acc[i][c] = ADD ? y[i * C + c] : Vec{};
  for (int k = 0; k < pairs; k++) {
    __builtin_prefetch(w + (pairs + k) * PANEL, 0, 3);
    IntVec in[C];
    for (int c = 0; c < C; c++) in[c] = x[k * C + c];
    for (int i = 0; i < R; i++) {
      const IntVec weight = all_int(w[k * PANEL + i]);
      for (int c = 0; c < C; c++) acc[i][c] = pair_product(acc[i][c], weight, in[c]);
    }
  }
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) y[i * C + c] = acc[i][c];
}

template <int C, bool ADD>
void multiply_pairs(const int32_t* w, const IntVec* x, Vec* y, int outer, int inner) {
  constexpr int R = PANEL * C <= ACCUMULATORS ? PANEL : PANEL / 2;
  const int pairs = (inner + 1) / 2;
  for (int n = 0; n < outer; n += PANEL, w += (int64_t)pairs * PANEL)
    if (n + PANEL <= outer)
      for (int i = 0; i < PANEL; i += R) pair_tile<R, C, ADD>(w + i, x, y + (int64_t)(n + i) * C, pairs);
    else
      for (int i = 0; n + i < outer; i++) pair_tile<1, C, ADD>(w + i, x, y + (int64_t)(n + i) * C, pairs);
}
#endif

template <int C>
void rms_norm(const float* weight, const Vec* x, Vec* y, int size, float eps, float scale = 1.0f) {
  Vec squares[C] = {};
  for (int f = 0; f < size; f++)
    for (int c = 0; c < C; c++) squares[c] += x[f * C + c] * x[f * C + c];
  for (int c = 0; c < C; c++)
    for (int i = 0; i < LANES; i++) squares[c][i] = scale / std::sqrt(squares[c][i] / size + eps);
  for (int f = 0; f < size; f++)
    for (int c = 0; c < C; c++) y[f * C + c] = x[f * C + c] * squares[c] * all(weight[f]);
}

}  // namespace

struct Layer {  // norms are float32; matrices float32 as they are, or packed bfloat16
  const float* input_norm;
  const void *q, *k, *v;
  const float *q_norm, *k_norm;
  const void* o;
  const float* post_norm;
  const void *gate, *up, *down;
};

struct Model {
  int32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, length;  // length: multiple of 16
  int32_t half, half_embed;  // bfloat16: matrices and cache; the table of embeddings
  float eps;
  const void* embed;
  const float* norm;
  const void* head;
  const float *cos, *sin;  // [position][head_dim]
  const Layer* layer;
  void* cache;
};

struct Draws {  // [m], one entry a span that draws
  const double* noise;
  const float* temperature;
  int32_t* tokens;
  float* logprobs;
  float* logits;  // [m][vocab]: if not null, these are given too
};

struct Batch {
  int32_t *tokens, *starts;        // [total], [spans]
  const int32_t *rows, *counts;    // [spans]
  const int32_t* drawing;                          // [spans]: index among the draws, or -1
  int32_t spans;
  Draws draws;
};

namespace {

struct Column {
  int32_t token, row, position, draw;
};

// Everything one thread needs for a block of columns. HALF: in bfloat16
template <bool HALF>
class Worker {
  using Number = std::conditional_t<HALF, uint16_t, float>;        // of the cache
  using Input = std::conditional_t<HALF, const IntVec*, const Vec*>;  // of a product

 public:
  explicit Worker(const Model& model)
      : m_(model),
        padded_((model.head_dim + LANES - 1) / LANES * LANES),
        part_((int64_t)(model.head_dim + padded_) * LANES),
        block_(part_ * model.layers * model.kv_heads) {}

  void run(const Batch& batch, const std::vector<int>& spans, const std::vector<int64_t>& offsets) {
    columns_.clear();
    for (int span : spans)
      for (int i = 0; i < batch.counts[span]; i++)
        columns_.push_back({batch.tokens[offsets[span] + i], batch.rows[span], batch.starts[span] + i,
                            i + 1 == batch.counts[span] ? batch.drawing[span] : -1});
    size_t done = 0;
    while (done < columns_.size()) {
      const size_t left = columns_.size() - done;
      const int whole = (int)((left + LANES - 1) / LANES);  // 5 are better taken as 3 and 2 than as 4 and 1
      const int vectors = whole == 5 ? 3 : std::min(whole, MOST_VECTORS);
      const int count = (int)std::min<size_t>(left, (size_t)vectors * LANES);
      switch (vectors) {
        case 1: block<1>(columns_.data() + done, count, batch.draws); break;
        case 2: block<2>(columns_.data() + done, count, batch.draws); break;
        case 3: block<3>(columns_.data() + done, count, batch.draws); break;
        default: block<4>(columns_.data() + done, count, batch.draws);
      }
      done += count;
    }
  }

 private:
  Vec* room(std::vector<Vec>& buffer, int64_t size) {
    if ((int64_t)buffer.size() < size) buffer.resize(size);
    return buffer.data();
  }

  // x [size][C] as products take it, until the next call
  template <int C>
  Input input(const Vec* x, int size) {
#if defined(__AVX512BF16__)
    if constexpr (HALF) {
      IntVec* pairs = (IntVec*)room(pairs_, (int64_t)(size + 1) / 2 * C);
      for (int k = 0; k < size; k += 2)
        for (int c = 0; c < C; c++)
          pairs[k / 2 * C + c] = pair(x[k * C + c], k + 1 < size ? x[(k + 1) * C + c] : Vec{});
      return pairs;
    } else
#endif
      return (Input)x;
  }

  template <int C, bool ADD>
  void product(const void* w, Input x, Vec* y, int outer, int inner) {
#if defined(__AVX512BF16__)
    if constexpr (HALF)
      multiply_pairs<C, ADD>((const int32_t*)w, x, y, outer, inner);
    else
#endif
      multiply<C, ADD>((const float*)w, (const Vec*)x, y, outer, inner);
  }

  // Of the scores of attention
  static Vec raised(Vec x) {
#if defined(__AVX512BF16__)
    if constexpr (HALF) return power_of_two(x);
#endif
    return exponential(x);
  }

  static Vec activated(Vec x) {
#if defined(__AVX512BF16__)
    if constexpr (HALF) return silu(x);
#endif
    return x / (all(1.0f) + exponential(-x));
  }

  float embedding(int64_t at) const {
    if (!m_.half_embed) return ((const float*)m_.embed)[at];
    union { uint32_t i; float f; } bits{(uint32_t)((const uint16_t*)m_.embed)[at] << 16};
    return bits.f;
  }

  template <int C>
  void block(const Column* columns, int count, const Draws& draws) {
    const int hidden = m_.hidden, hd = m_.head_dim, half = hd / 2;
    const int q_size = m_.heads * hd, kv_size = m_.kv_heads * hd;
    Vec* x = room(x_, (int64_t)hidden * C);
    Vec* normed = room(normed_, (int64_t)std::max(hidden, q_size) * C);
    Vec* q = room(q_, (int64_t)q_size * C);
    Vec* k = room(k_, (int64_t)kv_size * C);
    Vec* v = room(v_, (int64_t)kv_size * C);
    Vec* gate = room(gate_, (int64_t)m_.intermediate * C);
    Vec* up = room(up_, (int64_t)m_.intermediate * C);
    Vec* angles = room(angles_, (int64_t)hd * C);
    const int stride = C * LANES;
    std::memset(x, 0, sizeof(Vec) * hidden * C);
    std::memset(angles, 0, sizeof(Vec) * hd * C);
    for (int c = 0; c < count; c++) {
      const int64_t from = (int64_t)columns[c].token * hidden;
      for (int f = 0; f < hidden; f++) ((float*)x)[f * stride + c] = embedding(from + f);
      const int64_t at = (int64_t)columns[c].position * hd;
      for (int d = 0; d < half; d++) {
        ((float*)angles)[d * stride + c] = m_.cos[at + d];
        ((float*)angles)[(half + d) * stride + c] = m_.sin[at + d];
      }
    }
    for (int l = 0; l < m_.layers; l++) {
      const Layer& layer = m_.layer[l];
      for (int c = 0; c < count; c++) expect(l, columns[c]);
      rms_norm<C>(layer.input_norm, x, normed, hidden, m_.eps);
      Input in = input<C>(normed, hidden);
      product<C, false>(layer.q, in, q, q_size, hidden);
      product<C, false>(layer.k, in, k, kv_size, hidden);
      product<C, false>(layer.v, in, v, kv_size, hidden);
      const float scale = (HALF ? 1.44269504f : 1.0f) / std::sqrt((float)hd);  // log2 e: scores are powers of two
      for (int h = 0; h < m_.heads; h++) rotate<C>(layer.q_norm, q + (int64_t)h * hd * C, angles, scale);
      for (int h = 0; h < m_.kv_heads; h++) rotate<C>(layer.k_norm, k + (int64_t)h * hd * C, angles, 1.0f);
      for (int c = 0; c < count; c++) store(l, columns[c], (const float*)k + c, (const float*)v + c, stride);
      if (count < stride) std::memset(normed, 0, sizeof(Vec) * q_size * C);
      attend(l, columns, count, (const float*)q, (float*)normed, stride);
      product<C, true>(layer.o, input<C>(normed, q_size), x, hidden, q_size);
      rms_norm<C>(layer.post_norm, x, normed, hidden, m_.eps);
      in = input<C>(normed, hidden);
      product<C, false>(layer.gate, in, gate, m_.intermediate, hidden);
      product<C, false>(layer.up, in, up, m_.intermediate, hidden);
      for (int64_t i = 0; i < (int64_t)m_.intermediate * C; i++)
        gate[i] = activated(gate[i]) * up[i];
      product<C, true>(layer.down, input<C>(gate, m_.intermediate), x, hidden, m_.intermediate);
    }
    // only the columns that draw go on, packed together
    int drawn[MOST_VECTORS * LANES], many = 0;
    for (int c = 0; c < count; c++)
      if (columns[c].draw >= 0) {
        if (many != c)
          for (int f = 0; f < hidden; f++) ((float*)x)[f * stride + many] = ((float*)x)[f * stride + c];
        drawn[many++] = columns[c].draw;
      }
    if (many == 0) return;
    rms_norm<C>(m_.norm, x, normed, hidden, m_.eps);
    const int vectors = (many + LANES - 1) / LANES;
    if (vectors < C)  // narrow in place: rows move forward only
      for (int f = 0; f < hidden; f++)
        for (int c = 0; c < vectors; c++) normed[f * vectors + c] = normed[f * C + c];
    switch (vectors) {
      case 1: decide<1>(normed, drawn, many, draws); break;
      case 2: decide<2>(normed, drawn, many, draws); break;
      case 3: decide<3>(normed, drawn, many, draws); break;
      default: decide<4>(normed, drawn, many, draws);
    }
  }

  // Norm of one head, then the rotary embedding; scale is multiplied in
  template <int C>
  void rotate(const float* norm, Vec* head, const Vec* angles, float scale) {
    const int half = m_.head_dim / 2;
    rms_norm<C>(norm, head, head, m_.head_dim, m_.eps, scale);
    for (int i = 0; i < half * C; i++) {
      const Vec cos = angles[i], sin = angles[half * C + i], a = head[i], b = head[half * C + i];
      head[i] = a * cos - b * sin;
      head[half * C + i] = b * cos + a * sin;
    }
  }

  // Where a row's keys begin, in one layer, of one head
  Number* cached(int row, int l, int kv) const {
    return (Number*)m_.cache + row * block_ * (m_.length / LANES) + (l * m_.kv_heads + kv) * part_;
  }

  // Fetch what `store` is going to write to, so that it need not wait
  void expect(int l, const Column& column) const {
    constexpr int WIDTH = HALF ? 2 : 1;
    for (int kv = 0; kv < m_.kv_heads; kv++) {
      Number* key = cached(column.row, l, kv) + column.position / LANES * block_;
      Number* value = key + m_.head_dim * LANES + column.position % LANES / WIDTH * padded_ * WIDTH;
      for (int d = 0; d < m_.head_dim / WIDTH; d++) __builtin_prefetch(key + d * LANES * WIDTH, 1, 2);
      for (int d = 0; d < padded_ / LANES; d++) __builtin_prefetch(value + d * LANES * WIDTH, 1, 2);
    }
  }

  void store(int l, const Column& column, const float* k, const float* v, int stride) {
    const int hd = m_.head_dim, lane = column.position % LANES;
    for (int kv = 0; kv < m_.kv_heads; kv++, k += (int64_t)hd * stride, v += (int64_t)hd * stride) {
      Number* key = cached(column.row, l, kv) + column.position / LANES * block_;
      Number* value = key + hd * LANES + (HALF ? lane / 2 * padded_ * 2 + lane % 2 : lane * padded_);
#if defined(__AVX512BF16__)
      if constexpr (HALF) {
        for (int d = 0; d < hd; d++) key[(d / 2 * LANES + lane) * 2 + d % 2] = rounded(k[d * stride]);
        for (int d = 0; d < hd; d++) value[d * 2] = rounded(v[d * stride]);
        continue;
      }
#endif
      for (int d = 0; d < hd; d++) key[d * LANES + lane] = k[d * stride];
      for (int d = 0; d < hd; d++) value[d] = v[d * stride];
    }
  }

  // Attention. While the keys and values of one column are read, those of the next are fetched into the second-level
  // cache: what many sequences have cached fits no core's own, and one's is too short to be foreseen
  void attend(int l, const Column* columns, int count, const float* q, float* out, int stride) {
    const int group = m_.heads / m_.kv_heads;
    const int64_t step = (int64_t)m_.head_dim * stride;
    for (int c = 0; c < count; c++)
      for (int kv = 0; kv < m_.kv_heads; kv++) {
        const int row = columns[c].row, n = columns[c].position + 1;
        const Number* from = cached(row, l, kv);
        const bool last = c + 1 == count;  // then comes the first column, a layer further
        const int64_t ahead = cached(columns[last ? 0 : c + 1].row, last && l + 1 < m_.layers ? l + 1 : l, kv) - from;
        int g = kv * group;
        const int end = g + group;
        for (; g + 4 <= end; g += 4) heads<4>(n, from, ahead, q + c, out + c, g, step, stride);
        for (; g + 2 <= end; g += 2) heads<2>(n, from, ahead, q + c, out + c, g, step, stride);
        for (; g < end; g++) heads<1>(n, from, ahead, q + c, out + c, g, step, stride);
      }
  }

  // G query heads that share keys and values, over n positions; ahead: how far it is to what is read next
  template <int G>
  void heads(int n, const Number* from, int64_t ahead, const float* q, float* out, int head, int64_t step, int stride) {
    const int hd = m_.head_dim, blocks = (n + LANES - 1) / LANES;
    Vec* scores = room(scores_, (int64_t)(blocks + 4) * G);
    float* mine = (float*)room(query_, (int64_t)padded_ * G / LANES);
    for (int g = 0; g < G; g++)
      for (int d = 0; d < hd; d++) mine[g * padded_ + d] = q[(head + g) * step + (int64_t)d * stride];
#if defined(__AVX512BF16__)
    if constexpr (HALF)  // in place: two floats make one pair
      for (int i = 0; i < padded_ * G / LANES; i++) store_pairs((int32_t*)mine + i * LANES / 2, ((const Vec*)mine)[i]);
#endif
    Vec top[G];
    for (int g = 0; g < G; g++) top[g] = all(-INFINITY);
    int b = 0;
    if constexpr (G <= 2)
      for (; b + 4 <= blocks; b += 4) dots<G, 4>(from + b * block_, ahead, mine, scores, b, top, n);
    for (; b + 2 <= blocks; b += 2) dots<G, 2>(from + b * block_, ahead, mine, scores, b, top, n);
    if (b < blocks) dots<G, 1>(from + b * block_, ahead, mine, scores, b, top, n);
    Vec total[G] = {};
    for (int g = 0; g < G; g++) top[g] = all(largest(top[g]));
    for (b = 0; b < blocks; b++)
      for (int g = 0; g < G; g++) total[g] += scores[b * G + g] = raised(scores[b * G + g] - top[g]);
    float inverse[G];
    for (int g = 0; g < G; g++) inverse[g] = 1.0f / sum(total[g]);  // lanes beyond n add next to nothing
#if defined(__AVX512BF16__)
    if constexpr (HALF)
      for (int i = 0; i < blocks * G; i++) store_pairs((int32_t*)scores + i * LANES / 2, scores[i]);
#endif
    for (int d = 0; d < padded_; d += 2 * LANES) {
      const Number* values = from + hd * LANES + (HALF ? 2 : 1) * d;
      if (d + LANES < padded_)
        mix<G, 2>(n, values, ahead, scores, inverse, out, head, step, stride, d);
      else
        mix<G, 1>(n, values, ahead, scores, inverse, out, head, step, stride, d);
    }
  }

  template <int G, int B>
  void dots(const Number* k, int64_t ahead, const float* q, Vec* scores, int b, Vec* top, int n) {
    constexpr int WIDTH = HALF ? 2 : 1;  // features a lane
    const int steps = m_.head_dim / WIDTH, apart = padded_ / WIDTH;
    Vec acc[B][G] = {};
    for (int d = 0; d < steps; d++)
      for (int i = 0; i < B; i++) {
        const Number* key = k + i * block_ + d * LANES * WIDTH;
        __builtin_prefetch(key + ahead, 0, 2);
        for (int g = 0; g < G; g++)
#if defined(__AVX512BF16__)
          if constexpr (HALF)
            acc[i][g] = pair_product(acc[i][g], *(const IntVec*)key, all_int(((const int32_t*)q)[g * apart + d]));
          else
#endif
            acc[i][g] += *(const Vec*)key * all(q[g * apart + d]);
      }
    for (int i = 0; i < B; i++)
      for (int g = 0; g < G; g++) {
        for (int j = n - (b + i) * LANES; j < LANES; j++) acc[i][g][j] = -INFINITY;
        scores[(b + i) * G + g] = acc[i][g];
        top[g] = maximum(top[g], acc[i][g]);
      }
  }

  // The weighted mean of values. Two sums take turns, so that neither waits for itself
  template <int G, int D>
  void mix(int n, const Number* v, int64_t ahead, const Vec* scores, const float* inverse, float* out, int head,
           int64_t step, int stride, int first) {
    constexpr int WIDTH = HALF ? 2 : 1;  // positions a lane
    constexpr int BLOCK = LANES / WIDTH;
    Vec acc[2][G][D] = {};
    const auto add = [&](Vec(&to)[G][D], int j, bool lone) {
      const Number* from = v + j / BLOCK * block_ + j % BLOCK * padded_ * WIDTH;
      const int at = j / BLOCK * G * BLOCK + j % BLOCK;
      for (int d = 0; d < D; d++) {
        const Number* value = from + d * LANES * WIDTH;
        __builtin_prefetch(value + ahead, 0, 2);
#if defined(__AVX512BF16__)
        if constexpr (HALF) {
          IntVec two = *(const IntVec*)value;
          if (lone) two &= all_int(0xFFFF);  // what lies at the position after the last may be anything
          for (int g = 0; g < G; g++)
            to[g][d] = pair_product(to[g][d], two, all_int(((const int32_t*)scores)[at + g * BLOCK]));
          continue;
        }
#endif
        for (int g = 0; g < G; g++) to[g][d] += *(const Vec*)value * all(((const float*)scores)[at + g * BLOCK]);
      }
    };
    const int whole = n / WIDTH;
    int j = 0;
    for (; j + 2 <= whole; j += 2) add(acc[0], j, false), add(acc[1], j + 1, false);
    if (j < whole) add(acc[0], j, false);
    if (n % WIDTH) add(acc[1], whole, true);
    for (int g = 0; g < G; g++)
      for (int d = 0; d < D; d++) {
        const Vec mixed = (acc[0][g][d] + acc[1][g][d]) * all(inverse[g]);
        for (int i = 0; i < LANES && first + d * LANES + i < m_.head_dim; i++)
          out[(head + g) * step + (int64_t)(first + d * LANES + i) * stride] = mixed[i];
      }
  }

  // Logits of `many` columns, and a token for each by inverting the cumulative sum (or the best one)
  template <int C>
  void decide(const Vec* hidden, const int* drawn, int many, const Draws& draws) {
    const int vocab = m_.vocab, stride = C * LANES, blocks = (vocab + SUM_BLOCK - 1) / SUM_BLOCK;
    Vec* logits = room(logits_, (int64_t)vocab * C);
    product<C, false>(m_.head, input<C>(hidden, m_.hidden), logits, vocab, m_.hidden);
    const float* raw = (const float*)logits;
    if (draws.logits)
      for (int c = 0; c < many; c++)
        for (int t = 0; t < vocab; t++) draws.logits[(int64_t)drawn[c] * vocab + t] = raw[(int64_t)t * stride + c];
    Vec top[C], inverse[C];
    IntVec best[C] = {};
    for (int c = 0; c < C; c++) top[c] = logits[c], inverse[c] = all(1.0f);
    for (int c = 0; c < many; c++) {
      const float temperature = draws.temperature[drawn[c]];
      inverse[c / LANES][c % LANES] = temperature > 0 ? 1.0f / temperature : 1.0f;
    }
    for (int t = 1; t < vocab; t++)
      for (int c = 0; c < C; c++) {
        const Vec logit = logits[(int64_t)t * C + c];
        best[c] = logit > top[c] ? t - IntVec{} : best[c];
        top[c] = maximum(logit, top[c]);
      }
    Vec* sums = room(sums_, (int64_t)blocks * C);
    for (int b = 0; b < blocks; b++) {
      Vec total[C] = {};
      for (int t = b * SUM_BLOCK; t < std::min(vocab, (b + 1) * SUM_BLOCK); t++)
        for (int c = 0; c < C; c++) {
          Vec& logit = logits[(int64_t)t * C + c];
          logit = (logit - top[c]) * inverse[c];
          total[c] += exponential(logit);
        }
      for (int c = 0; c < C; c++) sums[b * C + c] = total[c];
    }
    for (int c = 0; c < many; c++) {
      const float* part = (const float*)sums + c;
      double total = 0;
      for (int b = 0; b < blocks; b++) total += part[(int64_t)b * stride];
      int token = best[c / LANES][c % LANES];
      if (draws.temperature[drawn[c]] > 0) token = invert(raw + c, part, stride, blocks, draws.noise[drawn[c]] * total);
      draws.tokens[drawn[c]] = token;
      draws.logprobs[drawn[c]] = (float)(raw[(int64_t)token * stride + c] - std::log(total));
    }
  }

  // The first token at which the sum of exp(scaled) passes `target`
  int invert(const float* scaled, const float* part, int stride, int blocks, double target) const {
    double before = 0;
    int b = 0;
    while (b + 1 < blocks && before + part[(int64_t)b * stride] <= target) before += part[(int64_t)b++ * stride];
    const int first = b * SUM_BLOCK, end = std::min(m_.vocab, first + SUM_BLOCK);
    for (int t = first; t < end; t++) {
      before += std::exp((double)scaled[(int64_t)t * stride]);
      if (before > target) return t;
    }
    return end - 1;
  }

  const Model& m_;
  const int padded_;
  const int64_t part_, block_;  // numbers that the cache has for 16 positions: of one layer and head, of all
  std::vector<Column> columns_;
  std::vector<Vec> x_, normed_, q_, k_, v_, gate_, up_, angles_, scores_, query_, logits_, sums_, pairs_;
};

}  // namespace

class Engine {
 public:
  virtual ~Engine() = default;
  virtual void step(const Batch& batch) = 0;
};

// The model, and threads that wait for their share of a step
template <bool HALF>
class Threaded : public Engine {
 public:
  Threaded(const Model& model, const Layer* layers, int threads)
      : model_(model), layers_(layers, layers + model.layers) {
    model_.layer = layers_.data();
    for (int i = 0; i < threads; i++) workers_.emplace_back(model_);
    shares_.resize(threads);
    for (int i = 1; i < threads; i++) threads_.emplace_back([this, i] { serve(i); });
  }

  ~Threaded() override {
    stop_ = true;
    wake();
    for (auto& thread : threads_) thread.join();
  }

  void step(const Batch& batch) override {
    batch_ = &batch;
    offsets_.assign(batch.spans + 1, 0);
    for (int i = 0; i < batch.spans; i++) offsets_[i + 1] = offsets_[i] + batch.counts[i];
    const int64_t total = offsets_[batch.spans];
    // a thread for every full vector of columns: less would not be faster
    const int share = (int)std::max<int64_t>(1, std::min<int64_t>(workers_.size(), (total + LANES - 1) / LANES));
    for (auto& spans : shares_) spans.clear();
    std::vector<int64_t> load(share, 0);
    // the longest first, so that the short ones can even out what is left
    order_.resize(batch.spans);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](int a, int b) { return batch.counts[a] > batch.counts[b]; });
    for (int i : order_) {
      int least = 0;
      for (int t = 1; t < share; t++)
        if (load[t] < load[least]) least = t;
      shares_[least].push_back(i);
      load[least] += batch.counts[i];
    }
    if (share > 1) {
      pending_ = (int)threads_.size();
      wake();
    }
    workers_[0].run(batch, shares_[0], offsets_);
    if (share > 1)
      while (pending_.load(std::memory_order_acquire) > 0) pause();
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    std::this_thread::yield();
#endif
  }

  void wake() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    ready_.notify_all();
  }

  void serve(int index) {
    int64_t seen = 0;
    for (;;) {
      // decode steps follow each other closely: look for the next one a moment before sleeping
      for (int i = 0; i < 4000 && generation_.load(std::memory_order_acquire) == seen; i++) pause();
      if (generation_.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        ready_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      if (!shares_[index].empty()) workers_[index].run(*batch_, shares_[index], offsets_);
      pending_.fetch_sub(1, std::memory_order_release);
    }
  }

  Model model_;
  std::vector<Layer> layers_;
  std::vector<Worker<HALF>> workers_;
  std::vector<std::vector<int>> shares_;
  std::vector<int> order_;
  std::vector<int64_t> offsets_;
  std::vector<std::thread> threads_;
  const Batch* batch_ = nullptr;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::atomic<int64_t> generation_{0};
  std::atomic<int> pending_{0};
  std::atomic<bool> stop_{false};
};

extern "C" {

// Whether the processor multiplies bfloat16
int32_t engine_knows_half() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

Engine* engine_new(const Model* model, const Layer* layers, int32_t threads) {
#if defined(__AVX512BF16__)
  if (model->half) return new Threaded<true>(*model, layers, threads);
#endif
  return new Threaded<false>(*model, layers, threads);
}

void engine_free(Engine* engine) { delete engine; }

#if defined(__AVX512BF16__)
// A matrix [rows][inputs], in bfloat16 or float32, as `multiply_pairs` takes it, filled up with zeros
void engine_pack(const void* matrix, int32_t half, int32_t rows, int32_t inputs, int32_t* into) {
  const int pairs = (inputs + 1) / 2;
  std::vector<int32_t> panel((int64_t)PANEL * pairs);
  for (int n = 0; n < rows; n += PANEL, into += (int64_t)pairs * PANEL) {
    std::fill(panel.begin(), panel.end(), 0);
    for (int i = 0; i < PANEL && n + i < rows; i++) {
      uint16_t* line = (uint16_t*)(panel.data() + (int64_t)i * pairs);
      const int64_t from = (int64_t)(n + i) * inputs;
      int k = 0;
      if (half)
        std::memcpy(line, (const uint16_t*)matrix + from, sizeof(uint16_t) * inputs);
      else
        for (const float* row = (const float*)matrix + from; k < inputs; k += LANES) {
          const __mmask16 mask = inputs - k < LANES ? (1 << (inputs - k)) - 1 : 0xFFFF;
          const __m512 read = _mm512_maskz_loadu_ps(mask, row + k);
          _mm256_mask_storeu_epi16(line + k, mask, (__m256i)_mm512_cvtneps_pbh(read));
        }
    }
    for (int k = 0; k < pairs; k++)
      for (int i = 0; i < PANEL; i++) into[k * PANEL + i] = panel[(int64_t)i * pairs + k];
  }
}
#endif

// Up to `most` steps: more than one only if every span is one token that draws, and nothing can happen before but that a
// row draws one of its `watch` [spans][width] tokens, which ends it. Outputs are [step][draw], as is the noise.
int32_t engine_step(Engine* engine, Batch* batch, int32_t most, const int32_t* watch, int32_t width) {
  for (int32_t done = 1;; done++) {
    engine->step(*batch);
    if (done == most) return done;
    bool seen = false;
    for (int32_t i = 0; i < batch->spans; i++) {
      const int32_t token = batch->draws.tokens[i];
      for (int32_t w = 0; w < width; w++) seen |= watch[(int64_t)i * width + w] == token;
      batch->tokens[i] = token;
      batch->starts[i]++;
    }
    if (seen) return done;
    batch->draws.noise += batch->spans;
    batch->draws.tokens += batch->spans;
    batch->draws.logprobs += batch->spans;
  }
}
}
