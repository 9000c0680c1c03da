// Dense displacement correlation on the GPU.
//
// A thread computes the cost of a displacement at a voxel, neighbours beside each other: what they read of the features
// comes from the caches, as displacements overlap. Going back it computes the gradient to a voxel of a channel from all
// displacements: no two threads add to the same number.
//
// Floor: features are read once, the cost volume is written once; 2 C operations an entry.

#include "common/metric.h"
#include "common/volume.cuh"

namespace l2rfast {
namespace {

// Where displacements lead.
struct Search : Volume {
  int32_t radius[3] = {}, dilation;
  int64_t channels, displacements = 1;
  bool border;
  Metric metric;

  Search(const Tensor& fixed, const std::vector<int64_t>& radii, int64_t dilation, const std::string& padding,
         const std::string& metric)
      : Volume(grid_of(fixed, fixed.dim() - 2)),
        dilation(int32_t(dilation)),
        channels(fixed.size(1)),
        border(padding == "border"),
        metric(metric_of(metric)) {
    for (size_t k = 0; k < radii.size(); ++k) radius[3 - radii.size() + k] = int32_t(radii[k]);
    for (const int64_t r : radii) displacements *= 2 * r + 1;
  }

  L2RFAST_INLINE Voxel<3> moved(const Voxel<3>& x, int64_t e, int32_t sign) const {
    const int64_t width = 2 * radius[2] + 1, height = 2 * radius[1] + 1;
    const int32_t step = sign * dilation;
    return {x.item,
            {x.at[0] + step * (int32_t(e / (width * height)) - radius[0]),
             x.at[1] + step * (int32_t(e / width % height) - radius[1]),
             x.at[2] + step * (int32_t(e % width) - radius[2])}};
  }
  L2RFAST_INLINE int32_t clamped(int32_t at, int axis) const {
    return at < 0 ? 0 : at >= size[axis] ? size[axis] - 1 : at;
  }
  template <class R>
  L2RFAST_INLINE R cost(R f, R m) const {
    return for_metric(metric, [&](auto constant) { return measured<decltype(constant)::value>(f, m); });
  }
  // Its derivatives by both, times g.
  template <class R>
  L2RFAST_INLINE void slopes(R g, R f, R m, R& to_f, R& to_m) const {
    for_metric(metric, [&](auto constant) { differentiated<decltype(constant)::value>(g, f, m, to_f, to_m); });
  }
  // A channel of moving.
  template <class T>
  L2RFAST_INLINE Sum<T> at(const T* channel, const Voxel<3>& x) const {
    if (inside(x)) return Sum<T>(fetch(channel + flat(x)));
    if (!border) return 0;
    return Sum<T>(fetch(channel + flat({x.item, {clamped(x.at[0], 0), clamped(x.at[1], 1), clamped(x.at[2], 2)}})));
  }
};

// Items are displacements of items of the batch.
template <class T, class To>
struct Costs {
  static constexpr int ndim = 3, resident = sizeof(T) == 8 ? 3 : 4;
  Search s;
  const T *fixed, *moving;
  To* result;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    const Voxel<3> there = s.moved(x, x.item % s.displacements, 1);
    const int64_t first = x.item / s.displacements * s.channels * s.volume();
    Sum<T> total = 0;
    for (int64_t c = 0; c < s.channels; ++c) {
      const int64_t channel = first + c * s.volume();
      const Sum<T> f = Sum<T>(fetch(fixed + channel + s.flat(x))), m = s.at(moving + channel, there);
      total += s.cost(f, m);
    }
    result[x.item * s.volume() + s.flat(x)] = To(total);
  }
};

// Items are channels of items of the batch.
template <class G, class T>
struct ToFixed {
  static constexpr int ndim = 3, resident = 4;
  Search s;
  const G* grad;
  const T *fixed, *moving;
  Sum<T>* result;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    const int64_t at = s.flat(x), channel = x.item * s.volume();
    const G* costs = grad + x.item / s.channels * s.displacements * s.volume() + at;
    const Sum<T> f = Sum<T>(fetch(fixed + channel + at));
    Sum<T> total = 0;
    for (int64_t e = 0; e < s.displacements; ++e) {
      Sum<T> share, other;
      s.slopes(Sum<T>(fetch(costs + e * s.volume())), f, s.at(moving + channel, s.moved(x, e, 1)), share, other);
      total += share;
    }
    result[channel + at] = total;
  }
};

template <class G, class T>
struct ToMoving {
  static constexpr int ndim = 3, resident = 3;
  Search s;
  const G* grad;
  const T *fixed, *moving;
  Sum<T>* result;

  // The places that take the value of this voxel: itself and, where the border is repeated, those beyond.
  L2RFAST_INLINE int32_t first(const Voxel<3>& x, int axis) const {
    return s.border && x.at[axis] == 0 ? -s.radius[axis] * s.dilation : x.at[axis];
  }
  L2RFAST_INLINE int32_t last(const Voxel<3>& x, int axis) const {
    return s.border && x.at[axis] == s.size[axis] - 1 ? x.at[axis] + s.radius[axis] * s.dilation : x.at[axis];
  }

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    const int64_t at = s.flat(x), channel = x.item * s.volume();
    const G* costs = grad + x.item / s.channels * s.displacements * s.volume();
    const Sum<T> m = Sum<T>(fetch(moving + channel + at));
    Sum<T> total = 0;
    for (int32_t z = first(x, 0); z <= last(x, 0); ++z)
      for (int32_t y = first(x, 1); y <= last(x, 1); ++y)
        for (int32_t i = first(x, 2); i <= last(x, 2); ++i)
          for (int64_t e = 0; e < s.displacements; ++e) {
            const Voxel<3> from = s.moved({x.item, {z, y, i}}, e, -1);
            if (!s.inside(from)) continue;
            Sum<T> other, share;
            s.slopes(Sum<T>(fetch(costs + e * s.volume() + s.flat(from))),
                     Sum<T>(fetch(fixed + channel + s.flat(from))), m, other, share);
            total += share;
          }
    result[channel + at] = total;
  }
};

// Averages of volumes of type T, once at least where T is not R.
template <class R, class T = R>
Tensor smoothed(Tensor volumes, const Search& s, const Extent& extent, int64_t passes) {
  for (int64_t i = 0; i < passes; ++i) {
    const Tensor next = torch::stable::new_empty(volumes, shape_of(volumes), dtype_of<R>);
    if (i == 0)
      each_voxel(Averages<T, R>{s, read<T>(volumes), write<R>(next)}, extent, volumes);
    else
      each_voxel(Averages<R, R>{s, read<R>(volumes), write<R>(next)}, extent, volumes);
    volumes = next;
  }
  return volumes;
}

Tensor correlation(const Tensor& fixed_, const Tensor& moving_, std::vector<int64_t> radius, int64_t dilation,
                   std::string padding, int64_t smoothing, std::string metric) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_);
  const Search s(fixed, radius, dilation, padding, metric);
  std::vector<int64_t> shape = {fixed.size(0)};
  for (const int64_t r : radius) shape.push_back(2 * r + 1);
  for (int64_t k = 2; k < fixed.dim(); ++k) shape.push_back(fixed.size(k));
  const Tensor result = empty_as(fixed, shape);
  const Extent extent = s.extent(fixed.size(0) * s.displacements);
  for_floating(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    if (smoothing == 0) {
      each_voxel(Costs<T, T>{s, read<T>(fixed), read<T>(moving), write<T>(result)}, extent, fixed);
      return;
    }
    const Tensor costs = torch::stable::new_empty(fixed, shape, dtype_of<R>);
    each_voxel(Costs<T, R>{s, read<T>(fixed), read<T>(moving), write<R>(costs)}, extent, fixed);
    const Tensor averages = smoothed<R>(costs, s, extent, smoothing - 1);
    each_voxel(Averages<R, T>{s, read<R>(averages), write<T>(result)}, extent, fixed);
  });
  return result;
}

std::tuple<Tensor, Tensor> correlation_backward(const Tensor& grad_, const Tensor& fixed_, const Tensor& moving_,
                                                std::vector<int64_t> radius, int64_t dilation, std::string padding,
                                                int64_t smoothing, std::string metric, bool to_fixed, bool to_moving) {
  const Tensor grad = packed(grad_), fixed = packed(fixed_), moving = packed(moving_);
  const Search s(fixed, radius, dilation, padding, metric);
  const Extent extent = s.extent(fixed.size(0) * fixed.size(1));
  Tensor by_fixed, by_moving;
  for_floating(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const auto room = [](bool asked, const Tensor& like) {
      return torch::stable::new_empty(like, asked ? shape_of(like) : std::vector<int64_t>{0}, dtype_of<R>);
    };
    by_fixed = room(to_fixed, fixed), by_moving = room(to_moving, moving);
    const auto run = [&]<class G>(const G* g) {
      const T *f = read<T>(fixed), *m = read<T>(moving);
      if (to_fixed) each_voxel(ToFixed<G, T>{s, g, f, m, write<R>(by_fixed)}, extent, fixed);
      if (to_moving) each_voxel(ToMoving<G, T>{s, g, f, m, write<R>(by_moving)}, extent, fixed);
    };
    if (smoothing == 0) return run(read<T>(grad));
    const Tensor costs = smoothed<R, T>(grad, s, s.extent(fixed.size(0) * s.displacements), smoothing);
    run(read<R>(costs));
  });
  return {by_fixed, by_moving};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("correlation", TORCH_BOX(&correlation));
  m.impl("correlation_backward", TORCH_BOX(&correlation_backward));
}

}  // namespace l2rfast
