// What a processor computes at most: products of registers with registers.
#pragma once

#include "simd.h"

namespace wb {

constexpr int CHAINS = 24;                  // enough to hide how long one product takes
constexpr int FLOPS_A_TIME = CHAINS * 64;  // two products and two sums in each of 16 lanes

// So many times; the result is nothing but a reason to compute it.
__attribute__((noinline)) inline float peak(int64_t times) {
  __m512 acc[CHAINS];
  UNROLL_ALL for (int i = 0; i < CHAINS; i++) acc[i] = _mm512_set1_ps(float(i));
  __m512i a = _mm512_set1_epi32(0x3f803f80), b = _mm512_setzero_si512();
  for (int64_t t = 0; t < times; t++) {
    asm volatile("" : "+v"(a), "+v"(b));  // not known to be the same as before
    UNROLL_ALL for (int i = 0; i < CHAINS; i++) acc[i] = dot(acc[i], a, b);
  }
  __m512 sum = acc[0];
  UNROLL_ALL for (int i = 1; i < CHAINS; i++) sum = _mm512_add_ps(sum, acc[i]);
  return _mm512_reduce_add_ps(sum);
}

}  // namespace wb
