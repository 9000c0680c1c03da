// A separable symmetric filter on the CPU.
//
// Floor: the image is read and written once; along each axis a tap pair costs an addition and a fused multiplication a
// voxel: 24 pairs for a Gaussian of 8 voxels. Sums are made as they are defined, tap by tap: exact to rounding, where
// running sums or a recursion would have to be told how far they are off, and as fast up to some 50 taps, as the rows
// of all taps are in the cache. Two sweeps: along the first axis of three, then along the other two, row by row.

#include "common/tensor.h"

namespace l2rfast {
namespace {

// to[x] = half[0] * row(0)[x] + sum of half[t] * (row(-t)[x] + row(t)[x]); rows that are absent are null.
template <class T, class Row>
void along(const std::vector<T>& half, int64_t w, T* __restrict to, const Row& row) {
  const T* middle = row(0);
  for (int64_t x = 0; x < w; ++x) to[x] = half[0] * middle[x];
  for (int64_t t = 1; t < int64_t(half.size()); ++t) {
    const T *low = row(-t), *high = row(t), c = half[t];
    if (low && high) {
      for (int64_t x = 0; x < w; ++x) to[x] += c * (low[x] + high[x]);
    } else if (const T* only = low ? low : high) {
      for (int64_t x = 0; x < w; ++x) to[x] += c * only[x];
    }
  }
}

Tensor symmetric_filter(const Tensor& image_, std::vector<double> half_) {
  const Tensor image = packed(image_), result = empty_as(image, shape_of(image));
  const Grid grid = grid_of(image, image.dim() - 2);
  const int64_t rows = image.numel() / grid.w, w = grid.w;
  for_real(image.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const std::vector<T> half(half_.begin(), half_.end());
    const int64_t reach = int64_t(half.size()) - 1;
    std::vector<T> between(grid.deep ? image.numel() : 0);
    const T* from = read<T>(image);
    if (grid.deep) {
      parallel_each(rows, [&](int64_t i) {
        const int64_t z = i / grid.h % grid.d;
        along(half, w, between.data() + i * w,
              [&](int64_t t) { return z + t >= 0 && z + t < grid.d ? from + (i + t * grid.h) * w : nullptr; });
      });
    }
    const T* source = grid.deep ? between.data() : from;
    parallel_runs(rows, [&](int64_t begin, int64_t end) {
      std::vector<T> padded(w + 2 * reach);  // zeros on both sides of a row
      T* line = padded.data() + reach;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t y = i % grid.h;
        along(half, w, line, [&](int64_t t) { return y + t >= 0 && y + t < grid.h ? source + (i + t) * w : nullptr; });
        along(half, w, write<T>(result) + i * w, [&](int64_t t) { return line + t; });
      }
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("symmetric_filter", TORCH_BOX(&symmetric_filter)); }

}  // namespace l2rfast
