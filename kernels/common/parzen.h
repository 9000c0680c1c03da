// Parzen windows on the CPU: over which bins of a histogram voxels of given intensities are spread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "common/math.h"
#include "common/vectors.h"

namespace l2rfast {

constexpr int64_t kBlock = 64;  // voxels whose windows are found together
constexpr int kLane = 8;        // bins of a vector

template <class A>
struct LaneOf {
  typedef A type __attribute__((vector_size(kLane * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <class A>
using Lane = typename LaneOf<A>::type;

template <class A>
L2RFAST_INLINE Lane<A>& lane(A* p) {
  return *reinterpret_cast<Lane<A>*>(p);
}
template <class A>
L2RFAST_INLINE const Lane<A>& lane(const A* p) {
  return *reinterpret_cast<const Lane<A>*>(p);
}

// How an image's voxels are spread: over `width` bins, the first `lead` below the anchor, a bin near the intensity.
template <class A>
struct Parzen {
  enum Kind { gaussian, cubic, box } kind;
  int64_t bins, lead, width;
  A sharpness;          // 1 / sigma^2
  std::vector<A> fall;  // exp(-(e^2 - e) / (2 sigma^2))

  Parzen(const std::string& name, int64_t bins_, double sigma) : bins(bins_), sharpness(A(1 / (sigma * sigma))) {
    kind = name == "gaussian" ? gaussian : name == "cubic" ? cubic : box;
    lead = kind == cubic ? 1 : 0;
    width = kind == cubic ? 4 : 2;
    if (kind != gaussian) return;
    // Until what is left out is below rounding, beside a weight of 1 for the nearest bin.
    const double limit = -std::log(std::numeric_limits<A>::epsilon() / 2);
    while (lead < bins - 1 && double(lead * (lead + 1)) / (2 * sigma * sigma) < limit) ++lead;
    width = 2 * lead + 1;
    for (int64_t e = 0; e <= lead; ++e) fall.push_back(A(std::exp(-double(e * e - e) / (2 * sigma * sigma))));
  }
  int64_t rows() const { return bins + width - 1; }  // with those of bins that do not exist, on both sides
  int64_t lanes() const { return (width + kLane - 1) / kLane * kLane; }

  // Calls f with the width, as a constant where it is usual.
  template <class F>
  void for_width(const F& f) const {
    constexpr int64_t usual = std::is_same_v<A, double> ? 9 : 7;  // of Gaussians of half a bin
    if (width == usual)
      f(std::integral_constant<int64_t, usual>{});
    else if (width == 4)
      f(std::integral_constant<int64_t, 4>{});
    else
      f(width);
  }
  // The same with how many vectors the width takes.
  template <class F>
  void for_vectors(const F& f) const {
    if (width <= kLane)
      f(std::integral_constant<int64_t, 1>{});
    else
      f(lanes() / kLane);
  }
};

// The windows of a block of voxels: what voxel v adds to the bin anchor[v] - lead + k, and the derivative of that.
template <class A>
struct Spread {
  int32_t anchor[kBlock];
  Aligned<A> p, slope;  // (lanes, kBlock), with zeros from the width on

  explicit Spread(const Parzen<A>& w) : p(w.lanes() * kBlock), slope(w.lanes() * kBlock) {}

  void find(const Parzen<A>& w, const A* x, int64_t n, bool slopes) {
    const A last = A(w.bins - 1), up = w.kind == w.gaussian ? A(0.5) : A(0);
    A given[kBlock] = {};
    std::copy_n(x, n, given);
    for (int64_t v = 0; v < kBlock; ++v) {
      A y = given[v] < 0 ? A(0) : given[v];  // and NaN stays
      y = y > last ? last : y;
      anchor[v] = int32_t(y == y ? y + up : A(0));
      place_[v] = A(anchor[v]);
      away_[v] = y - place_[v];
      within_[v] = given[v] < 0 || given[v] > last ? A(0) : A(1);
    }
    w.for_width([&](auto width) {
      if (slopes)
        shape(w, p.data(), slope.data(), width, std::true_type{});
      else
        shape(w, p.data(), slope.data(), width, std::false_type{});
    });
  }

 private:
  void shape(const Parzen<A>& w, A* p, A* slope, auto width, auto slopes) {
    if (w.kind == w.gaussian) bell(w, p, slope, width, slopes);
    if (w.kind == w.cubic) cubic(p, slope);
    if (w.kind == w.box) box(p, slope);
    normalise(w, p, slope, width, slopes);
  }

  // exp(-d (d - 2 away) / (2 sigma^2)) for d = -lead ... lead: 1 for the anchor, to both sides powers of less than 1.
  void bell(const Parzen<A>& w, A* p, A* slope, auto width, auto slopes) {
    A above[kBlock], below[kBlock];
    const A half = w.sharpness / 2;
    for (int64_t v = 0; v < kBlock; ++v) {
      above[v] = exponential((2 * away_[v] - 1) * half);
      below[v] = exponential((-2 * away_[v] - 1) * half);
    }
    const A *const fall = w.fall.data(), sharpness = w.sharpness;
    const int64_t lead = width / 2;
    for (int64_t v = 0; v < kBlock; v += kLane) {
      A *const middle = p + lead * kBlock + v, *const change = slope + lead * kBlock + v;
      lane(middle) = 1 + 0 * lane(away_ + v);  // NaN where that is
      lane(change) = Lane<A>{};
      const Lane<A> up = lane(above + v), down = lane(below + v);
      Lane<A> high = up, low = down;
      for (int64_t e = 1; e <= lead; ++e, high *= up, low *= down) {
        const int64_t to = e * kBlock;
        lane(middle + to) = high * fall[e];
        lane(middle - to) = low * fall[e];
        if constexpr (slopes) {
          lane(change + to) = A(e) * sharpness * lane(middle + to);
          lane(change - to) = -A(e) * sharpness * lane(middle - to);
        }
      }
    }
  }

  // Six times the spline.
  void cubic(A* p, A* slope) {
    for (int64_t v = 0; v < kBlock; v += kLane, p += kLane, slope += kLane) {
      const Lane<A> f = lane(away_ + v), g = 1 - f;
      lane(p) = g * g * g;
      lane(p + kBlock) = 4 + 3 * f * f * (f - 2);
      lane(p + 2 * kBlock) = 4 + 3 * g * g * (g - 2);
      lane(p + 3 * kBlock) = f * f * f;
      lane(slope) = -3 * g * g;
      lane(slope + kBlock) = 3 * f * (3 * f - 4);
      lane(slope + 2 * kBlock) = 3 * g * (4 - 3 * g);
      lane(slope + 3 * kBlock) = 3 * f * f;
    }
  }

  void box(A* p, A* slope) {
    for (int64_t v = 0; v < kBlock; ++v) {
      const A f = away_[v];
      p[v] = f < A(0.5) ? A(1) : f > A(0.5) ? A(0) : f;
      p[kBlock + v] = 1 - p[v];
      slope[v] = slope[kBlock + v] = 0;
    }
  }

  // Divides by the sum over the bins that exist, and leaves nothing in others.
  void normalise(const Parzen<A>& w, A* p, A* slope, auto width, auto slopes) {
    const int64_t lead = w.lead;
    const A bins = A(w.bins - 1);
    for (int64_t v = 0; v < kBlock; v += kLane, p += kLane, slope += kLane) {
      // Of the first bin and of the last from the anchor.
      const Lane<A> first = -lane(place_ + v), last = bins + first;
      Lane<A> total = {}, change = {};
      for (int64_t k = 0; k < width; ++k) {
        const Lane<A> d = Lane<A>{} + A(k - lead);
        const auto exists = (d >= first) & (d <= last);
        total += lane(p + k * kBlock) = exists ? lane(p + k * kBlock) : Lane<A>{};
        if constexpr (slopes) change += lane(slope + k * kBlock) = exists ? lane(slope + k * kBlock) : Lane<A>{};
      }
      const Lane<A> share = 1 / total, of_slope = share * lane(within_ + v);
      change *= share;
      for (int64_t k = 0; k < width; ++k) {
        const Lane<A> whole = lane(p + k * kBlock);
        lane(p + k * kBlock) = whole * share;
        if constexpr (slopes) lane(slope + k * kBlock) = (lane(slope + k * kBlock) - whole * change) * of_slope;
      }
    }
  }

  A place_[kBlock], away_[kBlock];  // the anchor, and how far on the intensity is
  A within_[kBlock];                // 0 beyond the bins, else 1
};

}  // namespace l2rfast
