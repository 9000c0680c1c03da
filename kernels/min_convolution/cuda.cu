// The exact min-convolution of a cost volume on the GPU: one axis of the search after the other.
//
// A thread finds a minimum over a line; neighbours are control points, so that the costs of a line are read side by
// side, and again by the threads of its other results from the caches.
//
// Floor: the cost volume is read once and written once; here once for every axis.

#include "common/launch.cuh"
#include "common/parabola.h"

namespace l2rfast {
namespace {

// Lines (outer, n, inner) along the middle axis.
struct Lines {
  int64_t outer;
  int32_t n, inner;

  Lines(const Tensor& cost, int64_t axis) : outer(1), n(int32_t(cost.size(axis))), inner(1) {
    int64_t behind = 1;
    for (int64_t k = 0; k < axis; ++k) outer *= cost.size(k);
    for (int64_t k = axis + 1; k < cost.dim(); ++k) behind *= cost.size(k);
    STD_TORCH_CHECK(behind <= std::numeric_limits<int32_t>::max(), "cost: expected fewer than 2^31 numbers an item");
    inner = int32_t(behind);
  }

  Extent extent() const {
    const int32_t size[] = {n, inner};
    return Extent(outer, size);
  }
  L2RFAST_INLINE int64_t at(const Voxel<2>& x, int64_t d) const { return (x.item * n + d) * inner + x.at[1]; }
  L2RFAST_INLINE int64_t at(const Voxel<2>& x) const { return at(x, x.at[0]); }
};

template <class T, class R, class To>
struct Least {
  static constexpr int ndim = 2, resident = sizeof(R) == 8 ? 4 : 6;
  Lines lines;
  const T* cost;
  const R* weight;
  To* result;
  int32_t* where;  // or null

  L2RFAST_INLINE void operator()(const Voxel<2>& x) const {
    const R w = fetch(weight);
    R best = R(fetch(cost + lines.at(x, 0))) + parabola(w, x.at[0]);
    int32_t found = 0;
    for (int32_t e = 1; e < lines.n; ++e) {
      const R value = R(fetch(cost + lines.at(x, e))) + parabola(w, x.at[0] - e);
      found = value < best ? e : found;
      best = value < best ? value : best;
    }
    result[lines.at(x)] = To(best);
    if (where) where[lines.at(x)] = found;
  }
};

// The gradient that counts: none where all is forbidden.
template <class T, class R>
struct Allowed {
  static constexpr int ndim = 2, resident = 6;
  Lines lines;
  const R* cost;
  const T* grad;
  R* result;

  L2RFAST_INLINE void operator()(const Voxel<2>& x) const {
    const int64_t at = lines.at(x);
    result[at] = cost[at] == std::numeric_limits<R>::infinity() ? R(0) : R(fetch(grad + at));
  }
};

// To a cost, what its minima received.
template <class R>
struct Returned {
  static constexpr int ndim = 2, resident = 6;
  Lines lines;
  const R* grad;
  const int32_t* where;
  R* result;

  L2RFAST_INLINE void operator()(const Voxel<2>& x) const {
    R total = 0;
    for (int32_t d = 0; d < lines.n; ++d)
      if (fetch(where + lines.at(x, d)) == x.at[0]) total += fetch(grad + lines.at(x, d));
    result[lines.at(x)] = total;
  }
};

// The sum of what minima received times |d - e|^2, by block.
template <class R>
struct ToWeight {
  static constexpr int resident = 4;
  Lines lines;
  const R* grad;
  const int32_t* where;
  int64_t blocks;
  double* sums;

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    all_threads([&](int thread) {
      double sum = 0;
      for (int64_t i = block * kThreads + thread; i < lines.outer * lines.n * lines.inner; i += blocks * kThreads) {
        const double steps = double(i / lines.inner % lines.n) - double(fetch(where + i));
        sum += double(fetch(grad + i)) * steps * steps;
      }
      scratch[thread] = sum;
    });
    all_threads([&](int thread) {
      if (thread != 0) return;
      for (int i = 1; i < kThreads; ++i) scratch[0] += scratch[i];
      sums[block] = scratch[0];
    });
  }
};

template <class R>
Tensor weight_as(const Tensor& weight) {
  return torch::stable::to(weight, dtype_of<R>);
}

template <class R>
Tensor room(const Tensor& cost) {
  return torch::stable::new_empty(cost, shape_of(cost), dtype_of<R>);
}

Tensor min_convolution(const Tensor& cost_, const Tensor& weight_) {
  const Tensor cost = packed(cost_), result = empty_as(cost, shape_of(cost));
  const int64_t axes = (cost.dim() - 1) / 2;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Tensor weight = weight_as<R>(weight_);
    Tensor from = cost;
    for (int64_t axis = 1; axis <= axes; ++axis) {
      const Lines lines(cost, axis);
      const R* w = read<R>(weight);
      const Tensor to = axis == axes ? result : room<R>(cost);
      if (axis == 1)
        each_voxel(Least<T, R, R>{lines, read<T>(from), w, write<R>(to), nullptr}, lines.extent(), cost);
      else if (axis < axes)
        each_voxel(Least<R, R, R>{lines, read<R>(from), w, write<R>(to), nullptr}, lines.extent(), cost);
      else
        each_voxel(Least<R, R, T>{lines, read<R>(from), w, write<T>(to), nullptr}, lines.extent(), cost);
      from = to;
    }
  });
  return result;
}

std::tuple<Tensor, Tensor> min_convolution_backward(const Tensor& grad_, const Tensor& cost_, const Tensor& weight_) {
  const Tensor grad = packed(grad_), cost = packed(cost_);
  const int64_t axes = (cost.dim() - 1) / 2;
  Tensor to_cost, to_weight;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Tensor weight = weight_as<R>(weight_);
    const R* w = read<R>(weight);
    std::vector<Tensor> where;
    Tensor least = cost;
    for (int64_t axis = 1; axis <= axes; ++axis) {
      const Lines lines(cost, axis);
      where.push_back(torch::stable::new_empty(cost, shape_of(cost), Dtype::Int));
      const Tensor to = room<R>(cost);
      if (axis == 1)
        each_voxel(Least<T, R, R>{lines, read<T>(least), w, write<R>(to), write<int32_t>(where.back())}, lines.extent(),
                   cost);
      else
        each_voxel(Least<R, R, R>{lines, read<R>(least), w, write<R>(to), write<int32_t>(where.back())}, lines.extent(),
                   cost);
      least = to;
    }
    constexpr int64_t blocks = 512;
    const Tensor sums = torch::stable::new_empty(cost, {axes * blocks}, Dtype::Double);
    Tensor by_minima = room<R>(cost);
    const Lines all(cost, axes);
    each_voxel(Allowed<T, R>{all, read<R>(least), read<T>(grad), write<R>(by_minima)}, all.extent(), cost);
    for (int64_t axis = axes; axis >= 1; --axis) {
      const Lines lines(cost, axis);
      const int32_t* places = read<int32_t>(where[axis - 1]);
      each_block(ToWeight<R>{lines, read<R>(by_minima), places, blocks, write<double>(sums) + (axis - 1) * blocks},
                 blocks, kThreads, cost);
      to_cost = room<R>(cost);
      each_voxel(Returned<R>{lines, read<R>(by_minima), places, write<R>(to_cost)}, lines.extent(), cost);
      by_minima = to_cost;
    }
    to_weight = torch::stable::to(torch::stable::sum(sums), dtype_of<R>);
  });
  return {to_cost, to_weight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("min_convolution", TORCH_BOX(&min_convolution));
  m.impl("min_convolution_backward", TORCH_BOX(&min_convolution_backward));
}

}  // namespace l2rfast
