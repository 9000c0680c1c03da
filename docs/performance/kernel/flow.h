// What happens at a voxel, on the CPU and on GPUs: reference.py has the formulas.
#pragma once

#include "common/interpolation.h"

namespace l2rfast {

template <class T>
struct Flow {
  T z, y, x;   // of which the gradient is the adjoint of the slopes
  T distance;  // 1 - p q
};

template <class T>
L2RFAST_INLINE Flow<T> flow(T az, T ay, T ax, T bz, T by, T bx, T edge2) {
  const T product = az * bz + ay * by + ax * bx;
  const T a = az * az + ay * ay + ax * ax + edge2, b = bz * bz + by * by + bx * bx + edge2;
  const T p = product / a, q = product / b, s = p / b;
  return {s * (az - q * bz), s * (ay - q * by), s * (ax - q * bx), 1 - p * q};
}

}  // namespace l2rfast
