// How far from the field the least value can be, on host and device.
#pragma once

#include <limits>

#include "common/interpolation.h"

namespace l2rfast {

// The most that a |e - field|^2 is where a value is least: what the value of some displacement is above `low`, which no
// cost is below. Rounding is left room.
template <class T>
L2RFAST_INLINE T reach(T value, T low) {
  constexpr T infinite = std::numeric_limits<T>::infinity(), ulps = 4 * std::numeric_limits<T>::epsilon();
  const T above = value - low + ulps * (std::fabs(value) + std::fabs(low));
  return above < infinite ? above : infinite;
}

}  // namespace l2rfast
