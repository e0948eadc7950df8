// Products of a few rows with GGUF's packed weights.
//
// Rows of weights are the file's own bytes (the structs of ggml's ggml-common.h). Activations are
// rounded to 16-bit integers with one scale for 32 of them, by 2^-16 of the largest at most: sums of
// code times activation are then exact integers, and only scales and sums of groups are float32.

#include "host.h"

static inline float half_at(const uint8_t *p) {
  uint16_t h;
  memcpy(&h, p, 2);
  return _cvtsh_ss(h);
}

// Two neighbouring half floats.
static inline __m128 halves_at(const uint8_t *p) {
  int both;
  memcpy(&both, p, 4);
  return _mm_cvtph_ps(_mm_cvtsi32_si128(both));
}

// Activations of one row: codes, and for each group of 32 its scale and its sum, side by side.
typedef struct {
  int16_t *codes;
  float *pairs;
} Row;

static void round_row(const bf16 *x, long cols, Row row) {
  for (long g = 0; g < cols / 32; g++) {
    __m256 v[4], sum = _mm256_setzero_ps(), most = _mm256_setzero_ps();
    const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int i = 0; i < 4; i++) {
      v[i] = widen8(x + 32 * g + 8 * i);
      sum = _mm256_add_ps(sum, v[i]);
      most = _mm256_max_ps(most, _mm256_and_ps(v[i], no_sign));
    }
    float lanes[8], largest = 0;
    _mm256_storeu_ps(lanes, most);
    for (int i = 0; i < 8; i++) largest = lanes[i] > largest ? lanes[i] : largest;
    float inverse = largest > 0 ? 32767.0f / largest : 0, total = sum8(sum);
    row.pairs[2 * g] = isfinite(total) ? largest / 32767.0f : NAN;
    row.pairs[2 * g + 1] = total;
    for (int i = 0; i < 4; i++) {
      __m256i c = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
      __m128i low = _mm256_castsi256_si128(c), high = _mm256_extracti128_si256(c, 1);
      _mm_storeu_si128((__m128i *)(row.codes + 32 * g + 8 * i), _mm_packs_epi32(low, high));
    }
  }
}

// A group of 32 weights, each code * scale + offset.
typedef struct {
  __m256i codes[2];  // of its halves, 16 bits each
  __m128 line;       // scale, offset
  float second;      // Q6_K: the scale of the second half
} Group;

enum { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K };

static inline __m256i unsigned16(const uint8_t *p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}

static inline __m256i low_nibbles(__m256i bytes) {
  return _mm256_and_si256(bytes, _mm256_set1_epi16(15));
}

static inline __m128 line(float scale, float offset) {
  return _mm_unpacklo_ps(_mm_set_ss(scale), _mm_set_ss(offset));
}

static inline Group nibbles(const uint8_t *q, __m128 line) {
  __m256i both = unsigned16(q);
  Group g = {{low_nibbles(both), _mm256_srli_epi16(both, 4)}, line, 0};
  return g;
}

// Bit i of 16 in place i, as 16 or 0.
static inline __m256i fifth_bits(uint32_t bits) {
  const __m256i which = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096,
                                          8192, 16384, (short)32768);
  __m256i is_set = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(bits), which), which);
  return _mm256_and_si256(is_set, _mm256_set1_epi16(16));
}

static inline Group with_fifth(Group g, const uint8_t *bits) {
  uint32_t all;
  memcpy(&all, bits, 4);
  g.codes[0] = _mm256_or_si256(g.codes[0], fifth_bits(all & 0xffff));
  g.codes[1] = _mm256_or_si256(g.codes[1], fifth_bits(all >> 16));
  return g;
}

static inline void scale_six(const uint8_t *s, int j, int *scale, int *minimum) {
  if (j < 4) {
    *scale = s[j] & 63, *minimum = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
    *minimum = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  }
}

// Group j of a super-block of Q4_K or Q5_K: nibbles of two neighbouring groups share 32 bytes.
static inline Group k_group(const uint8_t *b, const uint8_t *q, int j) {
  int scale, minimum;
  scale_six(b + 4, j, &scale, &minimum);
  __m256i first = unsigned16(q + 32 * (j / 2)), second = unsigned16(q + 32 * (j / 2) + 16);
  if (j & 1) first = _mm256_srli_epi16(first, 4), second = _mm256_srli_epi16(second, 4);
  Group g = {{low_nibbles(first), low_nibbles(second)},
             line(half_at(b) * scale, -half_at(b + 2) * minimum),
             0};
  return g;
}

static inline __m256i q6_half(const uint8_t *low, const uint8_t *high, int part) {
  __m256i l = unsigned16(low), h = unsigned16(high);
  if (part & 2) l = _mm256_srli_epi16(l, 4);
  h = _mm256_and_si256(_mm256_srl_epi16(h, _mm_cvtsi32_si128(2 * part)), _mm256_set1_epi16(3));
  __m256i codes = _mm256_or_si256(low_nibbles(l), _mm256_slli_epi16(h, 4));
  return _mm256_sub_epi16(codes, _mm256_set1_epi16(32));
}

static inline Group group_at(int kind, const uint8_t *row, long index) {
  if (kind == Q4_0) {
    const uint8_t *b = row + 18 * index;
    float d = half_at(b);
    return nibbles(b + 2, line(d, -8 * d));
  }
  if (kind == Q4_1) {
    const uint8_t *b = row + 20 * index;
    return nibbles(b + 4, halves_at(b));
  }
  if (kind == Q5_0) {
    const uint8_t *b = row + 22 * index;
    float d = half_at(b);
    return with_fifth(nibbles(b + 6, line(d, -16 * d)), b + 2);
  }
  if (kind == Q5_1) {
    const uint8_t *b = row + 24 * index;
    return with_fifth(nibbles(b + 8, halves_at(b)), b + 4);
  }
  if (kind == Q8_0) {
    const uint8_t *b = row + 34 * index;
    const __m128i *q = (const __m128i *)(b + 2);
    Group g = {{_mm256_cvtepi8_epi16(_mm_loadu_si128(q)),
                _mm256_cvtepi8_epi16(_mm_loadu_si128(q + 1))},
               _mm_set_ss(half_at(b)),
               0};
    return g;
  }
  int j = index % 8;
  if (kind == Q4_K) {
    const uint8_t *b = row + 144 * (index / 8);
    return k_group(b, b + 16, j);
  }
  if (kind == Q5_K) {
    const uint8_t *b = row + 176 * (index / 8);
    Group g = k_group(b, b + 48, j);
    for (int i = 0; i < 2; i++) {
      __m256i bits = _mm256_srl_epi16(unsigned16(b + 16 + 16 * i), _mm_cvtsi32_si128(j));
      bits = _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi16(1)), 4);
      g.codes[i] = _mm256_or_si256(g.codes[i], bits);
    }
    return g;
  }
  // Q6_K: two runs of 128 weights, of four groups each; 16 scales.
  const uint8_t *b = row + 210 * (index / 8);
  int run = j / 4, part = j % 4;
  const uint8_t *low = b + 64 * run + 32 * (part & 1), *high = b + 128 + 32 * run;
  const int8_t *scales = (const int8_t *)(b + 192) + 2 * j;
  float d = half_at(b + 208);
  Group g = {{q6_half(low, high, part), q6_half(low + 16, high + 16, part)},
             _mm_set_ss(d * scales[0]),
             d * scales[1]};
  return g;
}

// A product: y[m, rows] = x[m, cols] times the rows of a packed matrix, plus bias and add_to, which
// may be null; y may be add_to.
typedef struct {
  int kind;
  const uint8_t *weights;
  long rows, cols, row_bytes;
  const bf16 *bias, *add_to;
  bf16 *y;
} Product;

// How far ahead weights are asked for: the processor itself looks no further than a page of 4 KiB.
enum { AHEAD = 4096 };

static inline __attribute__((always_inline)) void multiply_row(
    int kind, const uint8_t *weights, long row_bytes, long groups, const Row *x, int count,
    float *y) {
  __m256 sums[8];
  __m128 offsets[8];  // The second place counts.
  long group_bytes = row_bytes / groups;
  for (int m = 0; m < count; m++) sums[m] = _mm256_setzero_ps(), offsets[m] = _mm_setzero_ps();
  for (long i = 0; i < groups; i++) {
    _mm_prefetch((const char *)(weights + i * group_bytes + AHEAD), _MM_HINT_T0);
    Group g = group_at(kind, weights, i);
    for (int m = 0; m < count; m++) {
      const __m256i *codes = (const __m256i *)(x[m].codes + 32 * i);
      __m256i a = _mm256_madd_epi16(g.codes[0], _mm256_loadu_si256(codes));
      __m256i b = _mm256_madd_epi16(g.codes[1], _mm256_loadu_si256(codes + 1));
      __m128 pair = _mm_castpd_ps(_mm_load_sd((const double *)(x[m].pairs + 2 * i)));
      __m128 both = _mm_mul_ps(g.line, pair);
      __m256 scale = _mm256_broadcastss_ps(both);
      if (kind == Q6_K) {
        __m256 second = _mm256_set1_ps(g.second * x[m].pairs[2 * i]);
        sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(a), scale, sums[m]);
        sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(b), second, sums[m]);
      } else {
        sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(a, b)), scale, sums[m]);
        if (kind != Q8_0) offsets[m] = _mm_add_ps(offsets[m], both);
      }
    }
  }
  for (int m = 0; m < count; m++)
    y[m] = sum8(sums[m]) + _mm_cvtss_f32(_mm_movehdup_ps(offsets[m]));
}

#define CASE(K) \
  case K: \
    multiply_row(K, row, p->row_bytes, p->cols / 32, x, count, out); \
    break;

// Column r of rows first to first + count of y.
static inline __attribute__((always_inline)) void multiply_column(
    const Product *p, long r, const Row *x, long first, int count) {
  const uint8_t *row = p->weights + r * p->row_bytes;
  float out[8];
  switch (p->kind) {
    CASE(Q4_0) CASE(Q4_1) CASE(Q5_0) CASE(Q5_1) CASE(Q8_0) CASE(Q4_K) CASE(Q5_K) CASE(Q6_K)
  }
  for (int m = 0; m < count; m++) {
    long at = (first + m) * p->rows + r;
    float value = out[m] + (p->bias ? widen(p->bias[r]) : 0);
    p->y[at] = narrow(value + (p->add_to ? widen(p->add_to[at]) : 0));
  }
}

// Takes p->y from x_values[num_x, cols]. Returns 0, or 1 where there is no memory.
static int multiply(const Product *p, const bf16 *x_values, long num_x) {
  long cols = p->cols, bytes = cols * 2 + cols / 32 * 8, work = p->rows * cols;
  uint8_t *room = aligned_alloc(64, (bytes * 8 + 63) / 64 * 64);
  if (!room) return 1;
  Row x[8];
  for (int m = 0; m < 8; m++) {
    uint8_t *at = room + m * bytes;
    x[m] = (Row){(int16_t *)at, (float *)(at + 2 * cols)};
  }
  for (long first = 0; first < num_x; first += 8) {
    int count = num_x - first < 8 ? num_x - first : 8;
    for (int m = 0; m < count; m++) round_row(x_values + (first + m) * cols, cols, x[m]);
    // A loop of its own for a single row: sums stay in registers, and it takes a tenth less.
    if (count == 1) {
#pragma omp parallel for schedule(static) if (work > 100000)
      for (long r = 0; r < p->rows; r++) multiply_column(p, r, x, first, 1);
    } else {
#pragma omp parallel for schedule(static) if (work > 100000)
      for (long r = 0; r < p->rows; r++) multiply_column(p, r, x, first, count);
    }
  }
  free(room);
  return 0;
}

// y[num_x, rows], or gated: y[num_x, rows / 2] = silu of the product's first half times its second,
// with nothing added. Returns 0, or 1 where there is no memory.
int ferrule_product(int kind, const uint8_t *weights, long rows, long cols, long row_bytes,
                    const bf16 *x, long num_x, const bf16 *bias, const bf16 *add_to, int gated,
                    bf16 *y) {
  Product p = {kind, weights, rows, cols, row_bytes, bias, add_to, y};
  if (!gated) return multiply(&p, x, num_x);
  p.y = malloc(num_x * rows * sizeof(bf16));
  if (!p.y) return 1;
  int failed = multiply(&p, x, num_x);
  if (!failed) ferrule_silu_mul(p.y, num_x, rows / 2, y);
  free(p.y);
  return failed;
}
