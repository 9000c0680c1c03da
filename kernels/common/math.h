// Elementary functions that vectorise, on host and device.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "common/interpolation.h"

namespace l2rfast {

// exp(x) within 2 ulp for float (Cody-Waite reduction and the degree-6 polynomial of Cephes expf),
// 0 below the smallest normal number; the C library's for double.
L2RFAST_INLINE float exponential(float x) {
  constexpr float lowest = -87.33654f, highest = 88.37626f;
  float t = x < highest ? x : highest;
  t = t > lowest ? t : lowest;
  const float k = std::floor(t * 1.44269504088896341f + 0.5f);
  float r = t - k * 0.693359375f;
  r = r + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((int32_t(k) + 127) << 23);
  return x < lowest ? 0.0f : p * scale;
}

L2RFAST_INLINE double exponential(double x) { return std::exp(x); }

}  // namespace l2rfast
