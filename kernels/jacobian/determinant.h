// J of x + disp(x) in a field (ndim, *spatial) and its determinants, on host and device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/interpolation.h"

namespace l2rfast {

// As many values as V has: one, or a vector of the processor's.
template <class V, class T>
L2RFAST_INLINE V values(const T* p) {
  if constexpr (std::is_same_v<V, T>)
    return *p;
  else
    return load(p);
}

// The neighbours that a difference is of. At the border there is one, which then serves every side.
enum class Side { both, before, after };

// Differences along one axis as two rows and the inverse of their distance: (high[x] - low[x]) * inverse.
template <class T>
struct Difference {
  const T *low, *high;
  T inverse;

  Difference() = default;
  constexpr Difference(const T* row, int64_t i, int64_t size, int64_t stride, Side side) {
    int64_t before = i > 0, after = i < size - 1;
    if (before && after) {
      before = side != Side::after;
      after = side != Side::before;
    }
    low = row - before * stride;
    high = row + after * stride;
    inverse = before + after > 0 ? T(1) / T(before + after) : T(0);
  }
  template <class V>
  L2RFAST_INLINE V at(int64_t x) const {
    return (values<V>(high + x) - values<V>(low + x)) * inverse;
  }
};

// J at voxels of a row that have the same kinds of neighbours as the one at z, y, x of `where`. What it reads at x is
// so far from `u`, a first component in that row; a field in 2-D has one plane.
template <int ndim, class T>
struct Jacobian {
  Difference<T> of[ndim][ndim];

  constexpr Jacobian(const T* u, const int64_t (&size)[3], const int64_t (&where)[3], Side side = Side::both) {
    const int64_t plane = size[1] * size[2];
    for (int k = 0; k < ndim; ++k) {
      const T* row = u + k * size[0] * plane;
      of[k][ndim - 1] = {row, where[2], size[2], 1, side};
      of[k][ndim - 2] = {row, where[1], size[1], size[2], side};
      if constexpr (ndim == 3) of[k][0] = {row, where[0], size[0], plane, side};
    }
  }

  template <int k, int l, class V = T>
  L2RFAST_INLINE V entry(int64_t x) const {
    return of[k][l].template at<V>(x) + T(k == l);
  }
  // d determinant / d J_kl.
  template <int k, int l>
  L2RFAST_INLINE T cofactor(int64_t x) const {
    if constexpr (ndim == 2) {
      return (k == l ? T(1) : T(-1)) * entry<1 - k, 1 - l>(x);
    } else {
      constexpr int k1 = (k + 1) % 3, k2 = (k + 2) % 3, l1 = (l + 1) % 3, l2 = (l + 2) % 3;
      return entry<k1, l1>(x) * entry<k2, l2>(x) - entry<k1, l2>(x) * entry<k2, l1>(x);
    }
  }
  L2RFAST_INLINE T determinant(int64_t x) const {
    T sum = entry<0, 0>(x) * cofactor<0, 0>(x);
    sum += entry<0, 1>(x) * cofactor<0, 1>(x);
    if constexpr (ndim == 3) sum += entry<0, 2>(x) * cofactor<0, 2>(x);
    return sum;
  }
};

// What the difference at i0 along an axis of that size, over its width, gives to the value at i.
template <class T>
L2RFAST_INLINE T share(int64_t i0, int64_t i, int64_t size) {
  const int64_t low = std::max<int64_t>(i0 - 1, 0), high = std::min(i0 + 1, size - 1);
  return high > low ? T((i == high) - (i == low)) / T(high - low) : T(0);
}

// Of a matrix's columns.
template <class V>
L2RFAST_INLINE V determinant(const V (&a)[2], const V (&b)[2]) {
  return a[0] * b[1] - a[1] * b[0];
}
template <class V>
L2RFAST_INLINE V determinant(const V (&a)[3], const V (&b)[3], const V (&c)[3]) {
  const V x = b[1] * c[2] - b[2] * c[1], y = b[2] * c[0] - b[0] * c[2], z = b[0] * c[1] - b[1] * c[0];
  return a[0] * x + a[1] * y + a[2] * z;
}

// The lesser; NaN where one of them is.
template <class V>
L2RFAST_INLINE V least(V a, V b) {
  return (b < a) | (b != b) ? b : a;
}

// The determinants of all combinations of sides. That of central differences is their mean.
template <class V, int ndim, class T>
L2RFAST_INLINE V least_of_sides(const Jacobian<ndim, T> (&side)[2], int64_t x) {
  V column[ndim][2][ndim];
  each_axis<ndim>([&](auto l) L2RFAST_LAMBDA {
    each_axis<ndim>([&](auto k) L2RFAST_LAMBDA {
      column[l.value][0][k.value] = side[0].template entry<k.value, l.value, V>(x);
      column[l.value][1][k.value] = side[1].template entry<k.value, l.value, V>(x);
    });
  });
  const auto &a = column[0], &b = column[1];
  if constexpr (ndim == 2) {
    const auto either = [&](const V(&first)[2])
                            L2RFAST_LAMBDA { return least(determinant(first, b[0]), determinant(first, b[1])); };
    return least(either(a[0]), either(a[1]));
  } else {
    const auto& c = column[2];
    const auto both = [&](const V(&second)[3], const V(&third)[3]) L2RFAST_LAMBDA {
      return least(determinant(a[0], second, third), determinant(a[1], second, third));
    };
    return least(least(both(b[0], c[0]), both(b[0], c[1])), least(both(b[1], c[0]), both(b[1], c[1])));
  }
}

// The tetrahedra in the middle of the cube from a voxel on, over their volume in the grid: from the first corner to
// those beyond its three faces, and to the last corner from the other three. `u` is that voxel's first component.
template <class V, class T>
L2RFAST_INLINE V least_of_middles(const T* u, int64_t numel, int64_t z, int64_t y) {
  V first[3][3], last[3][3];
  each_axis<3>([&](auto k) L2RFAST_LAMBDA {
    const auto corner = [&](int64_t at) L2RFAST_LAMBDA { return values<V>(u + k.value * numel + at); };
    first[0][k.value] = corner(y + 1) - corner(0) + T(k.value != 0);
    first[1][k.value] = corner(z + 1) - corner(0) + T(k.value != 1);
    first[2][k.value] = corner(z + y) - corner(0) + T(k.value != 2);
    last[0][k.value] = corner(z + y + 1) - corner(z) + T(k.value != 0);
    last[1][k.value] = corner(z + y + 1) - corner(y) + T(k.value != 1);
    last[2][k.value] = corner(z + y + 1) - corner(1) + T(k.value != 2);
  });
  return T(0.5) * least(determinant(first[0], first[1], first[2]), determinant(last[0], last[1], last[2]));
}

}  // namespace l2rfast
