// Windows along an axis, on the CPU and on GPUs.
#pragma once

#include "common/interpolation.h"
#include "common/tensor.h"

namespace l2rfast {

// An axis of the image and what a window takes of it.
struct Window {
  int64_t size, radius;
  const double* weights;  // of its 2 radius + 1 voxels; null: all are 1

  L2RFAST_INLINE int64_t side() const { return 2 * radius + 1; }
  L2RFAST_INLINE int64_t first(int64_t i) const { return std::max<int64_t>(i - radius, 0); }
  L2RFAST_INLINE int64_t last(int64_t i) const { return std::min(i + radius, size - 1); }
  L2RFAST_INLINE double weight(int64_t k) const { return weights ? weights[k] : 1; }
  L2RFAST_INLINE double weight(int64_t centre, int64_t i) const { return weight(i - centre + radius); }

  L2RFAST_INLINE double whole() const { return sum(0, side() - 1); }
  // Of the voxels inside the image.
  L2RFAST_INLINE double inside(int64_t centre) const {
    return sum(first(centre) - centre + radius, last(centre) - centre + radius);
  }

 private:
  L2RFAST_INLINE double sum(int64_t begin, int64_t last) const {
    if (!weights) return double(last - begin + 1);
    double total = 0;
    for (int64_t k = begin; k <= last; ++k) total += weights[k];
    return total;
  }
};

// Windows by axis; axes that the image lacks have one voxel and windows of one.
struct Windows {
  Window axis[3];

  // Of an image (N, C, *spatial). `weights` are those of all its axes, one after the other, or null.
  Windows(const Tensor& image, const std::vector<int64_t>& sides, const double* weights) {
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
  // The sum of the weights.
  double whole() const { return axis[0].whole() * axis[1].whole() * axis[2].whole(); }
};

// Running sums start anew where (i - begin) is a multiple of this: an error of rounding lives no longer, and one who
// begins there gets the same bits as one who passes.
constexpr int64_t kAnchor = 32;

}  // namespace l2rfast
