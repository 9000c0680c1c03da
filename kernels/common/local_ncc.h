// Local normalised cross-correlation on the CPU: values and gradients of a part of a channel, in one march.
//
// Planes of images go in, and planes of gradients come out 2 radius behind. Between them are kept, for the rows of the
// part: the sums along z of 5 quantities, of those planes' windows the 3 or 5 quantities that gradients sum over, and
// the sums along z of these: never a volume. Sums of images are in double, where the product of two floats is exact:
// variances are small differences of large sums.
#pragma once

#include "common/images.h"
#include "common/window_sums.h"

namespace l2rfast {

// A part of a channel: rows of planes.
struct Part {
  Range z, y;
};

// Parts of equal size. They begin where running sums do (32 i + radius): no bit depends on how many there are.
//
// What a part keeps between planes grows with its rows, by some 80 kB a row of 224 voxels for a window of 9 and both
// gradients, and is gone through for every plane. It has to stay in the cache, which on many processors is 2 to 4 MB
// a core: parts have few rows, but so many that those of their neighbours' windows are no more than half as many.
inline std::vector<Part> parts_of(const Windows& w, int64_t channels) {
  const auto cut = [](const Window& axis, int64_t pieces) {
    std::vector<Range> ranges;
    const int64_t blocks = std::max<int64_t>((axis.size - axis.radius + kAnchor - 1) / kAnchor, 1);
    pieces = std::clamp<int64_t>(pieces, 1, blocks);
    for (int64_t i = 0, begin = 0; i < pieces; ++i) {
      const int64_t end = i + 1 == pieces ? axis.size : blocks * (i + 1) / pieces * kAnchor + axis.radius;
      ranges.push_back({begin, end});
      begin = end;
    }
    return ranges;
  };
  const int64_t threads = torch::stable::get_num_threads(), wanted = (threads + channels - 1) / channels;
  const Window& y = w.axis[1];
  const int64_t good = y.size / std::max<int64_t>(kAnchor, 4 * y.radius);
  const auto ys = cut(y, std::max(wanted, good / wanted * wanted));  // as many for every thread
  const auto zs = cut(w.axis[0], (wanted + int64_t(ys.size()) - 1) / int64_t(ys.size()));
  std::vector<Part> parts;
  for (const Range& z : zs)
    for (const Range& y : ys) parts.push_back({z, y});
  return parts;
}

// Computes in R what Images ask for. They have
//   void enter(int64_t z, Range rows)                    plane z, in order, will be read in these rows
//   void a(z, y, R* to), void b(z, y, R* to)             rows of the images, 0 outside the mask
//   bool masked(), void mask(z, y, R* to)                1 or 0
//   Level level_a, level_b
//   bool to_a, to_b
//   const R* upstream(z, y)                              or null
//   void values(z, y, const R* row)                      of the windows of a row
//   void gradients(z, y, const R* to_a, const R* to_b)
// Rows that are asked for have `pitch` numbers; those beyond the image have to be 0.
template <class R, class Images>
class LocalNCC {
 public:
  // `finite`: whether the images are.
  LocalNCC(const Windows& w, bool finite, const Measure& measure, Part part, Images& images)
      : z_(w.axis[0]),
        y_(w.axis[1]),
        x_(w.axis[2]),
        measure_(measure),
        part_(part),
        images_(images),
        derived_(images.to_a || images.to_b),
        quantities_(1 + 2 * images.to_a + 2 * images.to_b),
        planes_(around(z_, part.z)),
        rows_(around(y_, part.y)),
        moments_(5 + images.masked(), finite && !w.weighted(), z_, y_, x_, rows_, 0, 0),
        shares_(quantities_, finite && !w.weighted(), z_, y_, x_, part.y, z_.radius, y_.radius),
        pitch_(moments_.pitch()),
        whole_(w.whole()),
        rows_of_images_(8 * pitch_),
        centre_(pitch_),
        asked_(pitch_),
        inside_x_(pitch_),
        share_x_(pitch_),
        share_(pitch_),
        nothing_(quantities_ * pitch_),
        factors_(kept() * rows_.count() * quantities_ * pitch_) {
    std::fill_n(centre_.data(), x_.size, R(1));
    for (int64_t x = 0; x < x_.size; ++x) inside_x_[x] = x_.inside(x);
    for (int64_t x = 0; x < x_.size; ++x) share_x_[x] = 1 / (measure.valid ? inside_x_[x] : whole_);
  }

  void run() {
    int64_t entered = z_.first(planes_.begin);
    for (int64_t z = planes_.begin; z < part_.z.end + (derived_ ? z_.radius : 0); ++z) {
      if (z < planes_.end) {
        for (; entered <= z_.last(z); ++entered) images_.enter(entered, moments_.reach());
        windows(z);
      }
      if (derived_ && z - z_.radius >= part_.z.begin) gradients(z - z_.radius);
    }
  }

 private:
  // The windows that hold voxels of a part.
  Range around(const Window& axis, Range range) const {
    return derived_ ? Range{axis.first(range.begin), axis.last(range.end - 1) + 1} : range;
  }

  // Planes of what gradients sum over: a window's, and the one that leaves.
  int64_t kept() const { return derived_ ? z_.side() + 1 : 1; }

  R* factors(int64_t z, int64_t y) {
    return factors_.data() + (z % kept() * rows_.count() + y - rows_.begin) * quantities_ * pitch_;
  }

  R* row(int i) { return rows_of_images_.data() + i * pitch_; }

  // A row of both images and of the mask, 0 outside the image.
  void read(int64_t z, int64_t y, int into) {
    if (z < 0 || z >= z_.size) {
      std::fill_n(row(into), 3 * pitch_, R(0));
      return;
    }
    images_.a(z, y, row(into));
    images_.b(z, y, row(into + 1));
    if (images_.masked()) images_.mask(z, y, row(into + 2));
  }

  // All windows of a plane.
  void windows(int64_t z) {
    const auto add = [&](int64_t plane, int64_t y, double weight, double* to) {
      read(plane, y, 0);
      add_moments(weight, to);
    };
    const auto slide = [&](int64_t in, int64_t out, int64_t y, double* to) {
      read(in, y, 0), read(out, y, 3);
      exchange_moments(to);
    };
    moments_.plane(z, z == planes_.begin, add, slide, [&](int64_t y, const double* sums) {
      weigh(z, y, sums + 5 * pitch_);
      R* values = row(6);
      measure(sums, values, factors(z, y));
      const bool own = z >= part_.z.begin && z < part_.z.end && y >= part_.y.begin && y < part_.y.end;
      if (own) images_.values(z, y, values);
    });
  }

  void add_moments(double weight, double* __restrict to) {
    const int64_t n = pitch_;
    const R* __restrict a = row(0), * __restrict b = row(1), * __restrict m = row(2);
    for (int64_t x = 0; x < n; ++x) {
      const double va = double(a[x]), vb = double(b[x]), wa = weight * va, wb = weight * vb;
      to[x] += wa, to[n + x] += wb;
      to[2 * n + x] += wa * va, to[3 * n + x] += wb * vb, to[4 * n + x] += wa * vb;
    }
    if (images_.masked())
      for (int64_t x = 0; x < n; ++x) to[5 * n + x] += weight * double(m[x]);
  }

  void exchange_moments(double* __restrict to) {
    const int64_t n = pitch_;
    const R* __restrict a = row(0), * __restrict b = row(1), * __restrict m = row(2);
    const R* __restrict a0 = row(3), * __restrict b0 = row(4), * __restrict m0 = row(5);
    for (int64_t x = 0; x < n; ++x) {
      const double in_a = double(a[x]), in_b = double(b[x]), out_a = double(a0[x]), out_b = double(b0[x]);
      to[x] += in_a - out_a, to[n + x] += in_b - out_b;
      to[2 * n + x] += in_a * in_a - out_a * out_a;
      to[3 * n + x] += in_b * in_b - out_b * out_b;
      to[4 * n + x] += in_a * in_b - out_a * out_b;
    }
    if (images_.masked())
      for (int64_t x = 0; x < n; ++x) to[5 * n + x] += double(m[x]) - double(m0[x]);
  }

  // For a row of windows: 1 / N, whether they count, and by how much their gradients do. `masses`: the sums of the
  // mask, if there is one.
  void weigh(int64_t z, int64_t y, const double* masses) {
    const double inside = z_.inside(z) * y_.inside(y);
    if (images_.masked()) {
      images_.mask(z, y, centre_.data());
      for (int64_t x = 0; x < x_.size; ++x) {
        const double n = measure_.count(whole_, inside * inside_x_[x], masses[x]);
        share_[x] = centre_[x] == 0 ? 0 : 1 / n;
      }
    } else {
      const double factor = measure_.valid ? 1 / inside : 1;
      for (int64_t x = 0; x < x_.size; ++x) share_[x] = factor * share_x_[x];
    }
    const R* upstream = images_.upstream(z, y);
    asked_ = centre_;
    if (upstream)
      for (int64_t x = 0; x < x_.size; ++x) asked_[x] = centre_[x] == 0 ? R(0) : upstream[x];
  }

  // The values of a row of windows, and what gradients sum over.
  void measure(const double* __restrict sums, R* __restrict value, R* __restrict to) const {
    const int64_t n = pitch_, of_b = images_.to_a ? 3 : 1;
    const bool to_a = images_.to_a, to_b = images_.to_b;
    const Measure m = measure_;
    const Level a = images_.level_a, b = images_.level_b;
    for (int64_t x = 0; x < n; x += kLanes<double>) {
      const auto sum = [&](int i) { return load(sums + i * n + x); };
      const auto f = measured(m, {sum(0), sum(1), sum(2), sum(3), sum(4)}, a, b, load(share_.data() + x),
                              load_as<double>(centre_.data() + x), load_as<double>(asked_.data() + x));
      store_as<double>(value + x, f.value);
      store_as<double>(to + x, f.p);
      if (to_a) store_as<double>(to + n + x, f.q_a), store_as<double>(to + 2 * n + x, f.r_a);
      if (to_b) store_as<double>(to + of_b * n + x, f.q_b), store_as<double>(to + (of_b + 1) * n + x, f.r_b);
    }
  }

  // The gradients to a plane, of the values of all windows that hold its voxels.
  void gradients(int64_t z) {
    const int64_t n = quantities_ * pitch_;
    const auto of = [&](int64_t plane, int64_t y) {
      return plane < 0 || plane >= z_.size ? nothing_.data() : static_cast<const R*>(factors(plane, y));
    };
    const auto add = [&](int64_t plane, int64_t y, double weight, double* __restrict to) {
      const R* __restrict from = of(plane, y);
      for (int64_t i = 0; i < n; ++i) to[i] += weight * double(from[i]);
    };
    const auto slide = [&](int64_t in, int64_t out, int64_t y, double* __restrict to) {
      const R* __restrict entering = of(in, y), * __restrict leaving = of(out, y);
      for (int64_t i = 0; i < n; ++i) to[i] += double(entering[i]) - double(leaving[i]);
    };
    shares_.plane(z, z == part_.z.begin, add, slide, [&](int64_t y, const double* sums) {
      read(z, y, 0);
      const R* mask = images_.masked() ? row(2) : nullptr;
      const double *p = sums, *q_a = sums + pitch_, *q_b = sums + (images_.to_a ? 3 : 1) * pitch_;
      if (images_.to_a) finish(p, q_a, row(0), row(1), images_.level_a.mean, images_.level_b.mean, mask, row(6));
      if (images_.to_b) finish(p, q_b, row(1), row(0), images_.level_b.mean, images_.level_a.mean, mask, row(7));
      images_.gradients(z, y, row(6), row(7));
    });
  }

  void finish(const double* __restrict p, const double* __restrict q, const R* __restrict own,
              const R* __restrict other, double mid_own, double mid_other, const R* mask, R* __restrict to) const {
    const double* __restrict r = q + pitch_;
    for (int64_t x = 0, n = pitch_; x < n; ++x)
      to[x] = R(gradient_of(p[x], q[x], r[x], double(own[x]) - mid_own, double(other[x]) - mid_other));
    if (mask)
      for (int64_t x = 0, n = pitch_; x < n; ++x) to[x] = mask[x] == 0 ? R(0) : to[x];
  }

  const Window &z_, &y_, &x_;
  const Measure& measure_;
  Part part_;
  Images& images_;
  bool derived_;
  int quantities_;
  Range planes_, rows_;
  WindowSums moments_;
  WindowSums shares_;
  int64_t pitch_;
  double whole_;
  Aligned<R> rows_of_images_, centre_, asked_;
  Aligned<double> inside_x_, share_x_, share_;
  Aligned<R> nothing_, factors_;
};

}  // namespace l2rfast
