// Sums over boxes of quantities that are made on the way, a row at a time.
#pragma once

#include "common/box.h"
#include "common/rows.h"

namespace l2rfast {

// Rows per work item: a fixed number, so that no result depends on the number of threads; 2 radius rows more
// are summed than used.
constexpr int64_t kRows = 32;

// Box sums of `count` quantities over rows of one plane after the other. The sum is separable: along z as the
// quantities are made, along x in the row, along y over a ring of the last 2 radius + 1 rows. Each is made
// anew for every voxel, from the values themselves: nothing drifts, and no volume is stored.
template <class T>
class BoxSums {
 public:
  BoxSums(Grid grid, int count, int64_t radius, Outside outside)
      : grid_(grid),
        count_(count),
        radius_(radius),
        outside_(outside),
        pitch_(grid.w + 2 * radius),
        lines_(count * pitch_),
        ring_(count * (2 * radius + 1) * grid.w),
        sums_(count * grid.w) {}

  // Calls use(y, sums) for rows [begin, end) of plane z, sums[c * W + x] being that of quantity c.
  // add(z, y, lines, pitch) adds row y of plane z: quantity c at voxel x to lines[c * pitch + x].
  template <class Add, class Use>
  void rows(int64_t z, int64_t begin, int64_t end, const Add& add, const Use& use) {
    int64_t filled = std::max<int64_t>(begin - radius_, 0);
    for (int64_t y = begin; y < end; ++y) {
      for (; filled <= std::min(y + radius_, grid_.h - 1); ++filled) fill(z, filled, add);
      std::fill(sums_.begin(), sums_.end(), T(0));
      for (int64_t k = y - radius_; k <= y + radius_; ++k) {
        if (skipped(k, grid_.h)) continue;
        l2rfast::add(sums_.data(), ring(std::clamp<int64_t>(k, 0, grid_.h - 1)), count_ * grid_.w);
      }
      use(y, sums_.data());
    }
  }

 private:
  bool skipped(int64_t k, int64_t size) const { return outside_ == Outside::zero && (k < 0 || k >= size); }

  T* ring(int64_t y) { return ring_.data() + y % (2 * radius_ + 1) * count_ * grid_.w; }

  // Row y of every quantity, summed along z and x.
  template <class Add>
  void fill(int64_t z, int64_t y, const Add& add) {
    const int64_t w = grid_.w, r = radius_, reach = grid_.deep ? r : 0;
    std::fill(lines_.begin(), lines_.end(), T(0));
    for (int64_t k = z - reach; k <= z + reach; ++k)
      if (!skipped(k, grid_.d)) add(std::clamp<int64_t>(k, 0, grid_.d - 1), y, lines_.data() + r, pitch_);
    for (int c = 0; c < count_; ++c) {
      T* line = lines_.data() + c * pitch_ + r;
      if (outside_ == Outside::border) {
        std::fill_n(line - r, r, line[0]);
        std::fill_n(line + w, r, line[w - 1]);
      }
      T* out = ring(y) + c * w;
      std::copy_n(line - r, w, out);
      for (int64_t k = 1 - r; k <= r; ++k) l2rfast::add(out, line + k, w);
    }
  }

  Grid grid_;
  int count_;
  int64_t radius_;
  Outside outside_;
  int64_t pitch_;
  std::vector<T> lines_, ring_, sums_;
};

}  // namespace l2rfast
