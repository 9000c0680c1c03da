// MIND-SSC on the CPU.
//
// Floor: the image is read once and the pooled descriptor written once; 12 patch sums of squared differences
// and 12 exponentials a voxel. The clamp needs the mean variance of the whole image, so the sums are made
// twice: storing them (12 images) would move more bytes than making them again costs. A work item is a few
// rows of one plane; nothing of the size of the image is stored but the result.

#include "common/box_sums.h"
#include "common/math.h"

namespace l2rfast {
namespace {

struct Pair {
  int a[3], b[3];
};

template <int ndim>
struct Pattern;

template <>
struct Pattern<3> {
  static constexpr int channels = 12;
  static constexpr Pair pairs[12] = {{{1, 0, 0}, {0, -1, 0}},  {{0, 1, 0}, {-1, 0, 0}},  {{0, -1, 0}, {-1, 0, 0}},
                                     {{0, 1, 0}, {1, 0, 0}},   {{0, -1, 0}, {0, 0, -1}}, {{0, 1, 0}, {0, 0, 1}},
                                     {{0, 0, -1}, {-1, 0, 0}}, {{1, 0, 0}, {0, 0, 1}},   {{0, 1, 0}, {0, 0, -1}},
                                     {{0, 0, 1}, {0, -1, 0}},  {{1, 0, 0}, {0, 0, -1}},  {{0, 0, 1}, {-1, 0, 0}}};
};

template <>
struct Pattern<2> {
  static constexpr int channels = 4;
  static constexpr Pair pairs[4] = {
      {{0, -1, 0}, {0, 0, -1}}, {{0, 0, 1}, {0, -1, 0}}, {{0, 1, 0}, {0, 0, -1}}, {{0, 1, 0}, {0, 0, 1}}};
};

// line[x] += (a[x + i] - b[x + j])^2, both positions clamped to the row of w voxels; |i|, |j| <= reach.
template <class T>
void add_squares(T* __restrict line, const T* a, int64_t i, const T* b, int64_t j, int64_t w, int64_t reach) {
  const auto edge = [&](int64_t x) {
    const T d = a[std::clamp<int64_t>(x + i, 0, w - 1)] - b[std::clamp<int64_t>(x + j, 0, w - 1)];
    line[x] += d * d;
  };
  const int64_t low = std::min(w, reach), high = std::max(low, w - reach);
  for (int64_t x = 0; x < low; ++x) edge(x);
  for (int64_t x = low; x < high; ++x) {
    const T d = a[x + i] - b[x + j];
    line[x] += d * d;
  }
  for (int64_t x = high; x < w; ++x) edge(x);
}

// Patch sums of one plane, row after row.
template <int ndim, class T>
class PatchSums {
 public:
  static constexpr int channels = Pattern<ndim>::channels;

  PatchSums(const T* image, Grid grid, int64_t radius, int64_t dilation)
      : image_(image),
        grid_(grid),
        dilation_(dilation),
        sums_(grid, channels, radius, Outside::border),
        least_(grid.w),
        variance_(grid.w) {}

  // Calls use(y, sums, variance) for rows [begin, end) of plane z: sums[c * W + x] are the patch sums less
  // their smallest over c, variance[x] is their mean over c.
  template <class Use>
  void rows(int64_t z, int64_t begin, int64_t end, const Use& use) {
    const auto add = [&](int64_t plane, int64_t y, T* lines, int64_t pitch) {
      for (int c = 0; c < channels; ++c) {
        const Pair& p = Pattern<ndim>::pairs[c];
        add_squares(lines + c * pitch, row(plane, y, p.a), p.a[2] * dilation_, row(plane, y, p.b), p.b[2] * dilation_,
                    grid_.w, dilation_);
      }
    };
    sums_.rows(z, begin, end, add, [&](int64_t y, T* sums) {
      const int64_t w = grid_.w;
      T* __restrict least = least_.data();
      T* __restrict variance = variance_.data();
      std::copy_n(sums, w, least);
      for (int c = 1; c < channels; ++c)
        for (int64_t x = 0; x < w; ++x) least[x] = std::min(least[x], sums[c * w + x]);
      std::fill_n(variance, w, T(0));
      for (int c = 0; c < channels; ++c) {
        T* __restrict sum = sums + c * w;
        for (int64_t x = 0; x < w; ++x) sum[x] -= least[x], variance[x] += sum[x] * T(1.0 / channels);
      }
      use(y, sums, variance);
    });
  }

 private:
  const T* row(int64_t z, int64_t y, const int (&offset)[3]) const {
    z = std::clamp<int64_t>(z + offset[0] * dilation_, 0, grid_.d - 1);
    y = std::clamp<int64_t>(y + offset[1] * dilation_, 0, grid_.h - 1);
    return image_ + (z * grid_.h + y) * grid_.w;
  }

  const T* image_;
  Grid grid_;
  int64_t dilation_;
  BoxSums<T> sums_;
  std::vector<T> least_, variance_;
};

template <int ndim, class T>
double mean_variance(const T* image, Grid grid, int64_t radius, int64_t dilation) {
  const int64_t chunks = (grid.h + kRows - 1) / kRows, items = grid.d * chunks;
  std::vector<double> partial(items);
  parallel_runs(items, [&](int64_t begin, int64_t end) {
    PatchSums<ndim, T> patches(image, grid, radius, dilation);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t y = item % chunks * kRows;
      double total = 0;
      patches.rows(item / chunks, y, std::min(y + kRows, grid.h),
                   [&](int64_t, const T*, const T* variance) { total += sum(variance, grid.w); });
      partial[item] = total;
    }
  });
  double total = 0;
  for (const double p : partial) total += p;
  return total / double(grid.numel());
}

template <int ndim, class T>
void describe(const T* image, Grid grid, int64_t radius, int64_t dilation, int64_t pool, T* result) {
  constexpr int channels = Pattern<ndim>::channels;
  const double mean = mean_variance<ndim>(image, grid, radius, dilation);
  const T low = std::max(T(mean * 1e-3), std::numeric_limits<T>::min()), high = std::max(T(mean * 1e3), low);
  const int64_t depth = ndim == 3 ? pool : 1;
  const Grid out = {grid.d / depth, grid.h / pool, grid.w / pool, grid.deep};
  const T scale = T(1) / T(depth * pool * pool);
  const int64_t block = std::max<int64_t>(kRows / pool, 1), chunks = (out.h + block - 1) / block;
  parallel_runs(out.d * chunks, [&](int64_t begin, int64_t end) {
    PatchSums<ndim, T> patches(image, grid, radius, dilation);
    std::vector<T> inverse(grid.w), feature(grid.w);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % chunks * block, last = std::min(first + block, out.h);
      const auto target = [&](int c, int64_t y) { return result + ((c * out.d + item / chunks) * out.h + y) * out.w; };
      for (int c = 0; c < channels; ++c) std::fill_n(target(c, first), (last - first) * out.w, T(0));
      const auto add = [&](int64_t y, const T* sums, const T* variance) {
        for (int64_t x = 0; x < grid.w; ++x) inverse[x] = T(-1) / std::min(std::max(variance[x], low), high);
        for (int c = 0; c < channels; ++c) {
          for (int64_t x = 0; x < grid.w; ++x) feature[x] = exponential(sums[c * grid.w + x] * inverse[x]);
          T* __restrict to = target(c, y / pool);
          for (int64_t k = 0; k < pool; ++k)
            for (int64_t x = 0; x < out.w; ++x) to[x] += scale * feature[x * pool + k];
        }
      };
      for (int64_t z = item / chunks * depth; z < (item / chunks + 1) * depth; ++z)
        patches.rows(z, first * pool, last * pool, add);
    }
  });
}

Tensor mind_ssc(const Tensor& image_, int64_t radius, int64_t dilation, int64_t pool) {
  const Tensor image = packed(image_);
  const int64_t ndim = image.dim() - 2;
  auto shape = shape_of(image);
  shape[1] = ndim == 3 ? Pattern<3>::channels : Pattern<2>::channels;
  for (int64_t k = 2; k < image.dim(); ++k) shape[k] /= pool;
  const Tensor result = empty_as(image, shape);
  const Grid grid = grid_of(image, ndim);
  for_real(image.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const auto run = ndim == 3 ? describe<3, T> : describe<2, T>;
    for (int64_t n = 0; n < shape[0]; ++n)
      run(read<T>(image) + n * grid.numel(), grid, radius, dilation, pool,
          write<T>(result) + n * (result.numel() / shape[0]));
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("mind_ssc", TORCH_BOX(&mind_ssc)); }

}  // namespace l2rfast
