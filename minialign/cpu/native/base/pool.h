// The thread pool of the kernels: `run_chunks(n, task, context)` calls task(context, i) once for
// every i < n, on the calling thread and on as many workers as are free.
//
// Workers claim chunks one by one and the caller claims them too, so a worker that the operating
// system has put aside costs one chunk's delay at most, and a caller can always finish alone.
#pragma once

namespace minialign {

typedef void (*ChunkTask)(void* context, long chunk);

void run_chunks(long count, ChunkTask task, void* context);

// Threads a job may use, the caller included: MINIALIGN_THREADS, else the CPU affinity mask.
int thread_count();
void set_thread_count(int count);

// A thread's own buffer of at least `bytes`, 64-byte aligned; its content is undefined and it
// stays valid until the same thread asks for the same slot again.
void* scratch(int slot, unsigned long bytes);

// While it lives, this thread's numbers below 1e-38 are zero. A product with one takes a hundred
// times as long, and they do come up: the gradient of a pair that DPO tells apart beyond doubt.
// (The threads of the pool never have them.)
class NoSubnormals {
 public:
  NoSubnormals();
  ~NoSubnormals();
  NoSubnormals(const NoSubnormals&) = delete;

 private:
  unsigned long before_;
};

}  // namespace minialign
