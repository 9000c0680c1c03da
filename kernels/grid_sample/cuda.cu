// Sampling at a normalised grid on the GPU; see common/sampling.cuh for how, and for what it costs at least.

#include "common/sampler.cuh"

namespace l2rfast {
namespace {

struct ByGrid : Over {
  const Tensor& image;
  bool align_corners;

  template <int ndim, class A, class Index>
  Normalised<ndim, A, Index> source() const {
    return {where, image, align_corners};
  }
};

Tensor grid_sample(const Tensor& image, const Tensor& grid, std::string mode, std::string padding, bool align_corners) {
  return sample(image, ByGrid{{grid, 1}, image, align_corners}, mode, padding);
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad, const Tensor& image, const Tensor& grid,
                                                std::string mode, std::string padding, bool align_corners,
                                                bool to_image, bool to_grid) {
  return sample_backward(grad, image, ByGrid{{grid, 1}, image, align_corners}, mode, padding, to_image, to_grid);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("grid_sample", TORCH_BOX(&grid_sample));
  m.impl("grid_sample_backward", TORCH_BOX(&grid_sample_backward));
}

}  // namespace l2rfast
