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

// y[rows, width] = silu(x[:, :width]) * x[:, width:].
void ferrule_silu_mul(const bf16 *x, long rows, long width, bf16 *y) {
  for (long r = 0; r < rows; r++, x += 2 * width, y += width) {
    for (long i = 0; i < width; i++) {
      float gate = widen(x[i]);
      y[i] = narrow(gate / (1.0f + expf(-gate)) * widen(x[width + i]));
    }
  }
}
