// Normalised gradient fields on the CPU: the distance and its gradient in one pass.
//
// Floor: both images are read once, the gradient is written once, 12 bytes a voxel of float32; 55 operations a voxel,
// 3 of them divisions.
//
// The gradient at a voxel needs the flows at its six neighbours. A tile keeps those of three planes, so that each is
// computed once, but for those around the tile, which its neighbours compute as well: (8 + 2) / 8 * (32 + 2) / 32 of
// the work. 2-D is 3-D with one plane, along which all slopes are 0.

#include "common/rows.h"
#include "common/tensor.h"
#include "flow.h"

namespace l2rfast {
namespace {

constexpr int64_t kRows = 8, kPlanes = 32;  // of a tile; constants: the sums of a tile are the same for any threads

// A row of voxels and those before and after it along the other axes, the border repeated.
template <class T>
struct Rows {
  const T *own, *above, *below, *before, *after;

  Rows(const T* image, const Grid& grid, int64_t z, int64_t y) {
    const auto row = [&](int64_t i, int64_t j) {
      return image + (std::clamp<int64_t>(i, 0, grid.d - 1) * grid.h + std::clamp<int64_t>(j, 0, grid.h - 1)) * grid.w;
    };
    own = row(z, y), above = row(z - 1, y), below = row(z + 1, y), before = row(z, y - 1), after = row(z, y + 1);
  }
};

// Of a row; along x with a voxel more at both ends.
template <class T>
struct Flows {
  T *z, *y, *x, *distance;

  Flows(T* memory, int64_t w) : z(memory), y(z + w), x(y + w + 1), distance(x + w + 1) {}
  static int64_t size(int64_t w) { return 4 * w + 2; }
};

template <class T>
void compute(const Rows<T>& a, const Rows<T>& b, int64_t w, T edge2, const Flows<T>& to) {
  const auto at = [=](int64_t i, int64_t left, int64_t right) L2RFAST_LAMBDA {
    const T half = T(0.5);
    const Flow<T> f = flow(half * (a.below[i] - a.above[i]), half * (a.after[i] - a.before[i]),
                           half * (a.own[right] - a.own[left]), half * (b.below[i] - b.above[i]),
                           half * (b.after[i] - b.before[i]), half * (b.own[right] - b.own[left]), edge2);
    to.z[i] = f.z, to.y[i] = f.y, to.x[i] = f.x, to.distance[i] = f.distance;
  };
  at(0, 0, std::min<int64_t>(1, w - 1));
#pragma GCC ivdep  // what is written overlaps nothing that is read: without this the loop is not vectorised
  for (int64_t i = 1; i < w - 1; ++i) at(i, i - 1, i + 1);
  at(w - 1, std::max<int64_t>(0, w - 2), w - 1);
  to.x[-1] = -to.x[0],
  to.x[w] = -to.x[w - 1];  // the adjoint of a border that is repeated: a mirror that turns the sign
}

template <class T>
class Tile {
 public:
  Tile(const T* fixed, const T* moving, const Grid& grid, T edge2)
      : fixed_(fixed), moving_(moving), grid_(grid), edge2_(edge2), row_(Flows<T>::size(grid.w)) {
    planes_.resize(3 * (kRows + 2) * row_);
  }

  // The gradient of item n in the tile that begins at a plane and a row, and the sum of the distances of each of its
  // rows.
  void run(int64_t n, int64_t z0, int64_t y0, T* gradient, double* sums) {
    const int64_t z1 = std::min(z0 + kPlanes, grid_.d), y1 = std::min(y0 + kRows, grid_.h);
    for (int64_t z = std::max<int64_t>(z0 - 1, 0); z <= std::min(z0, grid_.d - 1); ++z) plane(n, z, y0, y1);
    for (int64_t z = z0; z < z1; ++z) {
      if (z + 1 < grid_.d) plane(n, z + 1, y0, y1);
      for (int64_t y = y0; y < y1; ++y) {
        const int64_t row = (n * grid_.d + z) * grid_.h + y;
        gather(z, y, y0, gradient + row * grid_.w);
        sums[row] = sum(flows(z, y, y0).distance, grid_.w);
      }
    }
  }

 private:
  Flows<T> flows(int64_t z, int64_t y, int64_t y0) {
    return Flows<T>(planes_.data() + (z % 3 * (kRows + 2) + y - y0 + 1) * row_, grid_.w);
  }

  void plane(int64_t n, int64_t z, int64_t y0, int64_t y1) {
    const int64_t first = n * grid_.numel();
    for (int64_t y = std::max<int64_t>(y0 - 1, 0); y < std::min(y1 + 1, grid_.h); ++y)
      compute(Rows<T>(fixed_ + first, grid_, z, y), Rows<T>(moving_ + first, grid_, z, y), grid_.w, edge2_,
              flows(z, y, y0));
  }

  void gather(int64_t z, int64_t y, int64_t y0, T* __restrict out) {
    const bool above = z > 0, below = z + 1 < grid_.d, before = y > 0, after = y + 1 < grid_.h;
    const T *za = flows(z - above, y, y0).z, *zb = flows(z + below, y, y0).z, *x = flows(z, y, y0).x;
    const T *ya = flows(z, y - before, y0).y, *yb = flows(z, y + after, y0).y;
    const T sza(above ? 1 : -1), szb(below ? 1 : -1), sya(before ? 1 : -1), syb(after ? 1 : -1);
    const T scale = T(-1.0 / double(grid_.numel()));  // -2 / voxels, and half of each difference
    for (int64_t i = 0; i < grid_.w; ++i)
      out[i] = scale * ((sza * za[i] - szb * zb[i]) + (sya * ya[i] - syb * yb[i]) + (x[i - 1] - x[i + 1]));
  }

  const T *fixed_, *moving_;
  const Grid grid_;
  const T edge2_;
  const int64_t row_;
  std::vector<T> planes_;  // the flows of three planes
};

std::tuple<Tensor, Tensor> ngf(const Tensor& fixed_, const Tensor& moving_, double edge) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_), gradient = empty_as(moving, shape_of(moving));
  const Tensor distance = empty_as(moving, {moving.size(0), moving.size(1)});
  const Grid grid = grid_of(fixed, fixed.dim() - 2);
  const int64_t items = fixed.size(0) * fixed.size(1);
  const int64_t across = (grid.h + kRows - 1) / kRows, tiles = across * ((grid.d + kPlanes - 1) / kPlanes);
  for_real(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    std::vector<double> sums(items * grid.rows());
    parallel_runs(items * tiles, [&](int64_t begin, int64_t end) {
      Tile<T> tile(read<T>(fixed), read<T>(moving), grid, T(edge * edge));
      for (int64_t i = begin; i < end; ++i)
        tile.run(i / tiles, i % tiles / across * kPlanes, i % across * kRows, write<T>(gradient), sums.data());
    });
    for (int64_t n = 0; n < items; ++n)
      write<T>(distance)[n] = T(sum(sums.data() + n * grid.rows(), grid.rows()) / double(grid.numel()));
  });
  return {distance, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("ngf", TORCH_BOX(&ngf)); }

}  // namespace l2rfast
