// Local NCC of one window, and what its gradients sum over: of numbers on GPUs, of vectors of them on the CPU. The
// formulas are those of kernels/lncc/reference.py. Sums of images are in double, where the product of two floats is
// exact: variances are small differences of large sums.
#pragma once

#include <string>
#include <vector>

#include "common/interpolation.h"

namespace l2rfast {

// A window is flat where its variance is below this times the square of the channel's largest magnitude.
constexpr double kFlat = 1e-14;

// Of a channel: whether all is finite; the mean (0 if not) as the type that sums of the channel's type are taken in
// holds it; the largest magnitude.
struct Level {
  bool finite;
  double mean, largest;

  L2RFAST_INLINE double tiny() const { return kFlat * largest * largest; }
};

// The loss of a window.
struct Measure {
  double numerator, floor, eps, limit;
  bool averaged, valid;

  Measure(const std::vector<double>& constants, bool mean, const std::string& borders)
      : numerator(constants[0]),
        floor(constants[1]),
        eps(constants[2]),
        limit(constants[3]),
        averaged(mean),
        valid(borders == "valid") {}

  // N of a window with weights of sum `whole`, `inside` in the image and `mass` in the mask too.
  L2RFAST_INLINE double count(double whole, double inside, double mass) const {
    return valid ? mass : mass + whole - inside;
  }
};

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

// `share`: 1 / N; `centre`: 0 where the window does not count; `asked`: times what the gradient is taken.
template <class V>
L2RFAST_INLINE Factors<V> measured(const Measure& m, const Moments<V>& s, const Level& a, const Level& b, V share,
                                   V centre, V asked) {
  const V zero = {}, one = zero + 1, floor = zero + m.floor, limit = zero + m.limit;
  const V mean_a = s.a * share, mean_b = s.b * share;
  const V own_a = s.aa - s.a * mean_a, own_b = s.bb - s.b * mean_b;
  const auto flat_a = own_a * share <= a.tiny(), flat_b = own_b * share <= b.tiny();  // a NaN is not
  const V unit = m.averaged ? share : one;
  const V var_a = flat_a ? zero : own_a * unit, var_b = flat_b ? zero : own_b * unit;
  const V cross = flat_a | flat_b ? zero : (s.ab - s.a * mean_b) * unit;
  const V factor_a = var_a < floor ? floor : var_a, factor_b = var_b < floor ? floor : var_b;
  const V inverse = 1 / (factor_a * factor_b + m.eps), ratio = (cross * cross + m.numerator) * inverse;
  const V value = centre == 0 ? zero : ratio > limit ? limit : ratio;
  const V twice = ratio <= limit ? 2 * unit * asked * inverse : zero;
  const V p = twice * cross, q = twice * ratio;
  const V q_a = var_a > floor ? q * factor_b : zero, q_b = var_b > floor ? q * factor_a : zero;
  const V off_a = mean_a - a.mean, off_b = mean_b - b.mean;
  return {value, p, q_a, q_a * off_a - p * off_b, q_b, q_b * off_b - p * off_a};
}

// The gradient to a voxel, whose values are relative to the channels' means, from sums over all windows that hold it.
L2RFAST_INLINE double gradient_of(double p, double q, double r, double own, double other) {
  return p * other - q * own + r;
}

}  // namespace l2rfast
