// Lanczos-windowed sinc interpolation on the GPU: a thread finds the ten voxels around its sample and their weights on
// each axis once, and goes over the channels with them. Floor: 1000 loads of a sample in 3-D, nearly all from the
// cache.

#include "common/sampler.cuh"
#include "sinc/weights.h"

namespace l2rfast {
namespace {

template <class Source, class T>
struct Sinc : Samples<Source, int64_t> {
  using Base = Samples<Source, int64_t>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = 2;
  const T* image;
  Strides<ndim, int64_t> strides;
  T* to;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    A p[ndim], weight[ndim][kTaps], poison = 0;
    int32_t index[ndim][kTaps];
    this->source.positions(x, p);
    each_axis<ndim>([&](auto k) { poison += p[k] - p[k]; });
    if (poison == 0)
      each_axis<ndim>([&](auto k) { sinc_taps(p[k], this->size[k], this->padding, weight[k], index[k]); });
    const int64_t first = this->first(x);
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      const A value = poison == 0 ? sum<0>(image + strides.of(n, c), weight, index) : poison;
      to[(n * this->channels + c) * this->numel + first] = T(value);
    });
  }

 private:
  template <int k>
  L2RFAST_INLINE A sum(const T* v, const A (&weight)[ndim][kTaps], const int32_t (&index)[ndim][kTaps]) const {
    if constexpr (k == ndim) {
      return A(fetch(v));
    } else {
      A total = 0;
      L2RFAST_ROLLED
      for (int i = 0; i < kTaps; ++i)
        if (weight[k][i] != 0) total += weight[k][i] * sum<k + 1>(v + index[k][i] * strides.step[k], weight, index);
      return total;
    }
  }
};

Tensor sinc(const Tensor& image, const Tensor& disp, std::string padding) {
  const ByField origin{disp};
  const Tensor result = empty_as(image, shape_of_samples(image, origin));
  for_arithmetic(image, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    const auto samples = samples_of<ndim, A, int64_t>(image, origin, padding);
    using Source = std::remove_cv_t<decltype(samples.source)>;
    for_field<A>(image, [&](auto t) {
      using T = decltype(t);
      each_sample(Sinc<Source, T>{samples, read<T>(image), Strides<ndim, int64_t>(image), write<T>(result)}, origin);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("sinc", TORCH_BOX(&sinc)); }

}  // namespace l2rfast
