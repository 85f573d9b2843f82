// Attention of many rows against a stretch of cells. A vector's lanes are rows: keys are read as they lie,
// nothing is added up over lanes, and only the queries are turned, once for all of a stretch.
#pragma once

#include "stretch.h"

namespace wb {

constexpr int LANES = 16;
constexpr int VECTORS_OF_ROWS = 4;  // at most, at a time
constexpr int ROWS_AT_ONCE = VECTORS_OF_ROWS * LANES;

// Cells whose scores, or numbers of them whose sums, are in registers at a time with so many vectors.
constexpr int cells_of(int vectors) { return vectors == 3 ? 2 : 8 / vectors; }
constexpr int numbers_of(int vectors) { return vectors < 2 ? 12 : 24 / vectors; }
constexpr int CELLS_AHEAD = 8;  // that are asked for while scores are computed

// A thread's room to work in. q: [dim / 2][rows], pairs of neighbouring numbers; v: [cell / 2][dim], pairs of
// neighbouring cells; scores: [cell][rows]; weights: [cell / 2][rows], pairs of neighbouring cells; sums:
// [dim][rows].
struct Room {
  alignas(64) uint32_t q[MAX_DIM / 2][VECTORS_OF_ROWS][LANES];
  alignas(64) uint32_t v[BLOCK / 2][MAX_DIM];
  alignas(64) float scores[BLOCK][VECTORS_OF_ROWS][LANES];
  alignas(64) uint32_t weights[BLOCK / 2][VECTORS_OF_ROWS][LANES];
  alignas(64) float sums[MAX_DIM][VECTORS_OF_ROWS][LANES];
};

// Of V vectors of rows: which cells they see, their largest scores so far and their sums of weights.
template <int V>
struct Softmax {
  __m512i first[V], last[V];
  __m512 top[V], total[V];
};

// Scores of C cells from k on, without the scale; `highest` is the largest of each row. A score is four
// chains, over every fourth pair of numbers.
template <int V, int C>
__attribute__((noinline)) void scores_of(const Room& room, const bf16* k, int dim,
                                         float (*scores)[VECTORS_OF_ROWS][LANES],
                                         float (*highest)[LANES]) {
  using Sums = __m512[C][V];
  const uint32_t* cells = reinterpret_cast<const uint32_t*>(k);
  const int words = dim / 2;
  const auto chain = [&](int first, Sums& sums) {
    UNROLL for (int c = 0; c < C; c++)
      UNROLL for (int i = 0; i < V; i++) sums[c][i] = _mm512_setzero_ps();
    for (int w = first; w < words; w += 4) {
      __m512i q[V];
      UNROLL for (int i = 0; i < V; i++) q[i] = _mm512_load_si512(room.q[w][i]);
      UNROLL for (int c = 0; c < C; c++) {
        const __m512i here = _mm512_set1_epi32(cells[c * words + w]);
        UNROLL for (int i = 0; i < V; i++) sums[c][i] = dot(sums[c][i], q[i], here);
      }
    }
  };
  const auto add = [](Sums& to, const Sums& more) {
    UNROLL for (int c = 0; c < C; c++)
      UNROLL for (int i = 0; i < V; i++) to[c][i] = _mm512_add_ps(to[c][i], more[c][i]);
  };
  Sums even, odd, other;
  chain(0, even);
  chain(2, other);
  add(even, other);
  chain(1, odd);
  chain(3, other);
  add(odd, other);
  add(even, odd);
  UNROLL for (int i = 0; i < V; i++) {
    __m512 most = _mm512_load_ps(highest[i]);
    UNROLL for (int c = 0; c < C; c++) {
      _mm512_store_ps(scores[c][i], even[c][i]);
      most = _mm512_max_ps(most, even[c][i]);
    }
    _mm512_store_ps(highest[i], most);
  }
}

// sums += weights . v, for D numbers from d on. So many lines of `soon` are asked for meanwhile.
template <int V, int D>
__attribute__((noinline)) void values_of(Room& room, int pairs, int d, const bf16* soon, int lines) {
  __m512 acc[D][V];
  UNROLL for (int j = 0; j < D; j++)
    UNROLL for (int i = 0; i < V; i++) acc[j][i] = _mm512_load_ps(room.sums[d + j][i]);
  for (int c = 0; c < pairs; c++) {
    if (c < lines) _mm_prefetch(reinterpret_cast<const char*>(soon + 32 * c), _MM_HINT_T1);
    __m512i weights[V];
    UNROLL for (int i = 0; i < V; i++) weights[i] = _mm512_load_si512(room.weights[c][i]);
    const uint32_t* values = room.v[c] + d;
    UNROLL for (int j = 0; j < D; j++) {
      const __m512i here = _mm512_set1_epi32(values[j]);
      UNROLL for (int i = 0; i < V; i++) acc[j][i] = dot(acc[j][i], weights[i], here);
    }
  }
  UNROLL for (int j = 0; j < D; j++)
    UNROLL for (int i = 0; i < V; i++) _mm512_store_ps(room.sums[d + j][i], acc[j][i]);
}

// Two cells' numbers side by side, in order; a cell past the last one is zero.
inline void pack_values(Room& room, const bf16* v, int count, int dim) {
  const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (int c = 0; c < count; c += 2, v += 2 * dim)
    for (int d = 0; d < dim; d += 32) {
      const __m512i a = _mm512_loadu_si512(v + d);
      const __m512i b = c + 1 < count ? _mm512_loadu_si512(v + dim + d) : _mm512_setzero_si512();
      const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
      _mm512_store_si512(room.v[c / 2] + d, _mm512_permutex2var_epi64(low, first, high));
      _mm512_store_si512(room.v[c / 2] + d + 16, _mm512_permutex2var_epi64(low, second, high));
    }
}

// Numbers of two cells as pairs of bfloat16, a row a lane.
inline __m512i paired(__m512 low, __m512 high) {
  const __m512i order =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
                       4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// Fold a block's scores of vector i of the rows in. `highest`: the largest of all its scores.
template <bool ALL, int V>  // every row sees all of the block
inline void fold(Room& room, Softmax<V>& rows, int i, const Stretch& of, int at, int count,
                 __m512 highest) {
  const __m512 hidden = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(of.scale);
  const auto seen = [&](int c) {
    const __m512i here = _mm512_set1_epi32(at + c);
    const __mmask16 begun = _mm512_cmple_epi32_mask(rows.first[i], here);
    return _mm512_mask_cmplt_epi32_mask(begun, here, rows.last[i]);
  };
  if (!ALL) {
    highest = hidden;
    for (int c = 0; c < count; c++)
      highest = _mm512_mask_max_ps(highest, seen(c), highest, _mm512_load_ps(room.scores[c][i]));
  }
  const __m512 top = rows.top[i], now = _mm512_max_ps(top, highest);
  const __mmask16 any = _mm512_cmp_ps_mask(now, hidden, _CMP_NEQ_UQ);  // visible so far
  const __m512 from = _mm512_maskz_mov_ps(any, now);
  const auto weight = [&](int c) {
    const __m512 below = _mm512_sub_ps(_mm512_load_ps(room.scores[c][i]), from);
    const __m512 e = power16(_mm512_mul_ps(below, factor));
    return ALL ? e : _mm512_maskz_mov_ps(seen(c), e);
  };
  if (const __mmask16 risen = _mm512_cmp_ps_mask(now, top, _CMP_NEQ_UQ)) {
    const __mmask16 before = _mm512_cmp_ps_mask(top, hidden, _CMP_NEQ_UQ);
    const __m512 less = _mm512_maskz_mov_ps(before, power16(_mm512_mul_ps(_mm512_sub_ps(top, from), factor)));
    const __m512 shrink = _mm512_mask_mov_ps(_mm512_set1_ps(1), risen, less);
    for (int d = 0; d < of.dim; d++)
      _mm512_store_ps(room.sums[d][i], _mm512_mul_ps(_mm512_load_ps(room.sums[d][i]), shrink));
    rows.total[i] = _mm512_mul_ps(rows.total[i], shrink);
  }
  const __m512i ones = _mm512_set1_epi32(ONES);
  __m512 total = rows.total[i];
  for (int c = 0; c < count; c += 2) {
    const __m512i pair = paired(weight(c), c + 1 < count ? weight(c + 1) : _mm512_setzero_ps());
    total = dot(total, ones, pair);
    _mm512_store_si512(room.weights[c / 2][i], pair);
  }
  rows.total[i] = total;
  rows.top[i] = now;
}

// V vectors of rows begin: their queries are turned, a row a lane; lanes without a row see everything.
template <int V>
inline Softmax<V> begin(Room& room, const Query* queries, int rows, const Stretch& of) {
  Softmax<V> softmax;
  for (int i = 0; i < V; i++) {
    alignas(64) int first[LANES] = {}, last[LANES];
    alignas(64) uint32_t in[LANES][16];
    for (int r = 0; r < LANES; r++) {
      const int row = i * LANES + r;
      first[r] = row < rows ? queries[row].first : 0;
      last[r] = row < rows ? queries[row].last : of.length;
    }
    softmax.first[i] = _mm512_load_si512(first);
    softmax.last[i] = _mm512_load_si512(last);
    softmax.top[i] = _mm512_set1_ps(-INFINITY);
    softmax.total[i] = _mm512_setzero_ps();
    for (int w = 0; w < of.dim / 2; w += 16) {
      for (int r = 0; r < LANES; r++) {
        const int row = i * LANES + r;
        if (row < rows) std::memcpy(in[r], queries[row].numbers + 2 * w, sizeof in[r]);
        else std::memset(in[r], 0, sizeof in[r]);
      }
      transpose16(in[0], 16, room.q[w][i], VECTORS_OF_ROWS * LANES);
    }
    for (int d = 0; d < of.dim; d++) _mm512_store_ps(room.sums[d][i], _mm512_setzero_ps());
  }
  return softmax;
}

// partial: [rows][width_of(dim)], written.
template <int V>
inline void finish(const Room& room, const Softmax<V>& softmax, int rows, const Stretch& of,
                   float* partial) {
  const int dim = of.dim, width = width_of(dim);
  for (int i = 0; i < V; i++) {
    const int there = std::min(LANES, rows - i * LANES);
    float* out = partial + i * LANES * width;
    alignas(64) float top[LANES], total[LANES];
    alignas(64) uint32_t turned[LANES][16];
    _mm512_store_ps(top, _mm512_mul_ps(softmax.top[i], _mm512_set1_ps(of.scale)));
    _mm512_store_ps(total, softmax.total[i]);
    for (int d = 0; d < dim; d += 16) {
      const uint32_t* sums = reinterpret_cast<const uint32_t*>(room.sums[d][i]);
      transpose16(sums, VECTORS_OF_ROWS * LANES, turned[0], 16);
      for (int r = 0; r < there; r++) std::memcpy(out + r * width + d, turned[r], sizeof turned[r]);
    }
    for (int r = 0; r < there; r++) {
      out[r * width + dim] = top[r];
      out[r * width + dim + 1] = total[r];
    }
  }
}

// Cells that some rows see, and those that all of them see.
struct Extent {
  int begin, end, all_begin, all_end;
  Extent(const Query* queries, int rows, int length)
      : begin(length), end(0), all_begin(0), all_end(length) {
    for (int r = 0; r < rows; r++) {
      const Query& query = queries[r];
      all_begin = std::max(all_begin, query.first);
      all_end = std::min(all_end, query.last);
      if (query.first >= query.last) continue;
      begin = std::min(begin, query.first);
      end = std::max(end, query.last);
    }
  }
};

template <int V>
void attend_vectors(const Query* queries, int rows, const Stretch& of, float* partial, Room& room) {
  constexpr int CELLS = cells_of(V), NUMBERS = numbers_of(V);
  const int dim = of.dim;
  const Extent extent(queries, rows, of.length);
  Softmax<V> softmax = begin<V>(room, queries, rows, of);
  for (int at = extent.begin / BLOCK * BLOCK; at < extent.end; at += BLOCK) {
    const int count = std::min(BLOCK, of.length - at), pairs = (count + 1) / 2;
    const bf16 *k = of.k + int64_t(at) * dim, *v = of.v + int64_t(at) * dim;
    alignas(64) float highest[V][LANES];
    std::fill_n(highest[0], V * LANES, -INFINITY);
    int c = 0;
    for (; c + CELLS <= count; c += CELLS) {
      const bf16* soon = k + int64_t(c + CELLS_AHEAD) * dim;
      for (int i = 0; i < CELLS * dim; i += 32)
        _mm_prefetch(reinterpret_cast<const char*>(soon + i), _MM_HINT_T0);
      scores_of<V, CELLS>(room, k + int64_t(c) * dim, dim, room.scores + c, highest);
    }
    for (; c < count; c++) scores_of<V, 1>(room, k + int64_t(c) * dim, dim, room.scores + c, highest);
    const bool all = extent.all_begin <= at && at + count <= extent.all_end;
    for (int i = 0; i < V; i++)
      (all ? fold<true, V> : fold<false, V>)(room, softmax, i, of, at, count, _mm512_load_ps(highest[i]));
    pack_values(room, v, count, dim);
    const bf16* soon = v + int64_t(BLOCK) * dim;
    const int lines = (BLOCK * NUMBERS + 31) / 32;  // what as many numbers of the next block are
    int d = 0;
    for (; d + NUMBERS <= dim; d += NUMBERS, soon += 32 * lines)
      values_of<V, NUMBERS>(room, pairs, d, soon, lines);
    for (; d < dim; d += 2) values_of<V, 2>(room, pairs, d, soon, 0);
  }
  finish<V>(room, softmax, rows, of, partial);
}

// partial: [rows][width_of(dim)], written, for ROWS_AT_ONCE rows or fewer.
inline void attend_many(const Query* queries, int rows, const Stretch& of, float* partial, Room& room) {
  switch ((rows + LANES - 1) / LANES) {
    case 1: attend_vectors<1>(queries, rows, of, partial, room); break;
    case 2: attend_vectors<2>(queries, rows, of, partial, room); break;
    case 3: attend_vectors<3>(queries, rows, of, partial, room); break;
    default: attend_vectors<4>(queries, rows, of, partial, room);
  }
}

}  // namespace wb
