// Windows along an axis, on the CPU and on GPUs.
#pragma once

#include "common/interpolation.h"
#include "common/tensor.h"

namespace l2rfast {

// An axis of the image and what a window takes of it. Weights are of W, their sums of S.
template <class W>
struct WindowOf {
  int64_t size, radius;
  const W* weights;  // of its 2 radius + 1 voxels; null: all are 1

  L2RFAST_INLINE int64_t side() const { return 2 * radius + 1; }
  L2RFAST_INLINE int64_t first(int64_t i) const { return std::max<int64_t>(i - radius, 0); }
  L2RFAST_INLINE int64_t last(int64_t i) const { return std::min(i + radius, size - 1); }
  L2RFAST_INLINE W weight(int64_t k) const { return weights ? weights[k] : 1; }
  L2RFAST_INLINE W weight(int64_t centre, int64_t i) const { return weight(i - centre + radius); }

  template <class S = W>
  L2RFAST_INLINE S whole() const {
    return sum<S>(0, side() - 1);
  }
  // Of the voxels inside the image.
  template <class S = W>
  L2RFAST_INLINE S inside(int64_t centre) const {
    return sum<S>(first(centre) - centre + radius, last(centre) - centre + radius);
  }

 private:
  template <class S>
  L2RFAST_INLINE S sum(int64_t begin, int64_t last) const {
    if (!weights) return W(last - begin + 1);
    S total = W(0);
    for (int64_t k = begin; k <= last; ++k) total += weights[k];
    return total;
  }
};

// Windows by axis; axes that the image lacks have one voxel and windows of one.
template <class W>
struct WindowsOf {
  WindowOf<W> axis[3];

  // Of an image (N, C, *spatial). `weights` are those of all its axes, one after the other, or null.
  WindowsOf(const Tensor& image, const std::vector<int64_t>& sides, const W* weights) {
    const size_t ndim = sides.size();
    for (size_t k = 0; k < 3; ++k) {
      if (k + ndim < 3) {
        axis[k] = {1, 0, nullptr};
      } else {
        const int64_t side = sides[k + ndim - 3];
        axis[k] = {image.size(k + ndim - 1), side / 2, weights};
        if (weights) weights += side;
      }
    }
  }

  L2RFAST_INLINE bool weighted() const { return axis[2].weights; }
  L2RFAST_INLINE int64_t places() const { return axis[0].size * axis[1].size * axis[2].size; }
  L2RFAST_INLINE int64_t place(int64_t z, int64_t y, int64_t x) const {
    return (z * axis[1].size + y) * axis[2].size + x;
  }
  // The sum of the weights.
  template <class S = W>
  S whole() const {
    return axis[0].template whole<S>() * axis[1].template whole<S>() * axis[2].template whole<S>();
  }
  // Of those inside the image.
  template <class S = W>
  L2RFAST_INLINE S inside(int64_t z, int64_t y, int64_t x) const {
    return axis[0].template inside<S>(z) * axis[1].template inside<S>(y) * axis[2].template inside<S>(x);
  }
};

using Window = WindowOf<double>;
using Windows = WindowsOf<double>;

// Running sums start anew where (i - begin) is a multiple of this: an error of rounding lives no longer, and one who
// begins there gets the same bits as one who passes.
constexpr int64_t kAnchor = 32;

}  // namespace l2rfast
