// A decoder layer as Llama, Mistral and Qwen define it: every thread of a team runs it,
// and no Python comes between its operations. Values are rounded to bfloat16 exactly where
// transformers' modules round them.
#pragma once

#include "attention.h"
#include "linear.h"

namespace wb {

// What all layers have in common.
struct Shape {
  int64_t num_layers, hidden, inner, heads, kv_heads, dim;
  float eps;
};

// Weights of one layer, of the products packed (`linear.h`); null where a model has none. plan: which of
// the plans.
struct Layer {
  const bf16 *before, *q, *k, *v, *q_bias, *k_bias, *v_bias, *q_norm, *k_norm, *out, *out_bias;
  const bf16 *after, *gate, *up, *down;
  int64_t plan;
  float scale;
};

// One layer's cells: [kv_heads] planes of [cells][dim].
struct Cells {
  bf16 *k, *v;
  int64_t plane;
};

// Rows of a step. x: [rows][hidden], changed in place; cos, sin: [rows][dim]; slots: each row's cell.
// The rest is room to work in: normed like x; q, attended: [rows][heads][dim]; k, v: [rows][kv_heads]
// [dim]; gated: [rows][inner]; partial as for attention.
struct Batch {
  bf16* x;
  const bf16 *cos, *sin;
  const int64_t* slots;
  bf16 *normed, *q, *k, *v, *attended, *gated;
  float* partial;
  int64_t rows;
};

// to = weight * x / root mean square of x; size a multiple of 16; `to` may be x.
inline void norm(const bf16* x, const bf16* weight, float eps, int64_t size, bf16* to) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t d = 0; d < size; d += 16) {
    const __m512 here = load16(x + d);
    squares = _mm512_fmadd_ps(here, here, squares);
  }
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / size + eps));
  for (int64_t d = 0; d < size; d += 16) {
    const __m512 here = rounded16(_mm512_mul_ps(load16(x + d), factor));
    store16(to + d, _mm512_mul_ps(load16(weight + d), here));
  }
}

// Turn a head by its position: to = x cos + (x's halves swapped, the first negated) sin.
inline void rotate(const bf16* x, const bf16* cos, const bf16* sin, int64_t dim, bf16* to) {
  const int64_t half = dim / 2;
  alignas(64) bf16 turned[MAX_DIM];
  for (int64_t d = 0; d < half; d += 16) {
    const __m512 low = load16(x + d), high = load16(x + half + d);
    const __m512 a = rounded16(_mm512_mul_ps(low, load16(cos + d)));
    const __m512 b = rounded16(_mm512_mul_ps(high, load16(sin + d)));
    store16(turned + d, _mm512_sub_ps(a, b));
    const __m512 e = rounded16(_mm512_mul_ps(high, load16(cos + half + d)));
    const __m512 f = rounded16(_mm512_mul_ps(low, load16(sin + half + d)));
    store16(turned + half + d, _mm512_add_ps(e, f));
  }
  std::memcpy(to, turned, sizeof(bf16) * dim);
}

// Panels of x += from . w^T + bias; outer a multiple of COLUMNS, as are all sizes here.
inline void add_product(const bf16* from, int64_t rows, int64_t inner, const bf16* w, const bf16* bias,
                        int64_t outer, bf16* x, const Share& own) {
  products<1>(from, rows, inner, {w}, own, [&](int64_t r0, int count, int64_t n0, const auto& sums) {
    for (int v = 0; v < VECTORS; v++) {
      const __m512 extra = bias ? load16(bias + n0 + 16 * v) : _mm512_setzero_ps();
      for (int r = 0; r < count; r++) {
        bf16* to = x + (r0 + r) * outer + n0 + 16 * v;
        const __m512 sum = _mm512_add_ps(_mm512_load_ps(sums[0][r] + 16 * v), extra);
        store16(to, _mm512_add_ps(load16(to), rounded16(sum)));
      }
    }
  });
}

// Panels of y = silu(x . gate^T) * (x . up^T).
inline void gated_product(const bf16* x, int64_t rows, int64_t inner, const bf16* gate, const bf16* up,
                          int64_t outer, bf16* y, const Share& own) {
  const __m512 one = _mm512_set1_ps(1.0f);
  products<2>(x, rows, inner, {gate, up}, own, [&](int64_t r0, int count, int64_t n0, const auto& sums) {
    for (int r = 0; r < count; r++)
      for (int v = 0; v < VECTORS; v++) {
        const __m512 g = rounded16(_mm512_load_ps(sums[0][r] + 16 * v));
        const __m512 u = rounded16(_mm512_load_ps(sums[1][r] + 16 * v));
        const __m512 below = _mm512_add_ps(one, exp16(_mm512_sub_ps(_mm512_setzero_ps(), g)));
        store16(y + (r0 + r) * outer + n0 + 16 * v,
                _mm512_mul_ps(rounded16(_mm512_div_ps(g, below)), u));
      }
  });
}

// Queries, keys and values: their panels are shared out as if they were one matrix.
inline void project_all(const Shape& shape, const Layer& layer, const Batch& batch, int thread,
                        int threads) {
  const int64_t queries = shape.heads * shape.dim, keys = shape.kv_heads * shape.dim;
  const Share own(panels(queries) + 2 * panels(keys), thread, threads);
  int64_t begin = 0;
  const auto part = [&](const bf16* w, const bf16* bias, int64_t outer, bf16* y) {
    Share mine(0, 0, 1);
    mine.first = std::max<int64_t>(own.first - begin, 0);
    mine.last = std::min(own.last - begin, panels(outer));
    project(batch.normed, batch.rows, shape.hidden, w, bias, outer, y, mine);
    begin += panels(outer);
  };
  part(layer.q, layer.q_bias, queries, batch.q);
  part(layer.k, layer.k_bias, keys, batch.k);
  part(layer.v, layer.v_bias, keys, batch.v);
}

inline void run_layer(const Shape& shape, const Layer& layer, const Cells& cells, const Plan& plan,
                      const Batch& batch, Room& room, Team& team, int thread) {
  const int64_t rows = batch.rows;
  const int64_t hidden = shape.hidden, dim = shape.dim;
  const int64_t queries = shape.heads * dim, keys = shape.kv_heads * dim;
  const int threads = team.size();
  const Share own(rows, thread, threads);
  if (thread == 0) team.refill();
  for (int64_t r = own.first; r < own.last; r++)
    norm(batch.x + r * hidden, layer.before, shape.eps, hidden, batch.normed + r * hidden);
  team.meet();
  project_all(shape, layer, batch, thread, threads);
  team.meet();
  const int64_t lanes = shape.heads + shape.kv_heads;
  const Share items(rows * lanes, thread, threads);
  for (int64_t item = items.first; item < items.last; item++) {
    const int64_t r = item / lanes, lane = item % lanes;
    const bf16 *cos = batch.cos + r * dim, *sin = batch.sin + r * dim;
    if (lane < shape.heads) {
      bf16* q = batch.q + r * queries + lane * dim;
      if (layer.q_norm) norm(q, layer.q_norm, shape.eps, dim, q);
      rotate(q, cos, sin, dim, q);
    } else {
      const int64_t head = lane - shape.heads, cell = head * cells.plane + batch.slots[r] * dim;
      bf16* k = batch.k + r * keys + head * dim;
      if (layer.k_norm) norm(k, layer.k_norm, shape.eps, dim, k);
      rotate(k, cos, sin, dim, cells.k + cell);
      std::memcpy(cells.v + cell, batch.v + r * keys + head * dim, sizeof(bf16) * dim);
    }
  }
  team.meet();
  attend(plan,
         {batch.q, cells.k, cells.v, batch.attended, batch.partial, nullptr, cells.plane, int(rows),
          int(shape.heads), int(shape.kv_heads), int(dim), layer.scale},
         room, team, thread);
  const Share outs(panels(hidden), thread, threads);
  add_product(batch.attended, rows, queries, layer.out, layer.out_bias, hidden, batch.x, outs);
  team.meet();
  for (int64_t r = own.first; r < own.last; r++)
    norm(batch.x + r * hidden, layer.after, shape.eps, hidden, batch.normed + r * hidden);
  team.meet();
  gated_product(batch.normed, rows, hidden, layer.gate, layer.up, shape.inner, batch.gated,
                Share(panels(shape.inner), thread, threads));
  team.meet();
  add_product(batch.gated, rows, shape.inner, layer.down, nullptr, hidden, batch.x, outs);
  team.meet();
}

}  // namespace wb
