// Sums over all voxels on the GPU: a block of threads covers a tile, a thread a column of it, and what the threads
// found is added in an order that does not change.
#pragma once

#include "common/launch.cuh"

namespace l2rfast {

constexpr int kColumn = 8, kAcross = 32;  // voxels of a thread along the first axis; threads along the last

template <int ndim>
struct Columns {
  int32_t size[ndim], tile[ndim], tiles[ndim];

  explicit Columns(const int32_t (&of)[ndim]) {
    for (int k = 0; k < ndim; ++k) {
      size[k] = of[k];
      tile[k] = (k == 0 ? kColumn : 1) * (k == ndim - 1 ? kAcross : k == ndim - 2 ? kThreads / kAcross : 1);
      tiles[k] = (size[k] + tile[k] - 1) / tile[k];
    }
  }

  int64_t count() const {  // of the blocks of an item
    int64_t product = 1;
    for (int k = 0; k < ndim; ++k) product *= tiles[k];
    return product;
  }

  // f(the first voxel, how many) of a thread's column, if it has one.
  template <class F>
  L2RFAST_INLINE void of_thread(int64_t block, int thread, const F& f) const {
    Voxel<ndim> x;
    each_axis<ndim>([&](auto i) {
      constexpr int k = ndim - 1 - i;
      x.at[k] = int32_t(block % tiles[k]) * tile[k];
      block /= tiles[k];
    });
    x.item = block;
    x.at[ndim - 1] += thread % kAcross;
    x.at[ndim - 2] += thread / kAcross * (ndim == 2 ? kColumn : 1);
    const int32_t left = size[0] - x.at[0];
    if (x.at[ndim - 1] < size[ndim - 1] && x.at[ndim - 2] < size[ndim - 2]) f(x, left < kColumn ? left : kColumn);
  }
};

// Adds `count` numbers of every thread, those of one kind beside each other, up to what the first thread has of each.
template <class S>
L2RFAST_INLINE void add_up(S* numbers, int count) {
  for (int half = kThreads / 2; half > 0; half /= 2)
    all_threads([&](int thread) {
      if (thread >= half) return;
      for (int i = 0; i < count; ++i) numbers[i * kThreads + thread] += numbers[i * kThreads + thread + half];
    });
}

// Of the last axis, whose numbers the blocks of an item made.
inline Tensor sum_of_blocks(const Tensor& numbers, Dtype dtype) {
  const int64_t last[] = {numbers.dim() - 1};
  return torch::stable::to(torch::stable::sum(numbers, last), dtype);
}

}  // namespace l2rfast
