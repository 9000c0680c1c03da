// Warping by a displacement field on the CPU; see common/sampler.h for how, and for what it costs at least.

#include "common/sampler.h"
#include "common/text.h"

namespace l2rfast {
namespace {

Tensor warp(const Tensor& image, const Tensor& disp, Text mode, Text padding) {
  Tensor result;
  for_arithmetic(image, disp, [&](auto ndim, auto real) {
    result = sample<ndim.value>(image, Displaced<ndim.value, decltype(real)>(disp), mode, padding);
  });
  return result;
}

std::tuple<Tensor, Tensor> warp_backward(const Tensor& grad_, const Tensor& image, const Tensor& disp, Text mode,
                                         Text padding, bool to_image, bool to_disp) {
  const Tensor grad = packed(grad_), grad_disp = gradient_to(disp, to_disp, mode);
  Tensor grad_image;
  for_arithmetic(image, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Displaced<ndim, A> source(disp);
    grad_image = zeros_like<A>(image, to_image);
    if (to_image) backward_image<ndim>(grad, source, mode, padding, grad_image);
    if (to_disp && mode == "linear")
      backward_positions<ndim, A>(grad, image, source, padding, put_field<ndim, A>(grad_disp, source.out));
  });
  return {grad_image, grad_disp};
}

std::vector<Tensor> warp_many(std::vector<Tensor> images, const Tensor& disp, std::vector<bool> nearest, Text padding) {
  for (Tensor& image : images) image = packed(image);  // so that one set of taps fits all
  std::vector<Tensor> results;
  for_arithmetic(images[0], disp, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Displaced<ndim, A> source(disp);
    for_problem<ndim>(images[0], source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
      std::vector<std::pair<Problem<ndim, A, Index>, Job>> copied, interpolated;
      for (size_t i = 0; i < images.size(); ++i) {
        results.push_back(room_as(images[i], p.shape(images[i].size(1))));
        (nearest[i] ? copied : interpolated).push_back({{images[i], source, p.padding}, {images[i], results[i]}});
      }
      p.each_block([&](const Block& b) {
        if (!copied.empty()) {
          const BlockNearest<ndim, A, Index> taps(p, b);
          for (const auto& [problem, job] : copied) sample_nearest(problem, std::span(&taps, 1), job);
        }
        if (!interpolated.empty()) {
          const BlockTaps<ndim, A, Index> taps(p, b);
          for (const auto& [problem, job] : interpolated) sample_linear(problem, std::span(&taps, 1), job);
        }
      });
    });
  });
  return results;
}

std::tuple<Tensor, Tensor> warp_with_gradient(const Tensor& image, const Tensor& disp, Text padding) {
  Tensor value, gradient;
  for_arithmetic(image, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Displaced<ndim, A> source(disp);
    for_problem<ndim>(image, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
      auto shape = p.shape(image.size(1));
      value = room_as(image, shape);
      shape.insert(shape.begin() + 2, ndim);
      gradient = room_as(image, shape);
      for_field<A>(image.scalar_type(), [&](auto t) {
        using T = decltype(t);
        const T* const images = read<T>(image);
        T *const values = write<T>(value), *const slopes = write<T>(gradient);
        p.each_block([&](const Block& b) {
          const BlockTaps<ndim, A, Index, true> taps(p, b);
          for (int64_t c = 0; c < p.channels; ++c) {
            const T* v = images + p.image.offset(b.n, c);
            T* out = values + p.at(b, c);
            T* slope = slopes + (b.n * p.channels + c) * ndim * p.out.numel() + b.first;
            each_vector<ndim, A>(
                v, p.step, taps.base, b.count, [&](const Corners<ndim, A>& corners, int i, int n) L2RFAST_LAMBDA {
                  const Vector<A> poison = load(taps.poison + i);
                  store_some<A>(out + i, corners.interpolate(taps.weights(i)) + poison, n);
                  each_axis<ndim>([&](auto k) {
                    const Vector<A> by_k = corners.interpolate(taps.template weights<1u << k.value>(i));
                    const Vector<A> finite = poison == 0 ? by_k : Vector<A>{};
                    store_some<A>(slope + k.value * p.out.numel() + i, finite, n);
                  });
                });
          }
        });
      });
    });
  });
  return {value, gradient};
}

std::tuple<Tensor, Tensor, Tensor> warp_double_backward(const Tensor& grad_, const Tensor& image, const Tensor& disp,
                                                        const Tensor& tangent, Text padding) {
  const Tensor grad = packed(grad_), to_grad = empty_as(grad, shape_of(grad)), to_disp = empty_as(disp, shape_of(disp));
  Tensor to_image;
  for_arithmetic(image, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Displaced<ndim, A> source(disp);
    const Field<A> direction(tangent, ndim, 1, 2);
    to_image = zeros_like<A>(image, true);
    // Calls f(i, v, taps of sample i) with the tangent there, for samples at finite positions.
    const auto each_sample = [&](const auto& p, const auto& taps, const Block& b, const auto& f) {
      A v[ndim][kBlock];
      for (int k = 0; k < ndim; ++k) direction.read(k, b, v[k], [](int, A u) { return u; });
      for (int i = 0; i < b.count; ++i) {
        Taps<A, std::remove_const_t<std::remove_reference_t<decltype(p.step[0])>>> around[ndim];
        taps.get(i, around);
        if (taps.poison[i] == 0) f(i, v, around);
      }
    };
    for_problem<ndim>(image, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
      for_field<A>(image.scalar_type(), [&](auto t) {
        using T = decltype(t);
        const T *const images = read<T>(image), *const grads = read<T>(grad);
        T* const outs = write<T>(to_grad);
        const auto put = put_field<ndim, A>(to_disp, source.out);
        p.each_block([&](const Block& b) {
          const BlockTaps<ndim, A, Index, true> taps(p, b);
          A hessian[ndim][kBlock] = {};
          for (int64_t c = 0; c < p.channels; ++c) {
            const T* g = grads + p.at(b, c);
            T* out = outs + p.at(b, c);
            std::fill_n(out, b.count, T(0));
            const T* image_c = images + p.image.offset(b.n, c);
            each_sample(p, taps, b, [&](int i, const auto& v, const auto& around) {
              const T* at = image_c + taps.base[i];
              A slope = 0;
              each_axis<ndim>([&](auto k) {
                slope += v[k.value][i] * interpolate<1u << k.value, ndim>(at, around, p.step);
                // Linear along each axis: second derivatives are the mixed ones.
                each_axis<ndim>([&](auto m) {
                  if constexpr (m.value < k.value) {
                    const A mixed = A(g[i]) * interpolate<1u << k.value | 1u << m.value, ndim>(at, around, p.step);
                    hessian[k.value][i] += v[m.value][i] * mixed;
                    hessian[m.value][i] += v[k.value][i] * mixed;
                  }
                });
              });
              out[i] = T(slope);
            });
          }
          put(b, hessian);
        });
      });
    });
    for_problem<ndim>(to_image, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
      for_field<A>(grad.scalar_type(), [&](auto t) {
        using T = decltype(t);
        const T* const grads = read<T>(grad);
        A* const sums = write<A>(to_image);
        by_slab<BlockTaps<ndim, A, Index, true>>(p, [&](auto group, const Slab<Index>& slab) {
          p.each_channel(
              group, [](auto...) {},
              [&](int64_t c, const auto& taps) {
                const Block& b = taps.block;
                const T* g = grads + p.at(b, c);
                A* to = sums + p.image.offset(b.n, c);
                each_sample(p, taps, b, [&](int i, const auto& v, const auto& around) {
                  each_axis<ndim>([&](auto k) {
                    spread<1u << k.value, ndim>(A(g[i]) * v[k.value][i], around, p.step, [&](Index offset, A share) {
                      const Index plane = taps.plane[i] + (offset >= p.step[0] && p.step[0] > 0);
                      if (slab.has(plane)) to[taps.base[i] + offset] += share;
                    });
                  });
                });
              });
        });
      });
    });
  });
  return {to_grad, to_image, to_disp};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("warp", TORCH_BOX(&warp));
  m.impl("warp_backward", TORCH_BOX(&warp_backward));
  m.impl("warp_many", TORCH_BOX(&warp_many));
  m.impl("warp_with_gradient", TORCH_BOX(&warp_with_gradient));
  m.impl("warp_double_backward", TORCH_BOX(&warp_double_backward));
}

}  // namespace l2rfast
