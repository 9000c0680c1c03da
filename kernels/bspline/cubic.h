// The four coefficients of a cubic B-spline around a position, and the recursion that finds those of an image: on host
// and device.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/interpolation.h"

namespace l2rfast {

// Cubic interpolation on one axis: value = sum of w[j] * c[min(base + j, size - 1)], d(value)/d(position) likewise with
// d. `base` is in range for every position; weights of what the border mirrors are added to those of its image, so that
// the four follow one another. They are finite even where the position is not.
template <class A, class Index>
struct CubicTaps {
  Index base;
  A w[4], d[4];
};

template <Padding P, class Index, class A>
L2RFAST_INLINE CubicTaps<A, Index> cubic_taps(A p, Index size) {
  const A last = A(size - 1);
  A q, slope, fade = 1, ramp = 0;
  if constexpr (P == Padding::zeros) {
    q = p > 0 ? p : A(0);  // in this order a NaN becomes 0
    q = q < last ? q : last;
    const A left = 1 - std::fabs(p - q);
    fade = left > 0 ? left : A(0);
    slope = A((p >= 0) & (p < last));
    ramp = A((p >= -1) & (p < 0)) - A((p >= last) & (p < A(size)));
  } else {
    q = inside<P>(p, last, slope);
  }
  const Index floor = Index(q);
  Index low = floor < size - 2 ? floor : size - 2;
  low = low > 0 ? low : 0;
  Index base = low - 1 < size - 4 ? low - 1 : size - 4;
  base = base > 0 ? base : 0;
  const A t = q - A(low), s = 1 - t;
  // Before the first and beyond the last voxel stand the mirror images of the second and the last but one.
  const bool first = low == 0, end = low == size - 2, none_before = base == low, two_before = base + 2 == low;
  const auto placed = [=](A a, A b, A c, A d, A(&to)[4]) {
    const A before = first ? A(0) : a, after = end ? A(0) : d;
    const A near = b + (d - after), far = c + (a - before);
    to[0] = none_before ? near : two_before ? A(0) : before;
    to[1] = none_before ? far : two_before ? before : near;
    to[2] = none_before ? after : two_before ? near : far;
    to[3] = none_before ? A(0) : two_before ? far : after;
  };
  constexpr A sixth = A(1) / 6, most = A(2) / 3, half = A(0.5);
  const A w0 = sixth * s * s * s, w1 = most - half * t * t * (1 + s);
  const A w2 = most - half * s * s * (1 + t), w3 = sixth * t * t * t;
  const A steep = half * slope;
  CubicTaps<A, Index> taps;
  taps.base = base;
  placed(fade * w0, fade * w1, fade * w2, fade * w3, taps.w);
  placed(ramp * w0 - steep * s * s, ramp * w1 - steep * t * (1 + 3 * s), ramp * w2 + steep * s * (1 + 3 * t),
         ramp * w3 + steep * t * t, taps.d);
  return taps;
}

// The coefficients c of a line f of n > 1 values, by a recursion in both directions with the pole z (Unser, Aldroubi &
// Eden 1991, with the scale of 6 in the second):
//
//   u[0] = sum of start[k] f[k],  u[k] = f[k] + z u[k - 1],
//   c[n - 1] = turn (u[n - 1] + z u[n - 2]),  c[k] = z c[k + 1] + scale u[k].
//
// The matrix that it solves with would be symmetric but for its first and last row, which are twice what they were: its
// adjoint is the same with the outer values doubled before and halved after.
struct Recursion {
  static constexpr double z = -0.26794919243112270647, scale = -6 * z, turn = scale / (1 - z * z);
  static constexpr int most = 32;  // z^32 is below what float64 sees
  double start[most];
  int starts;
  double ends;  // by which the outer values are multiplied, and divided afterwards

  Recursion(int64_t n, bool adjoint) : starts(int(std::min<int64_t>(n, most))), ends(adjoint ? 2 : 1) {
    const bool whole = starts == n;  // mirrored again and again, or so often that nothing is left
    const double period = whole ? 1 - std::pow(z, 2 * n - 2) : 1;
    for (int k = 0; k < starts; ++k) {
      const bool once = !whole || k == 0 || k == n - 1;
      start[k] = (std::pow(z, k) + (once ? 0 : std::pow(z, 2 * n - 2 - k))) / period;
      if (k == 0 || k == n - 1) start[k] *= ends;
    }
  }
};

}  // namespace l2rfast
