#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace minialign {
namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__x86_64__)
constexpr unsigned long kFlush = 0x8040;  // results to zero, and operands
unsigned long float_control() { return __builtin_ia32_stmxcsr(); }
void set_float_control(unsigned long value) {
  __builtin_ia32_ldmxcsr(static_cast<unsigned>(value));
}
#elif defined(__aarch64__)
constexpr unsigned long kFlush = 1ul << 24;
unsigned long float_control() {
  unsigned long value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void set_float_control(unsigned long value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
constexpr unsigned long kFlush = 0;
unsigned long float_control() { return 0; }
void set_float_control(unsigned long) {}
#endif

thread_local bool inside_chunk = false;

// `state_` holds the job's number (high 32 bits) and the next unclaimed chunk (low 32 bits).
// A claim is a compare-and-swap of the whole word. Before a job's fields change the word is set to
// kClosed, so whoever has seen a new field with an old word can no longer claim: what is read
// between the load and a successful claim belongs to the claimed job.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    stop_ = true;
    wake_.fetch_add(1);
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  // False if another thread's job is running.
  bool try_run(long count, ChunkTask task, void* context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    const uint64_t job = ((state_.load(std::memory_order_relaxed) >> 32) + 1) << 32;
    state_.store(job | kClosed, std::memory_order_release);
    done_.store(0, std::memory_order_release);
    task_.store(task, std::memory_order_release);
    context_.store(context, std::memory_order_release);
    count_.store(count, std::memory_order_release);
    state_.store(job, std::memory_order_release);
    wake_.fetch_add(1, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    while (claim_one()) {
    }
    for (int spins = 0; done_.load(std::memory_order_acquire) < count; spins++)
      spins < 2000 ? relax() : (void)sched_yield();
    busy_.store(false, std::memory_order_release);
    return true;
  }

 private:
  static constexpr uint64_t kClosed = 0xffffffffu;  // as a chunk's number: past every count

  bool claim_one() {
    uint64_t state = state_.load(std::memory_order_acquire);
    const long chunk = static_cast<long>(state & kClosed);
    const ChunkTask task = task_.load(std::memory_order_acquire);
    void* const context = context_.load(std::memory_order_acquire);
    if (chunk >= count_.load(std::memory_order_acquire)) return false;
    if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) return true;
    inside_chunk = true;
    task(context, chunk);
    inside_chunk = false;
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

  void work() {
    const NoSubnormals always;
    constexpr int kSpins = 4000;  // tens of microseconds: the gap between two kernels of a step
    while (!stop_.load(std::memory_order_relaxed)) {
      const uint32_t seen = wake_.load(std::memory_order_seq_cst);
      while (claim_one()) {
      }
      int spins = 0;
      while (wake_.load(std::memory_order_relaxed) == seen && spins++ < kSpins) relax();
      if (wake_.load(std::memory_order_relaxed) != seen) continue;
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(seen, std::memory_order_seq_cst);
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<long> done_{0};
  alignas(64) std::atomic<uint32_t> wake_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  std::atomic<ChunkTask> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<long> count_{0};
  std::vector<std::thread> workers_;
};

std::mutex* pool_lock = new std::mutex;
std::atomic<Pool*> pool{nullptr};
std::atomic<int> wanted{0};

// A forked child has none of the parent's threads: forget them, and start new ones when needed.
void after_fork() {
  pool.store(nullptr);
  pool_lock = new std::mutex;
  inside_chunk = false;
}

int default_threads() {
  if (const char* text = std::getenv("MINIALIGN_THREADS")) {
    const int threads = std::atoi(text);
    if (threads > 0) return threads < 256 ? threads : 256;
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  const int threads = static_cast<int>(std::thread::hardware_concurrency());
  return threads > 0 ? threads : 1;
}

Pool* get_pool() {
  Pool* current = pool.load(std::memory_order_acquire);
  if (current) return current;
  std::lock_guard<std::mutex> guard(*pool_lock);
  current = pool.load();
  if (!current) {
    static const int registered = pthread_atfork(nullptr, nullptr, after_fork);
    (void)registered;
    current = new Pool(thread_count());  // never deleted at exit: workers may still be asleep
    pool.store(current, std::memory_order_release);
  }
  return current;
}

struct Scratch {
  static constexpr int kSlots = 8;
  void* data[kSlots] = {};
  unsigned long size[kSlots] = {};
  ~Scratch() {
    for (void* p : data) std::free(p);
  }
};
thread_local Scratch thread_scratch;

}  // namespace

NoSubnormals::NoSubnormals() : before_(float_control()) { set_float_control(before_ | kFlush); }
NoSubnormals::~NoSubnormals() { set_float_control(before_); }

int thread_count() {
  int threads = wanted.load(std::memory_order_relaxed);
  if (threads == 0) {
    threads = default_threads();
    wanted.store(threads);
  }
  return threads;
}

void set_thread_count(int count) {
  std::lock_guard<std::mutex> guard(*pool_lock);
  wanted.store(count > 0 ? count : default_threads());
  pool.store(nullptr);  // the old workers sleep for good; this is for tests and benchmarks
}

void run_chunks(long count, ChunkTask task, void* context) {
  if (count > 1 && !inside_chunk && thread_count() > 1 &&
      get_pool()->try_run(count, task, context))
    return;
  for (long i = 0; i < count; i++) task(context, i);
}

void* scratch(int slot, unsigned long bytes) {
  Scratch& own = thread_scratch;
  if (own.size[slot] < bytes) {
    std::free(own.data[slot]);
    const unsigned long rounded = (bytes + 4095) & ~4095ul;
    own.data[slot] = std::aligned_alloc(64, rounded);
    if (!own.data[slot]) throw std::bad_alloc();
    own.size[slot] = rounded;
  }
  return own.data[slot];
}

}  // namespace minialign
