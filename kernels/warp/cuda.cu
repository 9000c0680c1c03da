// Warping by a displacement field on the GPU; see common/sampling.cuh for how, and for what it costs at least.

#include "common/sampler.cuh"

namespace l2rfast {
namespace {

Tensor warp(const Tensor& image, const Tensor& disp, std::string mode, std::string padding) {
  return sample(image, ByField{disp}, mode, padding);
}

std::tuple<Tensor, Tensor> warp_backward(const Tensor& grad, const Tensor& image, const Tensor& disp, std::string mode,
                                         std::string padding, bool to_image, bool to_disp) {
  return sample_backward(grad, image, ByField{disp}, mode, padding, to_image, to_disp);
}

std::vector<Tensor> warp_many(std::vector<Tensor> images, const Tensor& disp, std::vector<bool> nearest,
                              std::string padding) {
  std::vector<Tensor> results;
  for_arithmetic(images[0], disp, [&](auto ndim, auto real) {
    results = sample_many<decltype(ndim)::value, decltype(real)>(images, ByField{disp}, nearest, padding);
  });
  return results;
}

std::tuple<Tensor, Tensor> warp_with_gradient(const Tensor& image, const Tensor& disp, std::string padding) {
  const ByField origin{disp};
  auto shape = shape_of_samples(image, origin);
  const Tensor value = empty_as(image, shape);
  shape.insert(shape.begin() + 2, disp.size(1));
  const Tensor gradient = empty_as(image, shape);
  for_arithmetic(image, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    for_field<A>(image, [&](auto t) {
      using T = decltype(t);
      const auto samples = samples_of<ndim, A, int64_t>(image, origin, padding);
      each_sample(
          WithGradient<Displaced<ndim, A, int64_t>, T, int64_t>{
              samples, read<ReadOnly<T>>(image), Strides<ndim, int64_t>(image), write<T>(value), write<T>(gradient)},
          origin);
    });
  });
  return {value, gradient};
}

std::tuple<Tensor, Tensor, Tensor> warp_double_backward(const Tensor& grad, const Tensor& image, const Tensor& disp,
                                                        const Tensor& tangent, std::string padding) {
  STD_TORCH_CHECK(grad.scalar_type() == image.scalar_type(), "expected a gradient of the image's dtype");
  const ByField origin{disp};
  const Tensor to_grad = empty_as(grad, shape_of(grad)), to_disp = empty_as(disp, shape_of(disp));
  Tensor to_image;
  for_arithmetic(image, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    using Source = Displaced<ndim, A, int64_t>;
    using Strided = Strides<ndim, int64_t>;
    to_image = zeros_like<A>(image, true);
    // A sample gives at most ndim * 2 shares as large as grad times tangent.
    scatter<ndim, A>(to_image, {grad, tangent}, bits_of_samples(grad, image) + 3, [&](const auto& sum) {
      using Sum = std::remove_cvref_t<decltype(sum)>;
      for_field<A>(image, [&](auto t) {
        using T = decltype(t);
        const auto samples = samples_of<ndim, A, int64_t>(image, origin, padding);
        each_sample(
            DoubleBackward<Source, T, int64_t, Sum>{samples, read<T>(grad), read<ReadOnly<T>>(image), Strided(grad),
                                                    Strided(image), Strided(to_image), Source::like(tangent),
                                                    write<T>(to_grad), sum, Source::like(to_disp)},
            origin);
      });
    });
  });
  return {to_grad, to_image, to_disp};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("warp", TORCH_BOX(&warp));
  m.impl("warp_backward", TORCH_BOX(&warp_backward));
  m.impl("warp_many", TORCH_BOX(&warp_many));
  m.impl("warp_with_gradient", TORCH_BOX(&warp_with_gradient));
  m.impl("warp_double_backward", TORCH_BOX(&warp_double_backward));
}

}  // namespace l2rfast
