// Dense displacement correlation on the CPU.
//
// Floor: the features are read once, the cost volume is written once; per displacement and voxel 2 C
// operations, and 3 ndim for each smoothing. A work item is one displacement: its volume is summed over the
// channels and smoothed while it is in the cache, and written once. Both features are first laid out with the
// same row pitch, moving with its padding, so that a displacement is one offset for a whole plane and every
// loop is long, contiguous and without borders.

#include "common/box.h"
#include "common/tensor.h"

namespace l2rfast {
namespace {

// A volume with `margin` voxels on both sides of each axis that has neighbours.
Grid widened(Grid g, int64_t margin) {
  return {g.d + (g.deep ? 2 * margin : 0), g.h + 2 * margin, g.w + 2 * margin, g.deep};
}

// Copies (channels, grid) into (channels, wide), the margin filled with zeros or with the border.
template <class T>
void pad(const T* from, Grid grid, T* to, Grid wide, int64_t channels, Outside outside) {
  const int64_t mz = (wide.d - grid.d) / 2, my = (wide.h - grid.h) / 2, mx = (wide.w - grid.w) / 2;
  parallel_each(channels * wide.rows(), [&](int64_t item) {
    const int64_t c = item / wide.rows(), z = item % wide.rows() / wide.h - mz, y = item % wide.h - my;
    T* row = to + item * wide.w;
    const bool inside = z >= 0 && z < grid.d && y >= 0 && y < grid.h;
    if (!inside && outside == Outside::zero) return void(std::fill_n(row, wide.w, T(0)));
    const int64_t source = std::clamp<int64_t>(z, 0, grid.d - 1) * grid.h + std::clamp<int64_t>(y, 0, grid.h - 1);
    const T* values = from + (c * grid.rows() + source) * grid.w;
    std::fill_n(row, mx, outside == Outside::zero ? T(0) : values[0]);
    std::copy_n(values, grid.w, row + mx);
    std::fill_n(row + mx + grid.w, mx, outside == Outside::zero ? T(0) : values[grid.w - 1]);
  });
}

template <class T>
void correlate(const T* fixed, const T* moving, int64_t channels, Grid grid, int64_t radius, int64_t dilation,
               Outside outside, int64_t smoothing, T* result) {
  const int64_t width = 2 * radius + 1, margin = radius * dilation;
  const Grid wide = widened(grid, margin);
  std::vector<T> padded(channels * wide.numel());
  pad(moving, grid, padded.data(), wide, channels, outside);
  // Fixed in rows of the same pitch; what its margin holds is dropped.
  const Grid pitched = {grid.d, grid.h, wide.w, grid.deep};
  std::vector<T> spaced(channels * pitched.numel());
  for (int64_t i = 0; i < channels * grid.rows(); ++i)
    std::copy_n(fixed + i * grid.w, grid.w, spaced.data() + i * wide.w);

  const int64_t plane = (grid.h - 1) * wide.w + grid.w;  // from the first voxel of a plane to its last
  parallel_runs((grid.deep ? width : 1) * width * width, [&](int64_t begin, int64_t end) {
    std::vector<T> sum(plane), scratch;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t dz = item / (width * width) * dilation, dy = item / width % width * dilation;
      const int64_t dx = item % width * dilation;
      T* cost = result + item * grid.numel();
      for (int64_t z = 0; z < grid.d; ++z) {
        std::fill(sum.begin(), sum.end(), T(0));
        for (int64_t c = 0; c < channels; ++c) {
          const T* f = spaced.data() + (c * grid.d + z) * grid.h * wide.w;
          const T* m = padded.data() + ((c * wide.d + z + dz) * wide.h + dy) * wide.w + dx;
          T* __restrict s = sum.data();
          for (int64_t i = 0; i < plane; ++i) s[i] += (f[i] - m[i]) * (f[i] - m[i]);
        }
        for (int64_t y = 0; y < grid.h; ++y)
          std::copy_n(sum.data() + y * wide.w, grid.w, cost + (z * grid.h + y) * grid.w);
      }
      for (int64_t i = 0; i < smoothing; ++i) average(cost, grid, 1, Outside::zero, scratch);
    }
  });
}

Tensor correlation(const Tensor& fixed_, const Tensor& moving_, int64_t radius, int64_t dilation, std::string padding,
                   int64_t smoothing) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_);
  const int64_t ndim = fixed.dim() - 2, batch = fixed.size(0), channels = fixed.size(1);
  const Grid grid = grid_of(fixed, ndim);
  std::vector<int64_t> shape(1 + ndim, 2 * radius + 1);
  shape[0] = batch;
  for (int64_t k = 0; k < ndim; ++k) shape.push_back(fixed.size(2 + k));
  const Tensor result = empty_as(fixed, shape);
  const Outside outside = padding == "zeros" ? Outside::zero : Outside::border;
  for_real(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const int64_t volume = channels * grid.numel();
    for (int64_t n = 0; n < batch; ++n)
      correlate(read<T>(fixed) + n * volume, read<T>(moving) + n * volume, channels, grid, radius, dilation, outside,
                smoothing, write<T>(result) + n * (result.numel() / batch));
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("correlation", TORCH_BOX(&correlation)); }

}  // namespace l2rfast
