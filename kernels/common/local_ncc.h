// Local normalised cross-correlation on the CPU: values and gradients of a part of a channel, in one march.
//
// Planes of images go in, and planes of gradients come out 2 radius behind. Between them are kept, for the rows of the
// part: the sums along z of 5 quantities; the sums in the last planes of the 3 or 5 quantities that gradients sum over,
// and the sums along z of these: never a volume. Sums of images are in double, where the product of two floats is
// exact: variances are small differences of large sums. In float, of values relative to any level that neighbouring
// windows share, they lose the windows of little variation far from it, and what running sums leave of bright tissue is
// no longer beneath what counts as flat. Sums for gradients are in double, so that they come back to 0 as well.
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
// What a part keeps between planes grows with its rows, by some 65 kB a row of 224 voxels for a window of 9 and both
// gradients, and is gone through for every plane. It has to stay in the cache, which on many processors is 2 to 4 MB
// a core: parts have few rows, but so many that those of images beyond their ends are no more than half as many.
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
  const int64_t good = y.size / std::max<int64_t>(kAnchor, 8 * y.radius);
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
//   void gradients(z, y, const R* to_a, const R* to_b)   rows that may be read beyond their end
//   int64_t voxels()                                     of a place: 1, or more where places are blocks of voxels
// Where places are blocks, they have instead of a, b and gradients
//   const double* moments(z, y)                          sums over each block of a row: a, b, aa, bb, ab, mask; folded
//   void factors(z, y, const double* row)                what p, q_a, r_a, q_b and r_b of the windows sum to; folded
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
        run_(finite && !w.weighted()),
        derived_(images.to_a || images.to_b),
        moments_count_(5 + images.masked()),
        quantities_(1 + 2 * images.to_a + 2 * images.to_b),
        planes_(around(z_, part.z)),
        rows_(around(y_, part.y)),
        reach_{y_.first(rows_.begin), y_.last(rows_.end - 1) + 1},
        folded_(x_.size),
        pitch_(folded_.pitch()),
        whole_(double(images.voxels()) * w.whole()),
        moments_(5, run_, y_, x_, rows_.begin, 0),
        masses_(images.masked(), run_, y_, x_, rows_.begin, 0),
        shares_(quantities_, run_, y_, x_, part.y.begin, y_.radius),
        columns_(reach_.count() * moments_count_ * pitch_),
        rows_of_images_(8 * pitch_),
        straight_(pitch_),
        result_(2 * (pitch_ + kSpare)),
        centre_(pitch_),
        asked_(pitch_),
        inside_x_(pitch_),
        share_x_(pitch_),
        share_(pitch_),
        mass_(pitch_),
        factors_(ring(y_) * quantities_ * pitch_) {
    if (derived_) {
      kept_.resize(ring(z_) * part.y.count() * quantities_ * pitch_);
      totals_.resize(part.y.count() * quantities_ * pitch_);
    }
    Aligned<double> inside(pitch_), share(pitch_);
    for (int64_t x = 0; x < x_.size; ++x) {
      straight_[x] = 1, inside[x] = double(images.voxels()) * x_.inside(x);
      share[x] = 1 / (measure.valid ? inside[x] : whole_);
    }
    folded_.fold(straight_.data(), centre_.data());
    folded_.fold(inside.data(), inside_x_.data());
    folded_.fold(share.data(), share_x_.data());
  }

  void run() {
    int64_t entered = z_.first(planes_.begin);
    for (int64_t z = planes_.begin; z < part_.z.end + (derived_ ? z_.radius : 0); ++z) {
      if (z < planes_.end)
        for (; entered <= z_.last(z); ++entered) images_.enter(entered, reach_);
      plane(z);
    }
  }

 private:
  static constexpr int64_t kSpare = 16;
  static constexpr bool kBlocks = requires(Images& images) { images.moments(0, 0); };

  // The windows that hold voxels of a part.
  Range around(const Window& axis, Range range) const {
    return derived_ ? Range{axis.first(range.begin), axis.last(range.end - 1) + 1} : range;
  }

  // Rows or planes that windows hold, and the one that leaves them.
  static int64_t ring(const Window& axis) { return std::min(axis.side() + 1, axis.size); }

  // Sums along z of the quantities of a row of the images.
  double* columns(int64_t y) { return columns_.data() + (y - reach_.begin) * moments_count_ * pitch_; }
  // What gradients sum over, of the last rows of windows.
  R* factors(int64_t y) { return factors_.data() + y % ring(y_) * quantities_ * pitch_; }
  // Its sums in the last planes.
  R* kept(int64_t z, int64_t y) {
    return kept_.data() + (z % ring(z_) * part_.y.count() + y - part_.y.begin) * quantities_ * pitch_;
  }

  R* row(int i) { return rows_of_images_.data() + i * pitch_; }

  // A row of both images and of the mask, 0 outside the image.
  void read(int64_t z, int64_t y, int into) {
    if (z < 0 || z >= z_.size) {
      std::fill_n(row(into), 3 * pitch_, R(0));
      return;
    }
    images_.a(z, y, straight_.data()), folded_.fold(straight_.data(), row(into));
    images_.b(z, y, straight_.data()), folded_.fold(straight_.data(), row(into + 1));
    if (images_.masked()) images_.mask(z, y, straight_.data()), folded_.fold(straight_.data(), row(into + 2));
  }

  // The windows of plane z, and the gradients to the plane of which these are the last.
  void plane(int64_t z) {
    const bool enters = z < planes_.end, leaves = z - z_.radius >= part_.z.begin;
    int64_t entered = reach_.begin;
    for (int64_t y = rows_.begin; y < part_.y.end + (derived_ ? y_.radius : 0); ++y) {
      if (enters && y < rows_.end) {
        for (; entered <= y_.last(y); ++entered) enter(z, entered);
        windows(z, y);
      }
      const int64_t own = y - y_.radius;
      if (!derived_ || own < part_.y.begin) continue;
      if (enters) keep(z, own);
      if (leaves) gradients(z - z_.radius, own);
    }
  }

  // Moves the sums along z of a row to plane z.
  void enter(int64_t z, int64_t y) {
    double* to = columns(y);
    const bool anew = z == planes_.begin || !run_ || z % kAnchor == 0;
    if constexpr (kBlocks) {
      sum_along(z_, z, anew, moments_count_ * pitch_, to, [&](int64_t i) { return images_.moments(i, y); });
    } else if (anew) {
      std::fill_n(to, moments_count_ * pitch_, 0.0);
      for (int64_t i = z_.first(z); i <= z_.last(z); ++i) read(i, y, 0), add_moments(z_.weight(z, i), to);
    } else {
      read(z + z_.radius, y, 0), read(z - z_.radius - 1, y, 3);
      exchange_moments(to);
    }
  }

  void add_moments(double weight, double* to) {
    const int64_t n = pitch_;
    const R *a = row(0), *b = row(1), *m = row(2);
    const auto add = [&](double* sum, auto value) { store(sum, load(sum) + value); };
    each_of(n, [&](int64_t x) {
      const auto va = load_as<double>(a + x), vb = load_as<double>(b + x), wa = weight * va, wb = weight * vb;
      add(to + x, wa), add(to + n + x, wb);
      add(to + 2 * n + x, wa * va), add(to + 3 * n + x, wb * vb), add(to + 4 * n + x, wa * vb);
    });
    if (images_.masked()) each_of(n, [&](int64_t x) { add(to + 5 * n + x, weight * load_as<double>(m + x)); });
  }

  // What does not change adds nothing: sums of a flat region stay what they are.
  void exchange_moments(double* to) {
    const int64_t n = pitch_;
    const R *a = row(0), *b = row(1), *m = row(2), *a0 = row(3), *b0 = row(4), *m0 = row(5);
    const auto add = [&](double* sum, auto value) { store(sum, load(sum) + value); };
    each_of(n, [&](int64_t x) {
      const auto in_a = load_as<double>(a + x), in_b = load_as<double>(b + x);
      const auto out_a = load_as<double>(a0 + x), out_b = load_as<double>(b0 + x);
      const auto more_a = in_a - out_a, more_b = in_b - out_b;
      add(to + x, more_a), add(to + n + x, more_b);
      add(to + 2 * n + x, more_a * (in_a + out_a));
      add(to + 3 * n + x, more_b * (in_b + out_b));
      add(to + 4 * n + x, in_a * in_b - out_a * out_b);
    });
    if (images_.masked())
      each_of(n, [&](int64_t x) { add(to + 5 * n + x, load_as<double>(m + x) - load_as<double>(m0 + x)); });
  }

  // A row of windows.
  void windows(int64_t z, int64_t y) {
    if (images_.masked()) {
      const auto of = [&](int64_t j) { return columns(j) + 5 * pitch_; };
      masses_.template row<1>(y, of, [&](int, int64_t x, const auto& sums) { store(mass_.data() + x, sums[0]); });
    }
    weigh(z, y);
    measure(y);
    if (z < part_.z.begin || z >= part_.z.end || y < part_.y.begin || y >= part_.y.end) return;
    folded_.unfold(row(6), result_.data());
    images_.values(z, y, result_.data());
  }

  // For a row of windows: 1 / N, whether they count, and by how much their gradients do.
  void weigh(int64_t z, int64_t y) {
    const double inside = z_.inside(z) * y_.inside(y);
    if (images_.masked()) {
      images_.mask(z, y, straight_.data());
      folded_.fold(straight_.data(), centre_.data());
      for (int64_t x = 0; x < pitch_; ++x) {
        const double n = measure_.count(whole_, inside * inside_x_[x], mass_[x]);
        share_[x] = centre_[x] == 0 ? 0 : 1 / n;
      }
    } else {
      const double factor = measure_.valid ? 1 / inside : 1;
      for (int64_t x = 0; x < pitch_; ++x) share_[x] = factor * share_x_[x];
    }
    const R* upstream = images_.upstream(z, y);
    if (upstream) {
      std::copy_n(upstream, x_.size, straight_.data());
      folded_.fold(straight_.data(), asked_.data());
      for (int64_t x = 0; x < pitch_; ++x) asked_[x] = centre_[x] == 0 ? R(0) : asked_[x];
    } else {
      asked_ = centre_;
    }
  }

  // The values of a row of windows, and what gradients sum over.
  void measure(int64_t y) {
    const int64_t n = pitch_, of_b = images_.to_a ? 3 : 1;
    const bool to_a = images_.to_a, to_b = images_.to_b;
    const Measure m = measure_;
    const Level a = images_.level_a, b = images_.level_b;
    const double* share = share_.data();
    const R *centre = centre_.data(), *asked = asked_.data();
    R *value = row(6), *to = factors(y);
    const auto of = [&](int64_t j) { return columns(j); };
    moments_.template row<5>(y, of, [=](int, int64_t x, const Vector<double>(&s)[5]) L2RFAST_LAMBDA {
      const auto f = measured(m, {s[0], s[1], s[2], s[3], s[4]}, a, b, load(share + x), load_as<double>(centre + x),
                              load_as<double>(asked + x));
      store_as<double>(value + x, f.value);
      store_as<double>(to + x, f.p);
      if (to_a) store_as<double>(to + n + x, f.q_a), store_as<double>(to + 2 * n + x, f.r_a);
      if (to_b) store_as<double>(to + of_b * n + x, f.q_b), store_as<double>(to + (of_b + 1) * n + x, f.r_b);
    });
  }

  // Sums in plane z of what gradients sum over.
  void keep(int64_t z, int64_t y) {
    R* to = kept(z, y);
    const int64_t n = pitch_;
    const auto of = [&](int64_t j) { return factors(j); };
    shares_.template row<1>(y, of, [=](int c, int64_t x, const auto& s) { store_as<double>(to + c * n + x, s[0]); });
  }

  // The gradients to a row, of the values of all windows that hold its voxels.
  void gradients(int64_t z, int64_t y) {
    const int64_t n = quantities_ * pitch_;
    const bool anew = z == part_.z.begin || !run_ || (z - z_.radius) % kAnchor == 0;
    double* sums = totals_.data() + (y - part_.y.begin) * n;
    sum_along(z_, z, anew, n, sums, [&](int64_t plane) { return kept(plane, y); });
    if constexpr (kBlocks)
      images_.factors(z, y, sums);
    else
      combine(z, y, sums);
  }

  void combine(int64_t z, int64_t y, const double* sums) {
    read(z, y, 0);
    const R* mask = images_.masked() ? row(2) : nullptr;
    const double *p = sums, *q_a = sums + pitch_, *q_b = sums + (images_.to_a ? 3 : 1) * pitch_;
    R *to_a = result_.data(), *to_b = to_a + pitch_ + kSpare;
    if (images_.to_a) {
      finish(p, q_a, row(0), row(1), images_.level_a.mean, images_.level_b.mean, mask, row(6));
      folded_.unfold(row(6), to_a);
    }
    if (images_.to_b) {
      finish(p, q_b, row(1), row(0), images_.level_b.mean, images_.level_a.mean, mask, row(7));
      folded_.unfold(row(7), to_b);
    }
    images_.gradients(z, y, to_a, to_b);
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
  bool run_, derived_;
  int moments_count_, quantities_;
  Range planes_, rows_, reach_;
  Folded folded_;
  int64_t pitch_;
  double whole_;
  PlaneSums moments_, masses_, shares_;
  Aligned<double> columns_;
  Aligned<R> rows_of_images_, straight_, result_, centre_, asked_;
  Aligned<double> inside_x_, share_x_, share_, mass_;
  Aligned<R> factors_, kept_;
  Aligned<double> totals_;
};

}  // namespace l2rfast
