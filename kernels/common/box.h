// Moving averages along one axis of a block that fits the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/rows.h"
#include "common/tensor.h"

namespace l2rfast {

// What a pass finds outside the image: its border voxel again, or 0 (which counts in the average), or, extended, what
// the passes before it made of a border that was repeated before all of them.
enum class Outside { border, zero, extended };

// Replaces a dense (length, inner) block by its averages over 2 radius + 1 neighbours along the first axis.
// With the block padded at both ends, a step along that axis is a step of `inner` in memory: one loop serves
// every axis, also the contiguous one (inner = 1).
template <class T>
void average(T* __restrict block, int64_t length, int64_t inner, int64_t radius, Outside outside,
             std::vector<T>& scratch) {
  const int64_t size = length * inner, pad = radius * inner;
  if (int64_t(scratch.size()) < size + 2 * pad) scratch.resize(size + 2 * pad);
  T* padded = scratch.data();
  std::copy_n(block, size, padded + pad);
  for (int64_t k = 0; k < radius; ++k)
    for (int64_t j = 0; j < inner; ++j) {
      padded[k * inner + j] = outside == Outside::zero ? T(0) : block[j];
      padded[pad + size + k * inner + j] = outside == Outside::zero ? T(0) : block[size - inner + j];
    }
  const T scale = T(1) / T(2 * radius + 1);
  constexpr int64_t run = 512;  // the sums of a run stay in the first-level cache
  for (int64_t start = 0; start < size; start += run) {
    const int64_t n = std::min(run, size - start);
    T* __restrict to = block + start;
    const T* from = padded + start;
    for (int64_t i = 0; i < n; ++i) to[i] = from[i] + from[i + 2 * pad];
    for (int64_t k = 1; k < 2 * radius; ++k) add(to, from + k * inner, n);
    for (int64_t i = 0; i < n; ++i) to[i] *= scale;
  }
}

}  // namespace l2rfast
