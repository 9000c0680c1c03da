// Samples of a window of a vector field on the CPU, all components at once.
#pragma once

#include "common/positions.h"
#include "common/quads.h"
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
      beside_each_other(a, b, c, grid_.w, to);
    }
  }

  // Calls f(i, value) for vectors of the samples at `count` positions, the first of each that at position i: value[k]
  // of component k, the border repeated; NaN where a position is not finite. What they reach of planes [z.begin, z.end)
  // has entered.
  template <class F>
  L2RFAST_INLINE void values(Range z, const A (&position)[ndim][kBlock], int count, const F& f) const {
    const Around around(*this, z, position, count);
    for (int i = 0; i < count; i += kLanes<A>) {
      Quad<A> sample[kLanes<A>];
      each_lane([&](auto j) L2RFAST_LAMBDA { sample[j] = at(around, i + j).value; });
      Vector<A> value[kFilled], poison = {};
      transpose<A>(sample, value);
      for (int k = 0; k < ndim; ++k) poison += load(position[k] + i) - load(position[k] + i);
      for (int k = 0; k < ndim; ++k) value[k] += poison;
      f(i, value);
    }
  }

  // The same with derivatives by position, f(i, value, slope): slope[k][j] of component k along axis j, 0 where the
  // border is repeated. At positions that are not finite they are, whatever they are.
  template <class F>
  L2RFAST_INLINE void values_and_slopes(Range z, const A (&position)[ndim][kBlock], int count, const F& f) const {
    const Around around(*this, z, position, count);
    const A last[3] = {A(grid_.d - 1), A(grid_.h - 1), A(grid_.w - 1)};
    for (int i = 0; i < count; i += kLanes<A>) {
      Quad<A> sample[ndim + 1][kLanes<A>];
      each_lane([&](auto j) L2RFAST_LAMBDA {
        const Interpolated<ndim, A> s = at(around, i + j);
        sample[ndim][j] = s.value;
        for (int k = 0; k < ndim; ++k) sample[k][j] = s.slope[k];
      });
      Vector<A> value[kFilled], slope[ndim][ndim];
      transpose<A>(sample[ndim], value);
      each_axis<ndim>([&](auto j) L2RFAST_LAMBDA {
        Vector<A> by[kFilled];
        transpose<A>(sample[j], by);
        const Vector<A> p = load(position[j] + i);
        const auto inside = (p > 0) & (p < last[3 - ndim + j]);
        for (int k = 0; k < ndim; ++k) slope[k][j] = inside ? by[k] : Vector<A>{};
      });
      f(i, value, slope);
    }
  }

 private:
  struct Tap {
    int32_t index;
    A share;  // of the next
  };

  // Where positions lie: the first voxel around each in either plane, and what the next along an axis has of a sample.
  struct Around {
    int32_t lower[kBlock], upper[kBlock];
    A share[ndim][kBlock];

    Around(const VectorField& field, Range z, const A (&position)[ndim][kBlock], int count) {
      const Grid& grid = field.grid_;
      const Range y = field.y_;
      const int32_t height = int32_t(y.count()), pitch = int32_t(field.pitch_), mask = field.mask_, deep = grid.d > 1;
      for (int i = 0; i < count; ++i) {
        const Tap of_x = tap(position[ndim - 1][i], {0, grid.w}, grid.w);
        const Tap of_y = tap(position[ndim - 2][i], y, grid.h);
        const int32_t in_plane = (of_y.index - int32_t(y.begin)) * pitch + of_x.index;
        share[ndim - 1][i] = of_x.share, share[ndim - 2][i] = of_y.share;
        lower[i] = in_plane;
        if constexpr (ndim == 3) {
          const Tap of_z = tap(position[0][i], z, grid.d);
          lower[i] += (of_z.index & mask) * height * pitch;
          upper[i] = ((of_z.index + deep) & mask) * height * pitch + in_plane;
          share[0][i] = of_z.share;
        }
      }
      const int whole = (count + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
      std::fill(lower + count, lower + whole, 0), std::fill(upper + count, upper + whole, 0);
    }
  };
  L2RFAST_INLINE Interpolated<ndim, A> at(const Around& around, int i) const {
    const A *lower = values_.data() + int64_t(around.lower[i]) * kFilled, *upper = lower;
    if constexpr (ndim == 3) upper = values_.data() + int64_t(around.upper[i]) * kFilled;
    A share[ndim];
    for (int k = 0; k < ndim; ++k) share[k] = around.share[k][i];
    return interpolated<ndim, A>(lower, upper, grid_.h > 1 ? pitch_ * kFilled : 0, share);
  }

  // f with every lane of a vector as a constant: what is kept for each stays in registers.
  template <class F>
  static L2RFAST_INLINE void each_lane(const F& f) {
    [&]<int... j>(std::integer_sequence<int, j...>)
        L2RFAST_LAMBDA { (f(std::integral_constant<int, j>{}), ...); }(std::make_integer_sequence<int, kLanes<A>>{});
  }

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
