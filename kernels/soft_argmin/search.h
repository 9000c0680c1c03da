// A cost volume and what a soft arg-min makes of it, on host and device.
#pragma once

#include "common/interpolation.h"
#include "common/tensor.h"

namespace l2rfast {

// A cost volume, and how far a displacement of index i leads along an axis: (i - (n - 1) / 2) dilation.
template <class R>
struct Search {
  int64_t axes, size[3] = {1, 1, 1}, batch, points;
  R dilation[3] = {};

  Search(const Tensor& cost, const std::vector<double>& dilations)
      : axes(int64_t(dilations.size())), batch(cost.size(0)) {
    for (int64_t k = 0; k < axes; ++k) size[3 - axes + k] = cost.size(1 + k), dilation[3 - axes + k] = R(dilations[k]);
    points = cost.numel() / batch / displacements();
  }

  // Of so many numbers at every control point.
  std::vector<int64_t> shape(const Tensor& cost, int64_t channels) const {
    std::vector<int64_t> result = {batch, channels};
    for (int64_t k = 1 + axes; k < cost.dim(); ++k) result.push_back(cost.size(k));
    return result;
  }

  L2RFAST_INLINE int64_t displacements() const { return size[0] * size[1] * size[2]; }
  L2RFAST_INLINE R step(int axis, int64_t i) const { return dilation[axis] * (R(i) - R(size[axis] - 1) / 2); }
};

// What came out of a cost volume, and the gradients to that.
template <class T>
struct Outcome {
  const Sum<T>*displacement, *entropy, *log_z, *grad, *grad_entropy;
  const T* grad_p;  // or null
};

// The gradient to log p, where `toward` is that to p less the mean of these.
template <class R>
L2RFAST_INLINE R to_log(R p, R log_p, R toward, R to_entropy) {
  return p == 0 ? R(0) : p * (toward - to_entropy * log_p);
}

}  // namespace l2rfast
