// Attention over a tile plan: some query rows against one stretch of cells, then the merge of parts.
#pragma once

#include "simd.h"
#include "team.h"

namespace wb {

constexpr int BLOCK = 128;  // cells per step; packed K and V of a block stay in the first-level cache
constexpr int MAX_DIM = 256;
constexpr int ROWS = 4;  // packed rows per register tile
constexpr float LOG2E = 1.44269504f;

// Ask for memory that the next block will read; a hint, so addresses past the end do no harm.
inline void ahead(const bf16* from, int count) {
  for (int i = 0; i < count; i += 32) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
}

// One block of cells, packed for both products. Cells past `count` are zero.
struct Packed {
  alignas(64) uint32_t k[MAX_DIM / 2 * BLOCK];    // [dim / 2][cell]: pairs of neighbouring dims
  alignas(64) uint32_t v[BLOCK / 2 * MAX_DIM];    // [cell / 2][dim]: pairs of neighbouring cells
  alignas(64) uint32_t tail[16 * MAX_DIM / 2];

  void pack_k(const bf16* src, int count, int dim) {
    const int words = dim / 2;
    for (int c = 0; c < BLOCK; c += 16) {
      ahead(src + int64_t(c + BLOCK) * dim, 16 * dim);
      const uint32_t* rows = reinterpret_cast<const uint32_t*>(src + int64_t(c) * dim);
      if (c >= count) {
        for (int w = 0; w < words; w++) _mm512_storeu_si512(k + w * BLOCK + c, _mm512_setzero_si512());
        continue;
      }
      if (c + 16 > count) {
        std::memset(tail, 0, sizeof(uint32_t) * 16 * words);
        std::memcpy(tail, rows, sizeof(uint32_t) * (count - c) * words);
        rows = tail;
      }
      for (int w = 0; w < words; w += 16) transpose16(rows + w, words, k + w * BLOCK + c, BLOCK);
    }
  }

  void pack_v(const bf16* src, int count, int dim) {
    for (int c = 0; c < BLOCK; c += 2) {
      ahead(src + int64_t(c + BLOCK) * dim, 2 * dim);
      for (int d = 0; d < dim; d += 16) {
        __m512i low = _mm512_setzero_si512(), high = _mm512_setzero_si512();
        if (c < count)
          low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(src + int64_t(c) * dim + d)));
        if (c + 1 < count)
          high = _mm512_cvtepu16_epi32(
              _mm256_loadu_si256((const __m256i*)(src + int64_t(c + 1) * dim + d)));
        _mm512_storeu_si512(v + c / 2 * dim + d, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
  }
};

// scores[r][cell] = scale * q[r] . k[cell] for `n` <= ROWS packed rows of a block.
template <int N>
__attribute__((noinline)) void scores_of(const uint32_t* const* q, const Packed& packed, int dim,
                                         float scale, float* out) {
  const uint32_t* row[N];
  UNROLL for (int r = 0; r < N; r++) row[r] = q[r];
  for (int c = 0; c < BLOCK; c += 64) {
    __m512 acc[N][4];
    UNROLL for (int r = 0; r < N; r++)
      UNROLL for (int i = 0; i < 4; i++) acc[r][i] = _mm512_setzero_ps();
    const uint32_t* k = packed.k + c;
    for (int w = 0; w < dim / 2; w++, k += BLOCK) {
      __m512i keys[4];
      UNROLL for (int i = 0; i < 4; i++) keys[i] = _mm512_load_si512(k + 16 * i);
      UNROLL for (int r = 0; r < N; r++) {
        const __m512i x = _mm512_set1_epi32(row[r][w]);
        UNROLL for (int i = 0; i < 4; i++) acc[r][i] = dot(acc[r][i], keys[i], x);
      }
    }
    const __m512 factor = _mm512_set1_ps(scale);
    UNROLL for (int r = 0; r < N; r++)
      UNROLL for (int i = 0; i < 4; i++)
        _mm512_storeu_ps(out + r * BLOCK + c + 16 * i, _mm512_mul_ps(acc[r][i], factor));
  }
}

// acc[r][dim] += p[r] . v for `n` <= ROWS packed rows of a block.
template <int N, int W>  // W vectors of 16 dims from d on
inline void some_values(const uint32_t* p, const uint32_t* v, int pairs, int dim, int d,
                        float* const* acc) {
  __m512 sum[N][W];
  UNROLL for (int r = 0; r < N; r++)
    UNROLL for (int i = 0; i < W; i++) sum[r][i] = _mm512_loadu_ps(acc[r] + d + 16 * i);
  v += d;
  for (int c = 0; c < pairs; c++, v += dim) {
    __m512i values[W];
    UNROLL for (int i = 0; i < W; i++) values[i] = _mm512_loadu_si512(v + 16 * i);
    UNROLL for (int r = 0; r < N; r++) {
      const __m512i x = _mm512_set1_epi32(p[r * BLOCK / 2 + c]);
      UNROLL for (int i = 0; i < W; i++) sum[r][i] = dot(sum[r][i], values[i], x);
    }
  }
  UNROLL for (int r = 0; r < N; r++)
    UNROLL for (int i = 0; i < W; i++) _mm512_storeu_ps(acc[r] + d + 16 * i, sum[r][i]);
}

template <int N>
__attribute__((noinline)) void values_of(const uint32_t* p, const Packed& packed, int pairs, int dim,
                                         float* const* acc) {
  int d = 0;
  for (; d + 64 <= dim; d += 64) some_values<N, 4>(p, packed.v, pairs, dim, d, acc);
  if (d < dim) some_values<N, 2>(p, packed.v, pairs, dim, d, acc);
}

// Running softmax of one packed row: acc is not normalised until the end. Scores and their largest are
// in powers of two.
struct Row {
  float top, sum;
};

// Fold one block's scores of a row in; the cells first .. last of the block are visible.
template <bool ALL>  // of them
inline void fold(float* s, int first, int last, Row& row, float* acc, int dim, bf16* p) {
  const __m512 hidden = _mm512_set1_ps(-INFINITY);
  __m512 top = hidden;
  for (int c = 0; c < BLOCK; c += 16) {
    __m512 x = _mm512_load_ps(s + c);
    if (!ALL) {
      const int lo = std::clamp(first - c, 0, 16), hi = std::clamp(last - c, 0, 16);
      const __mmask16 seen = __mmask16(((1u << hi) - 1) & ~((1u << lo) - 1));
      x = _mm512_mask_mov_ps(hidden, seen, x);
      _mm512_store_ps(s + c, x);
    }
    top = _mm512_max_ps(top, x);
  }
  const float block_top = _mm512_reduce_max_ps(top);
  const float new_top = block_top <= row.top ? row.top : block_top;  // NaN goes through
  if (new_top == -INFINITY) {  // nothing visible yet
    std::memset(p, 0, BLOCK * sizeof(bf16));
    return;
  }
  __m512 sum = _mm512_setzero_ps();
  const __m512 from = _mm512_set1_ps(new_top);
  UNROLL for (int c = 0; c < BLOCK; c += 32) {
    __m512 e[2];
    for (int i = 0; i < 2; i++) {
      const __m512 x = _mm512_load_ps(s + c + 16 * i);
      e[i] = power16(_mm512_sub_ps(x, from));
      if (!ALL) e[i] = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, hidden, _CMP_NEQ_UQ), e[i]);
    }
    sum = _mm512_add_ps(sum, _mm512_add_ps(e[0], e[1]));
    _mm512_storeu_si512(p + c, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(e[1], e[0])));
  }
  if (new_top != row.top) {
    const float shrink = row.top == -INFINITY ? 0.0f : std::exp2(row.top - new_top);
    for (int d = 0; d < dim; d += 16)
      _mm512_storeu_ps(acc + d, _mm512_mul_ps(_mm512_loadu_ps(acc + d), _mm512_set1_ps(shrink)));
    row.sum *= shrink;
  }
  row.sum += _mm512_reduce_add_ps(sum);
  row.top = new_top;
}

struct Unit {  // one tile's stretch, as Python lays it out: int32 each
  int32_t start, length, position, rows_at, num_rows, out_at;
};

template <int N>
inline void block_rows(const uint32_t* const* q, const Packed& packed, int dim, float scale,
                       const int* first, const int* last, int count, Row* rows, float* const* acc) {
  alignas(64) float s[ROWS * BLOCK];
  alignas(64) uint32_t p[ROWS * BLOCK / 2];
  scores_of<N>(q, packed, dim, scale, s);
  for (int r = 0; r < N; r++) {
    bf16* weights = reinterpret_cast<bf16*>(p + r * BLOCK / 2);
    const bool all = first[r] == 0 && last[r] == BLOCK;
    (all ? fold<true> : fold<false>)(s + r * BLOCK, first[r], last[r], rows[r], acc[r], dim, weights);
  }
  values_of<N>(p, packed, (count + 1) / 2, dim, acc);
}

// All packed rows (rows x group of one KV head) of a unit against its cells.
void run_unit(const Unit& unit, const bf16* q, const bf16* k, const bf16* v, const int32_t* row_ids,
              const int32_t* positions, int heads, int kv_heads, int head, int dim, int64_t window,
              float scale, float* partial, Packed& packed) {
  const int group = heads / kv_heads, total = unit.num_rows * group, width = dim + 2;
  for (int r = 0; r < total; r++) {
    float* out = partial + int64_t(r) * width;
    std::memset(out, 0, sizeof(float) * dim);
    out[dim] = -INFINITY;
    out[dim + 1] = 0;
  }
  for (int at = 0; at < unit.length; at += BLOCK) {
    const int count = std::min(BLOCK, unit.length - at);
    const int64_t cell = int64_t(unit.start) + at;
    packed.pack_k(k + cell * dim, count, dim);
    packed.pack_v(v + cell * dim, count, dim);
    for (int r0 = 0; r0 < total; r0 += ROWS) {
      const int n = std::min(ROWS, total - r0);
      const uint32_t* queries[ROWS];
      float* acc[ROWS];
      Row rows[ROWS];
      int first[ROWS], last[ROWS];
      bool any = false;
      for (int r = 0; r < n; r++) {
        const int row = row_ids[unit.rows_at + (r0 + r) / group];
        const int lane = head * group + (r0 + r) % group;
        queries[r] = reinterpret_cast<const uint32_t*>(q + (int64_t(row) * heads + lane) * dim);
        acc[r] = partial + int64_t(r0 + r) * width;
        rows[r] = {acc[r][dim], acc[r][dim + 1]};
        const int64_t base = int64_t(unit.position) + at, own = positions[row];
        last[r] = int(std::clamp<int64_t>(own + 1 - base, 0, count));
        first[r] = window ? int(std::clamp<int64_t>(own - window + 1 - base, 0, count)) : 0;
        any |= first[r] < last[r];
      }
      if (!any) continue;
      switch (n) {
        case 1: block_rows<1>(queries, packed, dim, scale, first, last, count, rows, acc); break;
        case 2: block_rows<2>(queries, packed, dim, scale, first, last, count, rows, acc); break;
        case 3: block_rows<3>(queries, packed, dim, scale, first, last, count, rows, acc); break;
        default: block_rows<4>(queries, packed, dim, scale, first, last, count, rows, acc);
      }
      for (int r = 0; r < n; r++) {
        acc[r][dim] = rows[r].top;
        acc[r][dim + 1] = rows[r].sum;
      }
    }
  }
}

// Which cells a step's rows read, as Python lays it out. Rows of unit u are
// row_ids[rows_at .. rows_at + num_rows]; parts_at / parts: for each row, which (unit, place in it)
// computed a part of it. window 0: full attention.
struct Plan {
  const Unit* units;
  const int32_t *row_ids, *positions, *parts_at, *parts;
  int64_t num_units, unit_rows, window;
};

// One layer's cells and heads. q, out: [rows][heads][dim]; k, v: [kv_heads] planes of [cells][dim],
// `plane` elements apart; partial: room for unit_rows x heads x (dim + 2) floats; sinks: or null.
struct Heads {
  const bf16 *q, *k, *v;
  bf16* out;
  float* partial;
  const float* sinks;
  int64_t plane;
  int rows, heads, kv_heads, dim;
  float scale;
};

// Called by every thread of a team, which has refilled; returns when all of them are done.
inline void attend(const Plan& plan, const Heads& at, Packed& packed, Team& team, int thread) {
  const int group = at.heads / at.kv_heads, width = at.dim + 2, dim = at.dim;
  const int tasks = int(plan.num_units) * at.kv_heads;
  for (int task = team.take(); task < tasks; task = team.take()) {
    const Unit& unit = plan.units[task / at.kv_heads];
    const int head = task % at.kv_heads;
    float* here = at.partial + (int64_t(head) * plan.unit_rows + unit.out_at) * group * width;
    run_unit(unit, at.q, at.k + head * at.plane, at.v + head * at.plane, plan.row_ids, plan.positions,
             at.heads, at.kv_heads, head, dim, plan.window, at.scale * LOG2E, here, packed);
  }
  team.meet();
  const Share items(int64_t(at.rows) * at.heads, thread, team.size());
  for (int item = int(items.first); item < int(items.last); item++) {
    const int row = item / at.heads, lane = item % at.heads, head = lane / group, g = lane % group;
    const auto part = [&](int i) {
      return at.partial + ((int64_t(head) * plan.unit_rows + plan.parts[i]) * group + g) * width;
    };
    float top = at.sinks ? at.sinks[lane] * LOG2E : -INFINITY, total = 0;
    alignas(64) float sum[MAX_DIM];
    std::memset(sum, 0, sizeof(float) * dim);
    for (int i = plan.parts_at[row]; i < plan.parts_at[row + 1]; i++) top = std::max(top, part(i)[dim]);
    for (int i = plan.parts_at[row]; i < plan.parts_at[row + 1]; i++) {
      const float* from = part(i);
      if (from[dim] == -INFINITY) continue;
      const float weight = std::exp2(from[dim] - top);
      total += weight * from[dim + 1];
      for (int d = 0; d < dim; d++) sum[d] += weight * from[d];
    }
    if (at.sinks) total += std::exp2(at.sinks[lane] * LOG2E - top);
    bf16* to = at.out + (int64_t(row) * at.heads + lane) * dim;
    for (int d = 0; d < dim; d++) to[d] = to_bf16(total == 0 ? 0.0f : sum[d] / total);
  }
  team.meet();
}

}  // namespace wb
