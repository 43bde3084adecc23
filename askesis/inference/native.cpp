// One step of a dense Qwen3 in float32 on a CPU: tokens in, next tokens and their log-probabilities out.
//
// Built for small models and many sequences, where a framework spends its time between operations:
// - A column is one token. Activations lie feature-major, [feature][column], so that everything but attention is
//   vectorised across columns, and a weight matrix is read as it lies in memory, row by row: the trainer's own, no copy.
// - Spans of different lengths need no padding: a column knows its cache row and its position, nothing else.
// - Threads share nothing: each takes whole spans through all layers. One hand-over a step.
// - A column's arithmetic does not depend on its neighbours: the same request gives the same bits in any batch.
//
// The cache: keys [row][layer][kv][block of 16 positions][hd][16], values [row][layer][kv][position][hd padded to 16].

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

constexpr int LANES = 16;         // floats a vector; the compiler splits it where registers are narrower
constexpr int MOST_VECTORS = 4;   // of columns in one block
constexpr int SUM_BLOCK = 32;     // vocabulary entries summed in float before double takes over
#if defined(__AVX512F__)
constexpr int ACCUMULATORS = 24;  // of the 32 vector registers
#else
constexpr int ACCUMULATORS = 8;
#endif

typedef float Vec __attribute__((vector_size(LANES * sizeof(float)), aligned(64), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * sizeof(float)), aligned(64), may_alias));

inline Vec all(float x) { return x - Vec{}; }

// Both keep what is not a number in `a`, so that a broken weight shows in the log-probabilities
inline Vec maximum(Vec a, Vec b) { return b > a ? b : a; }

inline Vec minimum(Vec a, Vec b) { return b < a ? b : a; }

// exp to about 1e-7, for |x| < 87 (clamped): x = n ln 2 + r, a polynomial for e^r (Taylor to r^7, |r| < 0.35), 2^n from bits
inline Vec exponential(Vec x) {
  x = minimum(maximum(x, all(-87.0f)), all(87.0f));
  const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Vec shifted = x * all(1.44269504f) + shift;
  const Vec n = shifted - shift;
  const Vec r = (x - n * all(0.693359375f)) + n * all(2.12194440e-4f);
  Vec p = all(1.0f / 5040.0f);
  p = p * r + all(1.0f / 720.0f);
  p = p * r + all(1.0f / 120.0f);
  p = p * r + all(1.0f / 24.0f);
  p = p * r + all(1.0f / 6.0f);
  p = p * r + all(0.5f);
  p = p * r + all(1.0f);
  p = p * r + all(1.0f);
  union { Vec f; IntVec i; } bits;
  bits.f = shifted;
  bits.i = (bits.i - 0x4B400000 + 127) << 23;
  return p * bits.f;
}

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

inline float largest(Vec v) {
  float top = v[0];
  for (int i = 1; i < LANES; i++) top = v[i] > top ? v[i] : top;
  return top;
}

// y[n][c] = (add ? y[n][c] : 0) + sum over k of w[n][k] x[k][c], for R rows n and all C vectors of columns
template <int R, int C, bool ADD>
inline void tile(const float* w, const Vec* x, Vec* y, int inner) {
  Vec acc[R][C];
  for (int i = 0; i < R; i++)
    for (int c = 0; c < C; c++) acc[i][c] = ADD ? y[i * C + c] : Vec{};
  for (int k = 0; k < inner; k++) {
    Vec in[C];
    for (int c = 0; c < C; c++) in[c] = x[k * C + c];
    for (int i = 0; i < R; i++) {
      const Vec weight = all(w[(int64_t)i * inner + k]);
      for (int c = 0; c < C; c++) acc[i][c] += weight * in[c];
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

struct Layer {
  const float *input_norm, *q, *k, *v, *q_norm, *k_norm, *o, *post_norm, *gate, *up, *down;
};

struct Model {
  int32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, length;  // length: multiple of 16
  float eps;
  const float *embed, *norm, *head, *cos, *sin;  // cos, sin: [position][head_dim]
  const Layer* layer;
  float *keys, *values;
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

struct Ahead {  // how far, in floats, from the keys and values that are read to those that are read next
  int64_t keys, values;
};

// Everything one thread needs for a block of columns
class Worker {
 public:
  explicit Worker(const Model& model) : m_(model), padded_((model.head_dim + LANES - 1) / LANES * LANES) {}

  void run(const Batch& batch, const std::vector<int>& spans, const std::vector<int64_t>& offsets) {
    columns_.clear();
    for (int span : spans)
      for (int i = 0; i < batch.counts[span]; i++)
        columns_.push_back({batch.tokens[offsets[span] + i], batch.rows[span], batch.starts[span] + i,
                            i + 1 == batch.counts[span] ? batch.drawing[span] : -1});
    size_t done = 0;
    while (done < columns_.size()) {
      const size_t left = columns_.size() - done;
      const int vectors = left > 3 * LANES ? 4 : left > 2 * LANES ? 3 : left > LANES ? 2 : 1;
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
      const float* embedding = m_.embed + (int64_t)columns[c].token * hidden;
      for (int f = 0; f < hidden; f++) ((float*)x)[f * stride + c] = embedding[f];
      const int64_t at = (int64_t)columns[c].position * hd;
      for (int d = 0; d < half; d++) {
        ((float*)angles)[d * stride + c] = m_.cos[at + d];
        ((float*)angles)[(half + d) * stride + c] = m_.sin[at + d];
      }
    }
    for (int l = 0; l < m_.layers; l++) {
      const Layer& layer = m_.layer[l];
      rms_norm<C>(layer.input_norm, x, normed, hidden, m_.eps);
      multiply<C, false>(layer.q, normed, q, q_size, hidden);
      multiply<C, false>(layer.k, normed, k, kv_size, hidden);
      multiply<C, false>(layer.v, normed, v, kv_size, hidden);
      const float scale = 1.0f / std::sqrt((float)hd);
      for (int h = 0; h < m_.heads; h++) rotate<C>(layer.q_norm, q + (int64_t)h * hd * C, angles, scale);
      for (int h = 0; h < m_.kv_heads; h++) rotate<C>(layer.k_norm, k + (int64_t)h * hd * C, angles, 1.0f);
      for (int c = 0; c < count; c++) store(l, columns[c], (const float*)k + c, (const float*)v + c, stride);
      if (count < stride) std::memset(normed, 0, sizeof(Vec) * q_size * C);
      for (int c = 0; c < count; c++) {
        const bool last = c + 1 == count;  // then comes the first one, a layer further
        const int next = last && l + 1 < m_.layers ? l + 1 : l;
        attend(l, columns[c], next, columns[last ? 0 : c + 1].row, (const float*)q + c, (float*)normed + c, stride);
      }
      multiply<C, true>(layer.o, normed, x, hidden, q_size);
      rms_norm<C>(layer.post_norm, x, normed, hidden, m_.eps);
      multiply<C, false>(layer.gate, normed, gate, m_.intermediate, hidden);
      multiply<C, false>(layer.up, normed, up, m_.intermediate, hidden);
      for (int64_t i = 0; i < (int64_t)m_.intermediate * C; i++)
        gate[i] = gate[i] / (all(1.0f) + exponential(-gate[i])) * up[i];
      multiply<C, true>(layer.down, gate, x, hidden, m_.intermediate);
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

  float* keys(int l, int row, int kv) const {
    return m_.keys + (((int64_t)row * m_.layers + l) * m_.kv_heads + kv) * m_.length * m_.head_dim;
  }

  float* values(int l, int row, int kv) const {
    return m_.values + (((int64_t)row * m_.layers + l) * m_.kv_heads + kv) * m_.length * padded_;
  }

  void store(int l, const Column& column, const float* k, const float* v, int stride) {
    const int hd = m_.head_dim;
    for (int kv = 0; kv < m_.kv_heads; kv++) {
      float* to = keys(l, column.row, kv) + (int64_t)(column.position / LANES) * hd * LANES + column.position % LANES;
      for (int d = 0; d < hd; d++) to[d * LANES] = k[(kv * hd + d) * stride];
      to = values(l, column.row, kv) + (int64_t)column.position * padded_;
      for (int d = 0; d < hd; d++) to[d] = v[(kv * hd + d) * stride];
    }
  }

  // Attention of one column. While its keys and values are read, those of the column after it are fetched into the
  // second-level cache: what many sequences have cached fits no core's own, and one's is too short to be foreseen
  void attend(int l, const Column& column, int next, int next_row, const float* q, float* out, int stride) {
    const int group = m_.heads / m_.kv_heads;
    const int64_t step = (int64_t)m_.head_dim * stride;
    for (int kv = 0; kv < m_.kv_heads; kv++) {
      const float* k = keys(l, column.row, kv);
      const float* v = values(l, column.row, kv);
      const Ahead ahead{keys(next, next_row, kv) - k, values(next, next_row, kv) - v};
      int g = 0;
      for (; g + 4 <= group; g += 4) heads<4>(column.position + 1, k, v, ahead, q, out, kv * group + g, step, stride);
      for (; g + 2 <= group; g += 2) heads<2>(column.position + 1, k, v, ahead, q, out, kv * group + g, step, stride);
      for (; g < group; g++) heads<1>(column.position + 1, k, v, ahead, q, out, kv * group + g, step, stride);
    }
  }

  // G query heads that share keys and values, over n positions
  template <int G>
  void heads(int n, const float* k, const float* v, Ahead ahead, const float* q, float* out, int head, int64_t step,
             int stride) {
    const int hd = m_.head_dim, blocks = (n + LANES - 1) / LANES;
    Vec* scores = room(scores_, (int64_t)(blocks + 4) * G);
    float* mine = (float*)room(query_, (int64_t)padded_ * G / LANES);
    for (int g = 0; g < G; g++)
      for (int d = 0; d < hd; d++) mine[g * hd + d] = q[(head + g) * step + (int64_t)d * stride];
    Vec top[G];
    for (int g = 0; g < G; g++) top[g] = all(-INFINITY);
    int b = 0;
    for (; b + 2 <= blocks; b += 2) dots<G, 2>(k, ahead.keys, mine, scores, b, top, n);
    if (b < blocks) dots<G, 1>(k, ahead.keys, mine, scores, b, top, n);
    Vec total[G] = {};
    for (int g = 0; g < G; g++) top[g] = all(largest(top[g]));
    for (b = 0; b < blocks; b++)
      for (int g = 0; g < G; g++) total[g] += scores[b * G + g] = exponential(scores[b * G + g] - top[g]);
    float inverse[G];
    for (int g = 0; g < G; g++) inverse[g] = 1.0f / sum(total[g]);  // lanes beyond n add exp(-87), nothing in float
    const float* weights = (const float*)scores;
    for (int d = 0; d < padded_; d += 2 * LANES) {
      if (d + LANES < padded_)
        mix<G, 2>(n, v + d, ahead.values, weights, inverse, out, head, step, stride, d);
      else
        mix<G, 1>(n, v + d, ahead.values, weights, inverse, out, head, step, stride, d);
    }
  }

  template <int G, int B>
  void dots(const float* k, int64_t ahead, const float* q, Vec* scores, int b, Vec* top, int n) {
    const int hd = m_.head_dim;
    const Vec* block = (const Vec*)(k + (int64_t)b * hd * LANES);
    Vec acc[B][G] = {};
    for (int d = 0; d < hd; d++)
      for (int i = 0; i < B; i++) {
        const Vec key = block[i * hd + d];
        __builtin_prefetch((const float*)(block + i * hd + d) + ahead, 0, 2);
        for (int g = 0; g < G; g++) acc[i][g] += key * all(q[g * hd + d]);
      }
    for (int i = 0; i < B; i++)
      for (int g = 0; g < G; g++) {
        for (int j = n - (b + i) * LANES; j < LANES; j++) acc[i][g][j] = -INFINITY;
        scores[(b + i) * G + g] = acc[i][g];
        top[g] = maximum(top[g], acc[i][g]);
      }
  }

  template <int G, int D>
  void mix(int n, const float* v, int64_t ahead, const float* weights, const float* inverse, float* out, int head,
           int64_t step, int stride, int first) {
    Vec acc[2][G][D] = {};
    int j = 0;
    for (; j + 2 <= n; j += 2)
      for (int half = 0; half < 2; half++) {
        const Vec* value = (const Vec*)(v + (int64_t)(j + half) * padded_);
        for (int d = 0; d < D; d++) __builtin_prefetch((const float*)(value + d) + ahead, 0, 2);
        const int at = (j + half) / LANES * G * LANES + (j + half) % LANES;
        for (int g = 0; g < G; g++)
          for (int d = 0; d < D; d++) acc[half][g][d] += value[d] * all(weights[at + g * LANES]);
      }
    if (j < n) {
      const Vec* value = (const Vec*)(v + (int64_t)j * padded_);
      const int at = j / LANES * G * LANES + j % LANES;
      for (int g = 0; g < G; g++)
        for (int d = 0; d < D; d++) acc[0][g][d] += value[d] * all(weights[at + g * LANES]);
    }
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
    multiply<C, false>(m_.head, hidden, logits, vocab, m_.hidden);
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
  std::vector<Column> columns_;
  std::vector<Vec> x_, normed_, q_, k_, v_, gate_, up_, angles_, scores_, query_, logits_, sums_;
};

}  // namespace

// The model, and threads that wait for their share of a step
class Engine {
 public:
  Engine(const Model& model, const Layer* layers, int threads) : model_(model), layers_(layers, layers + model.layers) {
    model_.layer = layers_.data();
    for (int i = 0; i < threads; i++) workers_.emplace_back(model_);
    shares_.resize(threads);
    for (int i = 1; i < threads; i++) threads_.emplace_back([this, i] { serve(i); });
  }

  ~Engine() {
    stop_ = true;
    wake();
    for (auto& thread : threads_) thread.join();
  }

  void step(const Batch& batch) {
    batch_ = &batch;
    offsets_.assign(batch.spans + 1, 0);
    for (int i = 0; i < batch.spans; i++) offsets_[i + 1] = offsets_[i] + batch.counts[i];
    const int64_t total = offsets_[batch.spans];
    // a thread for every full vector of columns: less would not be faster
    const int share = (int)std::max<int64_t>(1, std::min<int64_t>(workers_.size(), (total + LANES - 1) / LANES));
    for (auto& spans : shares_) spans.clear();
    std::vector<int64_t> load(share, 0);
    for (int i = 0; i < batch.spans; i++) {
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
  std::vector<Worker> workers_;
  std::vector<std::vector<int>> shares_;
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

Engine* engine_new(const Model* model, const Layer* layers, int32_t threads) {
  return new Engine(*model, layers, threads);
}

void engine_free(Engine* engine) { delete engine; }

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
