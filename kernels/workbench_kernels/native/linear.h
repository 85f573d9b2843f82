// x . w^T for few rows: each weight is read from memory once, and multiplied with all rows meanwhile.
#pragma once

#include "simd.h"

namespace wb {

constexpr int COLUMNS = 4;      // weight rows read side by side
constexpr int DEPTH = 2048;     // of the inner size at a time: what a tile reads again stays in cache
constexpr int MOST_ROWS = 128;  // of x

// The sums over the lanes of four vectors.
inline __m128 lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 all = _mm512_add_ps(
      _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
      _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// sums[r][i] += x[r] . w[i] for R rows and COLUMNS weight rows; lines of soon[first .. last] are
// asked for meanwhile, as they are what comes next.
template <int R>
inline void tile(const bf16* x, int64_t stride, const bf16* const* w, int64_t depth, float (*sums)[4],
                 const bf16* const* soon, int first, int last) {
  __m512 acc[R][COLUMNS];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int i = 0; i < COLUMNS; i++) acc[r][i] = _mm512_setzero_ps();
  for (int64_t c = 0; c < depth; c += 32) {
    __m512i weights[COLUMNS];
    UNROLL for (int i = 0; i < COLUMNS; i++) weights[i] = _mm512_loadu_si512(w[i] + c);
    UNROLL for (int r = 0; r < R; r++) {
      const __m512i here = _mm512_loadu_si512(x + r * stride + c);
      UNROLL for (int i = 0; i < COLUMNS; i++) acc[r][i] = dot(acc[r][i], weights[i], here);
    }
    for (int i = first; i < last; i++)
      _mm_prefetch(reinterpret_cast<const char*>(soon[i] + c), _MM_HINT_T0);
  }
  UNROLL for (int r = 0; r < R; r++)
    _mm_storeu_ps(sums[r], _mm_add_ps(_mm_loadu_ps(sums[r]),
                                      lanes(acc[r][0], acc[r][1], acc[r][2], acc[r][3])));
}

using Sums = float[MOST_ROWS][4];

// A thread's share of the columns of M matrices of the same shape [outer][inner], side by side:
// write(column, count, sums) gets `count` <= COLUMNS columns of every row, of each matrix.
template <int M, class Write>
inline void product(const bf16* x, int rows, int64_t inner, const bf16* const (&w)[M], int64_t outer,
                    int thread, int threads, Write write) {
  const int64_t blocks = (outer + COLUMNS - 1) / COLUMNS;
  const int groups = (rows + 3) / 4;
  alignas(64) Sums sums[M];
  for (int64_t b = blocks * thread / threads; b < blocks * (thread + 1) / threads; b++) {
    const int64_t n0 = b * COLUMNS;
    const int n = int(std::min<int64_t>(COLUMNS, outer - n0));
    for (int m = 0; m < M; m++) {
      std::memset(sums[m], 0, sizeof(float) * 4 * rows);
      for (int64_t c = 0; c < inner; c += DEPTH) {
        const int64_t depth = std::min<int64_t>(DEPTH, inner - c);
        const bf16 *at[COLUMNS], *soon[COLUMNS];
        for (int i = 0; i < COLUMNS; i++) {
          at[i] = w[m] + (n0 + std::min(i, n - 1)) * inner + c;
          soon[i] = at[i] + COLUMNS * inner;
        }
        for (int g = 0; g < groups; g++) {
          // One row is read as fast as memory gives; with more, what comes next is asked for.
          const int r0 = 4 * g, first = COLUMNS * g / groups;
          const int last = rows == 1 ? first : COLUMNS * (g + 1) / groups;
          const bf16* from = x + r0 * inner + c;
          switch (std::min(4, rows - r0)) {
            case 1: tile<1>(from, inner, at, depth, sums[m] + r0, soon, first, last); break;
            case 2: tile<2>(from, inner, at, depth, sums[m] + r0, soon, first, last); break;
            case 3: tile<3>(from, inner, at, depth, sums[m] + r0, soon, first, last); break;
            default: tile<4>(from, inner, at, depth, sums[m] + r0, soon, first, last);
          }
        }
      }
    }
    write(n0, n, sums);
  }
}

// Four rows at a time: apply(row) gives 16 values, 4 columns of each of 4 rows, which are stored as
// bfloat16. Rows past the last compute what nobody reads.
template <class Apply>
inline void store_columns(bf16* y, int rows, int64_t outer, int64_t n0, int n, Apply apply) {
  for (int r0 = 0; r0 < rows; r0 += 4) {
    alignas(32) bf16 out[4][4];
    _mm256_store_si256((__m256i*)out, (__m256i)_mm512_cvtneps_pbh(apply(r0)));
    for (int r = r0; r < std::min(rows, r0 + 4); r++)
      std::memcpy(y + r * outer + n0, out[r - r0], sizeof(bf16) * n);
  }
}

// Four columns of a bias, once for each of four rows; zeros without one.
inline __m512 bias_of(const bf16* bias, int64_t n0, int n) {
  float values[4] = {0, 0, 0, 0};
  if (bias)
    for (int i = 0; i < n; i++) values[i] = to_float(bias[n0 + i]);
  return _mm512_broadcast_f32x4(_mm_loadu_ps(values));
}

// A thread's share of y = x . w^T + bias.
inline void project(const bf16* x, int rows, int64_t inner, const bf16* w, const bf16* bias,
                    int64_t outer, bf16* y, int thread, int threads) {
  product<1>(x, rows, inner, {w}, outer, thread, threads, [&](int64_t n0, int n, const Sums* sums) {
    const __m512 extra = bias_of(bias, n0, n);
    store_columns(y, rows, outer, n0, n,
                  [&](int r) { return _mm512_add_ps(_mm512_load_ps(sums[0][r]), extra); });
  });
}

}  // namespace wb
