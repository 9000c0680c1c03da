// Numbers as sums of two float32, of some 48 bits: for GPUs whose float64 runs at 1/32 or 1/64 of the rate of float32.
//
// Error-free transformations (Knuth's sum of two; the product of two by a fused multiplication) and what is built on
// them (Dekker, Numer. Math. 18, 1971; Li et al., ACM TOMS 28, 2002). A sum is exact to some 2^-48 of the larger of its
// terms. What is not finite becomes NaN. Nothing here may be contracted or reordered: on the GPU all is in intrinsics.
#pragma once

#include "common/launch.cuh"

namespace l2rfast {

namespace rounded {

#ifdef __CUDA_ARCH__
L2RFAST_INLINE float add(float a, float b) { return __fadd_rn(a, b); }
L2RFAST_INLINE float multiply(float a, float b) { return __fmul_rn(a, b); }
L2RFAST_INLINE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
L2RFAST_INLINE float add(float a, float b) { return a + b; }
L2RFAST_INLINE float multiply(float a, float b) { return a * b; }
L2RFAST_INLINE float fused(float a, float b, float c) { return std::fma(a, b, c); }
#endif

}  // namespace rounded

struct alignas(8) Paired {
  float high, low;  // which is at most half of a unit in the last place of high

  Paired() = default;
  L2RFAST_INLINE Paired(float x) : high(x), low(0) {}
  L2RFAST_INLINE explicit Paired(double x) : high(float(x)), low(float(x - double(high))) {}
  L2RFAST_INLINE explicit operator float() const { return high; }
  L2RFAST_INLINE explicit operator double() const { return double(high) + double(low); }

  L2RFAST_INLINE Paired operator-() const { return {-high, -low}; }
  L2RFAST_INLINE friend Paired operator+(Paired a, Paired b) {
    using rounded::add;
    const float sum = add(a.high, b.high), of_b = add(sum, -a.high);
    const float error = add(add(a.high, -add(sum, -of_b)), add(b.high, -of_b));
    return joined(sum, add(error, add(a.low, b.low)));
  }
  L2RFAST_INLINE friend Paired operator-(Paired a, Paired b) { return a + -b; }
  L2RFAST_INLINE friend Paired operator*(Paired a, Paired b) {
    using rounded::fused;
    const float product = rounded::multiply(a.high, b.high), error = fused(a.high, b.high, -product);
    return joined(product, fused(a.low, b.high, fused(a.high, b.low, error)));
  }
  L2RFAST_INLINE friend Paired operator*(Paired a, float b) {
    const float product = rounded::multiply(a.high, b);
    return joined(product, rounded::fused(a.low, b, rounded::fused(a.high, b, -product)));
  }
  L2RFAST_INLINE friend Paired operator*(float a, Paired b) { return b * a; }
  L2RFAST_INLINE friend Paired reciprocal(Paired x) {
    const float first = 1 / x.high;
    const float left = rounded::fused(-x.low, first, rounded::fused(-x.high, first, 1));
    return joined(first, rounded::multiply(first, left));
  }
  L2RFAST_INLINE Paired& operator+=(Paired x) { return *this = *this + x; }
  L2RFAST_INLINE Paired& operator-=(Paired x) { return *this = *this - x; }

 private:
  L2RFAST_INLINE Paired(float h, float l) : high(h), low(l) {}
  // Of one that is by far the larger.
  static L2RFAST_INLINE Paired joined(float large, float small) {
    const float sum = rounded::add(large, small);
    return {sum, rounded::add(small, -rounded::add(sum, -large))};
  }
};

L2RFAST_INLINE double reciprocal(double x) { return 1 / x; }

// In what is computed beside sums of a type.
template <class S>
using Beside = std::conditional_t<std::is_same_v<S, Paired>, float, double>;

// Calls f with a number of the type that sums of values of T are kept in, where float32 cannot hold them.
template <class T, class F>
void for_sums(const Tensor& on, const F& f) {
  if constexpr (!std::is_same_v<T, double>)
    if (in_pairs(on)) return f(Paired{});
  f(double{});
}

}  // namespace l2rfast
