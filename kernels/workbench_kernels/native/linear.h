// x . w^T for few rows: each weight is read from memory once, and multiplied with all rows meanwhile.
#pragma once

#include "simd.h"

namespace wb {

constexpr int COLUMNS = 4;      // weight rows read side by side
constexpr int FEW_ROWS = 2;     // of x, for which nothing but memory takes time
constexpr int SWEEP_ROWS = 4;   // of sums
constexpr int TILE_ROWS = 6;    // rows of x, at most, whose sums are in registers at a time
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

// sums[r][i] = x[r] . w[i] for R rows and COLUMNS weight rows, or added to what is there; lines of the
// first P of `soon` are asked for meanwhile, as they are what comes next. Never inlined: with its
// surroundings' variables in registers there are too few for the sums, and each one in memory halves
// the speed.
template <int R, int P>
__attribute__((noinline)) void tile(const bf16* x, int64_t stride, const bf16* const* w, int64_t depth,
                                    const bf16* const* soon, float (*sums)[COLUMNS], bool add) {
  const bf16 *from[COLUMNS], *next[COLUMNS];
  __m512 acc[R][COLUMNS];
  UNROLL for (int i = 0; i < COLUMNS; i++) from[i] = w[i];
  UNROLL for (int i = 0; i < P; i++) next[i] = soon[i];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int i = 0; i < COLUMNS; i++) acc[r][i] = _mm512_setzero_ps();
  for (int64_t c = 0; c < depth; c += 32) {
    __m512i weights[COLUMNS];
    UNROLL for (int i = 0; i < COLUMNS; i++) weights[i] = _mm512_loadu_si512(from[i] + c);
    UNROLL for (int r = 0; r < R; r++) {
      const __m512i here = _mm512_loadu_si512(x + r * stride + c);
      UNROLL for (int i = 0; i < COLUMNS; i++) acc[r][i] = dot(acc[r][i], weights[i], here);
    }
    UNROLL for (int i = 0; i < P; i++)
      _mm_prefetch(reinterpret_cast<const char*>(next[i] + c), _MM_HINT_T0);
  }
  UNROLL for (int r = 0; r < R; r++) {
    const __m128 sum = lanes(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
    _mm_storeu_ps(sums[r], add ? _mm_add_ps(_mm_loadu_ps(sums[r]), sum) : sum);
  }
}

template <int P>
inline void tile_of(int rows, const bf16* x, int64_t stride, const bf16* const* w, int64_t depth,
                    const bf16* const* soon, float (*sums)[COLUMNS], bool add) {
  switch (rows) {
    case 1: return tile<1, P>(x, stride, w, depth, soon, sums, add);
    case 2: return tile<2, P>(x, stride, w, depth, soon, sums, add);
    case 3: return tile<3, P>(x, stride, w, depth, soon, sums, add);
    case 4: return tile<4, P>(x, stride, w, depth, soon, sums, add);
    case 5: return tile<5, P>(x, stride, w, depth, soon, sums, add);
    default: return tile<TILE_ROWS, P>(x, stride, w, depth, soon, sums, add);
  }
}

// All rows against the same COLUMNS weight rows, a tile after another, each asking for its part of
// what comes next.
inline void tiles(const bf16* x, int rows, int64_t stride, const bf16* const* w, int64_t depth,
                  const bf16* const* soon, float (*sums)[COLUMNS], bool add) {
  const int count = (rows + TILE_ROWS - 1) / TILE_ROWS;
  for (int i = 0, asked = 0; i < count; i++) {
    const int first = rows * i / count, last = rows * (i + 1) / count;
    const int ask = COLUMNS * (i + 1) / count - asked;
    const bf16* from = x + first * stride;
    switch (ask) {
      case 0: tile_of<0>(last - first, from, stride, w, depth, soon, sums + first, add); break;
      case 1: tile_of<1>(last - first, from, stride, w, depth, soon + asked, sums + first, add); break;
      case 2: tile_of<2>(last - first, from, stride, w, depth, soon + asked, sums + first, add); break;
      default: tile_of<COLUMNS>(last - first, from, stride, w, depth, soon, sums + first, add);
    }
    asked += ask;
  }
}

// As `tiles`, with the same sums, for R rows and many blocks of COLUMNS weight rows: memory is read from
// end to end, and nothing comes between. sums: [blocks][SWEEP_ROWS][COLUMNS].
template <int R>
__attribute__((noinline)) void sweep(const bf16* x, int64_t inner, const bf16* w, int blocks,
                                     float (*sums)[COLUMNS]) {
  for (int b = 0; b < blocks; b++, w += COLUMNS * inner, sums += SWEEP_ROWS) {
    const bf16* from[COLUMNS];
    UNROLL for (int i = 0; i < COLUMNS; i++) from[i] = w + i * inner;
    for (int64_t c = 0; c < inner;) {
      const int64_t start = c, end = std::min(inner, c + DEPTH);
      __m512 acc[R][COLUMNS];
      UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int i = 0; i < COLUMNS; i++) acc[r][i] = _mm512_setzero_ps();
      for (; c < end; c += 32) {
        __m512i weights[COLUMNS];
        UNROLL for (int i = 0; i < COLUMNS; i++) weights[i] = _mm512_loadu_si512(from[i] + c);
        UNROLL for (int r = 0; r < R; r++) {
          const __m512i here = _mm512_loadu_si512(x + r * inner + c);
          UNROLL for (int i = 0; i < COLUMNS; i++) acc[r][i] = dot(acc[r][i], weights[i], here);
        }
      }
      UNROLL for (int r = 0; r < R; r++) {
        const __m128 sum = lanes(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
        _mm_storeu_ps(sums[r], start ? _mm_add_ps(_mm_loadu_ps(sums[r]), sum) : sum);
      }
    }
  }
}

// A thread's share of the columns of M matrices of the same shape [outer][inner], side by side:
// write(column, count, sums) gets `count` <= COLUMNS columns of every row, of each matrix.
template <int M, class Write>
inline void product(const bf16* x, int rows, int64_t inner, const bf16* const (&w)[M], int64_t outer,
                    int thread, int threads, Write write) {
  if (rows == 0) return;
  const int64_t blocks = (outer + COLUMNS - 1) / COLUMNS, whole = outer / COLUMNS;
  const int64_t last = blocks * (thread + 1) / threads;
  alignas(64) float room[M][MOST_ROWS][COLUMNS];
  const float(*sums[M])[COLUMNS];
  int64_t b = blocks * thread / threads;
  while (rows <= FEW_ROWS && b < std::min(last, whole)) {
    const int count = int(std::min<int64_t>(MOST_ROWS / SWEEP_ROWS, std::min(last, whole) - b));
    for (int m = 0; m < M; m++)
      (rows == 1 ? sweep<1> : sweep<FEW_ROWS>)(x, inner, w[m] + b * COLUMNS * inner, count, room[m]);
    for (int i = 0; i < count; i++, b++) {
      for (int m = 0; m < M; m++) sums[m] = room[m] + i * SWEEP_ROWS;
      write(b * COLUMNS, COLUMNS, sums);
    }
  }
  for (; b < last; b++) {
    const int64_t n0 = b * COLUMNS;
    const int n = int(std::min<int64_t>(COLUMNS, outer - n0));
    for (int m = 0; m < M; m++) {
      for (int64_t c = 0; c < inner; c += DEPTH) {
        const bf16 *at[COLUMNS], *soon[COLUMNS];
        for (int i = 0; i < COLUMNS; i++) {
          at[i] = w[m] + (n0 + std::min(i, n - 1)) * inner + c;
          soon[i] = at[i] + COLUMNS * inner;
        }
        tiles(x + c, rows, inner, at, std::min<int64_t>(DEPTH, inner - c), soon, room[m], c > 0);
      }
      sums[m] = room[m];
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
  product<1>(x, rows, inner, {w}, outer, thread, threads, [&](int64_t n0, int n, const auto& sums) {
    const __m512 extra = bias_of(bias, n0, n);
    store_columns(y, rows, outer, n0, n,
                  [&](int r) { return _mm512_add_ps(_mm512_load_ps(sums[0][r]), extra); });
  });
}

}  // namespace wb
