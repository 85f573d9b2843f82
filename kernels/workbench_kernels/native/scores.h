// What is asked of rows of logits.
#pragma once

#include "simd.h"

namespace wb {

struct Score {
  int64_t token;     // the likeliest; the first of equals
  float top, total;  // its logit, and log of the sum of exp(logit - top); NaN where logits are not finite
};

inline Score score(const float* logits, int64_t vocab) {
  const __m512 none = _mm512_set1_ps(-INFINITY);
  const auto part = [&](int64_t n) {
    const __mmask16 there = __mmask16(vocab - n >= 16 ? 0xffff : (1 << (vocab - n)) - 1);
    return _mm512_mask_loadu_ps(none, there, logits + n);
  };
  __m512 top = none;
  __m512i at = _mm512_setzero_si512(), here = at;  // where each lane's largest is, in vectors
  for (int64_t n = 0; n < vocab; n += 16, here = _mm512_add_epi32(here, _mm512_set1_epi32(1))) {
    const __m512 x = part(n);
    const __mmask16 larger = _mm512_cmp_ps_mask(x, top, _CMP_GT_OQ);
    top = _mm512_mask_mov_ps(top, larger, x);
    at = _mm512_mask_mov_epi32(at, larger, here);
  }
  alignas(64) float tops[16];
  alignas(64) int32_t vectors[16];
  _mm512_store_ps(tops, top);
  _mm512_store_si512(vectors, at);
  Score found = {vectors[0] * int64_t(16), tops[0], 0};
  for (int lane = 1; lane < 16; lane++) {
    const int64_t token = vectors[lane] * int64_t(16) + lane;
    if (tops[lane] > found.top || (tops[lane] == found.top && token < found.token))
      found.token = token, found.top = tops[lane];
  }
  const __m512 most = _mm512_set1_ps(found.top);
  __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int64_t n = 0; n < vocab; n += 16)
    sum[n / 16 % 2] = _mm512_add_ps(sum[n / 16 % 2], exp16(_mm512_sub_ps(part(n), most)));
  found.total = std::log(_mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1])));
  return found;
}

}  // namespace wb
