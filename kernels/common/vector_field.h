// Samples of a vector field on the CPU, all components at once.
//
// The components of a voxel and of the next along x lie beside each other, filled up to four each: a sample is one load
// for each of the rows around it, where fields as PyTorch keeps them take one for each row and component.
#pragma once

#include "common/positions.h"
#include "common/rows.h"

namespace l2rfast {

// A window of a field (ndim, *grid): some rows of some planes, which follow each other.
template <int ndim, class A>
class VectorField {
 public:
  // For windows of so many planes; rows [y.begin, y.end) of them.
  VectorField(const Grid& grid, int64_t planes, Range y)
      : grid_(grid),
        y_(y),
        slots_(std::min(power_of_two(planes), grid.d)),
        mask_(int32_t(power_of_two(planes)) - 1),
        pitch_(grid.w + 1),
        values_(slots_ * y.count() * pitch_ * kFilled) {
    STD_TORCH_CHECK(slots_ * y.count() * pitch_ <= std::numeric_limits<int32_t>::max(), "a field of too many voxels");
  }

  // Plane z of a field, whose components are `component` apart, takes the place of one that is no longer needed.
  void enter(const A* field, int64_t component, int64_t z) {
    for (int64_t y = y_.begin; y < y_.end; ++y) {
      const A* from = field + (z * grid_.h + y) * grid_.w;
      A* __restrict to = values_.data() + ((z & mask_) * y_.count() + y - y_.begin) * pitch_ * kFilled;
      const A *a = from, *b = from + component, *c = from + (ndim - 1) * component;
      int64_t x = 0;
      for (; x + kFilled <= grid_.w; x += kFilled) beside_each_other(a + x, b + x, c + x, to + kFilled * x);
      for (; x < grid_.w; ++x) to[4 * x] = a[x], to[4 * x + 1] = b[x], to[4 * x + 2] = c[x], to[4 * x + 3] = A(0);
      std::copy_n(to + 4 * (grid_.w - 1), kFilled, to + 4 * grid_.w);
    }
  }

  // Adds the field at `count` positions, its border repeated, to what there is; NaN at those that are not finite. What
  // they reach of planes [z.begin, z.end) has entered.
  void add(Range z, const A (&position)[ndim][kBlock], int count, A (&to)[ndim][kBlock]) const {
    int32_t lower[kBlock], upper[kBlock];  // the first voxel around, in either plane
    A weights[4][kBlock], along_x[kBlock], poison[kBlock];
    const int32_t height = int32_t(y_.count()), pitch = int32_t(pitch_), deep = grid_.d > 1;
    for (int i = 0; i < count; ++i) {
      const Tap of_x = tap(position[ndim - 1][i], {0, grid_.w}, grid_.w);
      const Tap of_y = tap(position[ndim - 2][i], y_, grid_.h);
      const Tap of_z = ndim == 3 ? tap(position[0][i], z, grid_.d) : Tap{0, 0};
      const int32_t in_plane = (of_y.index - int32_t(y_.begin)) * pitch + of_x.index;
      lower[i] = (of_z.index & mask_) * height * pitch + in_plane;
      upper[i] = ((of_z.index + deep) & mask_) * height * pitch + in_plane;
      weights[0][i] = (1 - of_z.share) * (1 - of_y.share), weights[1][i] = (1 - of_z.share) * of_y.share;
      weights[2][i] = of_z.share * (1 - of_y.share), weights[3][i] = of_z.share * of_y.share;
      along_x[i] = of_x.share;
      poison[i] = position[0][i] - position[0][i] + (position[1][i] - position[1][i]);
      if constexpr (ndim == 3) poison[i] += position[2][i] - position[2][i];
    }
    const int64_t next_row = grid_.h > 1 ? pitch_ * kFilled : 0;
    A sample[kBlock][kFilled];
    for (int i = 0; i < count; ++i) {
      const A *one = values_.data() + int64_t(lower[i]) * kFilled,
              *other = values_.data() + int64_t(upper[i]) * kFilled;
      Two sum = weights[0][i] * two(one) + weights[1][i] * two(one + next_row);
      if constexpr (ndim == 3) sum += weights[2][i] * two(other) + weights[3][i] * two(other + next_row);
      const Filled at = __builtin_shufflevector(sum, sum, 0, 1, 2, 3),
                   beyond = __builtin_shufflevector(sum, sum, 4, 5, 6, 7);
      *reinterpret_cast<Filled*>(sample[i]) = at + along_x[i] * (beyond - at);
    }
    for (int k = 0; k < ndim; ++k)
      for (int i = 0; i < count; ++i) to[k][i] += sample[i][k] + poison[i];
  }

 private:
  static constexpr int kFilled = 4;
  typedef A Filled __attribute__((vector_size(kFilled * sizeof(A)), aligned(alignof(A)), may_alias));
  typedef A Two __attribute__((vector_size(2 * kFilled * sizeof(A)), aligned(alignof(A)), may_alias));
  struct Tap {
    int32_t index;
    A share;  // of the next
  };

  // Four voxels' components; the compiler would take them one by one.
  static L2RFAST_INLINE void beside_each_other(const A* a, const A* b, const A* c, A* to) {
    const auto load = [](const A* p) { return *reinterpret_cast<const Filled*>(p); };
    const Filled va = load(a), vb = load(b), vc = load(c), none = {};
    const auto store = [&](Filled ab, Filled cn, A* at) {
      reinterpret_cast<Filled*>(at)[0] = __builtin_shufflevector(ab, cn, 0, 1, 4, 5);
      reinterpret_cast<Filled*>(at)[1] = __builtin_shufflevector(ab, cn, 2, 3, 6, 7);
    };
    store(__builtin_shufflevector(va, vb, 0, 4, 1, 5), __builtin_shufflevector(vc, none, 0, 4, 1, 5), to);
    store(__builtin_shufflevector(va, vb, 2, 6, 3, 7), __builtin_shufflevector(vc, none, 2, 6, 3, 7), to + 8);
  }

  static L2RFAST_INLINE Two two(const A* p) { return *reinterpret_cast<const Two*>(p); }

  // `range`: of what has entered, which a position that is not a number may not leave either.
  static L2RFAST_INLINE Tap tap(A position, Range range, int64_t size) {
    const A last = A(size - 1);
    A p = position > 0 ? position : A(0);
    p = p < last ? p : last;
    const int32_t low = int32_t(range.begin), high = int32_t(std::max(range.end - 2, range.begin));
    int32_t index = int32_t(p);
    index = index > low ? index : low;
    index = index < high ? index : high;
    return {index, p - A(index)};
  }

  static int64_t power_of_two(int64_t n) {
    int64_t power = 1;
    while (power < n) power *= 2;
    return power;
  }

  Grid grid_;
  Range y_;
  int64_t slots_;
  int32_t mask_;
  int64_t pitch_;
  Aligned<A> values_;
};

}  // namespace l2rfast
