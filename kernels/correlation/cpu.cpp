// Dense displacement correlation on the CPU.
//
// Floor: the features are read once, the cost volume is written once; per displacement and voxel 2 C
// operations, and 3 ndim for each smoothing. A work item is one displacement: its volume is summed over the
// channels and smoothed while it is in the cache, and written once. Both features are first laid out with the
// same row pitch, moving with its padding, so that a displacement is one offset for a whole plane and every
// loop is long, contiguous and without borders.

#include "common/memory.h"
#include "common/metric.h"
#include "common/smoother.h"
#include "common/tensor.h"
#include "common/text.h"

namespace l2rfast {
namespace {

// Where displacements lead, and how features are laid out: (channels, D, H, W) with room at the end of rows, and moving
// with room on all sides of axes that are searched.
struct Search {
  Grid grid;
  int64_t radius[3] = {}, margin[3] = {}, dilation, channels;
  Outside outside;

  Search(const Tensor& fixed, const std::vector<int64_t>& radii, int64_t dilation, const std::string& padding)
      : grid(grid_of(fixed, fixed.dim() - 2)),
        dilation(dilation),
        channels(fixed.size(1)),
        outside(padding == "zeros" ? Outside::zero : Outside::border) {
    for (size_t k = 0; k < radii.size(); ++k) radius[3 - radii.size() + k] = radii[k];
    for (int k = 0; k < 3; ++k) margin[k] = radius[k] * dilation;
  }

  int64_t width(int k) const { return 2 * radius[k] + 1; }
  int64_t displacements() const { return width(0) * width(1) * width(2); }
  Grid wide() const { return {grid.d + 2 * margin[0], grid.h + 2 * margin[1], grid.w + 2 * margin[2], grid.deep}; }
  int64_t pitch() const { return wide().w; }
  int64_t spaced() const { return grid.rows() * pitch(); }           // numbers of a channel of fixed
  int64_t plane() const { return (grid.h - 1) * pitch() + grid.w; }  // from the first of a plane to its last
  int64_t fixed_at(int64_t c, int64_t z) const { return c * spaced() + z * grid.h * pitch(); }
  int64_t moving_at(int64_t c, int64_t z, int64_t e) const {
    const int64_t dz = e / (width(1) * width(2)) * dilation, dy = e / width(2) % width(1) * dilation;
    return c * wide().numel() + ((z + dz) * wide().h + dy) * pitch() + e % width(2) * dilation;
  }

  // Rows of fixed, or of costs, with that pitch; what stands between them is 0.
  template <class T, class R>
  void space(const T* from, int64_t rows, R* to) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t x = 0; x < pitch(); ++x) to[i * pitch() + x] = x < grid.w ? R(from[i * grid.w + x]) : R(0);
  }

  // A channel of moving with its margins.
  template <class T, class R>
  void pad(const T* from, R* to) const {
    const Grid w = wide();
    for (int64_t z = -margin[0]; z < grid.d + margin[0]; ++z)
      for (int64_t y = -margin[1]; y < grid.h + margin[1]; ++y, to += w.w) {
        const bool inside = z >= 0 && z < grid.d && y >= 0 && y < grid.h;
        if (!inside && outside == Outside::zero) {
          std::fill_n(to, w.w, R(0));
          continue;
        }
        const T* row = from + source(z, y);
        for (int64_t x = 0; x < margin[2]; ++x) {
          to[x] = outside == Outside::zero ? R(0) : R(row[0]);
          to[margin[2] + grid.w + x] = outside == Outside::zero ? R(0) : R(row[grid.w - 1]);
        }
        for (int64_t x = 0; x < grid.w; ++x) to[margin[2] + x] = R(row[x]);
      }
  }

  // Its adjoint, onto zeros.
  template <class R>
  void gather(const R* from, R* to) const {
    for (int64_t z = -margin[0]; z < grid.d + margin[0]; ++z)
      for (int64_t y = -margin[1]; y < grid.h + margin[1]; ++y, from += pitch()) {
        const bool inside = z >= 0 && z < grid.d && y >= 0 && y < grid.h;
        if (!inside && outside == Outside::zero) continue;
        R* row = to + source(z, y);
        for (int64_t x = 0; x < grid.w; ++x) row[x] += from[margin[2] + x];
        for (int64_t x = 0; x < margin[2] && outside == Outside::border; ++x) {
          row[0] += from[x];
          row[grid.w - 1] += from[margin[2] + grid.w + x];
        }
      }
  }

 private:
  // The row of the image that stands for one outside.
  int64_t source(int64_t z, int64_t y) const {
    return (std::clamp<int64_t>(z, 0, grid.d - 1) * grid.h + std::clamp<int64_t>(y, 0, grid.h - 1)) * grid.w;
  }
};

// Adds the costs of several channels, the sums of which stay in registers meanwhile.
template <Metric metric, int together, class R>
void add_costs(const R* __restrict f, int64_t next_f, const R* __restrict m, int64_t next_m, R* __restrict to,
               int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    R total = to[i];
    for (int k = 0; k < together; ++k) total += measured<metric>(f[k * next_f + i], m[k * next_m + i]);
    to[i] = total;
  }
}

template <Metric metric, class T>
void correlate(const Search& s, const T* fixed, const T* moving, int64_t smoothing, T* result) {
  using R = Sum<T>;
  const Grid grid = s.grid;
  std::vector<R> padded(s.channels * s.wide().numel()), spaced(s.channels * s.spaced());
  parallel_each(s.channels, [&](int64_t c) {
    s.pad(moving + c * grid.numel(), padded.data() + c * s.wide().numel());
    s.space(fixed + c * grid.numel(), grid.rows(), spaced.data() + c * s.spaced());
  });
  parallel_runs(s.displacements(), [&](int64_t begin, int64_t end) {
    std::vector<R> sum(s.plane()), cost(grid.numel());
    Smoother<R> smoother(grid, 1, smoothing, Outside::zero);
    for (int64_t e = begin; e < end; ++e) {
      for (int64_t z = 0; z < grid.d; ++z) {
        std::fill(sum.begin(), sum.end(), R(0));
        const auto add = [&](auto together, int64_t c) {
          add_costs<metric, together>(spaced.data() + s.fixed_at(c, z), s.spaced(),
                                      padded.data() + s.moving_at(c, z, e), s.wide().numel(), sum.data(), s.plane());
        };
        int64_t c = 0;
        for (; c + 4 <= s.channels; c += 4) add(std::integral_constant<int, 4>{}, c);
        for (; c < s.channels; ++c) add(std::integral_constant<int, 1>{}, c);
        for (int64_t y = 0; y < grid.h; ++y)
          std::copy_n(sum.data() + y * s.pitch(), grid.w, cost.data() + (z * grid.h + y) * grid.w);
      }
      smoother(cost.data());
      T* to = result + e * grid.numel();
      for (int64_t i = 0; i < grid.numel(); ++i) to[i] = T(cost[i]);
    }
  });
}

// The gradients of a channel, onto zeros.
template <Metric metric, class G, class T>
void differentiate(const Search& s, const G* grad, const T* fixed, const T* moving, Sum<T>* to_fixed,
                   Sum<T>* to_moving) {
  using R = Sum<T>;
  const Grid grid = s.grid;
  const int64_t row = s.grid.h * s.pitch();
  std::vector<R> padded(s.wide().numel()), by_padded(padded.size()), spaced(s.spaced()), by_spaced(spaced.size());
  std::vector<R> costs(row);
  s.pad(moving, padded.data());
  s.space(fixed, grid.rows(), spaced.data());
  for (int64_t e = 0; e < s.displacements(); ++e)
    for (int64_t z = 0; z < grid.d; ++z) {
      s.space(grad + (e * grid.d + z) * grid.h * grid.w, grid.h, costs.data());
      const R *f = spaced.data() + s.fixed_at(0, z), *m = padded.data() + s.moving_at(0, z, e), *g = costs.data();
      R* __restrict to_f = by_spaced.data() + s.fixed_at(0, z);
      R* __restrict to_m = by_padded.data() + s.moving_at(0, z, e);
      for (int64_t i = 0, n = s.plane(); i < n; ++i) {
        R share_f, share_m;
        differentiated<metric>(g[i], f[i], m[i], share_f, share_m);
        to_f[i] += share_f, to_m[i] += share_m;
      }
    }
  for (int64_t i = 0; to_fixed && i < grid.rows(); ++i)
    std::copy_n(by_spaced.data() + i * s.pitch(), grid.w, to_fixed + i * grid.w);
  if (to_moving) s.gather(by_padded.data(), to_moving);
}

Tensor correlation(const Tensor& fixed_, const Tensor& moving_, std::vector<int64_t> radius, int64_t dilation,
                   Text padding, int64_t smoothing, Text metric_) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_);
  const int64_t batch = fixed.size(0);
  const Search s(fixed, radius, dilation, padding);
  std::vector<int64_t> shape = {batch};
  for (const int64_t r : radius) shape.push_back(2 * r + 1);
  for (int64_t k = 2; k < fixed.dim(); ++k) shape.push_back(fixed.size(k));
  const Tensor result = room_as(fixed, shape);
  for_metric(metric_of(metric_), [&](auto metric) {
    for_floating(fixed.scalar_type(), [&](auto t) {
      using T = decltype(t);
      const int64_t volume = s.channels * s.grid.numel();
      for (int64_t n = 0; n < batch; ++n)
        correlate<decltype(metric)::value>(s, read<T>(fixed) + n * volume, read<T>(moving) + n * volume, smoothing,
                                           write<T>(result) + n * (result.numel() / batch));
    });
  });
  return result;
}

// Averages of volumes are their own adjoint.
template <class T>
Tensor smoothed(const Tensor& grad, Grid grid, int64_t passes) {
  using R = Sum<T>;
  const Tensor result = torch::stable::new_empty(grad, shape_of(grad), dtype_of<R>);
  const int64_t volume = grid.numel();
  parallel_runs(grad.numel() / volume, [&](int64_t begin, int64_t end) {
    Smoother<R> smoother(grid, 1, passes, Outside::zero);
    for (int64_t e = begin; e < end; ++e) {
      const T* from = read<T>(grad) + e * volume;
      R* to = write<R>(result) + e * volume;
      for (int64_t i = 0; i < volume; ++i) to[i] = R(from[i]);
      smoother(to);
    }
  });
  return result;
}

std::tuple<Tensor, Tensor> correlation_backward(const Tensor& grad_, const Tensor& fixed_, const Tensor& moving_,
                                                std::vector<int64_t> radius, int64_t dilation, Text padding,
                                                int64_t smoothing, Text metric_, bool to_fixed, bool to_moving) {
  const Tensor grad = packed(grad_), fixed = packed(fixed_), moving = packed(moving_);
  const Search s(fixed, radius, dilation, padding);
  Tensor by_fixed, by_moving;
  for_metric(metric_of(metric_), [&](auto metric) {
    for_floating(fixed.scalar_type(), [&](auto t) {
      using T = decltype(t);
      using R = Sum<T>;
      const auto room = [](bool asked, const Tensor& like) {
        return torch::stable::new_zeros(like, asked ? shape_of(like) : std::vector<int64_t>{0}, dtype_of<R>);
      };
      by_fixed = room(to_fixed, fixed), by_moving = room(to_moving, moving);
      const auto run = [&](const auto* costs) {
        const int64_t volume = s.grid.numel();
        // Of a channel each: no two threads add to the same number.
        parallel_each(fixed.size(0) * s.channels, [&](int64_t i) {
          differentiate<decltype(metric)::value>(s, costs + i / s.channels * s.displacements() * volume,
                                                 read<T>(fixed) + i * volume, read<T>(moving) + i * volume,
                                                 to_fixed ? write<R>(by_fixed) + i * volume : nullptr,
                                                 to_moving ? write<R>(by_moving) + i * volume : nullptr);
        });
      };
      if (smoothing == 0) return run(read<T>(grad));
      const Tensor costs = smoothed<T>(grad, s.grid, smoothing);
      run(read<R>(costs));
    });
  });
  return {by_fixed, by_moving};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("correlation", TORCH_BOX(&correlation));
  m.impl("correlation_backward", TORCH_BOX(&correlation_backward));
}

}  // namespace l2rfast
