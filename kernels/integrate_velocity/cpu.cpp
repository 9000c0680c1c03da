// Composing displacement fields and integrating velocities on the CPU.
//
// Floor of a composition: both fields are read once, one is written; the interpolations of a warp of ndim channels. An
// integration is `steps` compositions of a field with itself, which stay in the cache where the field fits, and are
// made of fields whose components lie beside each other.

#include "common/recompute.h"
#include "common/sampler.h"
#include "integrate_velocity/quad_field.h"

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

// result(fields, velocity, offset), a field of quads, of every item, which begins at that number; in the usual order.
template <class F>
Tensor by_item(const Tensor& velocity_, const F& result) {
  const Tensor velocity = packed(velocity_), to = room_as(velocity, shape_of(velocity));
  for_arithmetic(velocity, velocity, [&](auto ndim, auto real) {
    using A = decltype(real);
    const QuadFields<ndim.value, A> fields(grid_of(velocity, ndim.value));
    const int64_t numel = velocity.numel() / velocity.size(0);
    for (int64_t n = 0; n < velocity.size(0); ++n)
      fields.to(write<A>(to) + n * numel, result(fields, read<A>(velocity) + n * numel, n * numel));
  });
  return to;
}

Tensor integrate_velocity(const Tensor& velocity, int64_t steps) {
  return by_item(velocity, [&](const auto& fields, const auto* from, int64_t) {
    Tensor u = fields.from(velocity, from, std::ldexp(1, -int(steps)));
    for (int64_t i = 0; i < steps; ++i) u = fields.composed(u);
    return u;
  });
}

Tensor integrate_velocity_backward(const Tensor& grad_, const Tensor& velocity, int64_t steps) {
  const Tensor grad = packed(grad_);
  return by_item(velocity, [&]<class A>(const auto& fields, const A* from, int64_t offset) {
    const A scale = std::ldexp(A(1), -int(steps));
    Tensor back = fields.from(velocity, read<A>(grad) + offset, scale);  // linear in it: sooner or later is the same
    backwards(
        0, steps, fields.from(velocity, from, scale), [&](const Tensor& u) { return fields.composed(u); },
        [&](const Tensor& u) { back = fields.backward(u, back); });
    return back;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("compose", TORCH_BOX(&compose));
  m.impl("integrate_velocity", TORCH_BOX(&integrate_velocity));
  m.impl("integrate_velocity_backward", TORCH_BOX(&integrate_velocity_backward));
}

}  // namespace l2rfast
