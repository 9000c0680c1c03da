// A step as by Adam on the CPU.
//
// Floor: gradient, mean, square and factor are read once, square and step are written once.

#include <cmath>

#include "common/memory.h"

namespace l2rfast {
namespace {

constexpr int64_t kRun = 1024;  // voxels whose numbers stay in the first-level cache

std::tuple<Tensor, Tensor> adam_step(const Tensor& gradient_, const Tensor& mean_, const Tensor& square_,
                                     const Tensor& factor_, const Tensor& numbers_, double beta) {
  const Tensor numbers = packed(numbers_);
  const double *number = read<double>(numbers), done = number[0], rate = number[1], eps = number[2];
  const Tensor gradient = packed(gradient_), mean = packed(mean_), square = packed(square_), factor = packed(factor_);
  const Tensor next = room_as(square, shape_of(square)), step = room_as(mean, shape_of(mean));
  const int64_t items = mean.size(0), channels = mean.size(1), volume = square.numel() / items;
  const int64_t runs = (volume + kRun - 1) / kRun;
  for_real(mean.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const T old = T(beta), fresh = T(1 - beta), corrected = T(1 / (1 - std::pow(beta, done)));
    const T back = T(-rate), least = T(eps);
    // Runs begin at the same voxels for any number of threads.
    parallel_each(items * runs, [&](int64_t item) {
      const int64_t n = item / runs, first = item % runs * kRun, count = std::min(kRun, volume - first);
      T size[kRun] = {};
      for (int64_t k = 0; k < channels; ++k) {
        const T* g = read<T>(gradient) + (n * channels + k) * volume + first;
        for (int64_t i = 0; i < count; ++i) size[i] += g[i] * g[i];
      }
      const T *before = read<T>(square) + n * volume + first, *f = read<T>(factor) + n * volume + first;
      T* __restrict after = write<T>(next) + n * volume + first;
      for (int64_t i = 0; i < count; ++i) {
        after[i] = old * before[i] + fresh * size[i];
        size[i] = back * f[i] / (std::sqrt(after[i] * corrected) + least);
      }
      for (int64_t k = 0; k < channels; ++k) {
        const int64_t at = (n * channels + k) * volume + first;
        const T* m = read<T>(mean) + at;
        T* __restrict to = write<T>(step) + at;
        for (int64_t i = 0; i < count; ++i) to[i] = size[i] * m[i];
      }
    });
  });
  return {next, step};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("adam_step", TORCH_BOX(&adam_step)); }

}  // namespace l2rfast
