// What a step away from a displacement costs, on host and device.
#pragma once

#include <cstdint>

#include "common/interpolation.h"

namespace l2rfast {

template <class R>
L2RFAST_INLINE R parabola(R weight, int64_t steps) {
  return weight * R(steps * steps);
}

}  // namespace l2rfast
