// What Python calls, for bfloat16 on x86 with AVX512-BF16: attention over a tile plan, products,
// and all layers of a decoder in one call (`layers.h`).
//
// Built by the normal install where the compiler can; `native/library.py` loads it, and says so where
// it cannot. No Python and no torch headers: plain C functions on pointers.

#include "attention.h"
#include "layers.h"
#include "linear.h"
#include "peak.h"
#include "scores.h"

using namespace wb;

extern "C" {

// Of the functions' arguments; `native/library.py` takes no other.
int wb_version() { return 3; }

// 1 where this processor has every instruction used here.
int wb_supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

void wb_attend(const Plan* plan, const Heads* heads, int threads) {
  Team& team = Team::of(threads);
  team.run([&](int thread) {
    Room room;  // some 210 kB of each thread's stack
    attend(*plan, *heads, room, team, thread);
  });
}

// Pack w [outer][inner] as `linear.h` says; inner a multiple of 32.
void wb_pack(const bf16* w, int64_t outer, int64_t inner, bf16* to, int threads) {
  Team& team = Team::of(threads);
  team.run([&](int thread) {
    const Share own(panels(outer), thread, team.size());
    pack(w, outer, inner, own.first, own.last, to);
  });
}

// y[r][n] = x[r] . w[n] (+ bias[n]); x: [rows][inner], w packed, y: [rows][outer].
void wb_linear(const bf16* x, const bf16* w, const bf16* bias, bf16* y, int64_t rows, int64_t outer,
               int64_t inner, int threads) {
  Team& team = Team::of(threads);
  team.run([&](int thread) {
    project(x, rows, inner, w, bias, outer, y, Share(panels(outer), thread, team.size()));
  });
}

// to[i] = norm of x[rows[i]], times weight; x: [...][size].
void wb_norm(const bf16* x, const int64_t* rows, const bf16* weight, float eps, int64_t count,
             int64_t size, bf16* to) {
  for (int64_t i = 0; i < count; i++) norm(x + rows[i] * size, weight, eps, size, to + i * size);
}

// Scores of logits [rows][vocab], see `Score`.
void wb_score(const float* logits, int64_t rows, int64_t vocab, int64_t* tokens, float* tops,
              float* totals, int threads) {
  Team& team = Team::of(threads);
  team.run([&](int thread) {
    const Share own(rows, thread, team.size());
    for (int64_t r = own.first; r < own.last; r++) {
      const Score found = score(logits + r * vocab, vocab);
      tokens[r] = found.token;
      tops[r] = found.top;
      totals[r] = found.total;
    }
  });
}

// Products of registers alone in every thread; returns how many floating-point operations they were.
int64_t wb_peak(int64_t times, int threads) {
  Team& team = Team::of(threads);
  std::atomic<int64_t> done{0};
  team.run([&](int) {
    volatile float result = peak(times);
    (void)result;
    done += times * FLOPS_A_TIME;
  });
  return done;
}

void wb_layers(const Shape* shape, const Layer* layers, const Cells* cells, const Plan* plans,
               const Batch* batch, int threads) {
  Team& team = Team::of(threads);
  team.run([&](int thread) {
    Room room;
    for (int i = 0; i < shape->num_layers; i++)
      run_layer(*shape, layers[i], cells[i], plans[layers[i].plan], *batch, room, team, thread);
  });
}

}  // extern "C"
