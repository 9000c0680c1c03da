// Correlation over a lattice of displacements on the CPU.
//
// Samples lie on a tensor product of positions: a row of moving is sampled along x once for every control point and
// displacement of that axis, and all that lies on that row shares it. A sample then takes four such rows, of which the
// control points of a row are contiguous: no gathers. Samples along x are made for one displacement of that axis at a
// time, which the cache holds.
//
// Floor: features are read once, the cost volume is written once; per displacement, control point and channel four
// multiplications and additions for the sample and one for the metric, which take longer.

#include "common/interpolation.h"
#include "common/tensor.h"
#include "common/text.h"
#include "common/vectors.h"

namespace l2rfast {
namespace {

// Samples of an axis: those of displacement s at control point g.
template <class R>
struct Axis {
  int64_t points = 1, shifts = 1, size = 1;
  std::vector<Taps<R, int64_t>> taps = {{0, 1, 0, 0, 0}};

  int64_t step() const { return size > 1; }
  const Taps<R, int64_t>& at(int64_t s, int64_t g) const { return taps[s * points + g]; }
};

template <class T>
struct Lattice {
  using R = Sum<T>;
  using V = Vector<R>;
  static constexpr int64_t kLine = 64 / sizeof(R);  // rows of control points are padded to whole cache lines

  Axis<R> z, y, x;
  int64_t batch, channels, pitch;
  bool dot;

  Lattice(const Tensor& fixed, const Tensor& moving, const std::vector<double>& points,
          const std::vector<double>& shifts, const std::vector<int64_t>& search, const std::string& metric)
      : batch(fixed.size(0)), channels(fixed.size(1)), dot(metric == "dot") {
    const int64_t ndim = fixed.dim() - 2;
    Axis<R>* axes[] = {&z, &y, &x};
    const double *p = points.data(), *d = shifts.data();
    for (int64_t k = 0; k < ndim; ++k) {
      Axis<R>& axis = *axes[3 - ndim + k];
      axis = {fixed.size(2 + k), search[k], moving.size(2 + k), {}};
      for (int64_t s = 0; s < axis.shifts; ++s)
        for (int64_t g = 0; g < axis.points; ++g)
          axis.taps.push_back(linear_taps<Padding::border>(R(p[g] + d[s]), axis.size));
      p += axis.points, d += axis.shifts;
    }
    pitch = (x.points + kLine - 1) / kLine * kLine;
  }

  int64_t volume() const { return z.size * y.size * x.size; }
  int64_t points() const { return z.points * y.points * x.points; }
  int64_t entries() const { return z.shifts * y.shifts * x.shifts * points(); }
  // Of the first control point of a row, displaced.
  int64_t entry(int64_t sz, int64_t sy, int64_t sx, int64_t gz, int64_t gy) const {
    return (((sz * y.shifts + sy) * x.shifts + sx) * z.points + gz) * y.points * x.points + gy * x.points;
  }
  int64_t row(int64_t gz, int64_t gy) const { return (gz * y.points + gy) * pitch; }

  // Channels [first, first + count) of control points, rows of `pitch`: (gz, gy, c, gx).
  Aligned<R> fixed_rows(const T* fixed, int64_t first, int64_t count) const {
    Aligned<R> rows(z.points * y.points * count * pitch);
    for (int64_t i = 0; i < z.points * y.points; ++i)
      for (int64_t c = 0; c < count; ++c)
        for (int64_t g = 0; g < x.points; ++g)
          rows[(i * count + c) * pitch + g] = R(fixed[(first + c) * points() + i * x.points + g]);
    return rows;
  }

  // Rows of planes [begin, end) of moving, sampled along x for one displacement: (z, y, c, gx).
  void sample(const T* moving, int64_t first, int64_t count, int64_t sx, int64_t begin, int64_t end, R* to) const {
    for (int64_t i = begin * y.size; i < end * y.size; ++i)
      for (int64_t c = 0; c < count; ++c, to += pitch) {
        const T* from = moving + (first + c) * volume() + i * x.size;
        for (int64_t g = 0; g < x.points; ++g) {
          const Taps<R, int64_t>& t = x.at(sx, g);
          to[g] = t.w0 * R(from[t.base]) + t.w1 * R(from[t.base + x.step()]);
        }
      }
  }

  // Four rows (c, gx) that a sample is made of, and their weights; `first`: that of the planes sampled.
  struct Four {
    int64_t at[4];
    R weight[4];
  };
  Four four(int64_t sz, int64_t gz, int64_t sy, int64_t gy, int64_t first, int64_t count) const {
    const auto &tz = z.at(sz, gz), &ty = y.at(sy, gy);
    const auto at = [&](int64_t iz, int64_t iy) { return ((iz - first) * y.size + iy) * count * pitch; };
    const int64_t z1 = tz.base + z.step(), y1 = ty.base + y.step();
    return {{at(tz.base, ty.base), at(tz.base, y1), at(z1, ty.base), at(z1, y1)},
            {tz.w0 * ty.w0, tz.w0 * ty.w1, tz.w1 * ty.w0, tz.w1 * ty.w1}};
  }

  L2RFAST_INLINE static V sampled(const R* rows, const Four& f) {
    V value = f.weight[0] * load(rows + f.at[0]);
    for (int k = 1; k < 4; ++k) value += f.weight[k] * load(rows + f.at[k]);
    return value;
  }
};

constexpr int64_t kPlanes = 8;  // of control points, of a work item

template <class T>
void correlate(const Lattice<T>& l, const T* fixed, const T* moving, T* cost) {
  using R = Sum<T>;
  const int64_t pieces = (l.z.points + kPlanes - 1) / kPlanes, items = pieces * l.x.shifts;
  const Aligned<R> f = l.fixed_rows(fixed, 0, l.channels);
  parallel_runs(items, [&](int64_t begin, int64_t end) {
    Aligned<R> rows, sums(l.pitch);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sx = item / pieces, first = item % pieces * kPlanes, last = std::min(first + kPlanes, l.z.points);
      int64_t low = l.z.size, high = 0;  // the planes that these control points sample
      for (int64_t s = 0; s < l.z.shifts; ++s)
        for (int64_t g = first; g < last; ++g) {
          low = std::min(low, l.z.at(s, g).base);
          high = std::max(high, l.z.at(s, g).base + l.z.step() + 1);
        }
      rows.resize((high - low) * l.y.size * l.channels * l.pitch);
      l.sample(moving, 0, l.channels, sx, low, high, rows.data());
      for (int64_t gz = first; gz < last; ++gz)
        for (int64_t gy = 0; gy < l.y.points; ++gy)
          for (int64_t sz = 0; sz < l.z.shifts; ++sz)
            for (int64_t sy = 0; sy < l.y.shifts; ++sy) {
              const auto four = l.four(sz, gz, sy, gy, low, l.channels);
              const R* own = f.data() + l.row(gz, gy) * l.channels;
              for (int64_t g = 0; g < l.pitch; g += kLanes<R>) {
                Vector<R> sum = {};
                for (int64_t c = 0; c < l.channels; ++c) {
                  const Vector<R> a = load(own + c * l.pitch + g), b = l.sampled(rows.data() + c * l.pitch + g, four);
                  sum += l.dot ? a * b : (a - b) * (a - b);
                }
                store(sums.data() + g, sum);
              }
              T* to = cost + l.entry(sz, sy, sx, gz, gy);
              for (int64_t g = 0; g < l.x.points; ++g) to[g] = T(sums[g]);
            }
    }
  });
}

// The gradients of a channel.
template <class T>
void differentiate(const Lattice<T>& l, const T* grad, const T* fixed, const T* moving, int64_t c, Sum<T>* to_fixed,
                   Sum<T>* to_moving) {
  using R = Sum<T>;
  using V = Vector<R>;
  const Aligned<R> f = l.fixed_rows(fixed, c, 1);
  Aligned<R> rows(l.z.size * l.y.size * l.pitch), to_rows(rows.size()), to_f(f.size()), g(l.pitch);
  for (int64_t sx = 0; sx < l.x.shifts; ++sx) {
    l.sample(moving, c, 1, sx, 0, l.z.size, rows.data());
    std::fill(to_rows.begin(), to_rows.end(), R(0));
    for (int64_t gz = 0; gz < l.z.points; ++gz)
      for (int64_t gy = 0; gy < l.y.points; ++gy)
        for (int64_t sz = 0; sz < l.z.shifts; ++sz)
          for (int64_t sy = 0; sy < l.y.shifts; ++sy) {
            const T* from = grad + l.entry(sz, sy, sx, gz, gy);
            for (int64_t i = 0; i < l.x.points; ++i) g[i] = R(from[i]);
            const auto four = l.four(sz, gz, sy, gy, 0, 1);
            for (int64_t i = 0; i < l.pitch; i += kLanes<R>) {
              const V a = load(f.data() + l.row(gz, gy) + i), b = l.sampled(rows.data() + i, four);
              const V scale = load(g.data() + i), along = 2 * scale * (a - b);
              R* sum = to_f.data() + l.row(gz, gy) + i;
              store(sum, load(sum) + (l.dot ? scale * b : along));
              const V share = l.dot ? scale * a : -along;
              for (int k = 0; to_moving && k < 4; ++k) {
                R* to = to_rows.data() + four.at[k] + i;
                store(to, load(to) + four.weight[k] * share);
              }
            }
          }
    for (int64_t i = 0; to_moving && i < l.z.size * l.y.size; ++i)
      for (int64_t p = 0; p < l.x.points; ++p) {
        const Taps<R, int64_t>& t = l.x.at(sx, p);
        R* to = to_moving + c * l.volume() + i * l.x.size + t.base;
        to[0] += t.w0 * to_rows[i * l.pitch + p];
        to[l.x.step()] += t.w1 * to_rows[i * l.pitch + p];
      }
  }
  for (int64_t i = 0; to_fixed && i < l.z.points * l.y.points; ++i)
    std::copy_n(to_f.data() + i * l.pitch, l.x.points, to_fixed + c * l.points() + i * l.x.points);
}

Tensor lattice_correlation(const Tensor& fixed_, const Tensor& moving_, std::vector<double> points,
                           std::vector<double> shifts, std::vector<int64_t> search, Text metric) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_);
  std::vector<int64_t> shape = {fixed.size(0)};
  shape.insert(shape.end(), search.begin(), search.end());
  for (int64_t k = 2; k < fixed.dim(); ++k) shape.push_back(fixed.size(k));
  const Tensor cost = empty_as(fixed, shape);
  for_floating(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const Lattice<T> l(fixed, moving, points, shifts, search, metric);
    for (int64_t n = 0; n < l.batch; ++n)
      correlate(l, read<T>(fixed) + n * l.channels * l.points(), read<T>(moving) + n * l.channels * l.volume(),
                write<T>(cost) + n * l.entries());
  });
  return cost;
}

std::tuple<Tensor, Tensor> lattice_correlation_backward(const Tensor& grad_, const Tensor& fixed_,
                                                        const Tensor& moving_, std::vector<double> points,
                                                        std::vector<double> shifts, std::vector<int64_t> search,
                                                        Text metric, bool to_fixed, bool to_moving) {
  const Tensor grad = packed(grad_), fixed = packed(fixed_), moving = packed(moving_);
  Tensor by_fixed, by_moving;
  for_floating(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const auto room = [](bool asked, const Tensor& like) {
      return torch::stable::new_zeros(like, asked ? shape_of(like) : std::vector<int64_t>{0}, dtype_of<R>);
    };
    by_fixed = room(to_fixed, fixed), by_moving = room(to_moving, moving);
    const Lattice<T> l(fixed, moving, points, shifts, search, metric);
    // Of a channel each: no two threads add to the same number.
    parallel_each(l.batch * l.channels, [&](int64_t i) {
      const int64_t n = i / l.channels, in_fixed = n * l.channels * l.points(), in_moving = n * l.channels * l.volume();
      differentiate(l, read<T>(grad) + n * l.entries(), read<T>(fixed) + in_fixed, read<T>(moving) + in_moving,
                    i % l.channels, to_fixed ? write<R>(by_fixed) + in_fixed : nullptr,
                    to_moving ? write<R>(by_moving) + in_moving : nullptr);
    });
  });
  return {by_fixed, by_moving};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("lattice_correlation", TORCH_BOX(&lattice_correlation));
  m.impl("lattice_correlation_backward", TORCH_BOX(&lattice_correlation_backward));
}

}  // namespace l2rfast
