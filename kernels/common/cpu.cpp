// The loops that every operation that samples has: common/sampler.h says what they do, and how.

#include "common/sampler.h"

namespace l2rfast {
namespace {

bool is_floating(Dtype t) {
  return t == Dtype::Float || t == Dtype::Double || t == Dtype::Half || t == Dtype::BFloat16;
}

// Calls f(axis, padding, positions, size, step) for the samples of a block along every axis of the image, in whole
// vectors.
template <int ndim, class A, class Index, class F>
L2RFAST_INLINE void each_position(const Problem<ndim, A, Index>& p, const Block& b, const F& f) {
  each_axis<ndim>([&](auto axis) {
    A position[kBlock];
    p.source.along(axis.value, b, position);
    for (int i = b.count; i < b.template whole<A>(); ++i) position[i] = position[0];
    for_padding(p.padding, [&](auto padding) { f(axis, padding, position, p.size[axis.value], p.step[axis.value]); });
  });
}

}  // namespace

template <int ndim, class A, class Index>
std::array<Index, 2> Problem<ndim, A, Index>::planes(const Block& b) const {
  std::array<Index, 2> range;
  A position[kBlock];
  source.along(0, b, position);
  for_padding(padding, [&](auto pad) {
    Index low = std::numeric_limits<Index>::max(), high = -1;
    for (int i = 0, end = b.count; i < end; ++i) {
      const Index plane = linear_taps<pad.value, Index>(position[i], size[0]).base;
      low = std::min(low, plane), high = std::max(high, plane);
    }
    range = {low, high};
  });
  return range;
}

template <int ndim, class A, class Index, bool derivatives>
BlockTaps<ndim, A, Index, derivatives>::BlockTaps(const Problem<ndim, A, Index>& p, const Block& b) : block(b) {
  each_position(p, b, [&](auto axis, auto padding, const A(&position)[kBlock], Index size, Index step) {
    constexpr int k = axis.value;
    for (int i = 0, end = b.template whole<A>(); i < end; ++i) {
      const auto t = linear_taps<padding.value, Index>(position[i], size);
      const A finite = position[i] - position[i];
      if constexpr (k == 0) {
        plane[i] = t.base, base[i] = t.base * step, poison[i] = finite;
      } else {
        base[i] += t.base * step, poison[i] += finite;
      }
      w0[k][i] = t.w0, w1[k][i] = t.w1;
      if constexpr (derivatives) d0[k][i] = t.d0, d1[k][i] = t.d1;
    }
    if (p.outside) outside.template look<k>(position, size, b.count);
  });
}

template <int ndim, class A, class Index>
BlockNearest<ndim, A, Index>::BlockNearest(const Problem<ndim, A, Index>& p, const Block& b) : block(b) {
  each_position(p, b, [&](auto axis, auto padding, const A(&position)[kBlock], Index size, Index step) {
    constexpr int k = axis.value;
    for (int i = 0, end = b.count; i < end; ++i) {
      const Index tap = nearest_tap<padding.value, Index>(position[i], size);
      const A finite = position[i] - position[i];
      if constexpr (k == 0) {
        plane[i] = tap, source[i] = tap < 0 ? Index(-1) : tap * step, poison[i] = finite;
      } else {
        source[i] = (source[i] < 0) | (tap < 0) ? Index(-1) : source[i] + tap * step, poison[i] += finite;
      }
    }
    if (p.outside) outside.template look<k>(position, size, b.count);
  });
}

template <int ndim, class A, class Index>
void sample_linear(const Problem<ndim, A, Index>& p, std::span<const BlockTaps<ndim, A, Index>> group, const Job& job,
                   const Added<A>& added) {
  for_field<A>(job.dtype, [&](auto t) {
    using T = decltype(t);
    const T* const images = static_cast<const T*>(job.image);
    const auto soon = [&](int64_t c, const auto& taps) {
      taps.prefetch(images + p.image.offset(taps.block.n, c), p.step);
    };
    A sum[kBlock] = {};
    p.each_channel(group, soon, [&](int64_t c, const auto& taps) {
      const Block& b = taps.block;
      if (added) added(b, c, taps.poison, sum);
      const A* __restrict plus = added ? sum : taps.poison;
      T* __restrict out = static_cast<T*>(job.result) + p.at(b, c);
      const T* image = images + p.image.offset(b.n, c);
      each_vector<ndim, A>(image, p.step, taps.base, b.count,
                           [&](const Corners<ndim, A>& corners, int i, int n) L2RFAST_LAMBDA {
                             store_some<A>(out + i, corners.interpolate(taps.weights(i)) + load(plus + i), n);
                           });
      if (p.outside) taps.outside.fill(p.outside, out, b.count);
    });
  });
}

template <int ndim, class A, class Index>
void sample_nearest(const Problem<ndim, A, Index>& p, std::span<const BlockNearest<ndim, A, Index>> group,
                    const Job& job) {
  const auto copy = [&](auto t) {
    using T = decltype(t);
    p.each_channel(
        group, [](auto...) {},
        [&](int64_t c, const auto& taps) {
          const Block& b = taps.block;
          const T* v = static_cast<const T*>(job.image) + p.image.offset(b.n, c);
          T* __restrict out = static_cast<T*>(job.result) + p.at(b, c);
          for (int i = 0; i < b.count; ++i) {
            out[i] = taps.source[i] < 0 ? T(0) : v[taps.source[i]];
            if constexpr (!std::is_integral_v<T>) out[i] = T(Sum<T>(out[i]) + Sum<T>(taps.poison[i]));
          }
          if (p.outside) taps.outside.fill(p.outside, out, b.count);
        });
  };
  if (is_floating(job.dtype))
    for_field<A>(job.dtype, copy);
  else
    for_width(job.width, copy);
}

template <int ndim, class A>
Tensor sample(const Tensor& image, const Positions<A>& source, const std::string& mode, const std::string& padding,
              const Added<A>& added, const std::optional<Tensor>& outside) {
  Tensor result;
  const auto run = [&]<class Index>(const Problem<ndim, A, Index>& p) {
    result = room_as(image, p.shape(image.size(1)));
    const Job job(image, result);
    if (mode == "nearest")
      p.template each_group<BlockNearest<ndim, A, Index>>([&](auto group) { sample_nearest(p, group, job); });
    else
      p.template each_group<BlockTaps<ndim, A, Index>>([&](auto group) { sample_linear(p, group, job, added); });
  };
  for_problem<ndim>(image, source, padding, run, outside ? outside->const_data_ptr() : nullptr);
  return result;
}

template <int ndim, class A>
void backward_positions(const Tensor& grad, const Tensor& image, const Positions<A>& source, const std::string& padding,
                        const Put<ndim, A>& put) {
  struct Sums {
    A by[ndim][kBlock];
  };
  for_problem<ndim>(image, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
    for_field<A>(image.scalar_type(), [&](auto t) {
      using T = decltype(t);
      const T *const images = read<T>(image), *const grads = read<T>(grad);
      p.template each_group<BlockTaps<ndim, A, Index, true>>([&](auto group) {
        std::vector<Sums> sums(group.size());
        const auto soon = [&](int64_t c, const auto& taps) {
          taps.prefetch(images + p.image.offset(taps.block.n, c), p.step);
        };
        p.each_channel(group, soon, [&](int64_t c, const auto& taps) {
          const Block& b = taps.block;
          auto& sum = sums[&taps - group.data()].by;
          const T* g = grads + p.at(b, c);
          const T* v = images + p.image.offset(b.n, c);
          each_vector<ndim, A>(v, p.step, taps.base, b.count,
                               [&](const Corners<ndim, A>& corners, int i, int n) L2RFAST_LAMBDA {
                                 const Vector<A> factor = load_some<A>(g + i, n), poison = load(taps.poison + i);
                                 each_axis<ndim>([&](auto k) {
                                   A* total = sum[k.value] + i;
                                   const Vector<A> slope = corners.interpolate(taps.template weights<1u << k.value>(i));
                                   const Vector<A> share = poison == 0 ? factor * slope : Vector<A>{};
                                   store_some<A>(total, load(total) + share, kLanes<A>);
                                 });
                               });
        });
        for (size_t j = 0; j < group.size(); ++j) put(group[j].block, sums[j].by);
      });
    });
  });
}

namespace {

// Adds to an image what the samples of a block with cotangents g give to it.
//
// The order is 0, 8, 16, ..., 1, 9, 17, ...: neighbours add to the same voxels, and would wait for each other's stores.
template <int ndim, class A, class Index, class T>
void spread_block(const BlockTaps<ndim, A, Index>& taps, const Index (&step)[ndim], const Slab<Index>& slab, const T* g,
                  A* image) {
  typedef A Pair __attribute__((vector_size(2 * sizeof(A)), aligned(alignof(A)), may_alias));
  constexpr int rows = ndim == 3 ? 4 : 2, apart = 8;  // rows of the image that a sample adds to, half in each plane
  const int count = taps.block.count;
  A share[rows][kBlock], along_x[kBlock][2];
  for (int i = 0, end = count; i < end; ++i) {
    const A value = taps.poison[i] == 0 ? A(g[i]) : A(0);
    const A near = value * taps.w0[0][i], far = value * taps.w1[0][i];
    along_x[i][0] = taps.w0[ndim - 1][i], along_x[i][1] = taps.w1[ndim - 1][i];
    if constexpr (ndim == 3) {
      share[0][i] = near * taps.w0[1][i], share[1][i] = near * taps.w1[1][i];
      share[2][i] = far * taps.w0[1][i], share[3][i] = far * taps.w1[1][i];
    } else {
      share[0][i] = near, share[1][i] = far;
    }
  }
  // By value: what is added might, for all the compiler knows, change what is read through references.
  const Index next = step[0] > 0, sy = step[ndim - 2], sz = step[0];
  const Index offset[4] = {0, sy, sz, Index(sz + sy)};
  const auto each = [&, slab, next, image, count](const auto& add) {
    for (int start = 0; start < apart; ++start)
      for (int i = start; i < count; i += apart) {
        A* const at = image + taps.base[i];
        const Pair x = *reinterpret_cast<const Pair*>(along_x[i]);
        const bool near = slab.has(taps.plane[i]), far = slab.has(taps.plane[i] + next);
        for (int r = 0; r < rows; ++r)
          if (r < rows / 2 ? near : far) add(at + offset[r], x * share[r][i]);
      }
  };
  if (step[ndim - 1] == 1)
    each([](A* at, Pair v) { *reinterpret_cast<Pair*>(at) += v; });
  else  // a single voxel along x
    each([](A* at, Pair v) { *at += v[0] + v[1]; });
}

}  // namespace

template <int ndim, class A>
void backward_image(const Tensor& grad, const Positions<A>& source, const std::string& mode, const std::string& padding,
                    const Tensor& grad_image) {
  A* const to = write<A>(grad_image);
  for_problem<ndim>(grad_image, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
    for_field<A>(grad.scalar_type(), [&](auto t) {
      using T = decltype(t);
      const T* const grads = read<T>(grad);
      const auto at = [&](int64_t c, const auto& taps) { return to + p.image.offset(taps.block.n, c); };
      if (mode == "nearest")
        by_slab<BlockNearest<ndim, A, Index>>(p, [&](auto group, const Slab<Index>& slab) {
          p.each_channel(
              group, [](auto...) {},
              [&](int64_t c, const auto& taps) {
                const T* g = grads + p.at(taps.block, c);
                for (int i = 0; i < taps.block.count; ++i)
                  if (taps.source[i] >= 0 && slab.has(taps.plane[i])) at(c, taps)[taps.source[i]] += A(g[i]);
              });
        });
      else
        by_slab<BlockTaps<ndim, A, Index>>(p, [&](auto group, const Slab<Index>& slab) {
          p.each_channel(
              group, [&](int64_t c, const auto& taps) { taps.prefetch(at(c, taps), p.step); },
              [&](int64_t c, const auto& taps) {
                spread_block(taps, p.step, slab, grads + p.at(taps.block, c), at(c, taps));
              });
        });
    });
  });
}

#define L2RFAST_SAMPLED(ndim, A)                                                                                    \
  L2RFAST_SAMPLED_IN(ndim, A, int32_t)                                                                              \
  L2RFAST_SAMPLED_IN(ndim, A, int64_t)                                                                              \
  template Tensor sample<ndim, A>(const Tensor&, const Positions<A>&, const std::string&, const std::string&,       \
                                  const Added<A>&, const std::optional<Tensor>&);                                   \
  template void backward_positions<ndim, A>(const Tensor&, const Tensor&, const Positions<A>&, const std::string&,  \
                                            const Put<ndim, A>&);                                                   \
  template void backward_image<ndim, A>(const Tensor&, const Positions<A>&, const std::string&, const std::string&, \
                                        const Tensor&);
#define L2RFAST_SAMPLED_IN(ndim, A, Index)                                                                            \
  template struct Problem<ndim, A, Index>;                                                                            \
  template struct BlockTaps<ndim, A, Index, false>;                                                                   \
  template struct BlockTaps<ndim, A, Index, true>;                                                                    \
  template struct BlockNearest<ndim, A, Index>;                                                                       \
  template void sample_linear(const Problem<ndim, A, Index>&, std::span<const BlockTaps<ndim, A, Index>>, const Job&, \
                              const Added<A>&);                                                                       \
  template void sample_nearest(const Problem<ndim, A, Index>&, std::span<const BlockNearest<ndim, A, Index>>,         \
                               const Job&);

L2RFAST_SAMPLED(2, float)
L2RFAST_SAMPLED(2, double)
L2RFAST_SAMPLED(3, float)
L2RFAST_SAMPLED(3, double)

}  // namespace l2rfast
