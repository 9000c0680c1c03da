// The voxels around a sample along one axis, and their weights, on host and device; see reference.py.
#pragma once

#include "common/interpolation.h"

namespace l2rfast {

constexpr int kRadius = 5, kTaps = 2 * kRadius;

// sin(pi t) / (pi t) for |t| <= 1 by its series in t^2, up to rounding.
template <class A>
L2RFAST_INLINE A sinc_of_square(A square) {
  constexpr int terms = sizeof(A) == 8 ? 15 : 10;
  constexpr double pi_square = 9.8696044010893586188;
  A sum = 1;
  for (int n = terms; n > 0; --n) sum = 1 - sum * square * A(pi_square / double(2 * n * (2 * n + 1)));
  return sum;
}

// sin(pi x) is that of the distance to the nearest voxel, up to the sign: the same for all taps, and exact near them.
template <class A, class Index>
L2RFAST_INLINE void sinc_taps(A p, Index size, Padding padding, A (&weight)[kTaps], Index (&index)[kTaps]) {
  A slope = 0;
  if (padding == Padding::reflection) p = inside<Padding::reflection>(p, A(size - 1), slope);
  const A low = std::floor(p), f = p - low;
  // Beyond, all voxels around are outside.
  A clamped = low > -kRadius - 1 ? low : A(-kRadius - 1);
  clamped = clamped < A(size + kRadius - 1) ? clamped : A(size + kRadius - 1);
  const Index first = Index(clamped) + 1 - kRadius, period = 2 * size - 2;
  const A g = f < A(0.5) ? f : 1 - f, sine = g * sinc_of_square(g * g);
  for (int i = 0; i < kTaps; ++i) {
    const A x = f + A(kRadius - 1 - i);
    const A sign = (i + kRadius) % 2 ? A(-1) : A(1);
    // On the grid, f is 0, or 1 by rounding, and the quotient is not taken.
    weight[i] = g == 0 ? A(x == 0 ? 1 : 0) : -sign * sine / x * sinc_of_square(x * x * A(1.0 / (kRadius * kRadius)));
    Index at = first + i;
    if (padding == Padding::zeros && (at < 0 || at >= size)) weight[i] = 0;
    if (padding == Padding::reflection && size > 1) {
      at = (at % period + period) % period;
      at = at < period - at ? at : period - at;
    }
    at = at > 0 ? at : 0;
    index[i] = at < size - 1 ? at : size - 1;
  }
}

}  // namespace l2rfast
