// Repeated box averages on the CPU.
//
// Floor: the image is read once and written once; (2 radius + 1) ndim additions a voxel and pass. Two sweeps
// move it twice: all passes along x and y while a plane is in the cache, then all passes along z while a
// slice across y is. Volumes that fit the cache take all passes there.

#include "common/box.h"
#include "common/memory.h"
#include "common/smoother.h"

namespace l2rfast {
namespace {

struct Average {
  int64_t radius, passes;
  Outside outside;

  template <class T>
  static void whole(Smoother<T>& smoother, T* volume) {
    smoother(volume);
  }

  template <class T>
  void operator()(T* block, int64_t length, int64_t inner, std::vector<T>& scratch) const {
    if (outside != Outside::extended) {
      for (int64_t i = 0; i < passes; ++i) average(block, length, inner, radius, outside, scratch);
      return;
    }
    const int64_t size = length * inner, reach = radius * passes;
    std::vector<T> wide(size + 2 * reach * inner);
    for (int64_t i = 0; i < length + 2 * reach; ++i)
      std::copy_n(block + std::clamp<int64_t>(i - reach, 0, length - 1) * inner, inner, wide.data() + i * inner);
    // What the ends of this get wrong does not come as far as the block.
    for (int64_t i = 0; i < passes; ++i)
      average(wide.data(), length + 2 * reach, inner, radius, Outside::zero, scratch);
    std::copy_n(wide.data() + reach * inner, size, block);
  }
};

// The adjoint of Average. The zero-padded average is its own; with a repeated border, what was taken from
// beyond an end goes back to the end: averages of the block with room on both sides, the room then folded in.
struct Adjoint {
  int64_t radius, passes;
  Outside outside;

  template <class T>
  static void whole(Smoother<T>& smoother, T* volume) {
    smoother.adjoint(volume);
  }

  template <class T>
  void operator()(T* block, int64_t length, int64_t inner, std::vector<T>& scratch) const {
    if (outside == Outside::zero)
      Average{radius, passes, outside}(block, length, inner, scratch);
    else if (outside == Outside::extended)
      fold(block, length, inner, passes, scratch);
    else
      for (int64_t i = 0; i < passes; ++i) fold(block, length, inner, 1, scratch);
  }

  template <class T>
  void fold(T* block, int64_t length, int64_t inner, int64_t together, std::vector<T>& scratch) const {
    const int64_t size = length * inner, reach = radius * together, pad = reach * inner;
    std::vector<T> wide(size + 2 * pad);
    std::copy_n(block, size, wide.data() + pad);
    for (int64_t i = 0; i < together; ++i)
      average(wide.data(), length + 2 * reach, inner, radius, Outside::zero, scratch);
    std::copy_n(wide.data() + pad, size, block);
    for (int64_t k = 0; k < reach; ++k)
      for (int64_t j = 0; j < inner; ++j) {
        block[j] += wide[k * inner + j];
        block[size - inner + j] += wide[pad + size + k * inner + j];
      }
  }
};

template <class T, class Filter>
void filter(const T* image, T* result, int64_t volumes, Grid grid, const Filter& along) {
  parallel_runs(volumes * grid.d, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch;
    for (int64_t item = begin; item < end; ++item) {
      T* plane = result + item * grid.h * grid.w;
      std::copy_n(image + item * grid.h * grid.w, grid.h * grid.w, plane);
      for (int64_t y = 0; y < grid.h; ++y) along(plane + y * grid.w, grid.w, 1, scratch);
      along(plane, grid.h, grid.w, scratch);
    }
  });
  if (!grid.deep) return;
  parallel_runs(volumes * grid.h, [&](int64_t begin, int64_t end) {
    std::vector<T> scratch, slice(grid.d * grid.w);
    for (int64_t item = begin; item < end; ++item) {
      T* first = result + (item / grid.h * grid.rows() + item % grid.h) * grid.w;
      const int64_t plane = grid.h * grid.w;
      for (int64_t z = 0; z < grid.d; ++z) std::copy_n(first + z * plane, grid.w, slice.data() + z * grid.w);
      along(slice.data(), grid.d, grid.w, scratch);
      for (int64_t z = 0; z < grid.d; ++z) std::copy_n(slice.data() + z * grid.w, grid.w, first + z * plane);
    }
  });
}

constexpr int64_t kSmall = 1 << 16;  // numbers of a volume, margins included, that go through the cache as a whole

template <class T, class Filter>
void smooth(const T* image, T* result, int64_t volumes, Grid grid, const Filter& along) {
  if (Smoother<T>::widened(grid, along.radius * along.passes).numel() > kSmall)
    return filter(image, result, volumes, grid, along);
  parallel_runs(volumes, [&](int64_t begin, int64_t end) {
    Smoother<T> smoother(grid, along.radius, along.passes, along.outside);
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(image + i * grid.numel(), grid.numel(), result + i * grid.numel());
      Filter::whole(smoother, result + i * grid.numel());
    }
  });
}

template <class Filter>
Tensor box(const Tensor& image_, int64_t radius, int64_t passes, std::string padding) {
  const Tensor image = packed(image_), result = room_as(image, shape_of(image));
  const Outside outside = padding == "zeros"    ? Outside::zero
                          : padding == "border" ? Outside::border
                                                : Outside::extended;
  for_real(image.scalar_type(), [&](auto t) {
    using T = decltype(t);
    smooth(read<T>(image), write<T>(result), image.size(0) * image.size(1), grid_of(image, image.dim() - 2),
           Filter{radius, passes, outside});
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("box_average", TORCH_BOX(&box<Average>));
  m.impl("box_average_backward", TORCH_BOX(&box<Adjoint>));
}

}  // namespace l2rfast
