// Repeated averages over boxes, of volumes that fit the cache.
#pragma once

#include "common/box.h"
#include "common/rows.h"
#include "common/tensor.h"
#include "common/vectors.h"

namespace l2rfast {

// Averages a dense volume `passes` times over boxes of 2 radius + 1 voxels a side. It is laid out with margins, so that
// a step along any axis is a distance in memory: every axis takes one long loop over all, margins included. What a
// margin gets wrong comes `radius` voxels closer with each pass, and never to the volume.
template <class T>
class Smoother {
 public:
  Smoother(Grid grid, int64_t radius, int64_t passes, Outside outside, bool adjoint = false)
      : grid_(grid),
        radius_(radius),
        passes_(passes),
        outside_(outside),
        adjoint_(adjoint && outside != Outside::zero),  // with zeros outside it is the same
        margin_(outside == Outside::extended ? radius * passes : radius),
        wide_(widened(grid, margin_)),
        guard_((3 * radius + 1) * (grid.deep ? wide_.h * wide_.w : wide_.w)),
        from_(wide_.numel() + 2 * guard_),
        to_(from_.size()) {}

  static Grid widened(Grid grid, int64_t margin) {
    return {grid.d + (grid.deep ? 2 * margin : 0), grid.h + 2 * margin, grid.w + 2 * margin, grid.deep};
  }

  void operator()(T* volume) {
    for (int64_t i = 0; i < grid_.rows(); ++i) std::copy_n(volume + i * grid_.w, grid_.w, row(i));
    run();
    for (int64_t i = 0; i < grid_.rows(); ++i) std::copy_n(row(i), grid_.w, volume + i * grid_.w);
  }

  // Row i of what `run` averages, and of what it leaves.
  T* row(int64_t i) { return wide_row(i / grid_.h + deep_margin(), i % grid_.h + margin_) + margin_; }

  void run() {
    // With a repeated border, what the adjoint brings to a margin is the border's.
    const int64_t together = outside_ == Outside::extended ? passes_ : 1;
    for (int64_t pass = 0; pass < passes_; ++pass) {
      if (pass % together == 0) fill(adjoint_ || outside_ == Outside::zero);
      average();
      if (adjoint_ && (pass + 1) % together == 0) fold();
    }
  }

 private:
  void average() {
    along(1);
    along(wide_.w);
    if (grid_.deep) along(wide_.h * wide_.w);
  }
  int64_t deep_margin() const { return grid_.deep ? margin_ : 0; }
  T* wide_row(int64_t z, int64_t y) { return from_.data() + guard_ + (z * wide_.h + y) * wide_.w; }

  // The margins, axis by axis.
  void fill(bool zero) {
    for (int64_t i = 0; i < grid_.rows(); ++i) {
      T* values = row(i);
      std::fill_n(values - margin_, margin_, zero ? T(0) : values[0]);
      std::fill_n(values + grid_.w, margin_, zero ? T(0) : values[grid_.w - 1]);
    }
    const auto repeat = [&](T* to, const T* of, int64_t n) {
      if (zero)
        std::fill_n(to, n, T(0));
      else
        std::copy_n(of, n, to);
    };
    for (int64_t z = deep_margin(); z < deep_margin() + grid_.d; ++z)
      for (int64_t k = 0; k < margin_; ++k) {
        repeat(wide_row(z, k), wide_row(z, margin_), wide_.w);
        repeat(wide_row(z, margin_ + grid_.h + k), wide_row(z, margin_ + grid_.h - 1), wide_.w);
      }
    for (int64_t k = 0; k < deep_margin(); ++k) {
      repeat(wide_row(k, 0), wide_row(margin_, 0), wide_.h * wide_.w);
      repeat(wide_row(margin_ + grid_.d + k, 0), wide_row(margin_ + grid_.d - 1, 0), wide_.h * wide_.w);
    }
  }

  // Its adjoint for a repeated border.
  void fold() {
    for (int64_t k = 0; k < deep_margin(); ++k) {
      add(wide_row(margin_, 0), wide_row(k, 0), wide_.h * wide_.w);
      add(wide_row(margin_ + grid_.d - 1, 0), wide_row(margin_ + grid_.d + k, 0), wide_.h * wide_.w);
    }
    for (int64_t z = deep_margin(); z < deep_margin() + grid_.d; ++z)
      for (int64_t k = 0; k < margin_; ++k) {
        add(wide_row(z, margin_), wide_row(z, k), wide_.w);
        add(wide_row(z, margin_ + grid_.h - 1), wide_row(z, margin_ + grid_.h + k), wide_.w);
      }
    for (int64_t i = 0; i < grid_.rows(); ++i)
      for (int64_t k = 0; k < margin_; ++k) {
        row(i)[0] += row(i)[k - margin_];
        row(i)[grid_.w - 1] += row(i)[grid_.w + k];
      }
  }

  // Averages along the axis on which neighbours are `step` apart.
  void along(int64_t step) {
    const int64_t n = wide_.numel(), count = 2 * radius_ + 1;
    const T scale = T(1) / T(count);
    T* __restrict to = to_.data() + guard_;
    if (radius_ == 1) {
      const T* __restrict from = from_.data() + guard_;
      for (int64_t i = 0; i < n; ++i) to[i] = scale * (from[i - step] + from[i] + from[i + step]);
    } else {
      // Sums of 1, 2, 4, ... neighbours make that of any number: the cost grows with the radius' logarithm.
      T* from = from_.data() + guard_ - radius_ * step;
      const int64_t reach = n + 2 * radius_ * step;
      int64_t width = 1, covered = 0;
      for (int64_t rest = count;; rest /= 2, width *= 2) {
        if (rest % 2) {
          const T* __restrict more = from + covered * step;
          for (int64_t i = 0; i < n; ++i) to[i] = (covered ? to[i] : T(0)) + more[i];
          covered += width;
        }
        if (rest == 1) break;
        const int64_t ahead = width * step;
#pragma GCC ivdep  // what is ahead has not been written yet
        for (int64_t i = 0; i < reach; ++i) from[i] += from[i + ahead];
      }
      for (int64_t i = 0; i < n; ++i) to[i] *= scale;
      std::fill_n(from_.begin(), guard_, T(0));  // as it was
      std::fill_n(from_.end() - guard_, guard_, T(0));
    }
    from_.swap(to_);
  }

  Grid grid_;
  int64_t radius_, passes_;
  Outside outside_;
  bool adjoint_;
  int64_t margin_;
  Grid wide_;
  int64_t guard_;
  Aligned<T> from_, to_;
};

}  // namespace l2rfast
