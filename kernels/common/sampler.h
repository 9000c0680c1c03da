// Sampling on the CPU, for any source of positions: forward, backward, and what second derivatives need.
//
// Floor: image and field are read once, the output is written once; per voxel some 8 operations per axis
// for the weights (shared by all channels), then 2^ndim loads and 2^ndim - 1 interpolations per channel.
// A row of the output is done in blocks: the taps of a block first (vectorised, kept in L1), then each
// channel gathers with them.
//
// The gradient to the image scatters. To give the same bits for any number of threads, without atomics
// or copies of the image, a thread owns a slab of image planes and adds, in a fixed order of the output's
// voxels, only what falls into its slab; output rows whose samples cannot reach the slab are skipped by the
// range of planes they touch, found in one pass over the field.
#pragma once

#include "common/sampling.h"

namespace l2rfast {

inline Padding padding_of(const std::string& name) {
  return name == "border"       ? Padding::border
         : name == "zeros"      ? Padding::zeros
         : name == "reflection" ? Padding::reflection
                                : Padding::symmetric;
}

inline bool is_floating(Dtype t) {
  return t == Dtype::Float || t == Dtype::Double || t == Dtype::Half || t == Dtype::BFloat16;
}

// Calls f(ndim, A) for the dimensions of an image and the arithmetic that a field, grid or matrix asks for.
template <class F>
void for_arithmetic(const Tensor& image, const Tensor& where, const F& f) {
  const auto with = [&](auto ndim) { where.scalar_type() == Dtype::Double ? f(ndim, double{}) : f(ndim, float{}); };
  if (image.dim() == 5)
    with(std::integral_constant<int, 3>{});
  else
    with(std::integral_constant<int, 2>{});
}

// Calls f(Problem) with the index type that the strides of the image need.
template <int ndim, class Source, class F>
void for_problem(const Tensor& sampled, const Source& source, const std::string& padding, const F& f) {
  int64_t reach = 0;
  for (int k = 2; k < ndim + 2; ++k) reach += (sampled.size(k) - 1) * sampled.stride(k);
  if (reach > std::numeric_limits<int32_t>::max())
    f(Problem<ndim, Source, int64_t>(sampled, source, padding_of(padding)));
  else
    f(Problem<ndim, Source, int32_t>(sampled, source, padding_of(padding)));
}

// Calls f with an integer type of that many bytes: labels are only copied.
template <class F>
void for_width(size_t bytes, const F& f) {
  if (bytes == 1) return f(int8_t{});
  if (bytes == 2) return f(int16_t{});
  if (bytes == 4) return f(int32_t{});
  return f(int64_t{});
}

// One image to sample, into a result in the usual order. Asking a tensor takes tens of nanoseconds: done once.
struct Job {
  const void* image;
  void* result;
  Dtype dtype;
  size_t width;

  Job(const Tensor& from, const Tensor& to)
      : image(from.const_data_ptr()),
        result(to.mutable_data_ptr()),
        dtype(from.scalar_type()),
        width(from.element_size()) {}
};

// Linear samples plus added(taps, c), which passes on taps.poison, for each channel c.
template <int ndim, class Source, class Index, class Added>
void sample_linear(const Problem<ndim, Source, Index>& p,
                   std::span<const BlockTaps<ndim, typename Source::Real, Index>> group, const Job& job,
                   const Added& added) {
  using A = typename Source::Real;
  for_field<A>(job.dtype, [&](auto t) {
    using T = decltype(t);
    const T* const images = static_cast<const T*>(job.image);
    const auto soon = [&](int64_t c, const auto& taps) {
      taps.prefetch(images + p.image.offset(taps.block.n, c), p.step);
    };
    p.each_channel(group, soon, [&](int64_t c, const auto& taps) {
      const Block& b = taps.block;
      T* __restrict out = static_cast<T*>(job.result) + p.at(b, c);
      const A* __restrict plus = added(taps, c);
      const T* image = images + p.image.offset(b.n, c);
      each_vector<ndim, A>(image, p.step, taps.base, b.count,
                           [&](const Corners<ndim, A>& corners, int i, int n) L2RFAST_LAMBDA {
                             store_some<A>(out + i, corners.interpolate(taps.weights(i)) + load(plus + i), n);
                           });
    });
  });
}

template <int ndim, class Source, class Index>
void sample_linear(const Problem<ndim, Source, Index>& p,
                   std::span<const BlockTaps<ndim, typename Source::Real, Index>> group, const Job& job) {
  sample_linear(p, group, job, [](const auto& taps, int64_t) { return taps.poison; });
}

template <int ndim, class Source, class Index>
void sample_nearest(const Problem<ndim, Source, Index>& p,
                    std::span<const BlockNearest<ndim, typename Source::Real, Index>> group, const Job& job) {
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
        });
  };
  if (is_floating(job.dtype))
    for_field<typename Source::Real>(job.dtype, copy);
  else
    for_width(job.width, copy);
}

// Samples one image, linearly or at the nearest voxel.
template <int ndim, class Source>
Tensor sample(const Tensor& image, const Source& source, const std::string& mode, const std::string& padding) {
  using A = typename Source::Real;
  Tensor result;
  for_problem<ndim>(image, source, padding, [&]<class Index>(const Problem<ndim, Source, Index>& p) {
    result = empty_as(image, p.shape(image.size(1)));
    const Job job(image, result);
    if (mode == "nearest")
      p.template each_group<BlockNearest<ndim, A, Index>>([&](auto group) { sample_nearest(p, group, job); });
    else
      p.template each_group<BlockTaps<ndim, A, Index>>([&](auto group) { sample_linear(p, group, job); });
  });
  return result;
}

// Gradient by position: calls put(block, sums), sums[k][i] along axis k for sample i of the block.
template <int ndim, class Source, class Put>
void backward_positions(const Tensor& grad, const Tensor& image, const Source& source, const std::string& padding,
                        const Put& put) {
  using A = typename Source::Real;
  struct Sums {
    A by[ndim][kBlock];
  };
  for_problem<ndim>(image, source, padding, [&]<class Index>(const Problem<ndim, Source, Index>& p) {
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

// Planes [begin, end) of an image that a thread owns. Each sample is asked, also where a whole row is inside: loops of
// their own for such rows might be compiled to round differently, and bits would depend on the number of threads.
template <class Index>
struct Slab {
  Index begin, end;

  L2RFAST_INLINE bool has(Index plane) const { return plane >= begin && plane < end; }
};

// Calls add(group, slab) for groups of Taps of the blocks of output voxels, in order, that may touch the planes of a
// slab of the image, for slabs of one thread each. A sample touches the plane of its taps and the next.
template <class Taps, int ndim, class Source, class Index, class Add>
void by_slab(const Problem<ndim, Source, Index>& p, const Add& add) {
  const int64_t rows = p.items * p.out.rows();
  const size_t some = p.rows_of_group() * ((p.out.w + kBlock - 1) / kBlock);
  const Index next = p.size[0] > 1;
  std::vector<std::array<Index, 2>> touched(rows);
  parallel_each(rows, [&](int64_t row) {
    Index low = std::numeric_limits<Index>::max(), high = -1;
    p.row_blocks(row, [&](const Block& b) {
      const auto [first, last] = p.planes(b);
      low = std::min(low, first), high = std::max(high, last);
    });
    touched[row] = {low, Index(high + next)};
  });
  parallel_runs(p.size[0], [&](int64_t begin, int64_t end) {
    const Slab<Index> slab{Index(begin), Index(end)};
    std::vector<Taps> group;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = p.visited(i);
      if (touched[row][0] < end && touched[row][1] >= begin) p.append(row, group);
      if (group.size() < some && i < rows - 1) continue;
      add(std::span<const Taps>(group), slab);
      group.clear();
    }
  });
}

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

// Adds the gradient to an image, of samples of which the cotangent is grad, to grad_image (in the usual order).
template <int ndim, class Source>
void backward_image(const Tensor& grad, const Source& source, const std::string& mode, const std::string& padding,
                    const Tensor& grad_image) {
  using A = typename Source::Real;
  A* const to = write<A>(grad_image);
  for_problem<ndim>(grad_image, source, padding, [&]<class Index>(const Problem<ndim, Source, Index>& p) {
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

// Zeros of the shape of an image, in the type of the arithmetic; empty where no gradient is asked for.
template <class A>
Tensor zeros_like(const Tensor& image, bool asked) {
  return torch::stable::new_zeros(image, asked ? shape_of(image) : std::vector<int64_t>{0}, dtype_of<A>);
}

// Room for the gradient to a field, grid or matrix: all of it is written, but there is none to the nearest voxel.
inline Tensor gradient_to(const Tensor& where, bool asked, const std::string& mode) {
  if (!asked) return empty_as(where, {0});
  return mode == "linear" ? empty_as(where, shape_of(where)) : torch::stable::new_zeros(where, shape_of(where));
}

// A gradient to write, in any floating dtype.
struct Output {
  void* data;
  Dtype dtype;

  explicit Output(const Tensor& t) : data(t.mutable_data_ptr()), dtype(t.scalar_type()) {}

  // The values of a block, a distance of `step` between them.
  template <class A>
  void store(int64_t at, int64_t step, const A (&values)[kBlock], int count) const {
    for_field<A>(dtype, [&](auto t) {
      auto* out = static_cast<decltype(t)*>(data) + at;
      if (step == 1)
        for (int i = 0; i < count; ++i) out[i] = decltype(t)(values[i]);
      else
        for (int i = 0; i < count; ++i) out[i * step] = decltype(t)(values[i]);
    });
  }
};

// A `put` for backward_positions that stores in a displacement field's gradient (N, ndim, *out).
template <int ndim, class A>
auto put_field(const Tensor& to, const Grid& out) {
  return [to = Output(to), numel = out.numel()](const Block& b, const A(&sum)[ndim][kBlock]) {
    for (int k = 0; k < ndim; ++k) to.store((b.n * ndim + k) * numel + b.first, 1, sum[k], b.count);
  };
}

}  // namespace l2rfast
