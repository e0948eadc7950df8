// Attention of single tokens over the paged cache, with their rotation and their writing.

#include "host.h"

// x rotated as layers.rope.rotate does it: channel i is paired with i + rotary / 2.
static void rotate(const bf16 *x, const bf16 *cos, const bf16 *sin, long dim, long rotary,
                   bf16 *y) {
  long half = rotary / 2;
  for (long i = 0; i < rotary; i++) {
    float other = widen(x[i < half ? i + half : i - half]);
    y[i] = narrow(widen(x[i]) * widen(cos[i]) + other * widen(sin[i]));
  }
  memcpy(y + rotary, x + rotary, (dim - rotary) * sizeof(bf16));
}

// Rotates keys of every token, and writes keys and values into a layer's cache, seen as rows of
// [kv_heads, dim]. Tokens of k and v are `stride` numbers apart; cos and sin are [tokens, rotary].
void ferrule_write_cache(const bf16 *k, const bf16 *v, long stride, const bf16 *cos,
                         const bf16 *sin, long rotary, const int64_t *cache_rows, long tokens,
                         long kv_heads, long dim, bf16 *keys, bf16 *values) {
  for (long t = 0; t < tokens; t++) {
    bf16 *key = keys + cache_rows[t] * kv_heads * dim;
    for (long h = 0; h < kv_heads; h++)
      rotate(k + t * stride + h * dim, cos + t * rotary, sin + t * rotary, dim, rotary,
             key + h * dim);
    memcpy(values + cache_rows[t] * kv_heads * dim, v + t * stride, kv_heads * dim * sizeof(bf16));
  }
}

typedef struct {
  const bf16 *keys, *values;
  const int64_t *table;
  long block_size, first, end, kv_heads, dim;
} Span;

static inline long place(const Span *s, long head, long token) {
  long row = s->table[token / s->block_size] * s->block_size + token % s->block_size;
  return (row * s->kv_heads + head) * s->dim;
}

// The query heads of one key head: q and y are [group, dim]; scores has room for their tokens.
static void attend(const Span *s, long head, long group, const float *q, float *scores, bf16 *y) {
  long length = s->end - s->first, dim = s->dim;
  for (long t = 0; t < length; t++) {
    const bf16 *key = s->keys + place(s, head, s->first + t);
    for (long g = 0; g < group; g++) {
      __m256 sum = _mm256_setzero_ps();
      for (long i = 0; i < dim; i += 8)
        sum = _mm256_fmadd_ps(widen8(key + i), _mm256_loadu_ps(q + g * dim + i), sum);
      scores[g * length + t] = sum8(sum);
    }
  }
  float *out = scores + group * length;
  for (long g = 0; g < group; g++) {
    float *row = scores + g * length, most = row[0], total = 0;
    for (long t = 1; t < length; t++) most = row[t] > most ? row[t] : most;
    for (long t = 0; t < length; t++) total += row[t] = expf(row[t] - most);
    for (long t = 0; t < length; t++) row[t] /= total;
  }
  memset(out, 0, group * dim * sizeof(float));
  for (long t = 0; t < length; t++) {
    const bf16 *value = s->values + place(s, head, s->first + t);
    for (long g = 0; g < group; g++) {
      __m256 weight = _mm256_set1_ps(scores[g * length + t]);
      for (long i = 0; i < dim; i += 8) {
        float *to = out + g * dim + i;
        _mm256_storeu_ps(to, _mm256_fmadd_ps(widen8(value + i), weight, _mm256_loadu_ps(to)));
      }
    }
  }
  for (long i = 0; i < group * dim; i += 8) store8(y + i, _mm256_loadu_ps(out + i));
}

// y[rows, heads, dim]: each row's query, rotated, over its own tokens up to and with its position.
// tables is [rows, blocks]; a window of 0 sees all. Returns 0, or 1 where there is no memory.
int ferrule_attend(const bf16 *q, long stride, const bf16 *cos, const bf16 *sin, long rotary,
                   const int64_t *positions, const int64_t *tables, long blocks, long rows,
                   long heads, long kv_heads, long dim, long block_size, long window, float scale,
                   const bf16 *keys, const bf16 *values, bf16 *y) {
  long group = heads / kv_heads, longest = blocks * block_size, failed = 0;
#pragma omp parallel for collapse(2) schedule(dynamic) if (rows * longest > 64) reduction(| : failed)
  for (long r = 0; r < rows; r++) {
    for (long h = 0; h < kv_heads; h++) {
      float *room = malloc((group * (longest + 2 * dim)) * sizeof(float) + dim * sizeof(bf16));
      if (!room) {
        failed = 1;
        continue;
      }
      float *wide = room + group * (longest + dim);
      bf16 *turned = (bf16 *)(wide + group * dim);
      for (long g = 0; g < group; g++) {
        rotate(q + r * stride + (h * group + g) * dim, cos + r * rotary, sin + r * rotary, dim,
               rotary, turned);
        for (long i = 0; i < dim; i++) wide[g * dim + i] = widen(turned[i]) * scale;
      }
      long end = positions[r] + 1, first = window && end > window ? end - window : 0;
      Span span = {keys, values, tables + r * blocks, block_size, first, end, kv_heads, dim};
      attend(&span, h, group, wide, room, y + (r * heads + h * group) * dim);
      free(room);
    }
  }
  return failed;
}
