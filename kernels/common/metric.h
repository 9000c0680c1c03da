// What two features cost beside each other, on host and device.
#pragma once

#include <string>
#include <type_traits>

#include "common/interpolation.h"

namespace l2rfast {

enum class Metric { ssd, sad, dot };

inline Metric metric_of(const std::string& name) {
  return name == "ssd" ? Metric::ssd : name == "sad" ? Metric::sad : Metric::dot;
}

// f(a metric as a constant): f(std::integral_constant<Metric, ...>{}).
template <class F>
L2RFAST_INLINE auto for_metric(Metric metric, const F& f) {
  if (metric == Metric::ssd) return f(std::integral_constant<Metric, Metric::ssd>{});
  if (metric == Metric::sad) return f(std::integral_constant<Metric, Metric::sad>{});
  return f(std::integral_constant<Metric, Metric::dot>{});
}

template <Metric metric, class R>
L2RFAST_INLINE R measured(R f, R m) {
  if constexpr (metric == Metric::dot) return f * m;
  if constexpr (metric == Metric::sad) return f < m ? m - f : f - m;
  return (f - m) * (f - m);
}

// Its derivatives by both, times g.
template <Metric metric, class R>
L2RFAST_INLINE void differentiated(R g, R f, R m, R& to_f, R& to_m) {
  if constexpr (metric == Metric::dot) {
    to_f = g * m, to_m = g * f;
  } else {
    const R difference = f - m;
    to_f = metric == Metric::ssd ? 2 * g * difference : difference > 0 ? g : difference < 0 ? -g : R(0);
    to_m = -to_f;
  }
}

}  // namespace l2rfast
