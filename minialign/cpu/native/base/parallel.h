// Work for the threads of the pool, and the memory that each of them has, as kernels use them.
#pragma once

#include "base/pool.h"
#include "base/simd.h"

namespace minialign {
namespace MINIALIGN_ISA {

// Calls body(i) for every i < count, on all threads.
template <class Body>
INLINE void parallel(long count, const Body& body) {
  run_chunks(count, [](void* b, long i) { (*(const Body*)b)(i); }, (void*)&body);
}

// Calls body(from, to) for parts of [0, outputs) in whole fours; `work`: multiply-adds of all.
template <class Body>
INLINE void parallel_outputs(long outputs, long work, const Body& body) {
  long chunks = work / 40000;  // under about ten microseconds a hand-over costs more than it gains
  const long most = 4 * thread_count();
  chunks = chunks < 1 ? 1 : chunks > most ? most : chunks;
  const long step = ((outputs + chunks - 1) / chunks + 3) & ~3l;
  parallel((outputs + step - 1) / step, [&](long c) {
    body(c * step, (c + 1) * step < outputs ? (c + 1) * step : outputs);
  });
}

// Memory of a thread, by who uses it: A and B as packed (or in bytes) of the product that is being
// made, or the inputs of this one and of the next; the others a kernel's own. What calls another
// kernel must know which ones that uses.
enum ScratchSlot { kPackedA = 0, kPackedB = 1, kTaskA = 2, kTaskB = 3, kTaskC = 4, kTaskD = 5 };

}  // namespace MINIALIGN_ISA
}  // namespace minialign
