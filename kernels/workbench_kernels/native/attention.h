// Attention over a tile plan: some query rows against one stretch of cells, then the merge of parts.
#pragma once

#include "few_rows.h"
#include "many_rows.h"
#include "team.h"

namespace wb {

constexpr float LOG2E = 1.44269504f;
constexpr int MOST_FEW = 16;   // rows that are few
constexpr int MOST_SPARE = 8;  // rows beyond whole vectors of many that are taken as few

struct Unit {  // one tile's stretch, as Python lays it out: int32 each
  int32_t start, length, position, rows_at, num_rows, out_at;
};

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

// All rows of a unit, which are its own times the group of one KV head, against its cells.
inline void run_unit(const Unit& unit, const Plan& plan, const Heads& at, int head, float* partial,
                     Room& room) {
  const int group = at.heads / at.kv_heads, total = unit.num_rows * group, spare = total % LANES;
  const int64_t cell = head * at.plane + int64_t(unit.start) * at.dim;
  const Stretch of = {at.k + cell, at.v + cell, unit.length, at.dim, at.scale * LOG2E};
  const int many = total <= MOST_FEW ? 0 : spare <= MOST_SPARE ? total - spare : total;
  Query queries[ROWS_AT_ONCE];
  for (int done = 0, count; done < total; done += count) {
    if (done < many) {  // as many vectors in each go as in the others
      const int vectors = (many - done + LANES - 1) / LANES;
      const int goes = (vectors + VECTORS_OF_ROWS - 1) / VECTORS_OF_ROWS;
      count = std::min(many - done, (vectors + goes - 1) / goes * LANES);
    } else {
      count = std::min(total - done, ROWS_AT_ONCE);
    }
    for (int i = 0; i < count; i++) {
      const int row = plan.row_ids[unit.rows_at + (done + i) / group];
      const int lane = head * group + (done + i) % group;
      const int64_t own = plan.positions[row] - int64_t(unit.position), length = unit.length;
      queries[i] = {at.q + (int64_t(row) * at.heads + lane) * at.dim,
                    plan.window ? int(std::clamp<int64_t>(own - plan.window + 1, 0, length)) : 0,
                    int(std::clamp<int64_t>(own + 1, 0, length))};
    }
    float* out = partial + int64_t(done) * width_of(at.dim);
    if (done < many) attend_many(queries, count, of, out, room);
    else attend_few(queries, count, of, out);
  }
}

// Called by every thread of a team, which has refilled; returns when all of them are done.
inline void attend(const Plan& plan, const Heads& at, Room& room, Team& team, int thread) {
  const int group = at.heads / at.kv_heads, width = width_of(at.dim), dim = at.dim;
  const int tasks = int(plan.num_units) * at.kv_heads;
  for (int task = team.take(); task < tasks; task = team.take()) {
    const Unit& unit = plan.units[task / at.kv_heads];
    const int head = task % at.kv_heads;
    float* here = at.partial + (int64_t(head) * plan.unit_rows + unit.out_at) * group * width;
    run_unit(unit, plan, at, head, here, room);
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
