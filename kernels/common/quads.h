// Vector fields on the CPU whose components lie beside each other, filled up to four: a sample of all of them is one
// load for each of the rows around it, where fields as PyTorch keeps them take one for each row and component.
#pragma once

#include "common/interpolation.h"
#include "common/vectors.h"

namespace l2rfast {

constexpr int kFilled = 4;  // numbers of a voxel

// Of a voxel and the next along x.
template <class A>
struct TwoOf {
  typedef A type __attribute__((vector_size(2 * kFilled * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <class A>
using Two = typename TwoOf<A>::type;

template <class A>
L2RFAST_INLINE Quad<A>& quad(A* p) {
  return *reinterpret_cast<Quad<A>*>(p);
}
template <class A>
L2RFAST_INLINE const Quad<A>& quad(const A* p) {
  return *reinterpret_cast<const Quad<A>*>(p);
}

// A row of a field of as many voxels, and its last once more: a, b, c the components, the fourth 0. The compiler would
// take them one by one.
template <class A>
void beside_each_other(const A* a, const A* b, const A* c, int64_t voxels, A* __restrict to) {
  const Quad<A> none = {};
  int64_t x = 0;
  for (; x + kFilled <= voxels; x += kFilled) {
    const auto put = [&](Quad<A> ab, Quad<A> cn, A* at) L2RFAST_LAMBDA {
      quad(at) = __builtin_shufflevector(ab, cn, 0, 1, 4, 5);
      quad(at + kFilled) = __builtin_shufflevector(ab, cn, 2, 3, 6, 7);
    };
    const Quad<A> va = quad(a + x), vb = quad(b + x), vc = quad(c + x);
    A* at = to + kFilled * x;
    put(__builtin_shufflevector(va, vb, 0, 4, 1, 5), __builtin_shufflevector(vc, none, 0, 4, 1, 5), at);
    put(__builtin_shufflevector(va, vb, 2, 6, 3, 7), __builtin_shufflevector(vc, none, 2, 6, 3, 7), at + 2 * kFilled);
  }
  for (; x < voxels; ++x) quad(to + kFilled * x) = Quad<A>{a[x], b[x], c[x], A(0)};
  quad(to + kFilled * voxels) = quad(to + kFilled * (voxels - 1));
}

// A linear sample, and its derivative along every axis.
template <int ndim, class A>
struct Interpolated {
  Quad<A> value, slope[ndim];
};

// Between a voxel of the lower and of the upper plane (in 2-D of one), the next of each along x, and those of the row
// that is `next_row` numbers on; share[k] of the next along axis k.
template <int ndim, class A>
L2RFAST_INLINE Interpolated<ndim, A> interpolated(const A* lower, const A* upper, int64_t next_row,
                                                  const A (&share)[ndim]) {
  const auto two = [](const A* p) L2RFAST_LAMBDA { return *reinterpret_cast<const Two<A>*>(p); };
  // Of both voxels along x: their value, and its derivatives along the other axes.
  Two<A> value, slope[ndim - 1];
  const auto in_plane = [&](const A* row, Two<A>& along_y) L2RFAST_LAMBDA {
    along_y = two(row + next_row) - two(row);
    return two(row) + share[ndim - 2] * along_y;
  };
  value = in_plane(lower, slope[ndim - 2]);
  if constexpr (ndim == 3) {
    Two<A> along_y;
    slope[0] = in_plane(upper, along_y) - value;
    value += share[0] * slope[0];
    slope[1] += share[0] * (along_y - slope[1]);
  }
  const auto along_x = [](Two<A> v) L2RFAST_LAMBDA {
    return __builtin_shufflevector(v, v, 4, 5, 6, 7) - __builtin_shufflevector(v, v, 0, 1, 2, 3);
  };
  const auto between = [&](Two<A> v) L2RFAST_LAMBDA {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3) + share[ndim - 1] * along_x(v);
  };
  Interpolated<ndim, A> sample;
  sample.value = between(value);
  for (int k = 0; k < ndim - 1; ++k) sample.slope[k] = between(slope[k]);
  sample.slope[ndim - 1] = along_x(value);
  return sample;
}

}  // namespace l2rfast
