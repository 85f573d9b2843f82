// Rows of queries against one stretch of cells: what both ways to attend have in common.
#pragma once

#include "simd.h"

namespace wb {

constexpr int BLOCK = 128;  // cells whose scores are kept at a time
constexpr int MAX_DIM = 256;

// Few rows and many are computed in the same order, so a row's result does not depend on the rows beside it:
// a score is four chains over the numbers, a sum over cells one chain from block to block, and so is the sum
// of weights, a product with ones.
constexpr uint32_t ONES = 0x3f803f80;  // a pair of bfloat16

// One KV head's cells of a stretch. scale: factor on scores, which are then in powers of two;
// positive, as the largest is found before it.
struct Stretch {
  const bf16 *k, *v;
  int length, dim;
  float scale;
};

// One head's query of a row, and the cells first .. last of the stretch that the row sees.
struct Query {
  const bf16* numbers;
  int first, last;
};

// What a row's part of the result is: [dim] sums, not normalised, then the largest score, at last with the
// scale, and the sum of the weights. A weight is 2^((score - largest) * scale), so the largest's is 1
// however large it is.
inline int width_of(int dim) { return dim + 2; }

// Ask for memory that the next block will read; a hint, so addresses past the end do no harm.
inline void ahead(const bf16* from, int count) {
  for (int i = 0; i < count; i += 32) _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
}

}  // namespace wb
