// A field of one item composed with itself on the CPU, and the way back, its components beside each other throughout.
#pragma once

#include "common/memory.h"
#include "common/positions.h"
#include "common/quads.h"

namespace l2rfast {

// Fields on a grid, (d, h, w + 1, 4) each: the last voxel of a row is there twice, so that every voxel has a next.
template <int ndim, class A>
class QuadFields {
  typedef int32_t Index __attribute__((vector_size(kFilled * sizeof(int32_t))));
  // Lanes of a quad that no axis has are 0, in positions too.
  static constexpr int kX = ndim - 1, kY = ndim - 2;

 public:
  explicit QuadFields(const Grid& grid)
      : grid_(grid),
        row_((grid.w + 1) * kFilled),
        next_row_(grid.h > 1 ? row_ : 0),
        next_plane_(grid.d > 1 ? grid.h * row_ : 0) {
    const int64_t size[3] = {grid.d, grid.h, grid.w};
    for (int k = 0; k < ndim; ++k) {
      last_[k] = A(size[3 - ndim + k] - 1);
      high_[k] = int32_t(std::max<int64_t>(size[3 - ndim + k] - 2, 0));
    }
  }

  // factor * a field (ndim, *grid).
  Tensor from(const Tensor& like, const A* field, A factor) const {
    const Tensor result = room(like);
    const std::vector<A> none(grid_.w);
    parallel_each(grid_.rows(), [&](int64_t r) {
      const A *a = field + r * grid_.w, *b = a + grid_.numel(), *c = ndim == 3 ? b + grid_.numel() : none.data();
      A* to = write<A>(result) + r * row_;
      beside_each_other(a, b, c, grid_.w, to);
      for (int64_t i = 0; i < row_; ++i) to[i] *= factor;
    });
    return result;
  }

  void to(A* field, const Tensor& quads) const {
    parallel_each(grid_.rows(), [&](int64_t r) {
      const A* from = read<A>(quads) + r * row_;
      A* __restrict a = field + r * grid_.w;
      for (int64_t x = 0; x < grid_.w; ++x)
        for (int k = 0; k < ndim; ++k) a[k * grid_.numel() + x] = from[kFilled * x + k];
    });
  }

  // u(x) + u(x + u(x)), the border repeated; NaN where a position is not finite.
  Tensor composed(const Tensor& u_) const {
    const Tensor result = room(u_);
    const A* const u = read<A>(u_);
    parallel_each(grid_.rows(), [&](int64_t i) {
      const int64_t r = in_stacks(grid_, i);
      A* const to = write<A>(result) + r * row_;
      const QuadFields here = *this;  // which nothing that is written can be
      here.each_place(u, u, r, [&](int64_t x, const Place& at) L2RFAST_LAMBDA {
        const Quad<A> poison = in_every_lane(at.position - at.position);
        quad(to + kFilled * x) = quad(u + r * row_ + kFilled * x) + here.sample(u, at).value + poison;
      });
      quad(to + kFilled * grid_.w) = quad(to + kFilled * (grid_.w - 1));
    });
    return result;
  }

  // The gradient to u, where that to the composition is grad.
  Tensor backward(const Tensor& u_, const Tensor& grad_) const {
    const Tensor result = room(u_);
    const A *const u = read<A>(u_), *const grad = read<A>(grad_);
    // To the voxel itself and to its position; and which planes (in 2-D rows) of u are sampled for each row.
    std::vector<std::array<int32_t, 2>> touched(grid_.rows());
    parallel_each(grid_.rows(), [&](int64_t i) {
      const int64_t r = in_stacks(grid_, i);
      const A* const g = grad + r * row_;
      A* const to = write<A>(result) + r * row_;
      Index low = high_, high = {};
      const QuadFields here = *this;
      here.each_place(u, u, r, [&](int64_t x, const Place& at) L2RFAST_LAMBDA {
        low = at.index < low ? at.index : low, high = at.index > high ? at.index : high;
        const Quad<A> own = quad(g + kFilled * x), none = {};
        const Interpolated<ndim, A> s = here.sample(u, at);
        const Quad<A> slope = sums(s.slope[0] * own, s.slope[1] * own, ndim == 3 ? s.slope[kX] * own : none);
        const auto inside = (at.position > 0) & (at.position < here.last_) & finite(at.position);
        quad(to + kFilled * x) = own + (inside ? slope : none);
      });
      touched[r] = {low[0], high[0] + 1};
    });
    // To what was sampled. A thread owns some planes, and adds what falls into these, in one order of the voxels.
    parallel_shares(ndim == 3 ? grid_.d : grid_.h, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < grid_.rows(); ++i) {
        const int64_t r = in_stacks(grid_, i);
        if (touched[r][0] < end && touched[r][1] >= begin) spread(u, grad, r, begin, end, write<A>(result));
      }
    });
    return result;
  }

 private:
  struct Place {
    Quad<A> position, share;
    Index index;    // of the lowest voxel around it
    int64_t first;  // of the numbers of that
  };

  Tensor room(const Tensor& like) const { return room_as(like, {grid_.d, grid_.h, grid_.w + 1, kFilled}); }

  // f(x, place) along a row, where u leads. What is there in `around` is asked for some voxels ahead: the hardware does
  // not foresee rows that bend.
  template <class F>
  L2RFAST_INLINE void each_place(const A* u, const A* around, int64_t r, const F& f) const {
    constexpr int kAhead = 32;
    Place places[kAhead];
    Quad<A> voxel = {}, next = {};
    if constexpr (ndim == 3) voxel[0] = A(r / grid_.h);
    voxel[kY] = A(r % grid_.h), next[kX] = 1;
    u += r * row_;
    for (int64_t x = 0; x < grid_.w; x += kAhead) {
      const int count = int(std::min<int64_t>(kAhead, grid_.w - x));
      for (int i = 0; i < count; ++i, voxel += next) {
        places[i] = place(voxel + quad(u + kFilled * (x + i)));
        const A* at = around + places[i].first;
        __builtin_prefetch(at), __builtin_prefetch(at + next_row_);
        if constexpr (ndim == 3) __builtin_prefetch(at + next_plane_), __builtin_prefetch(at + next_plane_ + next_row_);
      }
      for (int i = 0; i < count; ++i) f(x + i, places[i]);
    }
  }

  // What is not a number is at 0.
  L2RFAST_INLINE Place place(Quad<A> position) const {
    Quad<A> p = position > 0 ? position : Quad<A>{};
    p = p < last_ ? p : last_;
    Index i = __builtin_convertvector(p, Index);
    i = i < high_ ? i : high_;
    int64_t first = i[kY] * row_ + i[kX] * kFilled;
    if constexpr (ndim == 3) first += i[0] * grid_.h * row_;
    return {position, p - __builtin_convertvector(i, Quad<A>), i, first};
  }

  L2RFAST_INLINE Interpolated<ndim, A> sample(const A* u, const Place& at) const {
    A share[ndim];
    for (int k = 0; k < ndim; ++k) share[k] = at.share[k];
    return interpolated<ndim, A>(u + at.first, u + at.first + next_plane_, next_row_, share);
  }

  // Adds the gradient of the samples of a row to the voxels around them in planes [begin, end). By quads: where pairs
  // of them were written, the next pair, one voxel on, would wait for two stores.
  L2RFAST_INLINE void spread(const A* u, const A* grad, int64_t r, int64_t begin, int64_t end, A* to) const {
    const A* const g = grad + r * row_;
    const int64_t next_row = next_row_, next_plane = next_plane_;  // which nothing that is written can be
    each_place(u, to, r, [&](int64_t x, const Place& at) L2RFAST_LAMBDA {
      const Quad<A> own = finite(at.position) ? quad(g + kFilled * x) : Quad<A>{};
      const Quad<A> right = at.share[kX] * own, left = own - right;
      A* const first = to + at.first;
      const auto add = [](A* p, Quad<A> value) L2RFAST_LAMBDA { quad(p) += value; };
      if constexpr (ndim == 3) {
        const Quad<A> left_up = at.share[1] * left, right_up = at.share[1] * right;
        const auto in_plane = [&](A* p, A weight) L2RFAST_LAMBDA {
          add(p, weight * (left - left_up)), add(p + kFilled, weight * (right - right_up));
          add(p + next_row, weight * left_up), add(p + next_row + kFilled, weight * right_up);
        };
        if (at.index[0] >= begin && at.index[0] < end) in_plane(first, 1 - at.share[0]);
        const int64_t above = at.index[0] + (next_plane > 0);
        if (above >= begin && above < end) in_plane(first + next_plane, at.share[0]);
      } else {
        const auto in_row = [&](A* p, A weight)
                                L2RFAST_LAMBDA { add(p, weight * left), add(p + kFilled, weight * right); };
        if (at.index[0] >= begin && at.index[0] < end) in_row(first, 1 - at.share[0]);
        const int64_t above = at.index[0] + (next_row > 0);
        if (above >= begin && above < end) in_row(first + next_row, at.share[0]);
      }
    });
  }

  static L2RFAST_INLINE Quad<A> in_every_lane(Quad<A> v) {
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2);
    return v + __builtin_shufflevector(v, v, 2, 3, 0, 1);
  }

  // Of a position, all bits of every lane or none.
  static L2RFAST_INLINE auto finite(Quad<A> position) { return in_every_lane(position - position) == 0; }

  // The sums of the lanes of each.
  static L2RFAST_INLINE Quad<A> sums(Quad<A> a, Quad<A> b, Quad<A> c) {
    const auto halves = [](Quad<A> v, Quad<A> w) L2RFAST_LAMBDA {
      return __builtin_shufflevector(v, w, 0, 4, 1, 5) + __builtin_shufflevector(v, w, 2, 6, 3, 7);
    };
    const Quad<A> ab = halves(a, b), cn = halves(c, Quad<A>{});
    return __builtin_shufflevector(ab, cn, 0, 1, 4, 5) + __builtin_shufflevector(ab, cn, 2, 3, 6, 7);
  }

  Grid grid_;
  int64_t row_, next_row_, next_plane_;  // numbers from a row to the next; and to the next row and plane that there is
  Quad<A> last_ = {};
  Index high_ = {};
};

}  // namespace l2rfast
