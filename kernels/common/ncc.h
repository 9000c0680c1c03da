// Local NCC of one window, and what its gradients sum over: of numbers on GPUs, of vectors of them on the CPU. The
// formulas are those of kernels/lncc/reference.py. Sums of images are in double or in pairs of float (pairs.cuh), where
// the product of two floats is exact: variances are small differences of large sums.
#pragma once

#include <string>
#include <vector>

#include "common/interpolation.h"

namespace l2rfast {

// A window is flat where its variance is below this times the square of the channel's largest magnitude.
constexpr double kFlat = 1e-14;

// Of a channel: whether all is finite; the mean (0 if not) as the type that sums of the channel's type are taken in
// holds it; the largest magnitude.
template <class F>
struct LevelOf {
  bool finite;
  F mean, largest;

  L2RFAST_INLINE F tiny() const { return F(kFlat) * largest * largest; }
};

using Level = LevelOf<double>;

// The loss of a window.
template <class F>
struct MeasureOf {
  F numerator, floor_a, floor_b, eps, limit;
  bool averaged, valid;

  MeasureOf(const std::vector<double>& constants, bool mean, const std::string& borders)
      : numerator(F(constants[0])),
        floor_a(F(constants[1])),
        floor_b(floor_a),
        eps(F(constants[2])),
        limit(F(constants[3])),
        averaged(mean),
        valid(borders == "valid") {}

  // N of a window with weights of sum `whole`, `inside` in the image and `mass` in the mask too.
  template <class S>
  L2RFAST_INLINE S count(S whole, S inside, S mass) const {
    return valid ? mass : mass + whole - inside;
  }

  // The same loss of images times these powers of two. Where no window that is not flat would notice, constants are
  // larger, lest their products vanish.
  L2RFAST_INLINE MeasureOf times(F scale_a, F scale_b) const {
    constexpr F least = F(1) / (int64_t(1) << 60);  // kFlat is 2^-46
    const F root = std::sqrt(eps), lowest = least / (floor_a > root ? floor_a : root);
    const F a = scale_a * scale_a > lowest ? scale_a * scale_a : lowest;
    const F b = scale_b * scale_b > lowest ? scale_b * scale_b : lowest;
    MeasureOf m = *this;
    m.numerator *= a, m.numerator *= b, m.eps *= a, m.eps *= b, m.floor_a *= a, m.floor_b *= b;
    return m;
  }
};

using Measure = MeasureOf<double>;

// Sums over a window.
template <class V>
struct Moments {
  V a, b, aa, bb, ab;
};

// Of a window: what P of the gradient sums, and for each image what Q and the last term sum. The means are taken
// relative to the channels', as then the images have to be.
template <class V>
struct Factors {
  V value, p, q_a, r_a, q_b, r_b;
};

// `share`: 1 / N; `centre`: 0 where the window does not count; `asked`: times what the gradient is taken. Sums are of
// V; once variances, their small differences, are found, F will do.
template <class V, class F, class R>
L2RFAST_INLINE Factors<F> measured(const MeasureOf<R>& m, const Moments<V>& s, const LevelOf<R>& a, const LevelOf<R>& b,
                                   V share, F centre, F asked) {
  const F zero = {}, one = zero + 1, floor_a = zero + m.floor_a, floor_b = zero + m.floor_b, limit = zero + m.limit;
  const V mean_a = s.a * share, mean_b = s.b * share;
  const F own_a = F(s.aa - s.a * mean_a), own_b = F(s.bb - s.b * mean_b), both = F(s.ab - s.a * mean_b);
  const F each = F(share), unit = m.averaged ? each : one;
  const auto flat_a = own_a * each <= a.tiny(), flat_b = own_b * each <= b.tiny();  // a NaN is not
  const F var_a = flat_a ? zero : own_a * unit, var_b = flat_b ? zero : own_b * unit;
  const F cross = flat_a | flat_b ? zero : both * unit;
  const F factor_a = var_a < floor_a ? floor_a : var_a, factor_b = var_b < floor_b ? floor_b : var_b;
  const F inverse = 1 / (factor_a * factor_b + m.eps), ratio = (cross * cross + m.numerator) * inverse;
  const F value = centre == 0 ? zero : ratio > limit ? limit : ratio;
  const F twice = ratio <= limit ? 2 * unit * asked * inverse : zero;
  const F p = twice * cross, q = twice * ratio;
  const F q_a = var_a > floor_a ? q * factor_b : zero, q_b = var_b > floor_b ? q * factor_a : zero;
  const V off_a = mean_a - a.mean, off_b = mean_b - b.mean;
  return {value, p, q_a, F(off_a * q_a - off_b * p), q_b, F(off_b * q_b - off_a * p)};
}

// The gradient to a voxel, whose values are relative to the channels' means, from sums over all windows that hold it.
template <class S>
L2RFAST_INLINE S gradient_of(S p, S q, S r, S own, S other) {
  return p * other - q * own + r;
}

}  // namespace l2rfast
