// Composing displacement fields and integrating velocities on the CPU.
//
// Floor of a composition: both fields are read once, one is written; the interpolations of a warp of ndim channels. An
// integration is `steps` compositions of a field with itself, which stay in the cache where the field fits.

#include "common/recompute.h"
#include "common/sampler.h"

namespace l2rfast {
namespace {

template <int ndim, class A>
Tensor composed(const Tensor& outer, const Tensor& inner) {
  const Displaced<ndim, A> source(inner);
  return sample<ndim, A>(outer, source, "linear", "border",
                         [&](const Block& b, int64_t c, const A* poison, A(&sum)[kBlock]) {
                           source.disp.read(c % ndim, b, sum, [=](int i, A u) { return u + poison[i]; });
                         });
}

Tensor compose(const Tensor& outer, const Tensor& inner) {
  Tensor result;
  for_arithmetic(outer, inner,
                 [&](auto ndim, auto real) { result = composed<ndim.value, decltype(real)>(outer, inner); });
  return result;
}

// values * factor, in the usual order.
template <class A>
Tensor scaled(const Tensor& values_, A factor) {
  const Tensor values = packed(values_), result = room_as(values, shape_of(values));
  parallel_parts(values.numel(), [&](int64_t begin, int64_t end) {
    const A* from = read<A>(values);
    A* to = write<A>(result);
    for (int64_t i = begin; i < end; ++i) to[i] = from[i] * factor;
  });
  return result;
}

Tensor integrate_velocity(const Tensor& velocity, int64_t steps) {
  Tensor u;
  for_arithmetic(velocity, velocity, [&](auto ndim, auto real) {
    using A = decltype(real);
    u = scaled(velocity, std::ldexp(A(1), -int(steps)));
    for (int64_t i = 0; i < steps; ++i) u = composed<ndim.value, A>(u, u);
  });
  return u;
}

Tensor integrate_velocity_backward(const Tensor& grad_, const Tensor& velocity, int64_t steps) {
  Tensor grad = grad_;
  for_arithmetic(velocity, velocity, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const A scale = std::ldexp(A(1), -int(steps));
    grad = scaled(grad, scale);  // linear in it: sooner or later is the same
    backwards(
        0, steps, scaled(velocity, scale), [&](const Tensor& u) { return composed<ndim, A>(u, u); },
        [&](const Tensor& u) {
          const Displaced<ndim, A> source(u);
          const Tensor next = scaled(grad, A(1));
          A* const sums = write<A>(next);
          backward_image<ndim>(grad, source, "linear", "border", next);
          backward_positions<ndim, A>(grad, u, source, "border", [&](const Block& b, const A(&sum)[ndim][kBlock]) {
            for (int k = 0; k < ndim; ++k) {
              A* __restrict to = sums + (b.n * ndim + k) * source.out.numel() + b.first;
              for (int i = 0, end = b.count; i < end; ++i) to[i] += sum[k][i];
            }
          });
          grad = next;
        });
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("compose", TORCH_BOX(&compose));
  m.impl("integrate_velocity", TORCH_BOX(&integrate_velocity));
  m.impl("integrate_velocity_backward", TORCH_BOX(&integrate_velocity_backward));
}

}  // namespace l2rfast
