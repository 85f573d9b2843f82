// Attention of few rows against a stretch of cells, straight from the cells: to turn or to pack them would
// take longer than the products.
#pragma once

#include "stretch.h"

namespace wb {

constexpr int QUERIES = 4;  // at a time: one in each quarter of a vector

// The same eight numbers of R queries side by side.
template <int R>
inline __m512i eight_of(const Query* queries, int d) {
  __m128i part[QUERIES];
  UNROLL for (int r = 0; r < QUERIES; r++)
    part[r] = r < R ? _mm_loadu_si128((const __m128i*)(queries[r].numbers + d)) : _mm_setzero_si128();
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(part[1], part[0])),
                            _mm256_set_m128i(part[3], part[2]), 1);
}

// Sums over the quarters of a, b, c and d: in a quarter of the result those of a, b, c and d.
inline __m512 quarters(__m512 a, __m512 b, __m512 c, __m512 d) {
  const auto halved = [](__m512 x, __m512 y) {
    return _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y)));
  };
  const __m512d x = halved(a, b), y = halved(c, d);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

// scores[r][cell] = query r . k[cell], without the scale: eight numbers of a cell in each quarter, times those
// of a query each. Cells up to the next multiple of 16 are taken as zero.
template <int R>
inline void scores_straight(const Query* queries, const bf16* k, int count, int dim,
                            float (*scores)[BLOCK]) {
  __m512i q[MAX_DIM / 8];
  for (int j = 0; j < dim / 8; j++) q[j] = eight_of<R>(queries, 8 * j);
  alignas(64) bf16 tail[16 * MAX_DIM];
  for (int c = 0; c < count; c += 16) {
    const bf16* cells = k + int64_t(c) * dim;
    ahead(cells + int64_t(BLOCK) * dim, 16 * dim);
    if (c + 16 > count) {
      std::memset(tail, 0, sizeof(bf16) * 16 * dim);
      std::memcpy(tail, cells, sizeof(bf16) * (count - c) * dim);
      cells = tail;
    }
    __m512 four[4];  // of four cells each, a query a quarter
    UNROLL for (int half = 0; half < 2; half++, cells += 8 * dim) {
      __m512 acc[8];
      UNROLL for (int i = 0; i < 8; i++) acc[i] = _mm512_setzero_ps();
      for (int j = 0; j < dim / 8; j++)
        UNROLL for (int i = 0; i < 8; i++) {
          const __m128i part = _mm_loadu_si128((const __m128i*)(cells + i * dim + 8 * j));
          acc[i] = dot(acc[i], q[j], _mm512_broadcast_i32x4(part));
        }
      four[2 * half] = quarters(acc[0], acc[1], acc[2], acc[3]);
      four[2 * half + 1] = quarters(acc[4], acc[5], acc[6], acc[7]);
    }
    const __m512 a = _mm512_shuffle_f32x4(four[0], four[1], 0x44);  // queries 0, 1, 0, 1
    const __m512 b = _mm512_shuffle_f32x4(four[2], four[3], 0x44);
    const __m512 e = _mm512_shuffle_f32x4(four[0], four[1], 0xee);  // queries 2, 3, 2, 3
    const __m512 f = _mm512_shuffle_f32x4(four[2], four[3], 0xee);
    const __m512 of[QUERIES] = {_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd),
                                _mm512_shuffle_f32x4(e, f, 0x88), _mm512_shuffle_f32x4(e, f, 0xdd)};
    UNROLL for (int r = 0; r < R; r++) _mm512_store_ps(scores[r] + c, of[r]);
  }
}

// sums[r][dim] += weights[r] . v, for 32 W numbers from d on, and with the first of them the sum of
// weights. Two cells' numbers come side by side within the quarters of a vector, so one vector has numbers 0
// to 3, 8 to 11, 16 to 19 and 24 to 27 of 32, another the others.
template <int R, int W, bool FIRST>
inline void some_straight(const uint32_t (*weights)[BLOCK / 2], const bf16* v, int count, int dim,
                          int d, float* const* sums) {
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(4));
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  __m512 acc[R][2 * W];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int i = 0; i < W; i++) {
      const __m512 a = _mm512_loadu_ps(sums[r] + d + 32 * i);
      const __m512 b = _mm512_loadu_ps(sums[r] + d + 32 * i + 16);
      acc[r][2 * i] = _mm512_permutex2var_ps(a, low, b);
      acc[r][2 * i + 1] = _mm512_permutex2var_ps(a, high, b);
    }
  const __m512i ones = _mm512_set1_epi32(ONES);
  __m512 total[R];
  UNROLL for (int r = 0; r < R; r++) total[r] = _mm512_set1_ps(sums[r][dim + 1]);
  for (int c = 0; c < count; c += 2, v += 2 * dim) {
    if (FIRST) ahead(v + int64_t(BLOCK) * dim, 2 * dim);
    __m512i values[2 * W];
    UNROLL for (int i = 0; i < W; i++) {
      const __m512i a = _mm512_loadu_si512(v + d + 32 * i);
      const __m512i b =
          c + 1 < count ? _mm512_loadu_si512(v + dim + d + 32 * i) : _mm512_setzero_si512();
      values[2 * i] = _mm512_unpacklo_epi16(a, b);
      values[2 * i + 1] = _mm512_unpackhi_epi16(a, b);
    }
    UNROLL for (int r = 0; r < R; r++) {
      const __m512i here = _mm512_set1_epi32(weights[r][c / 2]);
      UNROLL for (int i = 0; i < 2 * W; i++) acc[r][i] = dot(acc[r][i], values[i], here);
      if (FIRST) total[r] = dot(total[r], ones, here);
    }
  }
  UNROLL for (int r = 0; r < R; r++) {
    if (FIRST) sums[r][dim + 1] = _mm512_cvtss_f32(total[r]);
    UNROLL for (int i = 0; i < W; i++) {
      const __m512 a = acc[r][2 * i], b = acc[r][2 * i + 1];
      _mm512_storeu_ps(sums[r] + d + 32 * i, _mm512_permutex2var_ps(a, first, b));
      _mm512_storeu_ps(sums[r] + d + 32 * i + 16, _mm512_permutex2var_ps(a, second, b));
    }
  }
}

template <int R>
__attribute__((noinline)) void values_straight(const uint32_t (*weights)[BLOCK / 2], const bf16* v,
                                               int count, int dim, float* const* sums) {
  if (dim == 32) return some_straight<R, 1, true>(weights, v, count, dim, 0, sums);
  some_straight<R, 2, true>(weights, v, count, dim, 0, sums);
  int d = 64;
  for (; d + 64 <= dim; d += 64) some_straight<R, 2, false>(weights, v, count, dim, d, sums);
  if (d < dim) some_straight<R, 1, false>(weights, v, count, dim, d, sums);
}

// Fold a block's scores of a row into its part of the result, but for what `values_straight` adds; the cells
// first .. last of the block are visible. `weights` are those of this block, in bfloat16.
template <bool ALL>  // of them are
inline void fold_row(const float* scores, int first, int last, float scale, int dim, float* sums,
                     uint32_t* weights) {
  float& top = sums[dim];
  const __m512 hidden = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(scale);
  const auto seen = [&](int c) {
    const int lo = std::clamp(first - c, 0, 16), hi = std::clamp(last - c, 0, 16);
    return __mmask16(((1u << hi) - 1) & ~((1u << lo) - 1));
  };
  __m512 most = hidden;
  for (int c = 0; c < BLOCK; c += 16)
    most = _mm512_mask_max_ps(most, ALL ? __mmask16(-1) : seen(c), most, _mm512_load_ps(scores + c));
  const bool any_nan = _mm512_cmp_ps_mask(most, most, _CMP_UNORD_Q);  // a maximum may lose it
  const float highest = any_nan ? NAN : _mm512_reduce_max_ps(most);
  const float now = highest <= top ? top : highest;  // NaN goes through
  if (now == -INFINITY) {  // nothing visible yet
    std::memset(weights, 0, BLOCK * sizeof(bf16));
    return;
  }
  const __m512 from = _mm512_set1_ps(now);
  UNROLL for (int c = 0; c < BLOCK; c += 32) {
    __m512 e[2];
    for (int i = 0; i < 2; i++) {
      const __m512 below = _mm512_sub_ps(_mm512_load_ps(scores + c + 16 * i), from);
      e[i] = power16(_mm512_mul_ps(below, factor));
      if (!ALL) e[i] = _mm512_maskz_mov_ps(seen(c + 16 * i), e[i]);
    }
    _mm512_storeu_si512(weights + c / 2, (__m512i)_mm512_cvtne2ps_pbh(e[1], e[0]));
  }
  if (now == top) return;
  const __m512 less = _mm512_mul_ps(_mm512_set1_ps(top - now), factor);
  const __m512 shrink = top == -INFINITY ? _mm512_setzero_ps() : power16(less);
  for (int d = 0; d < dim; d += 16)
    _mm512_storeu_ps(sums + d, _mm512_mul_ps(_mm512_loadu_ps(sums + d), shrink));
  sums[dim + 1] *= _mm512_cvtss_f32(shrink);
  top = now;
}

// R rows against one block's `count` cells, which begin at cell `at` of the stretch.
template <int R>
inline void block_straight(const Query* queries, const Stretch& of, int at, int count, float* partial) {
  alignas(64) float scores[R][BLOCK];
  alignas(64) uint32_t weights[R][BLOCK / 2];
  float* sums[R];
  UNROLL for (int r = 0; r < R; r++) sums[r] = partial + r * width_of(of.dim);
  scores_straight<R>(queries, of.k + int64_t(at) * of.dim, count, of.dim, scores);
  for (int r = 0; r < R; r++) {
    const int first = std::clamp(queries[r].first - at, 0, count);
    const int last = std::clamp(queries[r].last - at, 0, count);
    const bool all = first == 0 && last == BLOCK;
    (all ? fold_row<true> : fold_row<false>)(scores[r], first, last, of.scale, of.dim, sums[r],
                                                weights[r]);
  }
  values_straight<R>(weights, of.v + int64_t(at) * of.dim, count, of.dim, sums);
}

// partial: [rows][width_of(dim)], written.
inline void attend_few(const Query* queries, int rows, const Stretch& of, float* partial) {
  const int width = width_of(of.dim);
  for (int r = 0; r < rows; r++) {
    float* out = partial + r * width;
    std::memset(out, 0, sizeof(float) * of.dim);
    out[of.dim] = -INFINITY;
    out[of.dim + 1] = 0;
  }
  for (int at = 0; at < of.length; at += BLOCK) {
    const int count = std::min(BLOCK, of.length - at);
    for (int r = 0; r < rows; r += QUERIES) {
      float* out = partial + r * width;
      switch (std::min(QUERIES, rows - r)) {
        case 1: block_straight<1>(queries + r, of, at, count, out); break;
        case 2: block_straight<2>(queries + r, of, at, count, out); break;
        case 3: block_straight<3>(queries + r, of, at, count, out); break;
        default: block_straight<4>(queries + r, of, at, count, out);
      }
    }
  }
  for (int r = 0; r < rows; r++) partial[r * width + of.dim] *= of.scale;
}

}  // namespace wb
