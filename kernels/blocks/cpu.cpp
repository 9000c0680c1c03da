// Averages over blocks of voxels on the CPU.
//
// Floor: the image is read once, the averages are written once; one addition a voxel, in the order of the voxels.

#include <iterator>

#include "common/memory.h"
#include "common/tensor.h"

namespace l2rfast {
namespace {

// Adds `side` voxels after each other to every sum; a side that is known at compile time is vectorised.
template <int known, class T>
void add_blocks(const T* __restrict row, int64_t side, int64_t count, T* __restrict sums) {
  const int64_t length = known ? known : side;
  for (int64_t i = 0; i < count; ++i) {
    T sum = sums[i];
    for (int64_t j = 0; j < length; ++j) sum += row[i * length + j];
    sums[i] = sum;
  }
}

Tensor block_average(const Tensor& image_, std::vector<int64_t> sides) {
  const Tensor image = packed(image_);
  const int64_t ndim = image.dim() - 2;
  std::vector<int64_t> shape = {image.size(0), image.size(1)};
  for (int64_t k = 0; k < ndim; ++k) shape.push_back(image.size(2 + k) / sides[k]);
  const Tensor result = room_as(image, shape);
  const Grid grid = grid_of(image, ndim), side = Grid::of(sides), blocks = grid_of(result, ndim);
  for_real(image.scalar_type(), [&](auto t) {
    using T = decltype(t);
    constexpr decltype(&add_blocks<0, T>) by_side[] = {add_blocks<0, T>, add_blocks<1, T>, add_blocks<2, T>,
                                                       add_blocks<3, T>, add_blocks<4, T>};
    const auto add = by_side[side.w < int64_t(std::size(by_side)) ? side.w : 0];
    parallel_each(image.size(0) * image.size(1) * blocks.rows(), [&](int64_t item) {
      const int64_t n = item / blocks.rows(), z = item % blocks.rows() / blocks.h, y = item % blocks.h;
      T* __restrict const sums = write<T>(result) + item * blocks.w;
      std::fill_n(sums, blocks.w, T(0));
      for (int64_t i = 0; i < side.rows(); ++i) {
        const int64_t row = (n * grid.d + z * side.d + i / side.h) * grid.h + y * side.h + i % side.h;
        add(read<T>(image) + row * grid.w, side.w, blocks.w, sums);
      }
      for (int64_t x = 0; x < blocks.w; ++x) sums[x] /= T(side.numel());
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("block_average", TORCH_BOX(&block_average)); }

}  // namespace l2rfast
