// PyTorch's threads, as the kernels ask for them, in a way that ThreadSanitizer understands: it does not know OpenMP's.
// Linked into the kernels' library these take the place of PyTorch's own.

#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace {

int64_t number_of_threads() {
  static const char* const told = std::getenv("L2RFAST_SANITIZED_THREADS");
  return told ? std::max(1, std::atoi(told)) : 4;
}

}  // namespace

extern "C" AOTITorchError torch_get_num_threads(uint32_t* out) {
  *out = uint32_t(number_of_threads());
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError torch_get_thread_idx(uint32_t* out) {
  *out = 0;
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc f, void* context) {
  if (end <= begin) return AOTI_TORCH_SUCCESS;
  const int64_t n = end - begin, most = (n + std::max<int64_t>(grain, 1) - 1) / std::max<int64_t>(grain, 1);
  const int64_t each = (n + std::min(most, number_of_threads()) - 1) / std::min(most, number_of_threads());
  std::vector<std::thread> threads;
  std::exception_ptr thrown;
  std::mutex lock;
  for (int64_t at = begin; at < end; at += each)
    threads.emplace_back([&, at] {
      try {
        f(at, std::min(at + each, end), context);
      } catch (...) {
        const std::lock_guard<std::mutex> held(lock);
        thrown = std::current_exception();
      }
    });
  for (auto& thread : threads) thread.join();
  if (thrown) std::rethrow_exception(thrown);
  return AOTI_TORCH_SUCCESS;
}
