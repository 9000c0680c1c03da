// Loops over a row. As functions, so that the compiler knows what does not overlap, and vectorises.
#pragma once

#include <cstdint>

namespace l2rfast {

// Voxels [begin, end) along an axis.
struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// Not inlined: a loop over calls of it would be fused with its own, which then runs one value at a time.
template <class T>
__attribute__((noinline)) void add(T* __restrict to, const T* __restrict from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// Sum in double, in eight lanes: in one, every addition would wait for the last.
template <class T>
double sum(const T* v, int64_t n) {
  double lane[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) lane[k] += double(v[i + k]);
  for (int k = 0; i < n; ++i, ++k) lane[k] += double(v[i]);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace l2rfast
