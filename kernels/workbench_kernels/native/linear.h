// x . w^T: weights are packed once, so that sums need no adding up over a vector's lanes, and are read
// from memory once for all rows of x.
#pragma once

#include "simd.h"
#include "team.h"

namespace wb {

// Packed weights: panels of COLUMNS columns, [outer / COLUMNS][inner / 2][COLUMNS / 16][16][2]. A vector
// holds two numbers of each of 16 columns, and is multiplied with the same two numbers of a row of x.
constexpr int COLUMNS = 32;
constexpr int VECTORS = COLUMNS / 16;
constexpr int TILE_ROWS = 12;   // rows of x, at most, whose sums are in registers at a time
constexpr int MOST_ROWS = 128;  // of x, whose sums are kept at a time
constexpr int STEP = 4;         // pairs of the inner size after which lines are asked for
// Of fewer rows than FULL_ROWS, DEPTH numbers of a panel are multiplied with all of them before the next, so
// that a second tile finds them in the first-level cache; beyond, keeping sums in between costs more.
constexpr int FULL_ROWS = 21, DEPTH = 128;

inline int64_t panels(int64_t outer) { return (outer + COLUMNS - 1) / COLUMNS; }

// Pack the panels first to last of w [outer][inner]; inner a multiple of 32, missing columns zero.
inline void pack(const bf16* w, int64_t outer, int64_t inner, int64_t first, int64_t last, bf16* to) {
  const int64_t pairs = inner / 2;
  alignas(64) uint32_t in[16][16];
  for (int64_t n0 = first * COLUMNS; n0 < last * COLUMNS; n0 += 16) {
    uint32_t* out = (uint32_t*)(to + n0 / COLUMNS * COLUMNS * inner) + n0 % COLUMNS;
    for (int64_t k = 0; k < pairs; k += 16) {
      for (int i = 0; i < 16; i++)
        if (n0 + i < outer) std::memcpy(in[i], w + (n0 + i) * inner + 2 * k, sizeof in[i]);
        else std::memset(in[i], 0, sizeof in[i]);
      transpose16(in[0], 16, out + k * COLUMNS, COLUMNS);
    }
  }
}

// sums[r][n] = x[r] . column n of a panel, for R rows; where not `first`, sums go on from what is there. P
// lines of `soon`, which comes next, are asked for meanwhile, every STEP pairs. Each sum is one chain over
// the inner size whatever R is, so a row's result does not depend on the rows beside it. Never inlined: with
// its surroundings' variables in registers there are too few for the sums.
template <int R, int P>
__attribute__((noinline)) void tile(const bf16* x, int64_t stride, const bf16* w, int64_t inner,
                                    bool first, const bf16* soon, float (*sums)[COLUMNS]) {
  __m512 acc[R][VECTORS];
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < VECTORS; v++)
      acc[r][v] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums[r] + 16 * v);
  for (int64_t k = 0; k < inner; k += 2 * STEP) {
    UNROLL for (int s = 0; s < STEP; s++) {
      __m512i weights[VECTORS];
      UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = _mm512_loadu_si512(w + 32 * v);
      UNROLL for (int r = 0; r < R; r++) {
        const __m512i here = both(x + r * stride + k + 2 * s);
        UNROLL for (int v = 0; v < VECTORS; v++) acc[r][v] = dot(acc[r][v], weights[v], here);
      }
      UNROLL for (int p = s * P / STEP; p < (s + 1) * P / STEP; p++, soon += 32)
        _mm_prefetch(reinterpret_cast<const char*>(soon), _MM_HINT_T0);
      w += 2 * COLUMNS;
    }
  }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(sums[r] + 16 * v, acc[r][v]);
}

template <int P>
inline void tile_of(int rows, const bf16* x, int64_t stride, const bf16* w, int64_t inner, bool first,
                    const bf16* soon, float (*sums)[COLUMNS]) {
  using Tile =
      void (*)(const bf16*, int64_t, const bf16*, int64_t, bool, const bf16*, float (*)[COLUMNS]);
  static constexpr Tile of[TILE_ROWS] = {tile<1, P>, tile<2, P>,  tile<3, P>,  tile<4, P>,
                                         tile<5, P>, tile<6, P>,  tile<7, P>,  tile<8, P>,
                                         tile<9, P>, tile<10, P>, tile<11, P>, tile<12, P>};
  of[rows - 1](x, stride, w, inner, first, soon, sums);
}

// All rows against a panel, DEPTH of its numbers after another, or all of them, a tile after another; each asks
// for its part of what comes next.
inline void tiles(const bf16* x, int rows, int64_t inner, const bf16* w, float (*sums)[COLUMNS]) {
  const int count = (rows + TILE_ROWS - 1) / TILE_ROWS;
  const int64_t most = rows < FULL_ROWS ? DEPTH : inner;
  for (int64_t begin = 0, depth; begin < inner; begin += depth) {
    depth = std::min(most, inner - begin);
    const int64_t steps = depth / (2 * STEP), lines = depth * COLUMNS / 32;
    const int share = int((lines + count * steps - 1) / (count * steps));
    const bf16 *here = w + begin * COLUMNS, *next = here + depth * COLUMNS;
    int64_t asked = 0;
    for (int i = 0; i < count; i++) {
      const int row = rows * i / count, num = rows * (i + 1) / count - row;
      const bf16 *from = x + row * inner + begin, *soon = next + asked * 32;
      const int ask = asked >= lines ? 0 : share <= 2 ? share : share <= 4 ? 4 : 8;
      float(*to)[COLUMNS] = sums + row;
      const bool first = begin == 0;
      switch (ask) {
        case 0: tile_of<0>(num, from, inner, here, depth, first, soon, to); break;
        case 1: tile_of<1>(num, from, inner, here, depth, first, soon, to); break;
        case 2: tile_of<2>(num, from, inner, here, depth, first, soon, to); break;
        case 4: tile_of<4>(num, from, inner, here, depth, first, soon, to); break;
        default: tile_of<8>(num, from, inner, here, depth, first, soon, to);
      }
      asked += ask * steps;
    }
  }
}

// Panels of M matrices of the same shape, side by side, for any number of rows: write(row, count, column,
// sums) gets the COLUMNS columns that begin there, of MOST_ROWS rows or fewer, of each matrix.
template <int M, class Write>
inline void products(const bf16* x, int64_t rows, int64_t inner, const bf16* const (&w)[M],
                     const Share& own, Write write) {
  alignas(64) float sums[M][MOST_ROWS][COLUMNS];
  for (int64_t r0 = 0; r0 < rows; r0 += MOST_ROWS) {
    const int count = int(std::min<int64_t>(MOST_ROWS, rows - r0));
    for (int64_t panel = own.first; panel < own.last; panel++) {
      for (int m = 0; m < M; m++)
        tiles(x + r0 * inner, count, inner, w[m] + panel * COLUMNS * inner, sums[m]);
      write(r0, count, panel * COLUMNS, sums);
    }
  }
}

// Panels of y = x . w^T + bias.
inline void project(const bf16* x, int64_t rows, int64_t inner, const bf16* w, const bf16* bias,
                    int64_t outer, bf16* y, const Share& own) {
  products<1>(x, rows, inner, {w}, own, [&](int64_t r0, int count, int64_t n0, const auto& sums) {
    for (int v = 0; v < VECTORS; v++) {
      const int64_t n = n0 + 16 * v;
      if (n >= outer) break;
      const __mmask16 there = __mmask16(outer - n >= 16 ? 0xffff : (1 << (outer - n)) - 1);
      const __m512 extra =
          bias ? widen(_mm256_maskz_loadu_epi16(there, bias + n)) : _mm512_setzero_ps();
      for (int r = 0; r < count; r++) {
        const __m512 sum = _mm512_add_ps(_mm512_load_ps(sums[0][r] + 16 * v), extra);
        _mm256_mask_storeu_epi16(y + (r0 + r) * outer + n, there, (__m256i)_mm512_cvtneps_pbh(sum));
      }
    }
  });
}

}  // namespace wb
