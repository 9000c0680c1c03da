// Correlation over a lattice of displacements on the GPU.
//
// As on the CPU, moving is sampled along x once for every control point and displacement of that axis, for one such
// displacement at a time, which the L2 cache holds. A thread then computes a cost from four such rows, neighbours
// beside each other. Going back every number is gathered by one thread: tables say, for a voxel of an axis, which
// control points take it by a displacement, and with what weight. No atomics: the same bits every run.
//
// Floor: features are read once, the cost volume is written once, 4 bytes an entry of float32. Here rows are written
// and read besides, once for a displacement along x, and an entry takes 5 C loads, nearly all from the caches.

#include "common/launch.cuh"
#include "common/metric.h"

namespace l2rfast {
namespace {

// Samples of an axis: those of displacement s at control point g. Tables lie on the device.
template <class R>
struct Axis {
  int32_t points = 1, shifts = 1, size = 1;
  const int32_t* bases;  // (shifts, points), of the first voxel
  const R* weights;      // (shifts, points), of the second
  // Of a gradient: samples that take voxel i by displacement s are those from starts[s * size + i] on.
  const int32_t *starts, *takers;
  const R* shares;

  // The first voxel's place, the second's, and its weight.
  struct Tap {
    int64_t first, second;
    R weight;
  };
  L2RFAST_INLINE Tap at(int32_t s, int32_t g) const {
    const int64_t base = fetch(bases + s * points + g);
    return {base, base + (size > 1), fetch(weights + s * points + g)};
  }
  // f(control point, weight)
  template <class F>
  L2RFAST_INLINE void each_taker(int32_t s, int32_t i, const F& f) const {
    const int32_t* start = starts + s * size + i;
    for (int32_t k = fetch(start); k < fetch(start + 1); ++k) f(fetch(takers + k), fetch(shares + k));
  }
};

template <class T>
struct Lattice {
  using R = Sum<T>;
  Axis<R> z, y, x;
  int64_t channels;
  Metric metric;

  L2RFAST_INLINE int64_t points() const { return int64_t(z.points) * y.points * x.points; }
  L2RFAST_INLINE int64_t point(int32_t gz, int32_t gy, int32_t gx) const {
    return (int64_t(gz) * y.points + gy) * x.points + gx;
  }
  L2RFAST_INLINE int64_t volume() const { return rows() * x.size; }
  L2RFAST_INLINE int64_t rows() const { return int64_t(z.size) * y.size; }
  L2RFAST_INLINE int64_t row(int64_t iz, int64_t iy) const { return iz * y.size + iy; }
  L2RFAST_INLINE int64_t entry(int64_t n, int32_t sz, int32_t sy, int32_t sx, int64_t point) const {
    return (((n * z.shifts + sz) * y.shifts + sy) * x.shifts + sx) * points() + point;
  }

  // Four rows that a sample is made of, and their weights.
  struct Four {
    int64_t at[4];
    R weight[4];

    L2RFAST_INLINE R sampled(const R* rows) const {
      R value = 0;
      each_axis<4>([&](auto k) { value += weight[k] * fetch(rows + at[k]); });
      return value;
    }
  };
  L2RFAST_INLINE Four four(int32_t sz, int32_t gz, int32_t sy, int32_t gy, int32_t gx) const {
    const auto tz = z.at(sz, gz), ty = y.at(sy, gy);
    const auto at = [&](int64_t iz, int64_t iy) { return row(iz, iy) * x.points + gx; };
    const R wz = 1 - tz.weight, wy = 1 - ty.weight;
    return {{at(tz.first, ty.first), at(tz.first, ty.second), at(tz.second, ty.first), at(tz.second, ty.second)},
            {wz * wy, wz * ty.weight, tz.weight * wy, tz.weight * ty.weight}};
  }
  // The derivatives of a cost by both features, times g.
  L2RFAST_INLINE void slopes(R g, R f, R m, R& to_f, R& to_m) const {
    for_metric(metric, [&](auto constant) { differentiated<decltype(constant)::value>(g, f, m, to_f, to_m); });
  }
};

// Rows of moving, sampled along x. Items are channels of items of the batch, here and below.
template <class T>
struct Rows {
  static constexpr int ndim = 3, resident = 4;
  Lattice<T> l;
  int32_t sx;
  const T* moving;
  Sum<T>* rows;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    using R = Sum<T>;
    const int64_t row = x.item * l.rows() + l.row(x.at[0], x.at[1]);
    const auto tap = l.x.at(sx, x.at[2]);
    const T* from = moving + row * l.x.size;
    rows[row * l.x.points + x.at[2]] =
        (1 - tap.weight) * R(fetch(from + tap.first)) + tap.weight * R(fetch(from + tap.second));
  }
};

// Items are displacements along z and y of items of the batch.
template <class T>
struct Costs {
  static constexpr int ndim = 3, resident = sizeof(T) == 8 ? 2 : 3;
  Lattice<T> l;
  int32_t sx;
  const T* fixed;
  const Sum<T>* rows;
  T* cost;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    using R = Sum<T>;
    const int32_t sy = int32_t(x.item % l.y.shifts), sz = int32_t(x.item / l.y.shifts % l.z.shifts);
    const int64_t n = x.item / l.y.shifts / l.z.shifts, point = l.point(x.at[0], x.at[1], x.at[2]);
    const auto four = l.four(sz, x.at[0], sy, x.at[1], x.at[2]);
    R total = 0;
    for (int64_t c = n * l.channels; c < (n + 1) * l.channels; ++c) {
      const R f = R(fetch(fixed + c * l.points() + point)), m = four.sampled(rows + c * l.rows() * l.x.points);
      total += for_metric(l.metric, [&](auto constant) { return measured<decltype(constant)::value>(f, m); });
    }
    cost[l.entry(n, sz, sy, sx, point)] = T(total);
  }
};

// Adds what a displacement along x has, to what those before it had.
template <class T>
struct ToFixed {
  static constexpr int ndim = 3, resident = sizeof(T) == 8 ? 2 : 4;
  Lattice<T> l;
  int32_t sx;
  const T *grad, *fixed;
  const Sum<T>* rows;
  Sum<T>* result;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    using R = Sum<T>;
    const int64_t n = x.item / l.channels, point = l.point(x.at[0], x.at[1], x.at[2]);
    const int64_t at = x.item * l.points() + point;
    const R f = R(fetch(fixed + at)), *own = rows + x.item * l.rows() * l.x.points;
    R total = sx == 0 ? R(0) : result[at];
    for (int32_t sz = 0; sz < l.z.shifts; ++sz)
      for (int32_t sy = 0; sy < l.y.shifts; ++sy) {
        const R g = R(fetch(grad + l.entry(n, sz, sy, sx, point)));
        R share, other;
        l.slopes(g, f, l.four(sz, x.at[0], sy, x.at[1], x.at[2]).sampled(own), share, other);
        total += share;
      }
    result[at] = total;
  }
};

// The gradient to rows.
template <class T>
struct ToRows {
  static constexpr int ndim = 3, resident = 3;
  Lattice<T> l;
  int32_t sx;
  const T *grad, *fixed;
  const Sum<T>* rows;
  Sum<T>* result;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    using R = Sum<T>;
    const int64_t n = x.item / l.channels, first = x.item * l.rows() * l.x.points;
    const int32_t gx = x.at[2];
    R total = 0;
    for (int32_t sz = 0; sz < l.z.shifts; ++sz)
      l.z.each_taker(sz, x.at[0], [&](int32_t gz, R wz) {
        for (int32_t sy = 0; sy < l.y.shifts; ++sy)
          l.y.each_taker(sy, x.at[1], [&](int32_t gy, R wy) {
            const int64_t point = l.point(gz, gy, gx);
            const R g = R(fetch(grad + l.entry(n, sz, sy, sx, point)));
            const R f = R(fetch(fixed + x.item * l.points() + point));
            R other, share;
            l.slopes(g, f, l.four(sz, gz, sy, gy, gx).sampled(rows + first), other, share);
            total += wz * wy * share;
          });
      });
    result[first + l.row(x.at[0], x.at[1]) * l.x.points + gx] = total;
  }
};

// From that to moving; adds as ToFixed does.
template <class T>
struct ToMoving {
  static constexpr int ndim = 3, resident = 4;
  Lattice<T> l;
  int32_t sx;
  const Sum<T>* to_rows;
  Sum<T>* result;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    using R = Sum<T>;
    const int64_t row = x.item * l.rows() + l.row(x.at[0], x.at[1]), at = row * l.x.size + x.at[2];
    R total = sx == 0 ? R(0) : result[at];
    l.x.each_taker(sx, x.at[2], [&](int32_t g, R w) { total += w * fetch(to_rows + row * l.x.points + g); });
    result[at] = total;
  }
};

// A lattice and what holds its tables; those of gradients only if `backward`.
template <class T>
struct Tabled {
  using R = Sum<T>;
  Lattice<T> lattice;
  Tensor integers, reals, rows;

  Tabled(const Tensor& fixed, const Tensor& moving, const std::vector<double>& points,
         const std::vector<double>& shifts, const std::vector<int64_t>& search, const std::string& metric,
         bool backward) {
    lattice.channels = fixed.size(1), lattice.metric = metric_of(metric);
    Axis<R>* axes[] = {&lattice.z, &lattice.y, &lattice.x};
    const int64_t absent = 5 - fixed.dim();
    const double none = 0, *p = points.data(), *d = shifts.data();
    std::vector<int32_t> whole;
    std::vector<R> real;
    int64_t places[3][4];  // of each axis' bases, weights, starts and takers
    for (int64_t k = 0; k < 3; ++k) {
      Axis<R>& axis = *axes[k];
      if (k >= absent) {
        axis.points = int32_t(fixed.size(2 + k - absent)), axis.size = int32_t(moving.size(2 + k - absent));
        axis.shifts = int32_t(search[k - absent]);
      }
      std::vector<std::vector<std::pair<int32_t, R>>> taken(axis.shifts * axis.size);
      places[k][0] = int64_t(whole.size()), places[k][1] = int64_t(real.size());
      for (int32_t s = 0; s < axis.shifts; ++s)
        for (int32_t g = 0; g < axis.points; ++g) {
          const double at = k < absent ? none : p[g] + d[s];
          const auto t = linear_taps<Padding::border>(R(at), axis.size);
          whole.push_back(t.base), real.push_back(t.w1);
          taken[s * axis.size + t.base].emplace_back(g, t.w0);
          taken[s * axis.size + t.base + (axis.size > 1)].emplace_back(g, t.w1);
        }
      if (k >= absent) p += axis.points, d += axis.shifts;
      if (!backward) continue;
      places[k][2] = int64_t(whole.size());
      int32_t count = 0;
      for (const auto& voxel : taken) whole.push_back(count), count += int32_t(voxel.size());
      whole.push_back(count);
      places[k][3] = int64_t(real.size());
      for (const auto& voxel : taken)
        for (const auto& [g, weight] : voxel) whole.push_back(g), real.push_back(weight);
    }
    integers = on_device(whole, fixed), reals = on_device(real, fixed);
    for (int k = 0; k < 3; ++k) {
      Axis<R>& axis = *axes[k];
      axis.bases = read<int32_t>(integers) + places[k][0], axis.weights = read<R>(reals) + places[k][1];
      if (!backward) continue;
      axis.starts = read<int32_t>(integers) + places[k][2], axis.shares = read<R>(reals) + places[k][3];
      axis.takers = axis.starts + axis.shifts * axis.size + 1;
    }
    rows = rows_as(fixed);
  }

  Tensor rows_as(const Tensor& fixed) const {
    const auto& [z, y, x, channels, metric] = lattice;
    return torch::stable::new_empty(fixed, {fixed.size(0) * channels, z.size, y.size, x.points}, dtype_of<R>);
  }
  Extent of_points(int64_t items) const {
    const int32_t size[] = {lattice.z.points, lattice.y.points, lattice.x.points};
    return Extent(items, size);
  }
  Extent of_rows(int64_t items) const {
    const int32_t size[] = {lattice.z.size, lattice.y.size, lattice.x.points};
    return Extent(items, size);
  }
  Extent of_voxels(int64_t items) const {
    const int32_t size[] = {lattice.z.size, lattice.y.size, lattice.x.size};
    return Extent(items, size);
  }

  // f(displacement along x) with the rows sampled there.
  template <class F>
  void each_shift(const Tensor& moving, const F& f) const {
    for (int32_t sx = 0; sx < lattice.x.shifts; ++sx) {
      each_voxel(Rows<T>{lattice, sx, read<T>(moving), write<R>(rows)}, of_rows(moving.size(0) * moving.size(1)),
                 moving);
      f(sx);
    }
  }
};

Tensor lattice_correlation(const Tensor& fixed_, const Tensor& moving_, std::vector<double> points,
                           std::vector<double> shifts, std::vector<int64_t> search, std::string metric) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_);
  std::vector<int64_t> shape = {fixed.size(0)};
  shape.insert(shape.end(), search.begin(), search.end());
  for (int64_t k = 2; k < fixed.dim(); ++k) shape.push_back(fixed.size(k));
  const Tensor cost = empty_as(fixed, shape);
  for_floating(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const Tabled<T> on(fixed, moving, points, shifts, search, metric, false);
    const Lattice<T>& l = on.lattice;
    on.each_shift(moving, [&](int32_t sx) {
      each_voxel(Costs<T>{l, sx, read<T>(fixed), read<Sum<T>>(on.rows), write<T>(cost)},
                 on.of_points(fixed.size(0) * l.z.shifts * l.y.shifts), fixed);
    });
  });
  return cost;
}

std::tuple<Tensor, Tensor> lattice_correlation_backward(const Tensor& grad_, const Tensor& fixed_,
                                                        const Tensor& moving_, std::vector<double> points,
                                                        std::vector<double> shifts, std::vector<int64_t> search,
                                                        std::string metric, bool to_fixed, bool to_moving) {
  const Tensor grad = packed(grad_), fixed = packed(fixed_), moving = packed(moving_);
  const int64_t items = fixed.size(0) * fixed.size(1);
  Tensor by_fixed, by_moving;
  for_floating(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const auto room = [](bool asked, const Tensor& like) {
      return torch::stable::new_empty(like, asked ? shape_of(like) : std::vector<int64_t>{0}, dtype_of<R>);
    };
    by_fixed = room(to_fixed, fixed), by_moving = room(to_moving, moving);
    const Tabled<T> on(fixed, moving, points, shifts, search, metric, true);
    const Tensor by_rows = on.rows_as(fixed);
    const Lattice<T>& l = on.lattice;
    const T *g = read<T>(grad), *f = read<T>(fixed);
    const R* rows = read<R>(on.rows);
    on.each_shift(moving, [&](int32_t sx) {
      if (to_fixed) each_voxel(ToFixed<T>{l, sx, g, f, rows, write<R>(by_fixed)}, on.of_points(items), fixed);
      if (!to_moving) return;
      each_voxel(ToRows<T>{l, sx, g, f, rows, write<R>(by_rows)}, on.of_rows(items), fixed);
      each_voxel(ToMoving<T>{l, sx, read<R>(by_rows), write<R>(by_moving)}, on.of_voxels(items), fixed);
    });
  });
  return {by_fixed, by_moving};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("lattice_correlation", TORCH_BOX(&lattice_correlation));
  m.impl("lattice_correlation_backward", TORCH_BOX(&lattice_correlation_backward));
}

}  // namespace l2rfast
