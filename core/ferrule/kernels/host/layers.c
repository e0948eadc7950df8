// Norms and gates.

#include "host.h"

// y = norm of x, or of x + residual, which then goes to summed. Widths are multiples of 8.
void ferrule_rms_norm(const bf16 *x, const bf16 *residual, const bf16 *weight, long rows, long cols,
                      float eps, bf16 *summed, bf16 *y) {
  for (long r = 0; r < rows; r++, x += cols, y += cols) {
    if (residual) {
      for (long i = 0; i < cols; i += 8)
        store8(summed + i, _mm256_add_ps(widen8(x + i), widen8(residual + i)));
    }
    const bf16 *from = residual ? summed : x;
    __m256 squares = _mm256_setzero_ps();
    for (long i = 0; i < cols; i += 8) {
      __m256 v = widen8(from + i);
      squares = _mm256_fmadd_ps(v, v, squares);
    }
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf(sum8(squares) / cols + eps));
    for (long i = 0; i < cols; i += 8) {
      __m256 v = _mm256_mul_ps(widen8(from + i), scale);
      store8(y + i, _mm256_mul_ps(v, widen8(weight + i)));
    }
    if (residual) residual += cols, summed += cols;
  }
}

// e^x to 2^-22 of it: 2^n times the series of e^f around 0, with f at most log(2) / 2.
static inline __m256 exp8(__m256 x) {
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87)), _mm256_set1_ps(88));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), 8);
  __m256 f = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  f = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), f);
  const float series[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
  __m256 sum = _mm256_set1_ps(series[0]);
  for (int i = 1; i < 7; i++) sum = _mm256_fmadd_ps(sum, f, _mm256_set1_ps(series[i]));
  __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), power));
}

// y[rows, width] = silu(x[:, :width]) * x[:, width:].
void ferrule_silu_mul(const bf16 *x, long rows, long width, bf16 *y) {
  const __m256 one = _mm256_set1_ps(1), zero = _mm256_setzero_ps();
  for (long r = 0; r < rows; r++, x += 2 * width, y += width) {
    long i = 0;
    for (; i + 8 <= width; i += 8) {
      __m256 gate = widen8(x + i), up = widen8(x + width + i);
      __m256 silu = _mm256_div_ps(gate, _mm256_add_ps(one, exp8(_mm256_sub_ps(zero, gate))));
      store8(y + i, _mm256_mul_ps(silu, up));
    }
    for (; i < width; i++) {
      float gate = widen(x[i]);
      y[i] = narrow(gate / (1.0f + expf(-gate)) * widen(x[width + i]));
    }
  }
}
