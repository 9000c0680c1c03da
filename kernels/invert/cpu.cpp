// The inverse of a displacement field on the CPU.
//
// Floor: field and start are read once, the inverse is written once; every try samples ndim channels with their
// derivatives at places of its own, which stay in the cache. A block of a row is done before the next: until all of its
// samples are found, or the tries are over.

#include <cmath>

#include "common/memory.h"
#include "common/sampler.h"

namespace l2rfast {
namespace {

constexpr double kLeast = 0.05, kShort = 2, kLong = 64;  // as in reference.py
template <class A>
constexpr A kFound = std::is_same_v<A, double> ? A(1e-14) : A(1e-5);  // in voxels: what rounding leaves

// Displacements of the block that is worked on.
template <int ndim, class A>
struct Held final : Positions<A> {
  A of[ndim][kBlock];

  explicit Held(const Grid& out, int64_t items) : Positions<A>(out, items) {}

  void along(int k, const Block& b, A (&position)[kBlock]) const override {
    const A first = b.coordinate<A>(3 - ndim + k), step = k == ndim - 1;
    for (int i = 0; i < kBlock; ++i) position[i] = first + step * A(i) + of[k][i];
  }
};

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

template <int ndim, class A, class Index, class StepX>
void invert_block(const Problem<ndim, A, Index>& p, StepX step_x, Held<ndim, A>& held, const Block& b, const A* disp,
                  A* to, int64_t tries) {
  const int64_t component = p.out.numel();
  A least[kBlock];
  std::fill_n(least, kBlock, std::numeric_limits<A>::infinity());
  for (int64_t k = 0; k < tries; ++k) {
    const BlockTaps<ndim, A, Index, true> taps(p, b);
    const A longest = A(std::max(kShort, std::ldexp(kLong, -int(k))));
    A worst = 0;
    for (int i = 0; i < b.count; i += kLanes<A>) {
      Vector<A> r[ndim], m[ndim][ndim], size = {};
      each_axis<ndim>([&](auto k) {
        const Corners<ndim, A> corners(disp + k.value * component, p.step[0], p.step[ndim - 2], step_x, taps.base + i);
        r[k] = load(held.of[k] + i) + corners.interpolate(taps.weights(i)) + load(taps.poison + i);
        size += r[k] * r[k];
        each_axis<ndim>([&](auto j) {
          m[k][j] = corners.interpolate(taps.template weights<1u << j.value>(i)) + A(k.value == j.value);
        });
      });
      const Vector<A> before = load(least + i);
      const auto better = size < before;
      const Vector<A> now = better ? size : before;
      store(least + i, now);
      for (int lane = 0; lane < std::min(kLanes<A>, b.count - i); ++lane) worst = std::max(worst, now[lane]);
      for (int j = 0; j < ndim; ++j) {
        A* best = to + j * component + b.first + i;
        const int n = std::min(kLanes<A>, b.count - i);
        store_some<A>(best, better ? load(held.of[j] + i) : load_some<A>(best, n), n);
      }
      solve<A>(m, r);
      for (int j = 0; j < ndim; ++j) store(held.of[j] + i, load(held.of[j] + i) - limited<A>(r[j], longest));
    }
    if (worst <= kFound<A> * kFound<A>) return;
  }
}

Tensor invert(const Tensor& disp_, const Tensor& start_, int64_t tries) {
  const Tensor disp = packed(disp_), start = packed(start_), result = room_as(disp, shape_of(disp));
  for_arithmetic(disp, disp, [&](auto dims, auto real) {
    constexpr int ndim = dims;
    using A = decltype(real);
    const Grid out = grid_of(disp, ndim);
    const int64_t items = disp.size(0), all = ndim * out.numel();
    parallel_runs(items * out.rows(), [&](int64_t begin, int64_t end) {
      Held<ndim, A> held(out, items);
      for_problem<ndim, A>(disp, held, "border", [&]<class Index>(const Problem<ndim, A, Index>& p) {
        for (int64_t row = begin; row < end; ++row)
          p.row_blocks(row, [&](const Block& b) {
            const A* from = read<A>(start) + b.n * all;
            A* to = write<A>(result) + b.n * all;
            for (int k = 0; k < ndim; ++k) {
              std::copy_n(from + k * out.numel() + b.first, b.count, held.of[k]);
              std::fill(held.of[k] + b.count, held.of[k] + kBlock, A(0));  // lanes of the last vector
              std::copy_n(held.of[k], b.count, to + k * out.numel() + b.first);
            }
            const A* field = read<A>(disp) + b.n * all;
            if (p.step[ndim - 1] == 1)
              invert_block(p, std::integral_constant<Index, 1>{}, held, b, field, to, tries);
            else
              invert_block(p, p.step[ndim - 1], held, b, field, to, tries);
          });
      });
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("invert", TORCH_BOX(&invert)); }

}  // namespace l2rfast
