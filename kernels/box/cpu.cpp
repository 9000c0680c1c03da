// Repeated box averages on the CPU.
//
// Floor: the image is read once and written once; (2 radius + 1) ndim additions a voxel and pass.
//
// One march through the volume does that: a block of rows of a plane is smoothed along x and y while it is in the
// cache, and along z by rings of such blocks (`March`). Rows around a block are smoothed as well, as far as they reach
// it. Where a box is so wide that rings of blocks are larger than the cache, the image moves twice: along x and y, then
// along z. Volumes that fit the cache take all passes there.
//
// Got, for (1, 3, 160, 192, 224), radius 1, passes 2, on one thread: 32 ms with AVX2 and with AVX-512, where a copy
// takes
// 7. A third is copies of blocks into their margins and from them, with the reading that this waits for; the rest the
// averages, of which half are along z.

#include "common/march.h"
#include "common/memory.h"
#include "common/smoother.h"
#include "common/text.h"

namespace l2rfast {
namespace {

constexpr int64_t kSmall = 1 << 16;  // numbers of a volume, margins included, that go through the cache as a whole
constexpr int64_t kRings = 1 << 18;  // bytes of the rings of a march
constexpr int64_t kItems = 4;        // for a thread

struct Box {
  int64_t radius, passes;
  Outside outside;
  bool adjoint;

  int64_t reach() const { return radius * passes; }
  // Rows of w numbers in blocks of which `planes` take that much memory.
  template <class T>
  static int64_t rows(int64_t planes, int64_t w) {
    return std::max<int64_t>(kRings / (int64_t(sizeof(T)) * planes * w), 1);
  }
};

// Averages in each plane, or along z, or both; along z alone the result may be the image.
template <class T>
void sweep(const T* image, T* result, int64_t volumes, Grid grid, const Box& box, bool in_plane, bool along,
           int64_t rows) {
  const int64_t blocks = (grid.h + rows - 1) / rows, wanted = kItems * torch::stable::get_num_threads();
  // Planes of an item: all, unless that leaves threads without; those before them are then made anew.
  const int64_t parts = in_plane ? std::clamp<int64_t>(wanted / (volumes * blocks), 1,
                                                       std::max<int64_t>(grid.d / (4 * box.reach() + 1), 1))
                                 : 1;
  const int64_t depth = (grid.d + parts - 1) / parts;
  parallel_each(volumes * blocks * parts, [&](int64_t item) {
    const int64_t n = item / (blocks * parts), y0 = item / parts % blocks * rows, y1 = std::min(y0 + rows, grid.h);
    const int64_t z0 = std::min(item % parts * depth, grid.d), z1 = std::min(z0 + depth, grid.d),
                  margin = in_plane ? box.reach() : 0;
    // What the ends of this get wrong does not come as far as the block.
    const int64_t top = std::max<int64_t>(y0 - margin, 0), bottom = std::min(y1 + margin, grid.h);
    Smoother<T> smoother({1, bottom - top, grid.w, false}, box.radius, in_plane ? box.passes : 0, box.outside,
                         box.adjoint);
    March<T> march(grid.d, (y1 - y0) * grid.w, box.radius, along ? box.passes : 0, box.outside, box.adjoint);
    const auto at = [&](int64_t z, int64_t y) { return ((n * grid.d + z) * grid.h + y) * grid.w; };
    const auto make = [&](int64_t z, T* to) {
      if (!in_plane) {
        std::copy_n(image + at(z, y0), (y1 - y0) * grid.w, to);
        return;
      }
      for (int64_t y = top; y < bottom; ++y) std::copy_n(image + at(z, y), grid.w, smoother.row(y - top));
      smoother.run();
      for (int64_t y = y0; y < y1; ++y) std::copy_n(smoother.row(y - top), grid.w, to + (y - y0) * grid.w);
    };
    march(z0, z1, make, [&](int64_t z) { return result + at(z, y0); });
  });
}

template <class T>
void smooth(const T* image, T* result, int64_t volumes, Grid grid, const Box& box) {
  if (Smoother<T>::widened(grid, box.reach()).numel() <= kSmall)
    return parallel_runs(volumes, [&](int64_t begin, int64_t end) {
      Smoother<T> smoother(grid, box.radius, box.passes, box.outside, box.adjoint);
      for (int64_t i = begin; i < end; ++i) {
        std::copy_n(image + i * grid.numel(), grid.numel(), result + i * grid.numel());
        smoother(result + i * grid.numel());
      }
    });
  const int64_t ring = box.passes * March<T>::ring(box.radius, box.passes, box.outside, box.adjoint);
  const int64_t rows = Box::rows<T>(std::max<int64_t>(ring, 1), grid.w),
                wide = std::max(Box::rows<T>(2, grid.w), 4 * box.reach());
  if (!grid.deep) return sweep(image, result, volumes, grid, box, true, false, wide);
  if (rows >= std::min(8 * box.reach(), grid.h)) return sweep(image, result, volumes, grid, box, true, true, rows);
  sweep(image, result, volumes, grid, box, true, false, wide);
  sweep<T>(result, result, volumes, grid, box, false, true, rows);
}

template <bool adjoint>
Tensor box(const Tensor& image_, int64_t radius, int64_t passes, Text padding) {
  const Tensor image = packed(image_), result = room_as(image, shape_of(image));
  const Outside outside = padding == "zeros"    ? Outside::zero
                          : padding == "border" ? Outside::border
                                                : Outside::extended;
  for_real(image.scalar_type(), [&](auto t) {
    using T = decltype(t);
    smooth(read<T>(image), write<T>(result), image.size(0) * image.size(1), grid_of(image, image.dim() - 2),
           Box{radius, passes, outside, adjoint});
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("box_average", TORCH_BOX(&box<false>));
  m.impl("box_average_backward", TORCH_BOX(&box<true>));
}

}  // namespace l2rfast
