// MIND-SSC on the GPU.
//
// A block makes the patch sums of a tile of a plane. A thread takes the squared differences of all channels at a place
// from the same six neighbours and adds them up along z in registers; the sums along y are made in shared memory, in
// place, those along x as they are read. Each is made anew for every voxel: nothing drifts. As on the CPU the sums are
// made twice, first for the mean variance that the clamp needs, which stays on the device, in parts of fixed order.
//
// Floor: of float32 in 3-D a voxel takes 4 bytes of the image and 48 of features, with a pool as many fewer. Here the
// image is read twice, in tiles with margins: with patches of 3 voxels a side 22 loads of a voxel each time, with 5
// 42, nearly all from the caches.

#include "common/launch.cuh"
#include "mind_ssc/pattern.h"

namespace l2rfast {
namespace {

constexpr int kTileX = 32, kTileY = 16;

L2RFAST_INLINE int32_t clamped(int32_t at, int32_t size) { return at < 0 ? 0 : at >= size ? size - 1 : at; }

inline int64_t pieces(int64_t size, int64_t of) { return (size + of - 1) / of; }

// The place of an offset of one step among those of -z, z, -y, y, -x, x.
constexpr int neighbour(const int (&offset)[3]) {
  int axis = 0;
  while (offset[axis] == 0) ++axis;
  return 2 * axis + (offset[axis] > 0);
}

// What blocks take of the planes of all items.
struct Tiles {
  int64_t planes, down, across;

  struct Place {
    int64_t item;
    int32_t plane, row, column;
  };

  int64_t count(int64_t items) const { return items * planes * down * across; }
  L2RFAST_INLINE Place at(int64_t block) const {
    const int64_t plane = block / across / down;
    return {plane / planes, int32_t(plane % planes), int32_t(block / across % down), int32_t(block % across)};
  }
};

template <int ndim, class T>
struct Patches {
  static constexpr int channels = Pattern<ndim>::channels;
  const T* image;
  int32_t d, h, w, radius, dilation;

  Patches(const Tensor& t, Grid grid, int64_t radius, int64_t dilation)
      : image(read<T>(t)),
        d(int32_t(grid.d)),
        h(int32_t(grid.h)),
        w(int32_t(grid.w)),
        radius(int32_t(radius)),
        dilation(int32_t(std::min(dilation, std::max({grid.d, grid.h, grid.w})))) {}

  // f(a channel as a constant).
  template <class F>
  static L2RFAST_INLINE void each_channel(const F& f) {
    each_axis<channels>(f);
  }

  L2RFAST_INLINE int64_t volume() const { return int64_t(d) * h * w; }
  L2RFAST_INLINE int rows() const { return kTileY + 2 * radius; }
  L2RFAST_INLINE int columns() const { return kTileX + 2 * radius; }
  // Numbers of a tile with its margins.
  L2RFAST_INLINE int64_t numel() const { return int64_t(channels) * rows() * columns(); }
  // In doubles, what they and `more` take.
  int64_t room(int64_t more) const { return pieces((numel() + more) * sizeof(T), sizeof(double)); }

  // use(thread, row, column, sums, variance) of the voxels of a tile: their patch sums less the smallest of them, and
  // the mean of these. Beyond the image they are of no use, but can be made.
  template <class Use>
  L2RFAST_INLINE void tile(int64_t n, int32_t z, int32_t y0, int32_t x0, T* sums, const Use& use) const {
    const T* item = image + n * volume();
    const int width = columns(), area = rows() * width, last = 2 * radius;
    all_threads([&](int thread) {
      for (int i = thread; i < area; i += kThreads) {
        T sum[channels] = {};
        add_squares(item, z, clamped(y0 + i / width - radius, h), clamped(x0 + i % width - radius, w), sum);
        each_channel([&](auto c) { sums[c * area + i] = sum[c]; });
      }
    });
    all_threads([&](int thread) {
      for (int i = thread; i < channels * width; i += kThreads) {
        T* line = sums + i / width * area + i % width;
        for (int row = 0; row < kTileY; ++row) {
          T sum = 0;
          for (int k = 0; k <= last; ++k) sum += line[(row + k) * width];
          line[row * width] = sum;  // the first of a patch makes room for its sum
        }
      }
    });
    all_threads([&](int thread) {
      for (int i = thread; i < kTileX * kTileY; i += kThreads) {
        const T* from = sums + i / kTileX * width + i % kTileX;
        T sum[channels] = {};
        for (int k = 0; k <= last; ++k) each_channel([&](auto c) { sum[c] += from[c * area + k]; });
        T least = sum[0], total = 0;
        each_channel([&](auto c) { least = sum[c] < least ? sum[c] : least; });
        each_channel([&](auto c) { total += sum[c] -= least; });
        use(thread, i / kTileX, i % kTileX, sum, total * T(1.0 / channels));
      }
    });
  }

 private:
  // Along z, at a place of the plane.
  L2RFAST_INLINE void add_squares(const T* item, int32_t z, int32_t y, int32_t x, T (&sum)[channels]) const {
    const int64_t plane = int64_t(h) * w;
    const auto in_plane = [&](int32_t iy, int32_t ix) { return int64_t(clamped(iy, h)) * w + clamped(ix, w); };
    const int64_t own = in_plane(y, x), above = in_plane(y - dilation, x), below = in_plane(y + dilation, x);
    const int64_t left = in_plane(y, x - dilation), right = in_plane(y, x + dilation);
    const int32_t deep = ndim == 3 ? radius : 0;
    L2RFAST_ROLLED
    for (int32_t k = z - deep; k <= z + deep; ++k) {
      const int32_t at = clamped(k, d);
      const T* from = item + at * plane;
      T near[6] = {0, 0, fetch(from + above), fetch(from + below), fetch(from + left), fetch(from + right)};
      if constexpr (ndim == 3) {
        near[0] = fetch(item + clamped(at - dilation, d) * plane + own);
        near[1] = fetch(item + clamped(at + dilation, d) * plane + own);
      }
      each_channel([&](auto c) {
        constexpr Pair pair = Pattern<ndim>::pairs[decltype(c)::value];
        constexpr int a = neighbour(pair.a), b = neighbour(pair.b);
        sum[c] += (near[a] - near[b]) * (near[a] - near[b]);
      });
    }
  }
};

// A tile's share of the mean variance.
template <int ndim, class T>
struct Variances {
  static constexpr int resident = sizeof(T) == 8 ? 2 : 4, kFew = 16;
  Patches<ndim, T> patches;
  Tiles tiles;
  double* shares;

  int64_t room() const { return kFew + patches.room(kThreads); }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const auto [n, z, row, column] = tiles.at(block);
    const int32_t rows = patches.h - row * kTileY, columns = patches.w - column * kTileX;
    T *totals = reinterpret_cast<T*>(scratch + kFew), *sums = totals + kThreads;
    all_threads([&](int thread) { totals[thread] = 0; });
    patches.tile(n, z, row * kTileY, column * kTileX, sums, [&](int thread, int y, int x, const auto&, T variance) {
      if (y < rows && x < columns) totals[thread] += variance;
    });
    all_threads([&](int thread) {
      if (thread >= kFew) return;
      scratch[thread] = 0;
      for (int i = thread; i < kThreads; i += kFew) scratch[thread] += double(totals[i]);
    });
    all_threads([&](int thread) {
      if (thread != 0) return;
      for (int i = 1; i < kFew; ++i) scratch[0] += scratch[i];
      shares[block] = scratch[0] / double(patches.volume());
    });
  }
};

// Features, and their averages over the cells of a pool, of which a tile has as many as fit. A cell that is larger is
// gone through in steps.
template <int ndim, class T, bool pooled>
struct Features {
  static constexpr int channels = Pattern<ndim>::channels, resident = sizeof(T) == 8 ? 1 : 4 - pooled;
  Patches<ndim, T> patches;
  Tiles tiles;
  const T* means;
  T* result;
  int32_t pool, down, across;  // cells of a tile

  int64_t room() const { return patches.room(pooled * channels * kTileY * kTileX); }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const auto [n, z, row, column] = tiles.at(block);
    T* sums = reinterpret_cast<T*>(scratch);
    if constexpr (!pooled) {
      const int32_t y0 = row * kTileY, x0 = column * kTileX;
      const int64_t volume = patches.volume();
      T* to = result + n * channels * volume + (int64_t(z) * patches.h + y0) * patches.w + x0;
      patches.tile(n, z, y0, x0, sums, [&](int, int y, int x, const auto& sum, T variance) {
        if (y0 + y >= patches.h || x0 + x >= patches.w) return;
        describe(n, sum, variance, [&](auto c, T feature) { to[c * volume + int64_t(y) * patches.w + x] = feature; });
      });
    } else {
      constexpr int area = kTileY * kTileX;
      T* features = sums + patches.numel();
      const int32_t depth = ndim == 3 ? pool : 1;
      for (int32_t dz = 0; dz < depth; ++dz)
        for (int32_t dy = 0; dy < pool; dy += kTileY)
          for (int32_t dx = 0; dx < pool; dx += kTileX) {
            const int32_t y0 = row * down * pool + dy, x0 = column * across * pool + dx;
            patches.tile(n, z * depth + dz, y0, x0, sums, [&](int, int y, int x, const auto& sum, T variance) {
              describe(n, sum, variance, [&](auto c, T feature) { features[c * area + y * kTileX + x] = feature; });
            });
            all_threads([&](int thread) {
              for (int i = thread; i < channels * down * across; i += kThreads) {
                const int32_t y = i / across % down, x = i % across, c = i / across / down;
                add(n, c, z, row * down + y, column * across + x, dz + dy + dx == 0,
                    features + c * area + y * pool * kTileX + x * pool, min(pool - dy, kTileY), min(pool - dx, kTileX));
              }
            });
          }
    }
  }

 private:
  static L2RFAST_INLINE int32_t min(int32_t a, int32_t b) { return a < b ? a : b; }

  // use(channel, feature).
  template <class Use>
  L2RFAST_INLINE void describe(int64_t n, const T (&sum)[channels], T variance, const Use& use) const {
    constexpr T least = std::numeric_limits<T>::min();
    const T mean = fetch(means + n), low = mean * T(1e-3) > least ? mean * T(1e-3) : least, high = mean * T(1e3);
    variance = variance < high ? variance : high;
    const T inverse = T(-1) / (variance > low ? variance : low);
    Patches<ndim, T>::each_channel([&](auto c) { use(c, std::exp(sum[c] * inverse)); });
  }

  // To a cell, what a tile has of it.
  L2RFAST_INLINE void add(int64_t n, int32_t c, int32_t z, int32_t y, int32_t x, bool first, const T* features,
                          int32_t rows, int32_t columns) const {
    const int32_t h = patches.h / pool, w = patches.w / pool;
    if (y >= h || x >= w) return;
    T total = 0;
    for (int32_t i = 0; i < rows; ++i)
      for (int32_t k = 0; k < columns; ++k) total += features[i * kTileX + k];
    T* to = result + (((n * channels + c) * tiles.planes + z) * h + y) * w + x;
    const T share = total / T(ndim == 3 ? pool * pool * pool : pool * pool);
    *to = first ? share : *to + share;
  }
};

Tensor mind_ssc(const Tensor& image_, int64_t radius, int64_t dilation, int64_t pool) {
  const Tensor image = packed(image_);
  const int64_t ndim = image.dim() - 2, items = image.size(0);
  const Grid grid = grid_of(image, ndim);
  auto shape = shape_of(image);
  shape[1] = ndim == 3 ? Pattern<3>::channels : Pattern<2>::channels;
  for (int64_t k = 2; k < image.dim(); ++k) shape[k] /= pool;
  const Tensor result = empty_as(image, shape);
  const auto run = [&](auto of, auto real) {
    constexpr int axes = decltype(of)::value;
    using T = decltype(real);
    const auto each = [&](const auto& body) { each_block(body, body.tiles.count(items), body.room(), image); };
    const Patches<axes, T> patches(image, grid, radius, dilation);
    const Tiles tiles{grid.d, pieces(grid.h, kTileY), pieces(grid.w, kTileX)};
    const Tensor shares = torch::stable::new_empty(image, {items, tiles.count(1)}, Dtype::Double);
    each(Variances<axes, T>{patches, tiles, write<double>(shares)});
    const int64_t last[] = {1};
    const Tensor means = torch::stable::to(torch::stable::sum(shares, last), dtype_of<T>);
    if (pool == 1) return each(Features<axes, T, false>{patches, tiles, read<T>(means), write<T>(result), 1, 1, 1});
    const int64_t down = std::max<int64_t>(kTileY / pool, 1), across = std::max<int64_t>(kTileX / pool, 1);
    const Tiles of_cells{axes == 3 ? shape[2] : 1, pieces(grid.h / pool, down), pieces(grid.w / pool, across)};
    each(Features<axes, T, true>{patches, of_cells, read<T>(means), write<T>(result), int32_t(pool), int32_t(down),
                                 int32_t(across)});
  };
  for_real(image.scalar_type(), [&](auto t) {
    ndim == 3 ? run(std::integral_constant<int, 3>{}, t) : run(std::integral_constant<int, 2>{}, t);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("mind_ssc", TORCH_BOX(&mind_ssc)); }

}  // namespace l2rfast
