// Faults on purpose, by which a run knows that what watches would tell of others.

#include <torch/csrc/stable/c/shim.h>

#include <memory>

namespace {

int shared = 0;

}  // namespace

// Of the address sanitizer a read behind the end and a number that an int does not hold; of the thread sanitizer a
// race.
extern "C" __attribute__((visibility("default"))) int l2rfast_trap(int n) {
#ifdef __SANITIZE_THREAD__
  torch_parallel_for(
      0, n, 1,
      [](int64_t begin, int64_t end, void*) {
        for (int i = 0; i < 1000; ++i) shared += int(end - begin);
      },
      nullptr);
  return shared;
#else
  const auto memory = std::make_unique<int[]>(n);
  return memory[n] + int(3e38f * float(n)) + shared;
#endif
}
