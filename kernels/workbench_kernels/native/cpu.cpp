// What Python calls, for bfloat16 on x86 with AVX512-BF16: attention over a tile plan, products,
// and all layers of a decoder in one call (`layers.h`).
//
// Built by the normal install where the compiler can; `native/library.py` loads it, and says so where
// it cannot. No Python and no torch headers: plain C functions on pointers.

#include "attention.h"
#include "layers.h"
#include "linear.h"

using namespace wb;

extern "C" {

// Of the functions' arguments; `native/library.py` takes no other.
int wb_version() { return 1; }

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
    Room room;  // some 300 kB of each thread's stack
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
