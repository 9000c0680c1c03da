// Sampling at a normalised grid on the CPU; see common/sampler.h for how, and for what it costs at least.

#include "common/sampler.h"
#include "common/text.h"

namespace l2rfast {
namespace {

Tensor grid_sample(const Tensor& image, const Tensor& grid, Text mode, Text padding, bool align_corners) {
  Tensor result;
  for_arithmetic(image, grid, [&](auto ndim, auto real) {
    const Normalised<ndim.value, decltype(real)> source(grid, image, align_corners);
    result = sample<ndim.value>(image, source, mode, padding);
  });
  return result;
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad_, const Tensor& image, const Tensor& grid, Text mode,
                                                Text padding, bool align_corners, bool to_image, bool to_grid) {
  const Tensor grad = packed(grad_), grad_grid = gradient_to(grid, to_grid, mode);
  Tensor grad_image;
  for_arithmetic(image, grid, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Normalised<ndim, A> source(grid, image, align_corners);
    grad_image = zeros_like<A>(image, to_image);
    if (to_image) backward_image<ndim>(grad, source, mode, padding, grad_image);
    if (!to_grid || mode != "linear") return;
    const Output to(grad_grid);
    backward_positions<ndim, A>(grad, image, source, padding, [&](const Block& b, A(&sum)[ndim][kBlock]) {
      for (int k = 0; k < ndim; ++k) {
        for (int i = 0; i < b.count; ++i) sum[k][i] *= source.scale[k];
        to.store((b.n * source.out.numel() + b.first) * ndim + ndim - 1 - k, ndim, sum[k], b.count);
      }
    });
  });
  return {grad_image, grad_grid};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("grid_sample", TORCH_BOX(&grid_sample));
  m.impl("grid_sample_backward", TORCH_BOX(&grid_sample_backward));
}

}  // namespace l2rfast
