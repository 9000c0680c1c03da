// Labels by votes on the CPU; see common/sampler.h for how samples are found, and for what that costs at least.
//
// Floor: labels and field are read once, the output is written once. The 2^ndim neighbours of a block are gathered, in
// 32 bits, or 64 for labels or arithmetic of 64, so that what follows is in vectors: where all neighbours of all lanes
// agree, as nearly everywhere, there is nothing to count. Elsewhere each pair of neighbours is compared once (28 in
// 3-D), and each candidate with the best before it. In one pass, without memory for channels of labels.

#include "common/memory.h"
#include "common/sampler.h"
#include "common/text.h"

namespace l2rfast {
namespace {

template <class X, int n>
struct Lanes {
  typedef X type __attribute__((vector_size(n * sizeof(X)), aligned(alignof(X)), may_alias));
};

// What labels of type T are counted in, beside arithmetic in A.
template <class T, class A>
using Key = std::conditional_t<sizeof(T) == 8 || sizeof(A) == 8, int64_t, int32_t>;

// The labels around every sample of a block; the last axis is the fastest.
template <int ndim, class K>
using Neighbours = K[1 << ndim][kBlock];

// Whether neighbour j is the upper one along axis k.
template <int ndim>
constexpr int side(int j, int k) {
  return j >> (ndim - 1 - k) & 1;
}

template <int ndim, class T, class K, class Index>
void gather(const T* labels, const Index (&step)[ndim], const Index (&base)[kBlock], int count,
            Neighbours<ndim, K>& around) {
  Index offset[1 << ndim] = {};
  for (int j = 0; j < 1 << ndim; ++j)
    for (int k = 0; k < ndim; ++k) offset[j] += side<ndim>(j, k) * step[k];
  for (int i = 0; i < count; ++i) {
    const T* at = labels + base[i];
    each_axis<(1 << ndim)>([&](auto j) { around[j.value][i] = K(at[offset[j.value]]); });
  }
}

// Puts the label with the largest sum of weights into winner, of equal sums the least; 0 where a coordinate is not
// finite. A candidate counts itself and those of its label that come after it: the first of a label has its whole sum,
// and none of the others more. `sign` is xor'ed to labels to order those without a sign. With `zeros` what lies outside
// of the image votes for 0.
template <int ndim, bool zeros, class A, class K>
void elect(const Neighbours<ndim, K>& around, const A (&w0)[ndim][kBlock], const A (&w1)[ndim][kBlock],
           const A (&poison)[kBlock], int count, K sign, K (&winner)[kBlock]) {
  constexpr int n = std::max(kVectorBytes / int(sizeof(K)), 4), corners = 1 << ndim, voters = corners + zeros;
  using Label = typename Lanes<K, n>::type;
  using Weight = typename Lanes<A, n>::type;
  using Mask = typename Lanes<std::conditional_t<sizeof(A) == 8, int64_t, int32_t>, n>::type;
  const auto at = []<class X>(const X* p) { return *reinterpret_cast<const typename Lanes<X, n>::type*>(p); };
  const auto as_weight = [](auto mask) { return __builtin_convertvector(mask, Mask); };
  const auto as_label = [](auto mask) { return __builtin_convertvector(mask, Label); };
  for (int i = 0; i < count; i += n) {
    Label label[voters] = {}, differs = {};
    each_axis<corners>([&](auto j) {
      label[j.value] = at(around[j.value] + i);
      differs |= label[j.value] ^ label[0];
    });
    Weight outside = {};
    if constexpr (zeros) {
      Weight inside = {};
      inside += 1;
      for (int k = 0; k < ndim; ++k) inside *= at(w0[k] + i) + at(w1[k] + i);
      outside = 1 - inside;
      differs |= as_label(outside != 0);
    }
    Label best = label[0];
    K any = 0;
    for (int lane = 0; lane < n; ++lane) any |= differs[lane];
    if (any) {
      Weight weight[voters];
      each_axis<corners>([&](auto j) {
        weight[j.value] = at((side<ndim>(j.value, 0) ? w1 : w0)[0] + i);
        for (int k = 1; k < ndim; ++k) weight[j.value] *= at((side<ndim>(j.value, k) ? w1 : w0)[k] + i);
      });
      if constexpr (zeros) weight[corners] = outside;
      Weight most = {};
      each_axis<voters>([&](auto a) {
        Weight sum = weight[a.value];
        each_axis<voters>([&](auto b) {
          if constexpr (b.value > a.value)
            sum += as_weight(label[b.value] == label[a.value]) ? weight[b.value] : Weight{};
        });
        const auto less = as_weight((label[a.value] ^ sign) < (best ^ sign));
        const auto better = (sum > most) | ((sum == most) & less);
        most = better ? sum : most;
        best = as_label(better) ? label[a.value] : best;
      });
    }
    best = as_label(at(poison + i) == 0) ? best : Label{};
    *reinterpret_cast<Label*>(winner + i) = best;
  }
}

template <int ndim, class A>
Tensor elected(const Tensor& labels, const Positions<A>& source, const std::string& padding) {
  const Dtype dtype = labels.scalar_type();
  const bool has_sign = dtype == Dtype::Char || dtype == Dtype::Short || dtype == Dtype::Int || dtype == Dtype::Long;
  Tensor result;
  for_problem<ndim>(labels, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
    result = room_as(labels, p.shape(labels.size(1)));
    for_width(labels.element_size(), [&](auto of) {
      using T = decltype(of);
      using K = Key<T, A>;
      const auto count_votes = p.padding == Padding::zeros ? elect<ndim, true, A, K> : elect<ndim, false, A, K>;
      const K sign = has_sign ? K(0) : std::numeric_limits<K>::min();
      const T* const images = static_cast<const T*>(labels.const_data_ptr());
      T* const results = static_cast<T*>(result.mutable_data_ptr());
      p.template each_group<BlockTaps<ndim, A, Index>>([&](auto group) {
        const auto soon = [&](int64_t c, const auto& taps) {
          taps.prefetch(images + p.image.offset(taps.block.n, c), p.step);
        };
        p.each_channel(group, soon, [&](int64_t c, const auto& taps) {
          const Block& b = taps.block;
          const int count = b.template whole<A>();
          Neighbours<ndim, K> around;
          K winner[kBlock];
          gather<ndim>(images + p.image.offset(b.n, c), p.step, taps.base, count, around);
          count_votes(around, taps.w0, taps.w1, taps.poison, count, sign, winner);
          T* __restrict out = results + p.at(b, c);
          for (int i = 0; i < b.count; ++i) out[i] = T(winner[i]);
        });
      });
    });
  });
  return result;
}

Tensor vote(const Tensor& labels, const Tensor& disp, Text padding) {
  Tensor result;
  for_arithmetic(labels, disp, [&](auto ndim, auto real) {
    result = elected<ndim.value>(labels, Displaced<ndim.value, decltype(real)>(disp), padding);
  });
  return result;
}

Tensor affine_vote(const Tensor& labels, const Tensor& matrix, std::vector<int64_t> size, Text padding) {
  Tensor result;
  for_arithmetic(labels, matrix, [&](auto ndim, auto real) {
    result = elected<ndim.value>(labels, Affine<ndim.value, decltype(real)>(matrix, Grid::of(size)), padding);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("vote", TORCH_BOX(&vote));
  m.impl("affine_vote", TORCH_BOX(&affine_vote));
}

}  // namespace l2rfast
