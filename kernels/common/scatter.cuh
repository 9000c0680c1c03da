// Gradients of sampling on the GPU, one thread per voxel of the output, as common/sampling.cuh has the samples.
//
// The gradient to the image scatters: up to 2^ndim atomic additions per voxel and channel. Two ways to add:
//
// FloatSum adds floats where the result is to be. The order is not fixed, so the last bits differ between runs.
//
// FixedSum gives the same bits every run, for torch.use_deterministic_algorithms(True): shares are rounded to 64-bit
// integers, whose sum no order can change. Their unit is the largest power of two by which no sum can overflow, from
// the largest |gradient|; so a sum is exact to 2^-(62 - log2(samples)) of that, for a brain of 2^23 voxels 2^-39. It
// costs 8 bytes per element of the image in memory, a pass over the gradient for its largest value, and a pass over the
// sums that makes them floats. Nothing waits for the host: the unit stays on the device.
#pragma once

#include "common/sampling.cuh"

namespace l2rfast {

template <class A>
struct FloatSum {
  A* to;

  L2RFAST_INLINE FloatSum ready() const { return *this; }
  L2RFAST_INLINE void add(int64_t at, A value) const {
    if (value == 0) return;  // else all that is sampled outside the image queues at its border to add nothing
#ifdef __CUDA_ARCH__
    atomicAdd(to + at, value);
#else
    to[at] += value;
#endif
  }
};

// Makes exponents positive: 0 is that of no number.
constexpr int kBias = 2000;

template <class A>
struct FixedSum {
  A* to;  // gets what the sums are added to, and NaN where a share is not finite: it has no place in a sum
  int64_t* sums;
  const int* exponents;  // of factors of a share, in powers of two above the largest of each
  int factors, bits;     // how large a sum may become if no share is above 1

  // 2^k, the unit of the sums, or its inverse.
  L2RFAST_INLINE double unit(int sign) const {
    int k = bits;
    for (int i = 0; i < factors; ++i) k -= fetch(exponents + i) - kBias;
    k = k < -1000 ? -1000 : k > 1000 ? 1000 : k;
    return std::ldexp(1.0, sign * k);
  }

  struct Ready {
    A* to;
    int64_t* sums;
    double scale;

    L2RFAST_INLINE void add(int64_t at, A value) const {
      if (value == 0) return;
      if (!(value - value == 0)) {
        to[at] = value - value;  // every thread that does writes a NaN, and nothing else writes here
        return;
      }
      const double scaled = double(value) * scale;
#ifdef __CUDA_ARCH__
      // Two's complement: the same sum, signed or not.
      atomicAdd(reinterpret_cast<unsigned long long*>(sums + at), static_cast<unsigned long long>(llrint(scaled)));
#else
      sums[at] += std::llrint(scaled);
#endif
    }
  };
  L2RFAST_INLINE Ready ready() const { return {to, sums, unit(1)}; }
};

// Raises *exponent to that of the largest finite |value| of a tensor. A thread takes every `lanes`-th value of a row,
// in all channels.
template <int ndim_, class T>
struct Largest {
  static constexpr int ndim = ndim_, resident = 4;
  const T* values;
  Strides<ndim, int64_t> strides;
  int64_t channels;
  int32_t width, lanes;
  int* exponent;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    Sum<T> largest = 0;
    Voxel<ndim> at = x;
    for (int64_t c = 0; c < channels; ++c) {
      for (at.at[ndim - 1] = x.at[ndim - 1]; at.at[ndim - 1] < width; at.at[ndim - 1] += lanes) {
        const auto value = std::fabs(Sum<T>(fetch(values + strides.of(x.item, c) + strides.of(at.at))));
        if (value > largest && value - value == 0) largest = value;
      }
    }
    if (!(largest > 0)) return;
    const int mine = std::ilogb(largest) + 1 + kBias;
#ifdef __CUDA_ARCH__
    if (mine > __ldcg(exponent)) atomicMax(exponent, mine);  // mostly not: one more read, not a queue
#else
    if (mine > *exponent) *exponent = mine;
#endif
  }
};

// Adds the sums to what is there; one thread per element.
template <int ndim_, class A>
struct Finish {
  static constexpr int ndim = ndim_, resident = 4;
  FixedSum<A> sum;
  int32_t size[ndim];
  int64_t numel;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    int64_t at = 0;
    each_axis<ndim>([&](auto k) { at = at * size[k] + x.at[k]; });
    at += x.item * numel;
    sum.to[at] += A(double(sum.sums[at]) * sum.unit(-1));
  }
};

// Gradients of the samples at a voxel's position.
template <class Source, class T, class Index, class Sum>
struct SampleGradients : Samples<Source, Index> {
  using Base = Samples<Source, Index>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim;
  const T* grad;
  const ReadOnly<T>* image;
  Strides<ndim, Index> grad_strides, strides, to_strides;
  Sum to_image;
  bool nearest;

  // Adds that to the image, if there is a place for it, by `sum`, which is ready; and, if asked, that to the position.
  template <class Ready>
  L2RFAST_INLINE void add(const Voxel<ndim>& x, const Ready& sum, bool asked, A (&slope)[ndim]) const {
    const Index from = grad_strides.of(x.at);
    if (nearest) {
      int32_t at[ndim];
      bool finite;
      if (!this->nearest_voxel(x, at, finite)) return;
      const Index base = to_strides.of(at);
      this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
        sum.add(to_strides.of(n, c) + base, A(fetch(grad + grad_strides.of(n, c) + from)));
      });
      return;
    }
    const auto around = this->around(x);
    if (around.poison != 0) return;
    const Index base = around.base(strides.step), to_base = around.base(to_strides.step);
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      const A g = A(fetch(grad + grad_strides.of(n, c) + from));
      if (asked) add_slopes(g, image + strides.of(n, c) + base, around.taps, strides.step, slope);
      if (to_image.to) {
        const int64_t at = to_strides.of(n, c) + to_base;
        spread<0>(g, around.taps, to_strides.step, [&](Index offset, A share) { sum.add(at + offset, share); });
      }
    });
  }
};

// Gradients to the image and to a field of positions, each if there is a place for it.
template <class Of>
struct Backward : Of {
  using A = typename Of::A;
  using Index = typename Of::Index;
  static constexpr int ndim = Of::ndim, resident = sizeof(A) + sizeof(Index) > 8 ? 1 : 3;
  Field<ndim, A, Index> to_field;
  bool add_own;  // plus the gradient itself, of a field that is composed

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    A slope[ndim] = {};
    this->add(x, this->to_image.ready(), to_field.data, slope);
    if (!to_field.data) return;
    each_axis<ndim>([&](auto k) {
      slope[k] *= this->source.slope(k);
      if (add_own) slope[k] += A(fetch(this->grad + this->grad_strides.of(x.item, k) + this->grad_strides.of(x.at)));
    });
    to_field.with(x, [&](auto* to) {
      each_axis<ndim>([&](auto k) {
        to[this->source.component(k) * to_field.strides.channel] = std::remove_reference_t<decltype(*to)>(slope[k]);
      });
    });
  }
};

// Gradients of sum(tangent * gradient to positions) to grad, image and positions.
template <class Source, class T, class Index, class Sum>
struct DoubleBackward : Samples<Source, Index> {
  using Base = Samples<Source, Index>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = 1;
  const T* grad;
  const ReadOnly<T>* image;
  Strides<ndim, Index> grad_strides, strides, to_strides;
  Field<ndim, A, Index> tangent;
  T* to_grad;
  Sum to_image;
  Field<ndim, A, Index> to_field;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    const auto sum = to_image.ready();
    const auto around = this->around(x);
    const Index from = grad_strides.of(x.at), first = this->first(x);
    const Index base = around.base(strides.step), to_base = around.base(to_strides.step);
    A v[ndim], hessian[ndim] = {};
    each_axis<ndim>([&](auto k) { v[k] = tangent.get(x, k); });
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      A along = 0;
      if (around.poison == 0) {
        const auto* values = image + strides.of(n, c) + base;
        const int64_t to = to_strides.of(n, c) + to_base;
        const A g = A(fetch(grad + grad_strides.of(n, c) + from));
        each_axis<ndim>([&](auto k) {
          along += v[k] * interpolate<1u << k>(values, around.taps, strides.step);
          spread<1u << k>(g * v[k], around.taps, to_strides.step,
                          [&](Index offset, A share) { sum.add(to + offset, share); });
          // Linear along each axis: second derivatives are the mixed ones.
          each_axis<k>([&](auto m) {
            const A mixed = g * interpolate<1u << k | 1u << m>(values, around.taps, strides.step);
            hessian[k] += v[m] * mixed;
            hessian[m] += v[k] * mixed;
          });
        });
      }
      to_grad[(n * this->channels + c) * this->numel + first] = T(along);
    });
    to_field.with(x, [&](auto* to) {
      each_axis<ndim>(
          [&](auto k) { to[k * to_field.strides.channel] = std::remove_reference_t<decltype(*to)>(hessian[k]); });
    });
  }
};

}  // namespace l2rfast
