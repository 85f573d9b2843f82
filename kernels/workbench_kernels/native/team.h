// Threads that work through the phases of a call together.
//
// Not OpenMP's: its threads spin for milliseconds wherever they wait. As soon as another process has
// one of the cores, two of them can end up on the other core, each barrier takes a slice of the
// scheduler's, and a step with thirty of them a hundred times its time. These spin for microseconds,
// and then let others run.
#pragma once

#include <immintrin.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace wb {

// A thread that calls a kernel, and its helpers, which sleep between calls.
class Team {
 public:
  explicit Team(int wanted) : wanted_(wanted), size_(1), process_(getpid()) {
    helpers_.reserve(wanted);
    try {
      for (int i = 1; i < wanted; i++, size_++) helpers_.emplace_back([this, i] { help(i); });
    } catch (const std::system_error&) {  // no more threads to be had: fewer do the work
    }
  }

  ~Team() {
    if (process_ != getpid()) {  // after a fork the helpers are not there
      // Nor are their handles of use: one may be that of a thread made since. They are left alone.
      new std::vector<std::thread>(std::move(helpers_));
      return;
    }
    work_ = nullptr;
    round_.advance();
    for (std::thread& helper : helpers_) helper.join();
  }

  // The calling thread's team, of so many threads if there are as many. Being alone needs no other
  // team's helpers ended.
  static Team& of(int size) {
    thread_local Team alone(1);
    if (size == 1) return alone;
    thread_local std::unique_ptr<Team> team;
    if (!team || team->wanted_ != size || team->process_ != getpid()) team = std::make_unique<Team>(size);
    return *team;
  }

  // body(thread) in every thread; returns when all are done.
  template <class Body>
  void run(Body body) {
    work_ = [](void* with, int thread) { (*static_cast<Body*>(with))(thread); };
    with_ = &body;
    refill();
    round_.advance();
    body(0);
    meet();
  }

  // Wait for all others to come here.
  void meet() {
    const uint32_t phase = phase_.now.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) {
      phase_.wait(phase);
    } else {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.advance();
    }
  }

  // Items handed out one by one; set back to none by one thread, a meeting before they are taken.
  void refill() { taken_.store(0, std::memory_order_relaxed); }
  int take() { return taken_.fetch_add(1, std::memory_order_relaxed); }

  int size() const { return size_; }

 private:
  // A number that goes up, and sleep until it does.
  struct alignas(64) Counter {
    static constexpr int SPINS = 4000;  // some 50 to 100 microseconds
    std::atomic<uint32_t> now{0};
    std::atomic<int> asleep{0};

    void wait(uint32_t old) {
      for (int spins = 0; spins < SPINS; spins++) {
        if (now.load(std::memory_order_acquire) != old) return;
        _mm_pause();
      }
      asleep.fetch_add(1);
      while (now.load() == old)
        syscall(SYS_futex, &now, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
      asleep.fetch_sub(1);
    }

    void advance() {
      now.fetch_add(1);
      if (asleep.load() > 0)
        syscall(SYS_futex, &now, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
    }
  };

  void help(int thread) {
    for (uint32_t round = 0;; round++) {
      round_.wait(round);
      if (!work_) return;
      work_(with_, thread);
      meet();
    }
  }

  const int wanted_;
  int size_;  // helpers that there are, and the calling thread
  const pid_t process_;
  void (*work_)(void*, int) = nullptr;
  void* with_ = nullptr;
  Counter round_, phase_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> taken_{0};
  std::vector<std::thread> helpers_;
};

// One thread's part of `count` items.
struct Share {
  int64_t first, last;
  Share(int64_t count, int thread, int threads)
      : first(count * thread / threads), last(count * (thread + 1) / threads) {}
};

}  // namespace wb
