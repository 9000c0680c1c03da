// Sums over windows around every voxel, of several quantities at once, row by row.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/tensor.h"
#include "common/vectors.h"
#include "common/window.h"

namespace l2rfast {

// Voxels [begin, end) along an axis.
struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

constexpr int64_t kPad = 16;  // rows are this many numbers longer than the image, in multiples of it

inline int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// Sums over windows. Along z and y they run: each voxel is added when it enters and taken away when it leaves, whatever
// the window; along x they are of few terms. Where they may not run, all are summed anew for every voxel.
class WindowSums {
 public:
  // For rows `rows` of windows, in that order, plane after plane; both axes are anchored at `phase` + kAnchor * i.
  // `run`: whether sums may run, as they may of boxes.
  WindowSums(int count, bool run, Window z, Window y, Window x, Range rows, int64_t phase_z, int64_t phase_y)
      : count_(count),
        run_(run),
        z_(z),
        y_(y),
        x_(x),
        rows_(rows),
        phase_z_(phase_z),
        phase_y_(phase_y),
        pitch_(padded(x.size)),
        lead_(padded(x.radius)),
        room_(lead_ + pitch_ + padded(x.radius) + 2 * kPad),
        columns_(count * pitch_ * (y.last(rows.end - 1) + 1 - y.first(rows.begin))),
        row_(count * room_),
        fours_(room_),
        sums_(count * pitch_) {}

  int64_t pitch() const { return pitch_; }
  // Rows of the image that the windows reach.
  Range reach() const { return {y_.first(rows_.begin), y_.last(rows_.end - 1) + 1}; }

  // Calls use(y, sums) for all rows of plane z, sums[c * pitch() + x] being that of quantity c. `first`: whether it is
  // the first plane. add(z, y, weight, to) adds the quantities of a row of the image to to[c * pitch() + x];
  // slide(in, out, y, to) adds those of plane `in` and takes those of plane `out` away, either of which may lie
  // outside the image.
  template <class Add, class Slide, class Use>
  void plane(int64_t z, bool first, const Add& add, const Slide& slide, const Use& use) {
    const bool anew = first || !run_ || (z - phase_z_) % kAnchor == 0;
    int64_t entered = reach().begin;
    for (int64_t y = rows_.begin; y < rows_.end; ++y) {
      for (; entered <= y_.last(y); ++entered) {
        double* to = columns(entered);
        if (anew) {
          std::fill_n(to, count_ * pitch_, 0.0);
          for (int64_t i = z_.first(z); i <= z_.last(z); ++i) add(i, entered, z_.weight(z, i), to);
        } else {
          slide(z + z_.radius, z - z_.radius - 1, entered, to);
        }
      }
      along_y(y);
      along_x();
      use(y, static_cast<const double*>(sums_.data()));
    }
  }

 private:
  double* row(int c) { return row_.data() + c * room_ + lead_; }
  double* columns(int64_t y) { return columns_.data() + (y - reach().begin) * count_ * pitch_; }

  void along_y(int64_t y) {
    const bool anew = y == rows_.begin || !run_ || (y - phase_y_) % kAnchor == 0;
    for (int c = 0; c < count_; ++c) {
      double* __restrict to = row(c);
      const auto from = [&](int64_t i) { return columns(i) + c * pitch_; };
      if (anew) {
        std::fill_n(to, pitch_, 0.0);
        for (int64_t i = y_.first(y); i <= y_.last(y); ++i) add_scaled(to, from(i), y_.weight(y, i));
      } else {
        const int64_t in = y + y_.radius, out = y - y_.radius - 1;
        if (in < y_.size && out >= 0)
          exchange(to, from(in), from(out));
        else if (in < y_.size)
          add_scaled(to, from(in), 1.0);
        else if (out >= 0)
          add_scaled(to, from(out), -1.0);
      }
    }
  }

  void along_x() {
    for (int c = 0; c < count_; ++c) {
      double* to = sums_.data() + c * pitch_;
      const double* from = row(c) - x_.radius;
      if (run_)
        box(from, to);
      else
        weighted(from, to);
    }
  }

  void weighted(const double* from, double* to) const {
    std::fill_n(to, pitch_, 0.0);
    for (int64_t k = 0; k < x_.side(); ++k) add_scaled(to, from + k, x_.weight(k));
  }

  // By sums of four neighbours: the cost hardly grows with the window.
  void box(const double* from, double* to) {
    const int64_t n = pitch_, fours = x_.side() / 4 * 4;
    const bool three = x_.side() % 4 == 3;
    double* const four = fours_.data();
    Vector<double> ones = load(from), next = load(from + kLanes<double>), twos = ones + shifted<1>(ones, next);
    for (int64_t x = 0; x < n + fours; x += kLanes<double>) {
      ones = next, next = load(from + x + 2 * kLanes<double>);
      const Vector<double> twos_next = ones + shifted<1>(ones, next);
      store(four + x, twos + shifted<2>(twos, twos_next));
      twos = twos_next;
    }
    for (int64_t x = 0; x < n; x += kLanes<double>) {
      const double* rest = from + x + fours;
      Vector<double> sum = load(rest);
      if (three) sum += load(rest + 1) + load(rest + 2);
      for (int64_t k = 0; k < fours; k += 4) sum += load(four + x + k);
      store(to + x, sum);
    }
  }

  void add_scaled(double* __restrict to, const double* __restrict from, double weight) const {
    if (weight == 1)
      for (int64_t x = 0, n = pitch_; x < n; ++x) to[x] += from[x];
    else
      for (int64_t x = 0, n = pitch_; x < n; ++x) to[x] += weight * from[x];
  }

  void exchange(double* __restrict to, const double* __restrict in, const double* __restrict out) const {
    for (int64_t x = 0, n = pitch_; x < n; ++x) to[x] += in[x] - out[x];
  }

  int count_;
  bool run_;
  Window z_, y_, x_;
  Range rows_;
  int64_t phase_z_, phase_y_, pitch_, lead_, room_;
  Aligned<double> columns_, row_, fours_, sums_;  // row_: with zeros on both sides
};

}  // namespace l2rfast
