// Warping by a displacement field on the CPU.
//
// Floor: image and field are read once, the output is written once; per voxel some 8 operations per axis
// for the weights (shared by all channels), then 2^ndim loads and 2^ndim - 1 interpolations per channel.
// A row of the output is done in blocks: the taps of a block first (vectorised, kept in L1), then each
// channel gathers with them.
//
// The gradient to the image scatters. To give the same bits for any number of threads, without atomics
// or copies of the image, a thread owns a slab of image planes and adds, in raster order of the output,
// only what falls into its slab; output rows whose samples cannot reach the slab are skipped by the
// range of planes they touch, found in one pass over the field's first component.

#include "warp/sampling.h"

namespace l2rfast {
namespace {

template <int ndim, class T, class Source, class Index>
void warp_linear(const Problem<ndim, Source, Index>& p, const T* image, T* result) {
  using A = typename Source::Real;
  constexpr int X = ndim - 1, Y = ndim - 2, Z = 0;
  p.each_block([&](int64_t n, int64_t first, int count) {
    const BlockTaps<ndim, A, Index, false> taps(p, n, first, count);
    Corners<ndim, A> corners;
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c) {
      corners.fill(image + c * p.in_numel, p.step, taps.base, taps.w0[Z], taps.w1[Z], count);
      T* __restrict out = result + c * p.out.numel() + first;
      for (int i = 0; i < count; ++i)
        out[i] = T(corners.plane(i, taps.w0[Y], taps.w1[Y], taps.w0[X], taps.w1[X]) + taps.poison[i]);
    }
  });
}

template <int ndim, class T, class A, class Index>
void backward_disp(const Problem<ndim, Displaced<ndim, A>, Index>& p, const T* grad, const T* image, A* result) {
  constexpr int X = ndim - 1, Y = ndim - 2, Z = 0;
  p.each_block([&](int64_t n, int64_t first, int count) {
    const BlockTaps<ndim, A, Index> taps(p, n, first, count);
    Corners<ndim, A> corners;
    A sum[ndim][kBlock] = {};
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c) {
      const T* v = image + c * p.in_numel;
      const T* g = grad + c * p.out.numel() + first;
      corners.fill(v, p.step, taps.base, taps.w0[Z], taps.w1[Z], count);
      for (int i = 0; i < count; ++i) {
        sum[Y][i] += A(g[i]) * corners.plane(i, taps.d0[Y], taps.d1[Y], taps.w0[X], taps.w1[X]);
        sum[X][i] += A(g[i]) * corners.plane(i, taps.w0[Y], taps.w1[Y], taps.d0[X], taps.d1[X]);
      }
      if constexpr (ndim == 3) {
        corners.fill(v, p.step, taps.base, taps.d0[Z], taps.d1[Z], count);
        for (int i = 0; i < count; ++i)
          sum[Z][i] += A(g[i]) * corners.plane(i, taps.w0[Y], taps.w1[Y], taps.w0[X], taps.w1[X]);
      }
    }
    for (int axis = 0; axis < ndim; ++axis) {
      A* out = result + (n * ndim + axis) * p.out.numel() + first;
      for (int i = 0; i < count; ++i) out[i] = taps.poison[i] == 0 ? sum[axis][i] : A(0);
    }
  });
}

// Calls add(taps, n, first, count, begin, end) for every block of output voxels, in raster order, that may touch
// image planes [begin, end), for slabs of planes of one thread each. A sample touches the plane of its taps and
// `reach` more.
template <class Taps, int ndim, class Source, class Index, class Add>
void by_slab(const Problem<ndim, Source, Index>& p, Index reach, const Add& add) {
  const int64_t rows = p.batch * p.out.rows();
  std::vector<std::array<Index, 2>> touched(rows);
  parallel_each(rows, [&](int64_t item) {
    Index low = std::numeric_limits<Index>::max(), high = -1;
    p.row_blocks(item, [&](int64_t n, int64_t first, int count) {
      const Taps taps(p, n, first, count);
      for (int i = 0; i < count; ++i) low = std::min(low, taps.plane[i]), high = std::max(high, taps.plane[i]);
    });
    touched[item] = {low, high + reach};
  });
  parallel_runs(p.size[0], [&](int64_t begin, int64_t end) {
    for (int64_t item = 0; item < rows; ++item) {
      if (touched[item][0] >= end || touched[item][1] < begin) continue;
      p.row_blocks(item, [&](int64_t n, int64_t first, int count) {
        add(Taps(p, n, first, count), n, first, count, Index(begin), Index(end));
      });
    }
  });
}

template <int ndim, class T, class A, class Index>
void backward_image(const Problem<ndim, Displaced<ndim, A>, Index>& p, const T* grad, A* result) {
  using Taps = BlockTaps<ndim, A, Index, false>;
  const Index reach = p.step[0] > 0;
  by_slab<Taps>(p, reach, [&](const Taps& taps, int64_t n, int64_t first, int count, Index begin, Index end) {
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c) {
      A* v = result + c * p.in_numel;
      const T* g = grad + c * p.out.numel() + first;
      for (int i = 0; i < count; ++i) {
        if (taps.poison[i] != 0) continue;
        for (int side = 0; side < 2; ++side) {
          const Index plane = taps.plane[i] + side * reach;
          if (plane < begin || plane >= end) continue;
          A* at = v + taps.base[i] + side * p.step[0];
          const A value = A(g[i]) * (side ? taps.w1[0][i] : taps.w0[0][i]);
          const A lower = value * taps.w0[ndim - 1][i], upper = value * taps.w1[ndim - 1][i];
          if constexpr (ndim == 2) {
            at[0] += lower, at[p.step[1]] += upper;
          } else {
            at[0] += taps.w0[1][i] * lower, at[p.step[2]] += taps.w0[1][i] * upper;
            at += p.step[1];
            at[0] += taps.w1[1][i] * lower, at[p.step[2]] += taps.w1[1][i] * upper;
          }
        }
      }
    }
  });
}

template <int ndim, class T, class Source, class Index>
void warp_nearest(const Problem<ndim, Source, Index>& p, const T* image, T* result) {
  using A = typename Source::Real;
  p.each_block([&](int64_t n, int64_t first, int count) {
    const BlockNearest<ndim, A, Index> taps(p, n, first, count);
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c) {
      const T* v = image + c * p.in_numel;
      T* __restrict out = result + c * p.out.numel() + first;
      for (int i = 0; i < count; ++i) {
        out[i] = taps.source[i] < 0 ? T(0) : v[taps.source[i]];
        if constexpr (!std::is_integral_v<T>) out[i] = T(A(out[i]) + taps.poison[i]);
      }
    }
  });
}

template <int ndim, class T, class A, class Index>
void nearest_backward_image(const Problem<ndim, Displaced<ndim, A>, Index>& p, const T* grad, A* result) {
  using Taps = BlockNearest<ndim, A, Index>;
  by_slab<Taps>(p, Index(0), [&](const Taps& taps, int64_t n, int64_t first, int count, Index begin, Index end) {
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c) {
      const T* g = grad + c * p.out.numel() + first;
      for (int i = 0; i < count; ++i)
        if (taps.source[i] >= 0 && taps.plane[i] >= begin && taps.plane[i] < end)
          result[c * p.in_numel + taps.source[i]] += A(g[i]);
    }
  });
}

// Calls f(Problem) for the number of dimensions and the index type that the image needs, with the source of
// positions that make(ndim) gives.
template <class Make, class F>
void for_problem(const Tensor& image, const std::string& padding, const Make& make, const F& f) {
  const Padding pad = padding == "border" ? Padding::border : padding == "zeros" ? Padding::zeros : Padding::reflection;
  const auto with = [&](auto ndim, auto index) {
    const auto source = make(ndim);
    f(Problem<ndim.value, std::remove_const_t<decltype(source)>, decltype(index)>(image, source, pad));
  };
  const auto with_index = [&](auto ndim) {
    image.numel() > std::numeric_limits<int32_t>::max() ? with(ndim, int64_t{}) : with(ndim, int32_t{});
  };
  if (image.dim() == 5)
    with_index(std::integral_constant<int, 3>{});
  else
    with_index(std::integral_constant<int, 2>{});
}

// Calls f with the dtype of an image that goes with a field in A: all but float64 with float32 fields.
template <class A, class F>
void for_image(Dtype dtype, const F& f) {
  if constexpr (std::is_same_v<A, double>) {
    STD_TORCH_CHECK(dtype == Dtype::Double, "expected a float64 image with a float64 field");
    f(double{});
  } else {
    STD_TORCH_CHECK(dtype != Dtype::Double, "expected a float64 field with a float64 image");
    for_floating(dtype, [&](auto t) {
      if constexpr (!std::is_same_v<decltype(t), double>) f(t);
    });
  }
}

// Calls f with an integer type of that many bytes: labels are only copied.
template <class F>
void for_width(size_t bytes, const F& f) {
  if (bytes == 1) return f(int8_t{});
  if (bytes == 2) return f(int16_t{});
  if (bytes == 4) return f(int32_t{});
  return f(int64_t{});
}

bool is_floating(Dtype t) {
  return t == Dtype::Float || t == Dtype::Double || t == Dtype::Half || t == Dtype::BFloat16;
}

// Samples an image at the positions of every source that make(ndim) gives.
template <class A, class Make>
void sample(const Tensor& image, const Make& make, const std::string& mode, const std::string& padding,
            const Tensor& result) {
  for_problem(image, padding, make, [&](const auto& p) {
    const auto copy = [&](auto t) {
      using T = decltype(t);
      warp_nearest(p, read<T>(image), write<T>(result));
    };
    if (!is_floating(image.scalar_type())) return for_width(image.element_size(), copy);
    for_image<A>(image.scalar_type(), [&](auto t) {
      using T = decltype(t);
      if (mode == "nearest") return copy(t);
      warp_linear(p, read<T>(image), write<T>(result));
    });
  });
}

Tensor warp(const Tensor& image_, const Tensor& disp_, std::string mode, std::string padding) {
  const Tensor image = packed(image_), disp = packed(disp_);
  auto shape = shape_of(disp);
  shape[1] = image.size(1);
  const Tensor result = empty_as(image, shape);
  for_real(disp.scalar_type(), [&](auto real) {
    using A = decltype(real);
    const auto make = [&](auto ndim) { return Displaced<ndim.value, A>{read<A>(disp), grid_of(disp, ndim.value)}; };
    sample<A>(image, make, mode, padding, result);
  });
  return result;
}

Tensor affine_warp(const Tensor& image_, const Tensor& matrix_, std::vector<int64_t> size, std::string mode,
                   std::string padding) {
  const Tensor image = packed(image_), matrix = packed(matrix_);
  std::vector<int64_t> shape = {image.size(0), image.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  const Tensor result = empty_as(image, shape);
  for_real(matrix.scalar_type(), [&](auto real) {
    using A = decltype(real);
    const auto make = [&](auto ndim) { return Affine<ndim.value, A>{read<A>(matrix), grid_of(result, ndim.value)}; };
    sample<A>(image, make, mode, padding, result);
  });
  return result;
}

std::tuple<Tensor, Tensor> warp_backward(const Tensor& grad_, const Tensor& image_, const Tensor& disp_,
                                         std::string mode, std::string padding, bool to_image, bool to_disp) {
  const Tensor grad = packed(grad_), image = packed(image_), disp = packed(disp_);
  const bool linear = mode == "linear";
  const std::vector<int64_t> none = {0};
  const Tensor grad_image = torch::stable::new_zeros(disp, to_image ? shape_of(image) : none);
  const Tensor grad_disp = torch::stable::new_zeros(disp, to_disp ? shape_of(disp) : none);
  for_real(disp.scalar_type(), [&](auto real) {
    using A = decltype(real);
    const auto make = [&](auto ndim) { return Displaced<ndim.value, A>{read<A>(disp), grid_of(disp, ndim.value)}; };
    for_problem(image, padding, make, [&](const auto& p) {
      for_image<A>(image.scalar_type(), [&](auto t) {
        using T = decltype(t);
        if (to_disp && linear) backward_disp(p, read<T>(grad), read<T>(image), write<A>(grad_disp));
        if (to_image && linear) backward_image(p, read<T>(grad), write<A>(grad_image));
        if (to_image && !linear) nearest_backward_image(p, read<T>(grad), write<A>(grad_image));
      });
    });
  });
  return {grad_image, grad_disp};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("warp", TORCH_BOX(&warp));
  m.impl("warp_backward", TORCH_BOX(&warp_backward));
  m.impl("affine_warp", TORCH_BOX(&affine_warp));
}

}  // namespace l2rfast
