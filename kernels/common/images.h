// Rows of a channel of an image, of any dtype and strides, and what its intensities are like.
#pragma once

#include "common/ncc.h"
#include "common/rows.h"
#include "common/tensor.h"
#include "common/vectors.h"

namespace l2rfast {

template <class T>
struct Rows {
  const T* data = nullptr;
  int64_t plane = 0, row = 0, step = 0, size = 0;

  Rows() = default;
  Rows(const Tensor& t, int64_t n, int64_t c)
      : data(static_cast<const T*>(t.const_data_ptr()) + n * t.stride(0) + c * t.stride(1)),
        plane(t.dim() == 5 ? t.stride(2) : 0),
        row(t.dim() >= 4 ? t.stride(t.dim() - 2) : 0),
        step(t.stride(t.dim() - 1)),
        size(t.size(t.dim() - 1)) {}

  const T* at(int64_t z, int64_t y) const { return data + z * plane + y * row; }

  template <class R>
  void read(int64_t z, int64_t y, R* __restrict to) const {
    const T* __restrict from = at(z, y);
    const int64_t n = size, stride = step;
    if (stride == 1) {
      // The next row is asked for already: planes apart, where no processor looks ahead.
      for (int64_t x = 0; x < n; x += 64 / sizeof(T)) __builtin_prefetch(from + row + x);
      for (int64_t x = 0; x < n; ++x) to[x] = R(from[x]);
    } else {
      for (int64_t x = 0; x < n; ++x) to[x] = R(from[x * stride]);
    }
  }

  // 0 where the row has 0.
  template <class R>
  void select(int64_t z, int64_t y, R* __restrict to) const {
    const T* __restrict from = at(z, y);
    const int64_t n = size, stride = step;
    for (int64_t x = 0; x < n; ++x) to[x] = from[x * stride] ? to[x] : R(0);
  }
};

// Of a channel, inside a mask if there is one.
template <class T>
Level level(const Rows<T>& image, const Rows<bool>& inside, const Grid& grid) {
  using R = Sum<T>;
  using V = Vector<double>;
  std::vector<double> sums(grid.rows()), largest(grid.rows());
  parallel_runs(grid.rows(), [&](int64_t begin, int64_t end) {
    constexpr int lanes = kLanes<double>;
    const int64_t whole = (grid.w + lanes - 1) / lanes * lanes;
    Aligned<R> row(whole);
    for (int64_t i = begin; i < end; ++i) {
      image.read(i / grid.h, i % grid.h, row.data());
      if (inside.data) inside.select(i / grid.h, i % grid.h, row.data());
      V total = {}, most = {};
      for (int64_t x = 0; x < whole; x += lanes) {
        const V v = load_as<double>(row.data() + x), magnitude = v < 0 ? -v : v;
        total += v;
        most = magnitude > most ? magnitude : most;
      }
      for (int k = 0; k < lanes; ++k) sums[i] += total[k], largest[i] = std::max(largest[i], most[k]);
    }
  });
  const double total = sum(sums.data(), grid.rows());
  const bool finite = total - total == 0;
  return {finite, finite ? R(total / double(grid.numel())) : 0, *std::max_element(largest.begin(), largest.end())};
}

}  // namespace l2rfast
