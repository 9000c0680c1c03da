// Labels by votes on the GPU; see common/sampling.cuh for how samples are found, and for what that costs at least.
//
// Floor: labels and field are read once, the output is written once; the 2^ndim neighbours of a sample and their
// weights stay in a thread's registers, where each pair is compared once.

#include "common/sampler.cuh"

namespace l2rfast {
namespace {

// T has the width of the labels; `sign` is xor'ed to order those without a sign.
template <class Source, class T>
struct Vote : Samples<Source, int64_t> {
  using Base = Samples<Source, int64_t>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = 2, corners = 1 << ndim;
  const T* labels;
  Strides<ndim, int64_t> strides;
  T* to;
  T sign;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    const auto around = this->around(x);
    const int64_t base = around.base(strides.step), first = this->first(x);
    A weight[corners];
    int64_t offset[corners];
    int corner = 0;
    spread<0>(A(1), around.taps, strides.step, [&](int64_t step, A share) {
      offset[corner] = step, weight[corner] = share;
      ++corner;
    });
    A outside = 0;
    if (this->padding == Padding::zeros) {
      outside = 1;
      each_axis<ndim>([&](auto k) { outside *= around.taps[k].w0 + around.taps[k].w1; });
      outside = 1 - outside;
    }
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      T label[corners];
      each_axis<corners>([&](auto i) { label[i] = fetch(labels + strides.of(n, c) + base + offset[i]); });
      T best = label[0];
      A most = 0;
      const auto stand = [&](T candidate, A votes) {
        if (votes > most || (votes == most && T(candidate ^ sign) < T(best ^ sign))) best = candidate, most = votes;
      };
      each_axis<corners>([&](auto i) {
        // With those of its label that come after it: the first of a label has its whole sum.
        A votes = weight[i];
        each_axis<corners>([&](auto j) { votes += j > i && label[j] == label[i] ? weight[j] : A(0); });
        stand(label[i], votes + (label[i] == 0 ? outside : A(0)));
      });
      stand(T(0), outside);
      to[(n * this->channels + c) * this->numel + first] = around.poison == 0 ? best : T(0);
    });
  }
};

Tensor vote(const Tensor& labels, const Tensor& disp, std::string padding) {
  const ByField origin{disp};
  const Tensor result = empty_as(labels, shape_of_samples(labels, origin));
  const Dtype dtype = labels.scalar_type();
  const bool has_sign = dtype == Dtype::Char || dtype == Dtype::Short || dtype == Dtype::Int || dtype == Dtype::Long;
  for_arithmetic(labels, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    const auto samples = samples_of<ndim, decltype(real), int64_t>(labels, origin, padding);
    using Source = std::remove_cv_t<decltype(samples.source)>;
    for_width(labels.element_size(), [&](auto of) {
      using T = decltype(of);
      each_sample(
          Vote<Source, T>{samples, static_cast<const T*>(labels.const_data_ptr()), Strides<ndim, int64_t>(labels),
                          static_cast<T*>(result.mutable_data_ptr()), has_sign ? T(0) : std::numeric_limits<T>::min()},
          origin);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("vote", TORCH_BOX(&vote)); }

}  // namespace l2rfast
