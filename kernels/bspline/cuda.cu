// Cubic B-splines on the GPU.
//
// Coefficients: a thread solves a line, an axis at a time, in place after the first. Floor: two reads and two writes of
// the image along each axis, of which the second pair is in the cache where lines are. Neighbouring threads have
// neighbouring lines, along the last axis those of neighbouring rows: of what they read at once the caches hold the
// rest until it is needed.
//
// Samples: a thread per voxel of the output, as common/sampling.cuh has it, with 64 reads instead of 8 (2-D: 16, 4).
// The gradient to the coefficients is added up as common/scatter.cuh has it.

#include "bspline/cubic.h"
#include "common/sampler.cuh"

namespace l2rfast {
namespace {

// One line of n values `step` apart. Lines are counted along the two other axes of an item, (a, b) apart.
template <class A>
struct Line {
  static constexpr int ndim = 2, resident = 4;
  const A* from;
  A* to;
  int64_t item, a, b, step, n;
  Recursion recursion;

  L2RFAST_INLINE void operator()(const Voxel<2>& x) const {
    constexpr A z = A(Recursion::z), scale = A(Recursion::scale), turn = A(Recursion::turn);
    const A ends = A(recursion.ends), back = 1 / ends;
    const int64_t first = x.item * item + x.at[0] * a + x.at[1] * b;
    const A* const f = from + first;
    A* const c = to + first;
    if (n == 1) {
      c[0] = f[0];
      return;
    }
    A u = 0, before = 0;
    for (int k = 0; k < recursion.starts; ++k) u += A(recursion.start[k]) * f[k * step];
    c[0] = u;
    for (int64_t k = 1; k < n; ++k) {
      before = u;
      u = (k == n - 1 ? ends : A(1)) * f[k * step] + z * u;
      c[k * step] = u;
    }
    u = turn * (u + z * before);
    c[(n - 1) * step] = back * u;
    for (int64_t k = n - 2; k >= 0; --k) {
      u = z * u + scale * c[k * step];
      c[k * step] = (k == 0 ? back : A(1)) * u;
    }
  }
};

Tensor spline_coefficients(const Tensor& image_, bool adjoint) {
  const Tensor image = packed(image_), result = empty_as(image, shape_of(image));
  const int64_t items = image.size(0) * image.size(1);
  const Grid grid = grid_of(image, image.dim() - 2);
  const int64_t size[3] = {grid.d, grid.h, grid.w}, strides[3] = {grid.h * grid.w, grid.w, 1};
  STD_TORCH_CHECK(std::max({grid.d, grid.h, grid.w}) <= std::numeric_limits<int32_t>::max(),
                  "expected fewer than 2^31 voxels a row");
  for_real(image.scalar_type(), [&](auto type) {
    using A = decltype(type);
    for (int axis = 2; axis >= 0; --axis) {
      const bool last = axis == 2;
      if (size[axis] == 1 && !last) continue;
      const int a = axis == 0 ? 1 : 0, b = last ? 1 : 2;
      const int32_t lines[2] = {int32_t(size[a]), int32_t(size[b])};
      each_voxel(Line<A>{last ? read<A>(image) : read<A>(result), write<A>(result), grid.numel(), strides[a],
                         strides[b], strides[axis], size[axis], Recursion(size[axis], adjoint)},
                 Extent(items, lines), image);
    }
  });
  return result;
}

// The taps around a sample, and how far their coefficients are from the first: the last again, with weight 0, where
// there are fewer than four.
template <int ndim, class A, class Index>
struct SplineAround {
  CubicTaps<A, int32_t> taps[ndim];
  A poison;  // 0, or NaN where a coordinate is not finite
  int32_t size[ndim];

  L2RFAST_INLINE Index base(const Index (&step)[ndim]) const {
    Index sum = 0;
    each_axis<ndim>([&](auto k) { sum += taps[k].base * step[k]; });
    return sum;
  }
  L2RFAST_INLINE Index offset(int k, int j, const Index (&step)[ndim]) const {
    return Index(j < size[k] ? j : size[k] - 1) * step[k];
  }

  // f(j) for the four coefficients along axis k. All that 64 need at once is more than there are registers.
  template <int k, class F>
  static L2RFAST_INLINE void each_tap(const F& f) {
    if constexpr (k == 0) {
      L2RFAST_ROLLED
      for (int j = 0; j < 4; ++j) f(j);
    } else {
      for (int j = 0; j < 4; ++j) f(j);
    }
  }

  // The spline at the sample, whose first coefficient is at v, and its derivatives along the axes from k on.
  template <int k = 0>
  L2RFAST_INLINE void evaluate(const ReadOnly<A>* v, const Index (&step)[ndim], A (&by)[ndim - k + 1]) const {
    if constexpr (k == ndim) {
      by[0] = A(*v);
    } else {
      for (int i = 0; i <= ndim - k; ++i) by[i] = 0;
      each_tap<k>([&](int j) {
        A inner[ndim - k];
        evaluate<k + 1>(v + offset(k, j, step), step, inner);
        by[0] += taps[k].w[j] * inner[0];
        by[1] += taps[k].d[j] * inner[0];
        for (int i = 1; i < ndim - k; ++i) by[1 + i] += taps[k].w[j] * inner[i];
      });
    }
  }

  // Its adjoint: calls f(offset from the first, share) with what each coefficient gets of `value`.
  template <int k = 0, class F>
  L2RFAST_INLINE void spread(A value, const Index (&step)[ndim], const F& f, Index at = 0) const {
    if constexpr (k == ndim) {
      f(at, value);
    } else {
      each_tap<k>([&](int j) { spread<k + 1>(value * taps[k].w[j], step, f, at + offset(k, j, step)); });
    }
  }
};

template <class Source, class Index>
struct SplineSamples : Samples<Source, Index> {
  using Base = Samples<Source, Index>;
  static constexpr int ndim = Base::ndim;
  using A = typename Base::A;

  L2RFAST_INLINE SplineAround<ndim, A, Index> spline(const Voxel<ndim>& x) const {
    A p[ndim];
    this->source.positions(x, p);
    SplineAround<ndim, A, Index> result;
    result.poison = 0;
    for_padding(this->padding, [&](auto pad) {
      each_axis<ndim>([&](auto k) {
        result.taps[k] = cubic_taps<decltype(pad)::value, int32_t>(p[k], this->size[k]);
        result.size[k] = this->size[k];
        result.poison += p[k] - p[k];
      });
    });
    return result;
  }
};

template <class Source, class Index>
struct SplineWarp : SplineSamples<Source, Index> {
  using Base = SplineSamples<Source, Index>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = sizeof(A) + sizeof(Index) > 8 ? 1 : 3;
  const ReadOnly<A>* image;
  Strides<ndim, Index> strides;
  A* to;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    const auto around = this->spline(x);
    const Index base = around.base(strides.step), first = this->first(x);
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      A by[ndim + 1];
      around.evaluate(image + strides.of(n, c) + base, strides.step, by);
      to[(n * this->channels + c) * this->numel + first] = by[0] + around.poison;
    });
  }
};

// Gradients to the coefficients and to the field, each if there is a place for it.
template <class Source, class Index, class Sum>
struct SplineBackward : SplineSamples<Source, Index> {
  using Base = SplineSamples<Source, Index>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = sizeof(A) + sizeof(Index) > 8 ? 1 : 2;
  const A* grad;
  const ReadOnly<A>* image;
  Strides<ndim, Index> grad_strides, strides, to_strides;
  Sum to_image;
  Field<ndim, A, Index> to_field;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    const auto sum = to_image.ready();
    const auto around = this->spline(x);
    const Index from = grad_strides.of(x.at);
    const Index base = around.base(strides.step), to_base = around.base(to_strides.step);
    A slope[ndim] = {};
    if (around.poison == 0) {
      this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
        const A g = fetch(grad + grad_strides.of(n, c) + from);
        if (to_field.data) {
          A by[ndim + 1];
          around.evaluate(image + strides.of(n, c) + base, strides.step, by);
          each_axis<ndim>([&](auto k) { slope[k] += g * by[1 + k]; });
        }
        if (to_image.to) {
          const int64_t at = to_strides.of(n, c) + to_base;
          around.spread(g, to_strides.step, [&](Index offset, A share) { sum.add(at + offset, share); });
        }
      });
    }
    if (!to_field.data) return;
    to_field.with(x, [&](auto* to) {
      each_axis<ndim>(
          [&](auto k) { to[k * to_field.strides.channel] = std::remove_reference_t<decltype(*to)>(slope[k]); });
    });
  }
};

Tensor spline_warp(const Tensor& coefficients, const Tensor& disp, std::string padding) {
  const ByField origin{disp};
  const Tensor result = empty_as(coefficients, shape_of_samples(coefficients, origin));
  for_arithmetic(coefficients, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    for_index({reach(coefficients), reach(disp), reach(result)}, [&](auto i) {
      using Index = decltype(i);
      each_sample(
          SplineWarp<Displaced<ndim, A, Index>, Index>{{samples_of<ndim, A, Index>(coefficients, origin, padding)},
                                                       read<ReadOnly<A>>(coefficients),
                                                       Strides<ndim, Index>(coefficients),
                                                       write<A>(result)},
          origin);
    });
  });
  return result;
}

std::tuple<Tensor, Tensor> spline_warp_backward(const Tensor& grad, const Tensor& coefficients, const Tensor& disp,
                                                std::string padding, bool asked_image, bool asked_disp) {
  const ByField origin{disp};
  const Tensor to_disp = empty_as(disp, asked_disp ? shape_of(disp) : std::vector<int64_t>{0});
  Tensor to_image;
  for_arithmetic(coefficients, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    to_image = zeros_like<A>(coefficients, asked_image);
    const auto run = [&](const auto& sum, auto i) {
      using Index = decltype(i);
      using Source = Displaced<ndim, A, Index>;
      using Strided = Strides<ndim, Index>;
      auto field = Source::like(disp);
      field.data = nullptr;
      each_sample(
          SplineBackward<Source, Index, std::remove_cvref_t<decltype(sum)>>{
              {samples_of<ndim, A, Index>(coefficients, origin, padding)},
              read<A>(grad),
              read<ReadOnly<A>>(coefficients),
              Strided(grad),
              Strided(coefficients),
              Strided(asked_image ? to_image : coefficients),
              sum,
              asked_disp ? Source::like(to_disp) : field},
          origin);
    };
    const auto run_small = [&](const auto& sum) {
      for_index({reach(coefficients), reach(grad), reach(disp)}, [&](auto i) { run(sum, i); });
    };
    if (!asked_image) return asked_disp ? run_small(FloatSum<A>{nullptr}) : void();
    scatter<ndim, A>(to_image, {grad}, bits_of_samples(grad, coefficients), [&](const auto& sum) {
      if constexpr (std::is_same_v<decltype(sum), const FloatSum<A>&>)
        run_small(sum);
      else
        run(sum, int64_t{});
    });
  });
  return {to_image, to_disp};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("spline_coefficients", TORCH_BOX(&spline_coefficients));
  m.impl("spline_warp", TORCH_BOX(&spline_warp));
  m.impl("spline_warp_backward", TORCH_BOX(&spline_warp_backward));
}

}  // namespace l2rfast
