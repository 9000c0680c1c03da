// Lanczos-windowed sinc interpolation on the CPU.
//
// Floor: 1000 values are read and multiplied for each sample in 3-D, in 100 rows of ten neighbours, from the cache.
// Weights are products over the axes, so that a row takes two vectors of eight values, the second over the last two of
// the ten, and a multiplication and addition each; rows are weighted, their ten sums come last. What the padding has
// stand for voxels outside is added to the weights of those inside, so that all rows are read in one piece. Images of
// other dtypes, strides, or narrower than ten voxels are copied first.

#include "common/memory.h"
#include "common/sampler.h"
#include "common/text.h"
#include "sinc/weights.h"

namespace l2rfast {
namespace {

constexpr int kHalf = 8;  // of the ten values of a row, as many as the first vector has; the second begins at kTaps - 8
template <class A>
struct HalfOf {
  typedef A type __attribute__((vector_size(kHalf * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <class A>
using Half8 = typename HalfOf<A>::type;

// The voxels that count along an axis: `count` from `first` on.
template <class A>
struct Window {
  int64_t first;
  int count;
  A weight[kTaps];

  // On the last axis there are always ten voxels, which may be beyond the image.
  Window(A p, int64_t size, Padding padding, bool whole) : weight{} {
    A around[kTaps];
    int64_t index[kTaps];
    sinc_taps(p, size, padding, around, index);
    int64_t low = size, high = -1;
    for (int i = 0; i < kTaps; ++i)
      if (around[i] != 0) low = std::min(low, index[i]), high = std::max(high, index[i]);
    if (whole) {
      low = std::max<int64_t>(std::min(low, size - kTaps), 0), high = low + kTaps - 1;
    }
    first = low, count = int(high - low) + 1;
    for (int i = 0; i < kTaps; ++i)
      if (around[i] != 0) weight[index[i] - low] += around[i];
  }
};

// A channel whose rows are of the type of the arithmetic, side by side.
template <class A>
A interpolated(const A* channel, int64_t plane, int64_t row, const Window<A>& z, const Window<A>& y,
               const Window<A>& x) {
  Half8<A> low = {}, high = {};
  const auto load8 = [](const A* p) { return *reinterpret_cast<const Half8<A>*>(p); };
  for (int k = 0; k < z.count; ++k) {
    Half8<A> near = {}, far = {};
    const A* at = channel + (z.first + k) * plane + y.first * row + x.first;
    for (int j = 0; j < y.count; ++j, at += row) {
      near += y.weight[j] * load8(at);
      far += y.weight[j] * load8(at + kTaps - kHalf);
    }
    low += z.weight[k] * near, high += z.weight[k] * far;
  }
  A sum = 0;
  for (int i = 0; i < kHalf; ++i) sum += x.weight[i] == 0 ? A(0) : x.weight[i] * low[i];
  for (int i = kHalf; i < kTaps; ++i) sum += x.weight[i] == 0 ? A(0) : x.weight[i] * high[i - kTaps + kHalf];
  return sum;
}

template <int ndim, class A>
Tensor sampled(const Tensor& image, const Positions<A>& source, const std::string& padding) {
  const Grid in = grid_of(image, ndim);
  const int64_t width = std::max<int64_t>(in.w, kTaps), channels = image.size(0) * image.size(1);
  const int64_t plane = in.h * width, numel = in.d * plane;
  Tensor result;
  for_problem<ndim>(image, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
    result = room_as(image, p.shape(image.size(1)));
    for_field<A>(image.scalar_type(), [&](auto t) {
      using T = decltype(t);
      Aligned<A> copy;
      const A* values = nullptr;
      if constexpr (std::is_same_v<T, A>)
        if (image.is_contiguous() && in.w == width) values = read<A>(image);
      if (!values) {
        copy.resize(channels * numel);
        parallel_each(channels * in.rows(), [&](int64_t i) {
          const int64_t c = i / in.rows(), r = i % in.rows(), n = c / image.size(1);
          const T* from = read<T>(image) + n * image.stride(0) + c % image.size(1) * image.stride(1);
          if constexpr (ndim == 3) from += r / in.h * image.stride(2);
          from += r % in.h * image.stride(ndim);
          for (int64_t x = 0; x < in.w; ++x) copy[i * width + x] = A(from[x * image.stride(ndim + 1)]);
        });
        values = copy.data();
      }
      T* const out = write<T>(result);
      const int64_t shared = image.size(0) > 1 ? image.size(1) : 0;
      p.each_block([&](const Block& b) {
        A position[ndim][kBlock];
        for (int k = 0; k < ndim; ++k) source.along(k, b, position[k]);
        for (int i = 0; i < b.count; ++i) {
          A poison = 0;
          for (int k = 0; k < ndim; ++k) poison += position[k][i] - position[k][i];
          if (poison != 0) {
            for (int64_t c = 0; c < p.channels; ++c) out[p.at(b, c) + i] = T(poison);
            continue;
          }
          const Window<A> z(ndim == 3 ? position[0][i] : A(0), in.d, p.padding, false);
          const Window<A> y(position[ndim - 2][i], in.h, p.padding, false);
          const Window<A> x(position[ndim - 1][i], in.w, p.padding, true);
          for (int64_t c = 0; c < p.channels; ++c)
            out[p.at(b, c) + i] = T(interpolated(values + (b.n * shared + c) * numel, plane, width, z, y, x));
        }
      });
    });
  });
  return result;
}

Tensor sinc(const Tensor& image, const Tensor& disp, Text padding) {
  Tensor result;
  for_arithmetic(image, disp, [&](auto ndim, auto real) {
    result = sampled<ndim.value>(image, Displaced<ndim.value, decltype(real)>(disp), padding);
  });
  return result;
}

Tensor affine_sinc(const Tensor& image, const Tensor& matrix, std::vector<int64_t> size, Text padding) {
  Tensor result;
  for_arithmetic(image, matrix, [&](auto ndim, auto real) {
    result = sampled<ndim.value>(image, Affine<ndim.value, decltype(real)>(matrix, Grid::of(size)), padding);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("sinc", TORCH_BOX(&sinc));
  m.impl("affine_sinc", TORCH_BOX(&affine_sinc));
}

}  // namespace l2rfast
