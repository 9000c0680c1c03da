// Sampling at an affine map of the output voxels on the CPU; see common/sampler.h for how, and for what it costs at
// least: no field is read.

#include "common/sampler.h"

namespace l2rfast {
namespace {

Tensor affine_warp(const Tensor& image, const Tensor& matrix, std::vector<int64_t> size, std::string mode,
                   std::string padding) {
  Tensor result;
  for_arithmetic(image, matrix, [&](auto ndim, auto real) {
    const Affine<ndim.value, decltype(real)> source(matrix, Grid::of(size));
    result = sample<ndim.value>(image, source, mode, padding);
  });
  return result;
}

Tensor affine_resample(const Tensor& image, const Tensor& matrix, std::optional<Tensor> disp, std::vector<int64_t> size,
                       std::string mode, std::string padding, std::optional<Tensor> outside) {
  Tensor result;
  for_arithmetic(image, matrix, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const auto from = [&](const Positions<A>& source) {
      result = sample<ndim, A>(image, source, mode, padding, nullptr, outside);
    };
    disp ? from(AffineDisplaced<ndim, A>(*disp, matrix)) : from(Affine<ndim, A>(matrix, Grid::of(size)));
  });
  return result;
}

std::tuple<Tensor, Tensor> affine_warp_backward(const Tensor& grad_, const Tensor& image, const Tensor& matrix,
                                                std::string mode, std::string padding, bool to_image, bool to_matrix) {
  const Tensor grad = packed(grad_), grad_matrix = gradient_to(matrix, to_matrix, mode);
  Tensor grad_image;
  for_arithmetic(image, matrix, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Affine<ndim, A> source(matrix, grid_of(grad, ndim));
    grad_image = zeros_like<A>(image, to_image);
    if (to_image) backward_image<ndim>(grad, source, mode, padding, grad_image);
    if (!to_matrix || mode != "linear") return;
    // A sum per row of the output, then over the rows in order: the same bits for any number of threads.
    using Entries = std::array<double, ndim*(ndim + 1)>;
    const int64_t rows = source.out.rows();
    std::vector<Entries> by_row(source.items * rows, Entries{});
    backward_positions<ndim, A>(grad, image, source, padding, [&](const Block& b, const A(&sum)[ndim][kBlock]) {
      Entries& row = by_row[b.n * rows + b.first / source.out.w];
      for (int k = 0; k < ndim; ++k) {
        double total = 0, moment = 0;
        for (int i = 0; i < b.count; ++i) total += sum[k][i], moment += sum[k][i] * double(b.x + i);
        double* entry = &row[k * (ndim + 1)];
        for (int j = 0; j < ndim - 1; ++j) entry[j] += total * b.coordinate<double>(3 - ndim + j);
        entry[ndim - 1] += moment, entry[ndim] += total;
      }
    });
    for_field<A>(matrix.scalar_type(), [&](auto t) {
      for (int64_t n = 0; n < source.items; ++n) {
        Entries total{};
        for (int64_t r = 0; r < rows; ++r)
          for (size_t j = 0; j < total.size(); ++j) total[j] += by_row[n * rows + r][j];
        std::copy(total.begin(), total.end(), write<decltype(t)>(grad_matrix) + n * total.size());
      }
    });
  });
  return {grad_image, grad_matrix};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("affine_warp", TORCH_BOX(&affine_warp));
  m.impl("affine_resample", TORCH_BOX(&affine_resample));
  m.impl("affine_warp_backward", TORCH_BOX(&affine_warp_backward));
}

}  // namespace l2rfast
