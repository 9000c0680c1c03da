// What math.h, which GPUs have as well, leaves open.
#pragma once

#include "common/math.h"

namespace l2rfast {

// exp(x), and NaN of NaN, of which exponential() makes a large number.
template <class T>
L2RFAST_INLINE T exponential_or_nan(T x) {
  const T result = exponential(x);
  return x == x ? result : x;
}

}  // namespace l2rfast
