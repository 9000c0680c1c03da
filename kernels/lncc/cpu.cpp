// Squared local normalised cross-correlation and its gradients on the CPU.
//
// Floor: both images are read once and each gradient is written once; 5 window sums a voxel, 3 more for one
// gradient and 5 for both. Two passes: the first makes the window statistics of a row of windows and from
// them what the gradients sum over (3 volumes for one gradient, 5 for both: the only extra memory), the
// second sums. Images are shifted by their mean as they are read: the variances are differences of sums,
// which lose all digits where the intensities are large beside their local variation.

#include "common/box_sums.h"

namespace l2rfast {
namespace {

template <class T>
double mean(const T* v, int64_t n) {
  constexpr int64_t run = 1 << 14;
  std::vector<double> partial((n + run - 1) / run);
  parallel_each(int64_t(partial.size()), [&](int64_t i) {
    const int64_t end = std::min(n, (i + 1) * run);
    partial[i] = sum(v + i * run, end - i * run);
  });
  return sum(partial.data(), int64_t(partial.size())) / double(n);
}

// One pair of volumes.
template <class T>
struct Pair {
  const T *a, *b;
  T shift_a, shift_b;
  Grid grid;
  int64_t radius;
  T eps, scale;  // scale: of the gradient, 1 / number of windows

  T window() const {
    const T width = T(2 * radius + 1);
    return (grid.deep ? width : T(1)) * width * width;
  }

  // Voxels of a window around i that lie inside an axis of that size.
  T inside(int64_t i, int64_t size) const {
    return T(std::min(i + radius, size - 1) - std::max<int64_t>(i - radius, 0) + 1);
  }

  // Calls f(sums, first voxel, row) for every row of planes and every item; f may keep what it makes per
  // voxel.
  template <class Add, class Use>
  void each_row(int quantities, const Add& add, const Use& use) const {
    const int64_t chunks = (grid.h + kRows - 1) / kRows;
    parallel_runs(grid.d * chunks, [&](int64_t begin, int64_t end) {
      BoxSums<T> box(grid, quantities, radius, Outside::zero);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t z = item / chunks, y = item % chunks * kRows;
        box.rows(z, y, std::min(y + kRows, grid.h), add, [&](int64_t row, const T* sums) { use(z, row, sums); });
      }
    });
  }

  // First pass: returns the sum of the values; into `out`, unless null, the volumes P, then for each gradient
  // wanted Q and R with gradient = scale * (S[P] other - S[Q] own + S[R]).
  double statistics(T* out, bool to_a, bool to_b) const {
    std::vector<double> partial(grid.rows());
    const auto add = [&](int64_t z, int64_t y, T* __restrict lines, int64_t pitch) {
      const int64_t first = (z * grid.h + y) * grid.w;
      for (int64_t x = 0; x < grid.w; ++x) {
        const T va = a[first + x] - shift_a, vb = b[first + x] - shift_b;
        lines[x] += va;
        lines[pitch + x] += vb;
        lines[2 * pitch + x] += va * va;
        lines[3 * pitch + x] += vb * vb;
        lines[4 * pitch + x] += va * vb;
      }
    };
    std::vector<T> along_x(grid.w);
    for (int64_t x = 0; x < grid.w; ++x) along_x[x] = inside(x, grid.w);
    each_row(5, add, [&](int64_t z, int64_t y, const T* sums) {
      const int64_t row = z * grid.h + y, w = grid.w, volume = grid.numel();
      std::vector<T> made(6 * w);
      const T plane = (grid.deep ? inside(z, grid.d) : T(1)) * inside(y, grid.h);
      window_row(sums, along_x.data(), plane, made.data());
      partial[row] = sum(made.data(), w);
      if (!out) return;
      T* to = out + row * w;
      std::copy_n(made.data() + w, w, to);
      for (int k = 2; k < 6; ++k)
        if (k < 4 ? to_a : to_b) std::copy_n(made.data() + k * w, w, to += volume);
    });
    return sum(partial.data(), grid.rows());
  }

  // From the five sums of a row of windows: the values, P, then Q and R of the gradient to a, and of that to b.
  // count[x] * plane is the number of voxels of a window that lie inside.
  void window_row(const T* __restrict sums, const T* __restrict count, T plane, T* __restrict made) const {
    const int64_t w = grid.w;
    const T size = window(), share = 1 / size, a0 = shift_a, b0 = shift_b, tiny = eps;
    for (int64_t x = 0; x < w; ++x) {
      const T sa = sums[x], sb = sums[w + x], saa = sums[2 * w + x], sbb = sums[3 * w + x], sab = sums[4 * w + x];
      const T n = plane * count[x], missing = (size - n) * share;
      const T cross = sab - sa * sb * share + missing * (b0 * sa + a0 * sb + n * a0 * b0);
      const T var_a = std::max(saa - sa * sa * share + missing * a0 * (2 * sa + n * a0), T(0));
      const T var_b = std::max(sbb - sb * sb * share + missing * b0 * (2 * sb + n * b0), T(0));
      const T inverse = 1 / (var_a * var_b + tiny);
      const T value = cross * cross * inverse, p = 2 * cross * inverse, q = 2 * value * inverse;
      const T mean_a = sa * share - missing * a0, mean_b = sb * share - missing * b0;
      made[x] = value;
      made[w + x] = p;
      made[2 * w + x] = q * var_b;
      made[3 * w + x] = q * var_b * mean_a - p * mean_b;
      made[4 * w + x] = q * var_a;
      made[5 * w + x] = q * var_a * mean_b - p * mean_a;
    }
  }

  // Second pass: from the volumes of the first, the gradients that are not null.
  void gradients(const T* in, T* to_a, T* to_b) const {
    const int quantities = 1 + 2 * (to_a != nullptr) + 2 * (to_b != nullptr);
    const int64_t volume = grid.numel();
    const auto add = [&](int64_t z, int64_t y, T* lines, int64_t pitch) {
      for (int k = 0; k < quantities; ++k) {
        const T* from = in + k * volume + (z * grid.h + y) * grid.w;
        l2rfast::add(lines + k * pitch, from, grid.w);
      }
    };
    each_row(quantities, add, [&](int64_t z, int64_t y, const T* sums) {
      const int64_t w = grid.w, first = (z * grid.h + y) * w;
      const auto one = [&](T* __restrict to, const T* q, const T* own, T shift, const T* other, T other_shift) {
        for (int64_t x = 0; x < w; ++x)
          to[x] = scale * (sums[x] * (other[x] - other_shift) - q[x] * (own[x] - shift) + q[w + x]);
      };
      const T* q = sums + w;
      if (to_a) one(to_a + first, q, a + first, shift_a, b + first, shift_b), q += 2 * w;
      if (to_b) one(to_b + first, q, b + first, shift_b, a + first, shift_a);
    });
  }
};

std::tuple<Tensor, Tensor, Tensor> local_ncc(const Tensor& a_, const Tensor& b_, int64_t radius, double eps, bool to_a,
                                             bool to_b) {
  const Tensor a = packed(a_), b = packed(b_);
  const std::vector<int64_t> none = {0};
  const Tensor value = empty_as(a, {a.size(0)});
  const Tensor grad_a = empty_as(a, to_a ? shape_of(a) : none), grad_b = empty_as(b, to_b ? shape_of(b) : none);
  const Grid grid = grid_of(a, a.dim() - 2);
  for_real(a.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const int64_t volume = grid.numel(), channels = a.size(1);
    std::vector<T> volumes((to_a || to_b ? 1 + 2 * to_a + 2 * to_b : 0) * volume);
    for (int64_t n = 0; n < a.size(0); ++n) {
      double total = 0;
      for (int64_t i = n * channels; i < (n + 1) * channels; ++i) {
        const T *pa = read<T>(a) + i * volume, *pb = read<T>(b) + i * volume;
        const Pair<T> pair = {
            pa, pb, T(mean(pa, volume)), T(mean(pb, volume)), grid, radius, T(eps), T(1.0 / double(channels * volume))};
        total += pair.statistics(volumes.empty() ? nullptr : volumes.data(), to_a, to_b);
        if (to_a || to_b)
          pair.gradients(volumes.data(), to_a ? write<T>(grad_a) + i * volume : nullptr,
                         to_b ? write<T>(grad_b) + i * volume : nullptr);
      }
      write<T>(value)[n] = T(total / double(channels * volume));
    }
  });
  return {value, grad_a, grad_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("local_ncc", TORCH_BOX(&local_ncc)); }

}  // namespace l2rfast
