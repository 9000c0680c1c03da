// Composing displacement fields and integrating velocities on the GPU.
//
// Floor of a composition: both fields are read once, one is written, 36 bytes per voxel in 3-D. An integration is
// `steps` compositions of a field with itself, in two buffers; going back computes fields again instead of keeping
// them.

#include "common/recompute.h"
#include "common/sampler.cuh"

namespace l2rfast {
namespace {

template <int ndim, class A>
Tensor composed(const Tensor& outer, const Tensor& inner) {
  return sample_linear<ndim, A, true>(outer, ByField{inner}, "border");
}

Tensor compose(const Tensor& outer, const Tensor& inner) {
  Tensor result;
  for_arithmetic(outer, inner,
                 [&](auto ndim, auto real) { result = composed<decltype(ndim)::value, decltype(real)>(outer, inner); });
  return result;
}

// Values * factor, in the usual order.
template <int ndim_, class A>
struct Scaled {
  static constexpr int ndim = ndim_, resident = 4;
  const A* from;
  A* to;
  Strides<ndim, int64_t> strides, to_strides;
  int64_t channels;
  A factor;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    for (int64_t c = 0; c < channels; ++c) {
      const A value = fetch(from + strides.of(x.item, c) + strides.of(x.at));
      to[to_strides.of(x.item, c) + to_strides.of(x.at)] = value * factor;
    }
  }
};

template <int ndim, class A>
Tensor scaled(const Tensor& values, A factor) {
  const Tensor result = empty_as(values, shape_of(values));
  int32_t size[ndim];
  for (int k = 0; k < ndim; ++k) size[k] = int32_t(values.size(2 + k));
  using Strided = Strides<ndim, int64_t>;
  each_voxel(Scaled<ndim, A>{read<A>(values), write<A>(result), Strided(values), Strided(result), ndim, factor},
             Extent(values.size(0), size), values);
  return result;
}

// Calls f(ndim, A) for a velocity; A is its dtype.
template <class F>
void for_velocity(const Tensor& velocity, const F& f) {
  for_real(velocity.scalar_type(), [](auto) {});  // checks it
  for_arithmetic(velocity, velocity, f);
}

Tensor integrate_velocity(const Tensor& velocity, int64_t steps) {
  Tensor u;
  for_velocity(velocity, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    u = scaled<ndim, A>(velocity, std::ldexp(A(1), -int(steps)));
    for (int64_t i = 0; i < steps; ++i) u = composed<ndim, A>(u, u);
  });
  return u;
}

Tensor integrate_velocity_backward(const Tensor& grad_, const Tensor& velocity, int64_t steps) {
  Tensor grad;
  for_velocity(velocity, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    const A scale = std::ldexp(A(1), -int(steps));
    grad = scaled<ndim, A>(grad_, scale);  // linear in it: sooner or later is the same
    backwards(
        0, steps, scaled<ndim, A>(velocity, scale), [&](const Tensor& u) { return composed<ndim, A>(u, u); },
        [&](const Tensor& u) {
          // To u as the inner field, and then, adding to it, as the outer one.
          const Tensor next = empty_as(u, shape_of(u));
          backward<ndim, A>(grad, u, ByField{u}, false, "border", nullptr, &next, true);
          backward<ndim, A>(grad, u, ByField{u}, false, "border", &next, nullptr);
          grad = next;
        });
  });
  return grad;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("compose", TORCH_BOX(&compose));
  m.impl("integrate_velocity", TORCH_BOX(&integrate_velocity));
  m.impl("integrate_velocity_backward", TORCH_BOX(&integrate_velocity_backward));
}

}  // namespace l2rfast
