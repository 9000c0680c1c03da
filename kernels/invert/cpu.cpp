// The inverse of a displacement field on the CPU.
//
// Floor: field and start are read once, the inverse is written once; every try samples ndim components with their
// derivatives at places of its own, which stay in the cache. Most voxels are found by the second or third try, and a
// few by none: a row goes on with those vectors that have voxels left.

#include <cmath>
#include <cstring>

#include "common/memory.h"
#include "common/sampler.h"
#include "common/vector_field.h"

namespace l2rfast {
namespace {

constexpr int64_t kStack = 16;                           // rows of a work item, in every plane
constexpr double kLeast = 0.05, kShort = 2, kLong = 64;  // as in reference.py
template <class A>
constexpr A kFound = std::is_same_v<A, double> ? A(1e-14) : A(1e-5);  // in voxels: what rounding leaves

template <class A>
L2RFAST_INLINE Vector<A> limited(Vector<A> v, A most) {
  v = v < -most ? Vector<A>{} - most : v;
  return v > most ? Vector<A>{} + most : v;
}

// (I + G)^-1 r, or half of r where the map is pressed together.
template <class A>
L2RFAST_INLINE void solve(const Vector<A> (&m)[2][2], Vector<A> (&r)[2]) {
  const Vector<A> det = m[0][0] * m[1][1] - m[0][1] * m[1][0];
  const auto good = det > A(kLeast);
  const Vector<A> x = (m[1][1] * r[0] - m[0][1] * r[1]) / det, y = (m[0][0] * r[1] - m[1][0] * r[0]) / det;
  r[0] = good ? x : r[0] / 2, r[1] = good ? y : r[1] / 2;
}

template <class A>
L2RFAST_INLINE void solve(const Vector<A> (&m)[3][3], Vector<A> (&r)[3]) {
  Vector<A> c[3][3];  // cofactors
  each_axis<3>([&](auto i) {
    each_axis<3>([&](auto j) {
      constexpr int a = (i + 1) % 3, b = (i + 2) % 3, d = (j + 1) % 3, e = (j + 2) % 3;
      c[i][j] = m[a][d] * m[b][e] - m[a][e] * m[b][d];
    });
  });
  const Vector<A> det = m[0][0] * c[0][0] + m[0][1] * c[0][1] + m[0][2] * c[0][2];
  const auto good = det > A(kLeast);
  Vector<A> found[3];
  for (int j = 0; j < 3; ++j) found[j] = (c[0][j] * r[0] + c[1][j] * r[1] + c[2][j] * r[2]) / det;
  for (int j = 0; j < 3; ++j) r[j] = good ? found[j] : r[j] / 2;
}

// Whether a lane of a comparison is true.
template <class Mask>
L2RFAST_INLINE bool any(const Mask& mask) {
  int64_t parts[sizeof(Mask) / sizeof(int64_t)], sum = 0;
  std::memcpy(parts, &mask, sizeof(Mask));
  for (const int64_t part : parts) sum |= part;
  return sum != 0;
}

// A block of a row; `best` holds the displacements to begin with, of components a volume apart.
template <int ndim, class A>
void invert_block(const VectorField<ndim, A>& field, const Grid& grid, const Block& b, A* best, int64_t tries) {
  constexpr int lanes = kLanes<A>;
  const int64_t volume = grid.numel();
  A disp[ndim][kBlock], least[kBlock], position[ndim][kBlock];
  int at[kBlock / lanes], left = 0;  // the vectors with voxels that are not found
  for (int i = 0; i < b.count; i += lanes) at[left++] = i;
  for (int k = 0; k < ndim; ++k) {
    std::copy_n(best + k * volume, b.count, disp[k]);
    std::fill(disp[k] + b.count, disp[k] + left * lanes, A(0));
  }
  std::fill_n(least, b.count, std::numeric_limits<A>::infinity());
  std::fill(least + b.count, least + left * lanes, A(0));  // lanes beyond the row have nothing to find
  for (int64_t k = 0; k < tries && left > 0; ++k) {
    for (int v = 0; v < left; ++v)
      for (int axis = 0; axis < ndim; ++axis) {
        A* to = position[axis] + v * lanes;
        const A first = b.coordinate<A>(3 - ndim + axis) + (axis == ndim - 1 ? A(at[v]) : A(0)),
                step = axis == ndim - 1;
        for (int i = 0; i < lanes; ++i) to[i] = first + step * A(i) + disp[axis][at[v] + i];
      }
    const A longest = A(std::max(kShort, std::ldexp(kLong, -int(k))));
    int still = 0;
    field.values_and_slopes({0, grid.d}, position, left * lanes, [&](int i, const auto& value, auto& m) L2RFAST_LAMBDA {
      const int x = at[i / lanes], n = b.count - x;
      Vector<A> r[ndim], size = {};
      for (int j = 0; j < ndim; ++j) {
        r[j] = load(disp[j] + x) + value[j];
        size += r[j] * r[j];
        m[j][j] += A(1);
      }
      const Vector<A> before = load(least + x);
      const auto better = size < before;
      const Vector<A> now = better ? size : before;
      store(least + x, now);
      const bool found = !any(now > kFound<A> * kFound<A>);
      const auto keep = [&](int j, const Vector<A>& place) {
        A* const to = best + j * volume + x;
        store_some<A>(to, better ? place : load_some<A>(to, n), n);
      };
      if (!found && k > 0)
        for (int j = 0; j < ndim; ++j) keep(j, load(disp[j] + x));
      solve<A>(m, r);
      for (int j = 0; j < ndim; ++j) {
        const Vector<A> next = load(disp[j] + x) - limited<A>(r[j], longest);
        if (found)
          keep(j, next);  // so near, a step more is right, untried
        else
          store(disp[j] + x, next);
      }
      if (!found) at[still++] = x;
    });
    left = still;
  }
}

Tensor invert(const Tensor& disp_, const Tensor& start_, int64_t tries) {
  const Tensor disp = packed(disp_), start = packed(start_), result = room_as(disp, shape_of(disp));
  for_arithmetic(disp, disp, [&](auto dims, auto real) {
    constexpr int ndim = dims;
    using A = decltype(real);
    const Grid grid = grid_of(disp, ndim);
    const int64_t volume = grid.numel(), stacks = (grid.h + kStack - 1) / kStack;
    VectorField<ndim, A> field(grid, grid.d, {0, grid.h});
    for (int64_t n = 0; n < disp.size(0); ++n) {
      const A *of = read<A>(disp) + n * ndim * volume, *from = read<A>(start) + n * ndim * volume;
      A* const to = write<A>(result) + n * ndim * volume;
      parallel_each(grid.d, [&](int64_t z) { field.enter(of, volume, z); });
      parallel_each(stacks * grid.d, [&](int64_t i) {
        const int64_t z = i % grid.d, y = i / grid.d * kStack;
        for (int64_t row = y; row < std::min(y + kStack, grid.h); ++row)
          for (int64_t x = 0; x < grid.w; x += kBlock) {
            const Block b{0, z, row, x, (z * grid.h + row) * grid.w + x, int(std::min<int64_t>(kBlock, grid.w - x))};
            for (int k = 0; k < ndim; ++k) std::copy_n(from + k * volume + b.first, b.count, to + k * volume + b.first);
            invert_block(field, grid, b, to + b.first, tries);
          }
      });
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("invert", TORCH_BOX(&invert)); }

}  // namespace l2rfast
