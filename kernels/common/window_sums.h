// Sums over windows around every voxel, of several quantities at once, row by row.
#pragma once

#include <algorithm>
#include <vector>

#include "common/folded.h"
#include "common/rows.h"
#include "common/tensor.h"
#include "common/window.h"

namespace l2rfast {

// Row i of sums along an axis, of rows from(j) of n numbers. Sums run: a row is added when it enters and taken away
// when it leaves, whatever the window. Where they may not, and where they start, all are summed `anew`.
template <class From>
void sum_along(const Window& axis, int64_t i, bool anew, int64_t n, double* to, const From& from) {
  const auto add = [&](int64_t j, double weight) {
    const auto* row = from(j);
    each_of(n, [&](int64_t x) { store(to + x, load(to + x) + weight * load_as<double>(row + x)); });
  };
  if (anew) {
    std::fill_n(to, n, 0.0);
    for (int64_t j = axis.first(i); j <= axis.last(i); ++j) add(j, axis.weight(i, j));
    return;
  }
  const int64_t in = i + axis.radius, out = i - axis.radius - 1;
  if (in < axis.size && out >= 0) {
    const auto *entering = from(in), *leaving = from(out);
    each_of(n, [&](int64_t x) {
      store(to + x, load(to + x) + (load_as<double>(entering + x) - load_as<double>(leaving + x)));
    });
  } else if (in < axis.size) {
    add(in, 1);
  } else if (out >= 0) {
    add(out, -1);
  }
}

// Sums over windows in a plane: along y, then along x.
class PlaneSums {
 public:
  // Of rows that are asked for in order from `begin` on. Sums along y start anew at `phase` + kAnchor * i. `run`:
  // whether they may run, as they may of boxes.
  PlaneSums(int count, bool run, Window y, Window x, int64_t begin, int64_t phase)
      : count_(count),
        run_(run),
        y_(y),
        x_(x),
        begin_(begin),
        phase_(phase),
        folded_(x.size),
        room_(folded_.pitch() + 2 * x.radius * kPieces),
        rows_(count * room_) {}

  // Those of row y: use(c, x, sums) gets them for x and the places beside it, of quantities c, c + 1, ... in
  // `together`. Of quantity c, rows from(j) begin at c * pitch.
  template <int together, class From, class Use>
  void row(int64_t y, const From& from, const Use& use) {
    const int64_t pitch = folded_.pitch();
    const bool anew = y == begin_ || !run_ || (y - phase_) % kAnchor == 0;
    for (int c = 0; c < count_; ++c) {
      double* to = rows_.data() + c * room_ + x_.radius * kPieces;
      sum_along(y_, y, anew, pitch, to, [&](int64_t j) { return from(j) + c * pitch; });
      folded_.extend(to, x_.radius);
    }
    for (int c = 0; c < count_; c += together)
      along_x<together>(rows_.data() + c * room_, [&](int64_t x, const auto& sums) { use(c, x, sums); });
  }

 private:
  template <int together, class Use>
  void along_x(const double* from, const Use& use) const {
    const int64_t length = folded_.length(), side = x_.side(), stretch = run_ ? kAnchor : 1, room = room_;
    each_of(kPieces, [&](int64_t piece) {
      for (int64_t begin = 0; begin < length; begin += stretch) {
        const double* row = from + begin * kPieces + piece;
        Vector<double> sums[together] = {};
        for (int64_t k = 0; k < side; ++k) {
          const double weight = x_.weight(k);
          for (int c = 0; c < together; ++c) sums[c] += weight * load(row + c * room + k * kPieces);
        }
        int64_t x = begin * kPieces + piece;
        use(x, sums);
        const int64_t end = std::min(begin + stretch, length) * kPieces;
        const double *leaving = row, *entering = row + side * kPieces;
        while ((x += kPieces) < end) {
          for (int c = 0; c < together; ++c) sums[c] += load(entering + c * room) - load(leaving + c * room);
          use(x, sums);
          leaving += kPieces, entering += kPieces;
        }
      }
    });
  }

  int count_;
  bool run_;
  Window y_, x_;
  int64_t begin_, phase_;
  Folded folded_;
  int64_t room_;
  Aligned<double> rows_;  // extended on both sides
};

}  // namespace l2rfast
