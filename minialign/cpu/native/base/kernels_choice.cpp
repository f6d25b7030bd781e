// Picks the kernel table once: the widest instruction set this processor has, or MINIALIGN_ISA.
#include <cstdlib>
#include <cstring>

#include "base/kernels.h"

namespace minialign {

bool has_vnni = false;

namespace baseline { extern const Kernels table; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels table; }
namespace avx512 { extern const Kernels table; }
#endif

static const Kernels& choose() {
  const char* wanted = std::getenv("MINIALIGN_ISA");
  if (wanted && std::strcmp(wanted, "baseline") == 0) return baseline::table;
#if defined(__x86_64__)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  const bool has_avx512 =
      has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl");
  if (wanted && std::strcmp(wanted, "avx2") == 0 && has_avx2) return avx2::table;
  has_vnni = has_avx512 && __builtin_cpu_supports("avx512vnni") &&
                  !(wanted && std::strcmp(wanted, "avx512") == 0);
  if (has_avx512) return avx512::table;
  if (has_avx2) return avx2::table;
#endif
  return baseline::table;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace minialign
