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
//
// What is only declared here is compiled once, in common/cpu.cpp, for 2-D and 3-D and each arithmetic.
#pragma once

#include <functional>
#include <optional>

#include "common/memory.h"
#include "common/sampling.h"

namespace l2rfast {

inline Padding padding_of(const std::string& name) {
  return name == "border"       ? Padding::border
         : name == "zeros"      ? Padding::zeros
         : name == "reflection" ? Padding::reflection
                                : Padding::symmetric;
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
template <int ndim, class A, class F>
void for_problem(const Tensor& sampled, const Positions<A>& source, const std::string& padding, const F& f,
                 const void* outside = nullptr) {
  int64_t reach = 0;
  for (int k = 2; k < ndim + 2; ++k) reach += (sampled.size(k) - 1) * sampled.stride(k);
  if (reach > std::numeric_limits<int32_t>::max())
    f(Problem<ndim, A, int64_t>(sampled, source, padding_of(padding), outside));
  else
    f(Problem<ndim, A, int32_t>(sampled, source, padding_of(padding), outside));
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

// Writes what is added to the samples of channel c of a block, which passes on `poison`, 0 or NaN for each.
template <class A>
using Added = std::function<void(const Block&, int64_t c, const A* poison, A (&sum)[kBlock])>;

// Linear samples of a group of blocks; to each `poison` is added, or what `added` makes of it.
template <int ndim, class A, class Index>
void sample_linear(const Problem<ndim, A, Index>&, std::span<const BlockTaps<ndim, A, Index>> group, const Job&,
                   const Added<A>& added = nullptr);

// Copies of the nearest voxels, in any dtype.
template <int ndim, class A, class Index>
void sample_nearest(const Problem<ndim, A, Index>&, std::span<const BlockNearest<ndim, A, Index>> group, const Job&);

// Samples one image, linearly or at the nearest voxel; what is beyond it gets the value `outside`, if there is one.
template <int ndim, class A>
Tensor sample(const Tensor& image, const Positions<A>&, const std::string& mode, const std::string& padding,
              const Added<A>& added = nullptr, const std::optional<Tensor>& outside = std::nullopt);

// Takes the gradients by position of a block: sum[k][i] along axis k for sample i.
template <int ndim, class A>
using Put = std::function<void(const Block&, A (&sum)[ndim][kBlock])>;

template <int ndim, class A>
void backward_positions(const Tensor& grad, const Tensor& image, const Positions<A>&, const std::string& padding,
                        const Put<ndim, A>& put);

// Adds the gradient to an image, of samples of which the cotangent is grad, to grad_image (in the usual order).
template <int ndim, class A>
void backward_image(const Tensor& grad, const Positions<A>&, const std::string& mode, const std::string& padding,
                    const Tensor& grad_image);

// Planes [begin, end) of an image that a thread owns. Each sample is asked, also where a whole row is inside: loops of
// their own for such rows might be compiled to round differently, and bits would depend on the number of threads.
template <class Index>
struct Slab {
  Index begin, end;

  L2RFAST_INLINE bool has(Index plane) const { return plane >= begin && plane < end; }
};

// Calls add(group, slab) for groups of Taps of the blocks of output voxels, in order, that may touch the planes of a
// slab of the image, for slabs of one thread each. A sample touches the planes from that of its linear taps, less
// `before`, to that plus `after`.
template <class Taps, int ndim, class A, class Index, class Add>
void by_slab(const Problem<ndim, A, Index>& p, const Add& add, int before = 0, int after = 1) {
  const int64_t rows = p.items * p.out.rows();
  const size_t some = p.rows_of_group() * ((p.out.w + kBlock - 1) / kBlock);
  std::vector<std::array<Index, 2>> touched(rows);
  parallel_each(rows, [&](int64_t row) {
    Index low = std::numeric_limits<Index>::max(), high = -1;
    p.row_blocks(row, [&](const Block& b) {
      const auto [first, last] = p.planes(b);
      low = std::min(low, first), high = std::max(high, last);
    });
    touched[row] = {Index(low - before), Index(high + after)};
  });
  parallel_shares(p.size[0], [&](int64_t begin, int64_t end) {
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

// Zeros of the shape of an image, in the type of the arithmetic; empty where no gradient is asked for.
template <class A>
Tensor zeros_like(const Tensor& image, bool asked) {
  const auto shape = asked ? shape_of(image) : std::vector<int64_t>{0};
  if (image.scalar_type() != dtype_of<A>) return torch::stable::new_zeros(image, shape, dtype_of<A>);
  const Tensor zeros = room_as(image, shape);
  A* const values = write<A>(zeros);
  parallel_parts(zeros.numel(), [&](int64_t begin, int64_t end) { std::fill(values + begin, values + end, A(0)); });
  return zeros;
}

// Room for the gradient to a field, grid or matrix: all of it is written, but there is none to the nearest voxel.
inline Tensor gradient_to(const Tensor& where, bool asked, const std::string& mode) {
  if (!asked) return empty_as(where, {0});
  return mode == "linear" ? room_as(where, shape_of(where)) : torch::stable::new_zeros(where, shape_of(where));
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

// Stores in a displacement field's gradient (N, ndim, *out).
template <int ndim, class A>
Put<ndim, A> put_field(const Tensor& to, const Grid& out) {
  return [to = Output(to), numel = out.numel()](const Block& b, const A(&sum)[ndim][kBlock]) {
    for (int k = 0; k < ndim; ++k) to.store((b.n * ndim + k) * numel + b.first, 1, sum[k], b.count);
  };
}

}  // namespace l2rfast
