// Gradients of a dense Qwen3 on a CPU: tokens in, log-probabilities out; their slopes in, gradients of all parameters out.
//
// - A row is one token; activations lie [token][feature]. Every product, of attention too, is then C[m][n] += A[m][k]
//   B[k][n] with B in vectors along n and A one number at a time, so that A may be transposed: y = x W', dx = dy W,
//   dW = dy' x, scores, mixtures and their gradients are one function. Only W' must be packed.
// - Tokens form a forest of segments: a token attends to its own segment up to itself, and to all ancestors of that. What
//   sequences have in common goes through the model once, forward and back.
// - What is cheap is computed again on the way back: norms, SwiGLU, attention's probabilities from the log of their sum.
// - A tape belongs to one thread at a time. Tapes share the weights and nothing else.
//
// In float32, or, where the processor multiplies bfloat16 (AVX512-BF16), with the factors of all products but attention's
// rounded to it, in pairs along what is summed over; all sums, norms and what lies between layers in float32.
//
// Sizes are padded to whole vectors with zeros: of a row, and of each head in a row.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "vectors.h"

namespace {

constexpr int WIDE = 4;           // vectors of a panel of a packed matrix
constexpr int PANEL = WIDE * LANES;
constexpr int ROWS = 96;          // tokens that go through a feed-forward layer together
constexpr int QUERIES = 48;       // that meet their keys together
constexpr int64_t KEPT = 1 << 26;  // most logits that are kept from forward to backward; more are computed again

inline int whole(int size) { return (size + LANES - 1) / LANES * LANES; }

// The distance of rows of `size` numbers: an odd number of cache lines, so that a column of them is spread over all sets
inline int64_t apart(int size) { return whole(size) | LANES; }

// Memory that is kept, and grows
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  float* room(int64_t size) {
    if (size > size_) {
      std::free(data_);
      size_ = (size + size / 8 + LANES - 1) / LANES * LANES;
      data_ = (float*)std::aligned_alloc(64, size_ * sizeof(float));
      std::memset(data_, 0, size_ * sizeof(float));
    }
    return data_;
  }

  float* data() const { return data_; }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};

// -- products -------------------------------------------------------------------------------------------------------

template <typename N>
struct Left {  // A[m][k]: at[m * lead + k], or at[m + k * lead] if turned
  const N* at;
  int64_t lead;
};

template <typename N>
struct Right {  // B[k][n]: at[n / PANEL * panel + k * lead + n % PANEL]
  const N* at;
  int64_t lead, panel = PANEL;
};

// sum += a b, where a factor is one float32 or two bfloat16 in each lane
inline Vec accumulate(Vec sum, Vec a, Vec b) { return sum + a * b; }

inline Vec accumulate(Vec sum, IntVec a, IntVec b) {
#if defined(__AVX512BF16__)
  return pair_product(sum, a, b);
#else
  return sum;
#endif
}

inline Vec spread(float x) { return all(x); }

inline IntVec spread(int32_t x) { return all_int(x); }

// The loops over a tile are unrolled by name, so that its sums live in registers from the start
template <int R, int C, bool TURNED, bool ADD, typename N>
inline void tile(const N* a, int64_t al, const N* b, int64_t bl, float* c, int64_t cl, int inner) {
  using Lanes = decltype(spread(N{}));
  Vec acc[R][C];
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) acc[i][j] = ADD ? *(const Vec*)(c + i * cl + j * LANES) : Vec{};
  for (int k = 0; k < inner; k++) {
    Lanes in[C];
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) in[j] = *(const Lanes*)(b + j * LANES);
    b += bl;
#pragma GCC unroll 16
    for (int i = 0; i < R; i++) {
      const Lanes factor = spread(TURNED ? a[k * al + i] : a[i * al + k]);
#pragma GCC unroll 4
      for (int j = 0; j < C; j++) acc[i][j] = accumulate(acc[i][j], factor, in[j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; i++)
#pragma GCC unroll 4
    for (int j = 0; j < C; j++) *(Vec*)(c + i * cl + j * LANES) = acc[i][j];
}

template <int C, bool TURNED, bool ADD, typename N>
void strip(int rows, int inner, const N* a, int64_t al, const N* b, int64_t bl, float* c, int64_t cl) {
  int m = 0;
  const auto run = [&]<int R>(std::integral_constant<int, R>) {
    if constexpr (R * C <= ACCUMULATORS)
      for (; m + R <= rows; m += R)
        tile<R, C, TURNED, ADD>(a + (TURNED ? m : m * al), al, b, bl, c + m * cl, cl, inner);
  };
  run(std::integral_constant<int, std::max(1, std::min(12, ACCUMULATORS / C))>{});
  run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 2>{});
  run(std::integral_constant<int, 1>{});
}

// C [rows][width] (+)= A B; width: padded
template <bool TURNED, bool ADD, typename N>
void multiply(int rows, int width, int inner, Left<N> a, Right<N> b, float* c, int64_t cl) {
  for (int n = 0; n < width; n += PANEL) {
    const N* from = b.at + n / PANEL * b.panel;
    switch (std::min(WIDE, (width - n) / LANES)) {
      case 1: strip<1, TURNED, ADD>(rows, inner, a.at, a.lead, from, b.lead, c + n, cl); break;
      case 2: strip<2, TURNED, ADD>(rows, inner, a.at, a.lead, from, b.lead, c + n, cl); break;
      case 3: strip<3, TURNED, ADD>(rows, inner, a.at, a.lead, from, b.lead, c + n, cl); break;
      default: strip<4, TURNED, ADD>(rows, inner, a.at, a.lead, from, b.lead, c + n, cl);
    }
  }
}

// One bfloat16, to nearest even
inline uint16_t rounded(float x) {
  union { float f; uint32_t i; } bits{x};
  return x == x ? (bits.i + 0x7FFF + (bits.i >> 16 & 1)) >> 16 : 0x7FC0;
}

// Neighbours of each row as pairs
inline void pair_neighbours(const float* from, int64_t lead, int rows, int size, int32_t* to, int64_t apart) {
#if defined(__AVX512BF16__)
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < size; i += LANES)
      store_pairs(to + r * apart + i / 2, *(const Vec*)(from + r * lead + i));
#endif
}

// Two rows at a time as pairs, feature by feature
inline void pair_rows(const float* from, int64_t lead, int rows, int size, int32_t* to, int64_t apart) {
#if defined(__AVX512BF16__)
  for (int r = 0; r < rows; r += 2)
    for (int i = 0; i < size; i += LANES) {
      const Vec odd = r + 1 < rows ? *(const Vec*)(from + (r + 1) * lead + i) : Vec{};
      *(IntVec*)(to + r / 2 * apart + i) = pair(*(const Vec*)(from + r * lead + i), odd);
    }
#endif
}

// -- norms ----------------------------------------------------------------------------------------------------------

inline float dot(const float* a, const float* b, int padded) {
  Vec total{};
  for (int f = 0; f < padded; f += LANES) total += *(const Vec*)(a + f) * *(const Vec*)(b + f);
  return sum(total);
}

inline float inverse_root(const float* x, int size, int padded, float eps) {
  return 1.0f / std::sqrt(dot(x, x, padded) / size + eps);
}

// y = x / rms(x) * weight
inline void norm(const float* x, const float* weight, float* y, int size, int padded, float eps) {
  const Vec r = all(inverse_root(x, size, padded, eps));
  for (int f = 0; f < padded; f += LANES) *(Vec*)(y + f) = *(const Vec*)(x + f) * r * *(const Vec*)(weight + f);
}

// From the slope dy of y: dweight is added to; dx too, or set. dx may be dy
template <bool ADD>
inline void norm_back(const float* x, const float* weight, const float* dy, float* dx, float* dweight, int size, int padded,
                      float eps) {
  const float r = inverse_root(x, size, padded, eps);
  Vec along{};
  for (int f = 0; f < padded; f += LANES) {
    const Vec xf = *(const Vec*)(x + f), df = *(const Vec*)(dy + f);
    along += xf * df * *(const Vec*)(weight + f);
    *(Vec*)(dweight + f) += df * xf * all(r);
  }
  const Vec back = all(sum(along) * r * r * r / size), scale = all(r);
  for (int f = 0; f < padded; f += LANES) {
    const Vec slope = *(const Vec*)(dy + f) * *(const Vec*)(weight + f) * scale - *(const Vec*)(x + f) * back;
    *(Vec*)(dx + f) = ADD ? *(const Vec*)(dx + f) + slope : slope;
  }
}

}  // namespace

struct Shape {
  int32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, tied, half;
  float eps;
};

struct Forest {
  const int32_t *tokens, *positions;              // [count]; a segment's tokens are neighbours
  const int32_t *starts, *lengths, *parents;      // [segments]; a parent comes before its children; -1: none
  const int32_t* places;                          // [rows]: tokens whose next one carries loss
  const float* scales;                            // [rows]: 1 / temperature
  const int32_t *firsts, *entries;                // [rows + 1], [n]: which of the n log-probabilities a row gives
  const int32_t* targets;                         // [n]
  int32_t count, segments, rows;
};

namespace {

// Where each parameter's gradient begins, in the order in which parameters are given; the same order as in `native.py`
struct Layout {
  struct Layer {
    int64_t input_norm, qkv, q_norm, k_norm, o, post_norm, gate_up, down;
  };
  explicit Layout(const Shape& s)
      : hidden(whole(s.hidden)),
        head(whole(s.head_dim)),
        q(s.heads * head),
        kv(s.kv_heads * head),
        qkv(q + 2 * kv),
        inner(whole(s.intermediate)) {
    int64_t at = 0;
    const auto take = [&](int64_t rows, int64_t columns) {
      const int64_t here = at;
      at += rows * columns;
      return here;
    };
    embed = take(s.vocab, hidden);
    for (int l = 0; l < s.layers; l++) {
      Layer layer;
      layer.input_norm = take(1, hidden);
      layer.qkv = take(qkv, hidden);
      layer.q_norm = take(1, head);
      layer.k_norm = take(1, head);
      layer.o = take(s.hidden, q);
      layer.post_norm = take(1, hidden);
      layer.gate_up = take(2 * inner, hidden);
      layer.down = take(s.hidden, inner);
      layers.push_back(layer);
    }
    norm = take(1, hidden);
    unembed = s.tied ? embed : take(s.vocab, hidden);
    size = at;
  }
  int hidden, head, q, kv, qkv, inner;  // padded sizes of rows
  int64_t embed, norm, unembed, size;
  std::vector<Layer> layers;
};

// A matrix as products want it: `there` for y = x W', `back` for dx = dy W
struct Matrix {
  Buffer there, back;
  int64_t there_panel = 0, back_panel = 0;

  template <typename N>
  Right<N> forward() const {
    return {(const N*)there.data(), PANEL, there_panel};
  }
  template <typename N>
  Right<N> backward() const {
    return {(const N*)back.data(), PANEL, back_panel};
  }
};

}  // namespace

class Weights {
 public:
  explicit Weights(const Shape& shape) : s(shape), at(shape), layers(shape.layers) {}

  // parameters: embed; of each layer input_norm, q, k, v, q_norm, k_norm, o, post_norm, gate, up, down; norm; head
  void take(const float* const* parameters, const float* cos_table, const float* sin_table) {
    const int hd = s.head_dim, heads = s.heads, kv = s.kv_heads;
    cos = cos_table, sin = sin_table;
    embed = *parameters++;
    for (Layer& layer : layers) {
      vector(layer.input_norm, *parameters++, s.hidden);
      reserve(layer.qkv, at.qkv, s.hidden);
      fill(layer.qkv, *parameters++, heads, hd, at.head, 0, 1, s.hidden, at.hidden);
      fill(layer.qkv, *parameters++, kv, hd, at.head, at.q, 1, s.hidden, at.hidden);
      fill(layer.qkv, *parameters++, kv, hd, at.head, at.q + at.kv, 1, s.hidden, at.hidden);
      vector(layer.q_norm, *parameters++, hd);
      vector(layer.k_norm, *parameters++, hd);
      reserve(layer.o, s.hidden, at.q);
      fill(layer.o, *parameters++, 1, s.hidden, s.hidden, 0, heads, hd, at.head);
      vector(layer.post_norm, *parameters++, s.hidden);
      reserve(layer.gate_up, 2 * at.inner, s.hidden);
      fill(layer.gate_up, *parameters++, 1, s.intermediate, at.inner, 0, 1, s.hidden, at.hidden);
      fill(layer.gate_up, *parameters++, 1, s.intermediate, at.inner, at.inner, 1, s.hidden, at.hidden);
      reserve(layer.down, s.hidden, s.intermediate);
      fill(layer.down, *parameters++, 1, s.hidden, s.hidden, 0, 1, s.intermediate, at.inner);
    }
    vector(norm, *parameters++, s.hidden);
    reserve(head, s.vocab, s.hidden);
    fill(head, *parameters++, 1, s.vocab, s.vocab, 0, 1, s.hidden, at.hidden);
  }

  struct Layer {
    Buffer input_norm, q_norm, k_norm, post_norm;
    Matrix qkv, o, gate_up, down;
  };

  const Shape s;
  const Layout at;
  const float *embed = nullptr, *cos = nullptr, *sin = nullptr;
  std::vector<Layer> layers;
  Buffer norm;
  Matrix head;

 private:
  static void vector(Buffer& buffer, const float* from, int size) {
    std::memcpy(buffer.room(whole(size)), from, size * sizeof(float));
  }

  static int64_t panels(int size) { return (size + PANEL - 1) / PANEL; }

  void reserve(Matrix& matrix, int outputs, int inputs) const {
    matrix.there_panel = (int64_t)(s.half ? (inputs + 1) / 2 : inputs) * PANEL;
    matrix.back_panel = (int64_t)(s.half ? (outputs + 1) / 2 : outputs) * PANEL;
    matrix.there.room(panels(outputs) * matrix.there_panel);
    matrix.back.room(panels(inputs) * matrix.back_panel);
  }

  // Put `from` [groups * outputs][parts * inputs] into the matrix's rows from `first` on; groups and parts (heads) come to
  // lie `group` rows and `part` columns apart
  void fill(Matrix& matrix, const float* from, int groups, int outputs, int group, int first, int parts, int inputs,
            int part) const {
    float *there = matrix.there.data(), *back = matrix.back.data();
    for (int g = 0; g < groups; g++)
      for (int o = 0; o < outputs; o++) {
        const int n = first + g * group + o;
        float* column = there + n / PANEL * matrix.there_panel + n % PANEL;
        const bool half = s.half;
        for (int p = 0; p < parts; p++, from += inputs)
          for (int i = 0; i < inputs; i++) {
            const int k = p * part + i;
            float* row = back + k / PANEL * matrix.back_panel + k % PANEL;
            if (half) {
              ((uint16_t*)(column + (int64_t)(k / 2) * PANEL))[k % 2] = rounded(from[i]);
              ((uint16_t*)(row + (int64_t)(n / 2) * PANEL))[n % 2] = rounded(from[i]);
            } else {
              column[(int64_t)k * PANEL] = from[i];
              row[(int64_t)n * PANEL] = from[i];
            }
          }
      }
  }
};

class Tape {
 public:
  virtual ~Tape() = default;
  virtual void forward(const Forest& f, float* logprobs) = 0;
  virtual void backward(const Forest& f, const float* slopes, float* gradient) = 0;
};

namespace {

// HALF: factors in bfloat16
template <bool HALF>
class Pass : public Tape {
  using Number = std::conditional_t<HALF, int32_t, float>;  // of packed matrices

 public:
  explicit Pass(const Weights& weights)
      : w(weights), s(weights.s), at(weights.at), x_(s.layers + 1), kept_(s.layers) {
    xl = apart(at.hidden), ql = apart(at.q), kl = apart(at.kv), al = apart(at.qkv), il = apart(at.inner);
    gl = apart(2 * at.inner), vl = apart(s.vocab);
  }

  // logprobs [n]
  void forward(const Forest& f, float* logprobs) override {
    float* x = x_[0].room(f.count * xl);
    for (int t = 0; t < f.count; t++)
      std::memcpy(x + t * xl, w.embed + (int64_t)f.tokens[t] * s.hidden, s.hidden * sizeof(float));
    for (int l = 0; l < s.layers; l++) {
      Kept& kept = kept_[l];
      kept.raw.room(f.count * al), kept.q.room(f.count * ql), kept.k.room(f.count * kl);
      kept.mixed.room(f.count * ql), kept.middle.room(f.count * xl), kept.gate_up.room(f.count * gl);
      kept.sums.room((int64_t)f.count * s.heads);
      x_[l + 1].room(f.count * xl);
      for (int t = 0; t < f.count; t += ROWS) project(l, f, t, std::min(ROWS, f.count - t));
      for (int i = 0; i < f.segments; i++) attend(l, f, i);
      for (int t = 0; t < f.count; t += ROWS) feed(l, t, std::min(ROWS, f.count - t));
    }
    const bool keep = f.rows * vl <= KEPT;
    float* scores = scores_.room((keep ? f.rows : std::min(ROWS, f.rows)) * vl);
    normed_.room(std::max<int64_t>(f.rows, ROWS) * xl), totals_.room(f.rows);
    for (int r = 0; r < f.rows; r += ROWS)
      score(f, r, std::min(ROWS, f.rows - r), scores + (keep ? r * vl : 0), logprobs);
  }

  // slopes [n]: of the loss, along the log-probabilities that `forward` gave. gradient [layout's size] is added to
  void backward(const Forest& f, const float* slopes, float* gradient) override {
    float* dx = dx_.room(f.count * xl);
    std::memset(dx, 0, f.count * xl * sizeof(float));
    const bool kept = f.rows * vl <= KEPT;
    for (int r = 0; r < f.rows; r += ROWS) {
      const int rows = std::min(ROWS, f.rows - r);
      float* scores = scores_.data() + (kept ? r * vl : 0);
      if (!kept) score(f, r, rows, scores, nullptr);
      score_back(f, r, rows, scores, slopes, gradient);
    }
    dmixed_.room(f.count * ql), deltas_.room((int64_t)f.count * s.heads);
    float* draw = draw_.room(f.count * al);
    for (int l = s.layers - 1; l >= 0; l--) {
      for (int t = 0; t < f.count; t += ROWS) feed_back(l, t, std::min(ROWS, f.count - t), gradient);
      std::memset(draw, 0, f.count * al * sizeof(float));
      for (int i = f.segments - 1; i >= 0; i--) attend_back(l, f, i);
      for (int t = 0; t < f.count; t += ROWS) project_back(l, f, t, std::min(ROWS, f.count - t), gradient);
    }
    for (int t = 0; t < f.count; t++) {
      float* to = gradient + at.embed + (int64_t)f.tokens[t] * at.hidden;
      for (int i = 0; i < at.hidden; i += LANES) *(Vec*)(to + i) += *(const Vec*)(dx + t * xl + i);
    }
  }

 private:
  struct Kept {  // of a layer: what its backward pass needs
    Buffer raw;      // [count][al]: queries, keys, values before norm and rotation
    Buffer q, k;     // after it; queries with attention's scale in them
    Buffer mixed;    // [count][ql]: what attention gave
    Buffer sums;     // [count][heads]: log of the sum of its exponentials
    Buffer middle;   // [count][xl]: between attention and feed-forward
    Buffer gate_up;  // [count][gl]
  };

  // C [rows][width] (+)= A times a packed matrix
  template <bool ADD>
  void product(int rows, int width, int inner, Left<float> a, Right<Number> b, float* c, int64_t cl) {
    if constexpr (HALF) {
      const int64_t pl = apart(whole(inner) / 2);
      int32_t* pairs = (int32_t*)left_.room(rows * pl);
      pair_neighbours(a.at, a.lead, rows, whole(inner), pairs, pl);
      multiply<false, ADD, int32_t>(rows, width, (inner + 1) / 2, {pairs, pl}, b, c, cl);
    } else {
      multiply<false, ADD, float>(rows, width, inner, a, b, c, cl);
    }
  }

  // A matrix's gradient: C [rows][width] += over tokens, A [tokens][rows] turned times B [tokens][width]
  void collect(int rows, int width, int tokens, Left<float> a, Right<float> b, float* c, int64_t cl) {
    if constexpr (HALF) {
      const int64_t al = apart(rows), bl = apart(width);
      const int pairs = (tokens + 1) / 2;
      int32_t *left = (int32_t*)left_.room(pairs * al), *right = (int32_t*)right_.room(pairs * bl);
      pair_rows(a.at, a.lead, tokens, whole(rows), left, al);
      pair_rows(b.at, b.lead, tokens, width, right, bl);
      multiply<true, true, int32_t>(rows, width, pairs, {left, al}, {right, bl}, c, cl);
    } else {
      multiply<true, true, float>(rows, width, tokens, a, b, c, cl);
    }
  }

  // -- between attention ------------------------------------------------------------------------------------------

  void project(int l, const Forest& f, int first, int rows) {
    const Weights::Layer& layer = w.layers[l];
    const float* x = x_[l].data() + first * xl;
    float* normed = a_.room(ROWS * xl);
    float* raw = kept_[l].raw.data() + first * al;
    for (int t = 0; t < rows; t++)
      norm(x + t * xl, layer.input_norm.data(), normed + t * xl, s.hidden, at.hidden, s.eps);
    product<false>(rows, at.qkv, s.hidden, {normed, xl}, layer.qkv.forward<Number>(), raw, al);
    const float scale = 1.0f / std::sqrt((float)s.head_dim);
    for (int t = 0; t < rows; t++) {
      const int64_t angle = (int64_t)f.positions[first + t] * s.head_dim;
      for (int h = 0; h < s.heads; h++)
        rotate(raw + t * al + h * at.head, layer.q_norm.data(), angle, scale,
               kept_[l].q.data() + (first + t) * ql + h * at.head);
      for (int h = 0; h < s.kv_heads; h++)
        rotate(raw + t * al + at.q + h * at.head, layer.k_norm.data(), angle, 1.0f,
               kept_[l].k.data() + (first + t) * kl + h * at.head);
    }
  }

  void project_back(int l, const Forest& f, int first, int rows, float* gradient) {
    const Weights::Layer& layer = w.layers[l];
    const Layout::Layer& to = at.layers[l];
    float* draw = draw_.data() + first * al;
    const float* raw = kept_[l].raw.data() + first * al;
    const float scale = 1.0f / std::sqrt((float)s.head_dim);
    for (int t = 0; t < rows; t++) {
      const int64_t angle = (int64_t)f.positions[first + t] * s.head_dim;
      for (int h = 0; h < s.heads; h++)
        rotate_back(raw + t * al + h * at.head, layer.q_norm.data(), angle, scale, draw + t * al + h * at.head,
                    gradient + to.q_norm);
      for (int h = 0; h < s.kv_heads; h++)
        rotate_back(raw + t * al + at.q + h * at.head, layer.k_norm.data(), angle, 1.0f,
                    draw + t * al + at.q + h * at.head, gradient + to.k_norm);
    }
    const float* x = x_[l].data() + first * xl;
    float *dx = dx_.data() + first * xl, *normed = a_.room(ROWS * xl), *dnormed = b_.room(ROWS * xl);
    for (int t = 0; t < rows; t++)
      norm(x + t * xl, layer.input_norm.data(), normed + t * xl, s.hidden, at.hidden, s.eps);
    collect(at.qkv, at.hidden, rows, {draw, al}, {normed, xl}, gradient + to.qkv, at.hidden);
    product<false>(rows, at.hidden, at.qkv, {draw, al}, layer.qkv.backward<Number>(), dnormed, xl);
    for (int t = 0; t < rows; t++)
      norm_back<true>(x + t * xl, layer.input_norm.data(), dnormed + t * xl, dx + t * xl, gradient + to.input_norm,
                      s.hidden, at.hidden, s.eps);
  }

  // Norm of one head, then the rotary embedding
  void rotate(const float* raw, const float* weight, int64_t angle, float scale, float* out) const {
    const int half = s.head_dim / 2;
    const float *cos = w.cos + angle, *sin = w.sin + angle;
    const float r = scale * inverse_root(raw, s.head_dim, at.head, s.eps);
    for (int i = 0; i < half; i++) {
      const float a = raw[i] * weight[i] * r, b = raw[half + i] * weight[half + i] * r;
      out[i] = a * cos[i] - b * sin[i];
      out[half + i] = b * cos[i] + a * sin[i];
    }
  }

  // slope: in place
  void rotate_back(const float* raw, const float* weight, int64_t angle, float scale, float* slope, float* dweight) const {
    const int half = s.head_dim / 2;
    const float *cos = w.cos + angle, *sin = w.sin + angle;
    for (int i = 0; i < half; i++) {
      const float a = slope[i] * scale, b = slope[half + i] * scale;
      slope[i] = a * cos[i] + b * sin[i];
      slope[half + i] = b * cos[i] - a * sin[i];
    }
    norm_back<false>(raw, weight, slope, slope, dweight, s.head_dim, at.head, s.eps);
  }

  static Vec silu(Vec gate) { return gate / (all(1.0f) + exponential(-gate)); }

  void feed(int l, int first, int rows) {
    const Weights::Layer& layer = w.layers[l];
    Kept& kept = kept_[l];
    const float* x = x_[l].data() + first * xl;
    float *middle = kept.middle.data() + first * xl, *gate_up = kept.gate_up.data() + first * gl;
    float *out = x_[l + 1].data() + first * xl, *normed = a_.room(ROWS * xl), *active = c_.room(ROWS * il);
    std::memcpy(middle, x, rows * xl * sizeof(float));
    product<true>(rows, at.hidden, at.q, {kept.mixed.data() + first * ql, ql}, layer.o.forward<Number>(), middle, xl);
    for (int t = 0; t < rows; t++)
      norm(middle + t * xl, layer.post_norm.data(), normed + t * xl, s.hidden, at.hidden, s.eps);
    product<false>(rows, 2 * at.inner, s.hidden, {normed, xl}, layer.gate_up.forward<Number>(), gate_up, gl);
    for (int t = 0; t < rows; t++)
      for (int i = 0; i < at.inner; i += LANES)
        *(Vec*)(active + t * il + i) =
            silu(*(const Vec*)(gate_up + t * gl + i)) * *(const Vec*)(gate_up + t * gl + at.inner + i);
    std::memcpy(out, middle, rows * xl * sizeof(float));
    product<true>(rows, at.hidden, s.intermediate, {active, il}, layer.down.forward<Number>(), out, xl);
  }

  // dx: from behind the layer to behind its attention; dmixed: of what attention gave
  void feed_back(int l, int first, int rows, float* gradient) {
    const Weights::Layer& layer = w.layers[l];
    const Layout::Layer& to = at.layers[l];
    const Kept& kept = kept_[l];
    const float *middle = kept.middle.data() + first * xl, *gate_up = kept.gate_up.data() + first * gl;
    const float* mixed = kept.mixed.data() + first * ql;
    float *dx = dx_.data() + first * xl, *dmixed = dmixed_.data() + first * ql;
    float *normed = a_.room(ROWS * xl), *dnormed = b_.room(ROWS * xl);
    float *active = c_.room(ROWS * il), *dactive = d_.room(ROWS * il), *dgate_up = e_.room(ROWS * gl);
    product<false>(rows, at.inner, s.hidden, {dx, xl}, layer.down.backward<Number>(), dactive, il);
    for (int t = 0; t < rows; t++)
      for (int i = 0; i < at.inner; i += LANES) {
        const Vec gate = *(const Vec*)(gate_up + t * gl + i), up = *(const Vec*)(gate_up + t * gl + at.inner + i);
        const Vec sigmoid = all(1.0f) / (all(1.0f) + exponential(-gate)), slope = *(const Vec*)(dactive + t * il + i);
        *(Vec*)(active + t * il + i) = gate * sigmoid * up;
        *(Vec*)(dgate_up + t * gl + i) = slope * up * sigmoid * (all(1.0f) + gate * (all(1.0f) - sigmoid));
        *(Vec*)(dgate_up + t * gl + at.inner + i) = slope * gate * sigmoid;
      }
    collect(s.hidden, at.inner, rows, {dx, xl}, {active, il}, gradient + to.down, at.inner);
    for (int t = 0; t < rows; t++)
      norm(middle + t * xl, layer.post_norm.data(), normed + t * xl, s.hidden, at.hidden, s.eps);
    collect(2 * at.inner, at.hidden, rows, {dgate_up, gl}, {normed, xl}, gradient + to.gate_up, at.hidden);
    product<false>(rows, at.hidden, 2 * at.inner, {dgate_up, gl}, layer.gate_up.backward<Number>(), dnormed, xl);
    for (int t = 0; t < rows; t++)
      norm_back<true>(middle + t * xl, layer.post_norm.data(), dnormed + t * xl, dx + t * xl, gradient + to.post_norm,
                      s.hidden, at.hidden, s.eps);
    product<false>(rows, at.q, s.hidden, {dx, xl}, layer.o.backward<Number>(), dmixed, ql);
    collect(s.hidden, at.q, rows, {dx, xl}, {mixed, ql}, gradient + to.o, at.q);
    for (int t = 0; t < rows; t++)
      for (int h = 0; h < s.heads; h++)
        deltas_.data()[(first + t) * s.heads + h] =
            dot(dmixed + t * ql + h * at.head, mixed + t * ql + h * at.head, at.head);
  }

  // -- attention --------------------------------------------------------------------------------------------------

  // The tokens that a segment attends to, in order; how many come before its own
  int path(const Forest& f, int segment) {
    path_.clear();
    for (int i = segment; i >= 0; i = f.parents[i]) path_.push_back(i);
    std::reverse(path_.begin(), path_.end());
    int before = 0;
    for (int i : path_) before += f.lengths[i];
    return before - f.lengths[segment];
  }

  // Rows [.][lead] of the path's tokens, one head of them, together: [n][head], and turned [head_dim][apart(n)]
  void gather(const Forest& f, const float* from, int64_t lead, int n, float* straight, float* turned) {
    const int64_t tl = apart(n);
    int j = 0;
    for (int i : path_)
      for (int t = f.starts[i]; t < f.starts[i] + f.lengths[i]; t++, j++) {
        const float* row = from + t * lead;
        if (straight) std::memcpy(straight + (int64_t)j * at.head, row, at.head * sizeof(float));
        if (turned)
          for (int d = 0; d < s.head_dim; d++) turned[d * tl + j] = row[d];
      }
    if (turned)
      for (int d = 0; d < s.head_dim; d++)
        for (int i = n; i < tl; i++) turned[d * tl + i] = 0;
  }

  // What is past `seen` of a row becomes `value`, up to `end`
  static void blank(float* row, int seen, int end, float value) {
    for (int j = seen; j < end; j++) row[j] = value;
  }

  void attend(int l, const Forest& f, int segment) {
    Kept& kept = kept_[l];
    const int before = path(f, segment), own = f.lengths[segment], n = before + own, group = s.heads / s.kv_heads;
    const int64_t nl = apart(n), first = f.starts[segment];
    float *keys = keys_.room(nl * at.head), *values = values_.room(nl * at.head), *scores = p_.room(QUERIES * nl);
    for (int kv = 0; kv < s.kv_heads; kv++) {
      gather(f, kept.k.data() + kv * at.head, kl, n, nullptr, keys);
      gather(f, kept.raw.data() + at.q + at.kv + kv * at.head, al, n, values, nullptr);
      for (int b = 0; b < own; b += QUERIES) {
        const int many = std::min(QUERIES, own - b), seen = before + b + many, wide = whole(seen);
        for (int h = kv * group; h < (kv + 1) * group; h++) {
          const float* q = kept.q.data() + (first + b) * ql + h * at.head;
          float* out = kept.mixed.data() + (first + b) * ql + h * at.head;
          multiply<false, false, float>(many, wide, s.head_dim, {q, ql}, {keys, nl}, scores, nl);
          float inverse[QUERIES];
          for (int i = 0; i < many; i++) {
            float* row = scores + i * nl;
            blank(row, before + b + i + 1, wide, -INFINITY);
            Vec top = *(const Vec*)row, total{};
            for (int j = LANES; j < wide; j += LANES) top = maximum(top, *(const Vec*)(row + j));
            const float most = largest(top);
            for (int j = 0; j < wide; j += LANES) total += *(Vec*)(row + j) = exponential(*(Vec*)(row + j) - all(most));
            blank(row, before + b + i + 1, wide, 0.0f);
            const float all_of_it = sum(total);
            inverse[i] = 1.0f / all_of_it;
            kept.sums.data()[(first + b + i) * s.heads + h] = most + std::log(all_of_it);
          }
          multiply<false, false, float>(many, at.head, seen, {scores, nl}, {values, at.head}, out, ql);
          for (int i = 0; i < many; i++)
            for (int d = 0; d < at.head; d += LANES) *(Vec*)(out + i * ql + d) *= all(inverse[i]);
        }
      }
    }
  }

  void attend_back(int l, const Forest& f, int segment) {
    const Kept& kept = kept_[l];
    const int before = path(f, segment), own = f.lengths[segment], n = before + own, group = s.heads / s.kv_heads;
    const int64_t nl = apart(n), first = f.starts[segment];
    float *keys = keys_.room(nl * at.head), *turned = turned_.room(nl * at.head), *values = values_.room(nl * at.head);
    float *dkeys = dkeys_.room(nl * at.head), *dvalues = dvalues_.room(nl * at.head);
    float *p = p_.room(QUERIES * nl), *dp = dp_.room(QUERIES * nl);
    for (int kv = 0; kv < s.kv_heads; kv++) {
      gather(f, kept.k.data() + kv * at.head, kl, n, keys, turned);
      gather(f, kept.raw.data() + at.q + at.kv + kv * at.head, al, n, nullptr, values);
      std::memset(dkeys, 0, (int64_t)n * at.head * sizeof(float));
      std::memset(dvalues, 0, (int64_t)n * at.head * sizeof(float));
      for (int b = 0; b < own; b += QUERIES) {
        const int many = std::min(QUERIES, own - b), seen = before + b + many, wide = whole(seen);
        for (int h = kv * group; h < (kv + 1) * group; h++) {
          const float* q = kept.q.data() + (first + b) * ql + h * at.head;
          const float* dout = dmixed_.data() + (first + b) * ql + h * at.head;
          float* dq = draw_.data() + (first + b) * al + h * at.head;
          multiply<false, false, float>(many, wide, s.head_dim, {q, ql}, {turned, nl}, p, nl);
          multiply<false, false, float>(many, wide, s.head_dim, {dout, ql}, {values, nl}, dp, nl);
          for (int i = 0; i < many; i++) {
            const int64_t token = (first + b + i) * s.heads + h;
            const Vec sums = all(kept.sums.data()[token]), delta = all(deltas_.data()[token]);
            float *row = p + i * nl, *slope = dp + i * nl;
            for (int j = 0; j < wide; j += LANES) *(Vec*)(row + j) = exponential(*(Vec*)(row + j) - sums);
            blank(row, before + b + i + 1, wide, 0.0f);
            for (int j = 0; j < wide; j += LANES)
              *(Vec*)(slope + j) = *(const Vec*)(row + j) * (*(const Vec*)(slope + j) - delta);
          }
          multiply<false, false, float>(many, at.head, seen, {dp, nl}, {keys, at.head}, dq, al);
          multiply<true, true, float>(seen, at.head, many, {dp, nl}, {q, ql}, dkeys, at.head);
          multiply<true, true, float>(seen, at.head, many, {p, nl}, {dout, ql}, dvalues, at.head);
        }
      }
      int j = 0;
      for (int i : path_)
        for (int t = f.starts[i]; t < f.starts[i] + f.lengths[i]; t++, j++)
          for (int d = 0; d < at.head; d += LANES) {
            float* to = draw_.data() + t * al + at.q + kv * at.head + d;
            *(Vec*)to += *(const Vec*)(dkeys + (int64_t)j * at.head + d);
            *(Vec*)(to + at.kv) += *(const Vec*)(dvalues + (int64_t)j * at.head + d);
          }
    }
  }

  // -- scores -----------------------------------------------------------------------------------------------------

  // Rows become exponentials, their sums' inverses are kept; logprobs, if wanted, are of the targets
  void score(const Forest& f, int first, int rows, float* scores, float* logprobs) {
    const float* x = x_[s.layers].data();
    float* normed = normed_.data() + first * xl;
    for (int r = 0; r < rows; r++)
      norm(x + f.places[first + r] * xl, w.norm.data(), normed + r * xl, s.hidden, at.hidden, s.eps);
    const int wide = whole(s.vocab);
    product<false>(rows, wide, s.hidden, {normed, xl}, w.head.forward<Number>(), scores, vl);
    for (int r = 0; r < rows; r++) {
      float* row = scores + r * vl;
      const Vec scale = all(f.scales[first + r]);
      blank(row, s.vocab, wide, -INFINITY);
      Vec top = all(-INFINITY);
      for (int v = 0; v < wide; v += LANES) top = maximum(*(Vec*)(row + v) *= scale, top);
      const float most = largest(top);
      const int from = f.firsts[first + r], to = f.firsts[first + r + 1];
      if (logprobs)
        for (int e = from; e < to; e++) logprobs[f.entries[e]] = row[f.targets[f.entries[e]]] - most;
      double total = 0;
      for (int v = 0; v < wide;) {
        Vec part{};
        for (const int end = std::min(wide, v + 64 * LANES); v < end; v += LANES)
          part += *(Vec*)(row + v) = exponential(*(Vec*)(row + v) - all(most));
        total += sum(part);
      }
      totals_.data()[first + r] = (float)(1.0 / total);
      if (logprobs)
        for (int e = from; e < to; e++) logprobs[f.entries[e]] -= (float)std::log(total);
    }
  }

  // The rows' exponentials become slopes; dx gets those of the places
  void score_back(const Forest& f, int first, int rows, float* scores, const float* slopes, float* gradient) {
    const int wide = whole(s.vocab);
    for (int r = 0; r < rows; r++) {
      float *row = scores + r * vl, total = 0;
      const float scale = f.scales[first + r];
      for (int e = f.firsts[first + r]; e < f.firsts[first + r + 1]; e++) total += slopes[f.entries[e]];
      const Vec factor = all(-total * scale * totals_.data()[first + r]);
      for (int v = 0; v < wide; v += LANES) *(Vec*)(row + v) *= factor;
      for (int e = f.firsts[first + r]; e < f.firsts[first + r + 1]; e++)
        row[f.targets[f.entries[e]]] += slopes[f.entries[e]] * scale;
    }
    const float* normed = normed_.data() + first * xl;
    float* dnormed = b_.room(ROWS * xl);
    collect(s.vocab, at.hidden, rows, {scores, vl}, {normed, xl}, gradient + at.unembed, at.hidden);
    product<false>(rows, at.hidden, s.vocab, {scores, vl}, w.head.backward<Number>(), dnormed, xl);
    for (int r = 0; r < rows; r++) {
      const int64_t place = f.places[first + r] * xl;
      norm_back<true>(x_[s.layers].data() + place, w.norm.data(), dnormed + r * xl, dx_.data() + place,
                      gradient + at.norm, s.hidden, at.hidden, s.eps);
    }
  }

  const Weights& w;
  const Shape& s;
  const Layout& at;
  int64_t xl, ql, kl, al, il, gl, vl;  // distances of rows: hidden, queries, keys, all three, feed-forward, twice that, scores
  std::vector<Buffer> x_;              // [layers + 1]: before each layer, and after the last
  std::vector<Kept> kept_;
  std::vector<int> path_;
  Buffer normed_, scores_, totals_;                                        // of the places with loss
  Buffer dx_, draw_, dmixed_, deltas_;                                     // slopes, of all tokens
  Buffer a_, b_, c_, d_, e_;                                               // of ROWS tokens
  Buffer left_, right_;                                                    // factors in bfloat16
  Buffer keys_, turned_, values_, dkeys_, dvalues_, p_, dp_;               // of a segment
};

}  // namespace

extern "C" {

// Whether the processor multiplies bfloat16
int32_t trainer_knows_half() {
#if defined(__AVX512BF16__)
  return 1;
#else
  return 0;
#endif
}

Weights* trainer_weights(const Shape* shape) { return new Weights(*shape); }

int64_t trainer_gradient_size(const Weights* weights) { return weights->at.size; }

void trainer_take(Weights* weights, const float* const* parameters, const float* cos, const float* sin) {
  weights->take(parameters, cos, sin);
}

void trainer_free_weights(Weights* weights) { delete weights; }

Tape* trainer_tape(const Weights* weights) {
  if (weights->s.half) return new Pass<true>(*weights);
  return new Pass<false>(*weights);
}

void trainer_free_tape(Tape* tape) { delete tape; }

void trainer_forward(Tape* tape, const Forest* forest, float* logprobs) { tape->forward(*forest, logprobs); }

void trainer_backward(Tape* tape, const Forest* forest, const float* slopes, float* gradient) {
  tape->backward(*forest, slopes, gradient);
}
}
