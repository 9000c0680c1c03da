// Where a sample position falls between grid points: shared by every kernel that samples, on host and device.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#ifdef __CUDACC__
#define L2RFAST_INLINE __host__ __device__ __forceinline__
#define L2RFAST_LAMBDA
#define L2RFAST_ROLLED _Pragma("unroll 1")  // the next loop: it saves registers
#else
#define L2RFAST_INLINE inline __attribute__((always_inline))
#define L2RFAST_LAMBDA __attribute__((always_inline))
#define L2RFAST_ROLLED
#endif

namespace l2rfast {

// Reflection is about the centres of the outer voxels, symmetric about their outer edges.
enum class Padding { border, zeros, reflection, symmetric };

// Calls f with the padding of that number as a constant: f(std::integral_constant<Padding, ...>{}).
template <class F>
L2RFAST_INLINE auto for_padding(Padding padding, F&& f) {
  if (padding == Padding::border) return f(std::integral_constant<Padding, Padding::border>{});
  if (padding == Padding::zeros) return f(std::integral_constant<Padding, Padding::zeros>{});
  if (padding == Padding::reflection) return f(std::integral_constant<Padding, Padding::reflection>{});
  return f(std::integral_constant<Padding, Padding::symmetric>{});
}

// Linear interpolation on one axis: value = w0 * v[base] + w1 * v[base + step], step = (size > 1), and
// d(value)/d(position) = d0 * v[base] + d1 * v[base + step]. `base` is in range for every position; what
// lies outside the image has weight 0. Weights are finite even where the position is not.
template <class A, class Index>
struct Taps {
  Index base;
  A w0, w1, d0, d1;
};

// Position -> position inside [0, size - 1] and the sign of its derivative there (0 where clamped).
template <Padding P, class A>
L2RFAST_INLINE A inside(A p, A last, A& slope) {
  A q = p;
  A sign = 1;
  if constexpr (P == Padding::reflection || P == Padding::symmetric) {
    constexpr bool edges = P == Padding::symmetric;
    constexpr A low = edges ? A(-0.5) : A(0);
    const A span = edges ? last + 1 : last > 0 ? last : 1;
    const A t = std::fabs(p - low);
    const A flips = std::floor(t / span);
    const A extra = t - flips * span;
    const bool even = flips - 2 * std::floor(flips / 2) == 0;
    q = low + (even ? extra : span - extra);
    sign = (p < low) == even ? A(-1) : A(1);
  }
  slope = sign * A((q > 0) & (q < last));  // a product, not a choice: compilers vectorise it
  q = q > 0 ? q : A(0);                    // in this order a NaN becomes 0
  return q < last ? q : last;
}

template <Padding P, class Index, class A>
L2RFAST_INLINE Taps<A, Index> linear_taps(A p, Index size) {
  if constexpr (P == Padding::zeros) {
    A q = p > -1 ? p : A(-1);
    q = q < A(size) ? q : A(size);
    const A low = std::floor(q);
    const A f = q - low;
    const Index i = Index(low);
    const bool before = i < 0, after = i >= size - 1, beyond = i >= size;
    const A left = 1 - f;
    Index base = i < size - 2 ? i : size - 2;
    base = base > 0 ? base : 0;
    // Before: only v[0] = v[base] counts. After: only v[size - 1] = v[base + step]. By products: compilers vectorise
    // them, but not a choice within a choice.
    const A low_counts = A(before | !after), high_counts = A(!(before | beyond));
    const A slope = A((p >= -1) & (p < A(size)));
    const A w0 = low_counts * (before ? f : left), w1 = high_counts * (after ? left : f);
    const A d0 = low_counts * (before ? slope : -slope), d1 = high_counts * (after ? -slope : slope);
    return {base, w0, w1, d0, d1};
  } else {
    A slope;
    const A q = inside<P>(p, A(size - 1), slope);
    const Index floor = Index(q);
    Index base = floor < size - 2 ? floor : size - 2;
    base = base > 0 ? base : 0;
    const A f = q - A(base);
    return {base, 1 - f, f, -slope, slope};
  }
}

// Nearest grid point (ties to even), or -1 where padding with zeros leaves nothing or p is not finite.
template <Padding P, class Index, class A>
L2RFAST_INLINE Index nearest_tap(A p, Index size) {
  if (!(p - p == 0)) return -1;
  if constexpr (P == Padding::zeros) {
    const A r = std::nearbyint(p);
    return r >= 0 && r < A(size) ? Index(r) : Index(-1);
  } else {
    A slope;
    return Index(std::nearbyint(inside<P>(p, A(size - 1), slope)));
  }
}

// Interpolates the 2^ndim values around a sample, the first of them at v, with the derivative by position along every
// axis whose bit is set in `axes`. step[k] leads to the next value on axis k; 0 on an axis of size 1.
template <unsigned axes, int ndim, int k = 0, class T, class A, class Index>
L2RFAST_INLINE A interpolate(const T* v, const Taps<A, Index> (&taps)[ndim], const Index (&step)[ndim]) {
  if constexpr (k == ndim) {
    return A(*v);
  } else {
    constexpr bool derived = axes >> k & 1;
    const A low = interpolate<axes, ndim, k + 1>(v, taps, step);
    const A high = interpolate<axes, ndim, k + 1>(v + step[k], taps, step);
    return (derived ? taps[k].d0 : taps[k].w0) * low + (derived ? taps[k].d1 : taps[k].w1) * high;
  }
}

// Its adjoint: calls f(offset from v, share) with what each of the 2^ndim values gets of `value`.
template <unsigned axes, int ndim, int k = 0, class A, class Index, class F>
L2RFAST_INLINE void spread(A value, const Taps<A, Index> (&taps)[ndim], const Index (&step)[ndim], const F& f,
                           Index offset = 0) {
  if constexpr (k == ndim) {
    f(offset, value);
  } else {
    constexpr bool derived = axes >> k & 1;
    spread<axes, ndim, k + 1>(value * (derived ? taps[k].d0 : taps[k].w0), taps, step, f, offset);
    spread<axes, ndim, k + 1>(value * (derived ? taps[k].d1 : taps[k].w1), taps, step, f, offset + step[k]);
  }
}

}  // namespace l2rfast
