// Where the voxels of an output are sampled, a block of a row at a time: sources of positions, and the taps and
// values around them.
#pragma once

#include "common/interpolation.h"
#include "common/tensor.h"

namespace l2rfast {

constexpr int kBlock = 256;

// f(std::integral_constant<int, k>{}) for every axis k.
template <int ndim, class F>
L2RFAST_INLINE void each_axis(const F& f) {
  [&]<int... k>(std::integer_sequence<int, k...>) {
    (f(std::integral_constant<int, k>{}), ...);
  }(std::make_integer_sequence<int, ndim>{});
}

// (z, y, x) of a voxel.
template <class A>
L2RFAST_INLINE std::array<A, 3> coordinates(Grid grid, int64_t voxel) {
  const int64_t row = voxel / grid.w;
  return {A(row / grid.h), A(row % grid.h), A(voxel % grid.w)};
}

// Sample positions x + disp(x) of a displacement field (N, ndim, *out).
template <int ndim, class A>
struct Displaced {
  using Real = A;
  const A* disp;
  Grid out;

  // Positions on axis k of `count` output voxels of batch item n, from voxel `first` on along its row.
  template <int k>
  L2RFAST_INLINE void positions(int64_t n, int64_t first, int count, A (&position)[kBlock]) const {
    const auto at = coordinates<A>(out, first);
    const A* u = disp + (n * ndim + k) * out.numel() + first;
    const A start = at[3 - ndim + k];
    // The hardware does not foresee the next rows of three fields at once.
    for (int i = 0; i < count; i += 64 / int(sizeof(A))) __builtin_prefetch(u + 2 * kBlock + i);
    for (int i = 0; i < count; ++i) position[i] = (k == ndim - 1 ? start + A(i) : start) + u[i];
  }
};

// Sample positions matrix (N, ndim, ndim + 1) times (x, 1).
template <int ndim, class A>
struct Affine {
  using Real = A;
  const A* matrix;
  Grid out;

  template <int k>
  L2RFAST_INLINE void positions(int64_t n, int64_t first, int count, A (&position)[kBlock]) const {
    const auto at = coordinates<A>(out, first);
    const A* m = matrix + (n * ndim + k) * (ndim + 1);
    A start = m[ndim];
    for (int j = 0; j < ndim - 1; ++j) start += m[j] * at[3 - ndim + j];
    for (int i = 0; i < count; ++i) position[i] = start + m[ndim - 1] * (at[2] + A(i));
  }
};

// One call: sizes, strides and where to sample. "Plane" means a slice across the image's first spatial axis.
template <int ndim, class Source, class Index>
struct Problem {
  using A = typename Source::Real;
  Source source;
  Grid out;
  int64_t batch, channels, in_numel;
  Padding padding;
  Index size[ndim];  // of the image
  Index step[ndim];  // to the next voxel on each axis; 0 on an axis of size 1

  Problem(const Tensor& image, const Source& from, Padding pad)
      : source(from),
        out(from.out),
        batch(image.size(0)),
        channels(image.size(1)),
        in_numel(grid_of(image, ndim).numel()),
        padding(pad) {
    Index stride = 1;
    for (int k = ndim - 1; k >= 0; --k) {
      size[k] = Index(image.size(2 + k));
      step[k] = size[k] > 1 ? stride : 0;
      stride *= size[k];
    }
  }

  // Calls f(axis, padding, positions, size) for every axis of the samples of a block.
  template <class F>
  L2RFAST_INLINE void each_position(int64_t n, int64_t first, int count, const F& f) const {
    for_padding(padding, [&](auto pad) {
      each_axis<ndim>([&](auto axis) {
        A position[kBlock];
        source.template positions<axis.value>(n, first, count, position);
        f(axis, pad, position, size[axis.value]);
      });
    });
  }

  // Calls f(n, first, count) for every block of every output row.
  template <class F>
  void each_block(const F& f) const {
    parallel_each(batch * out.rows(), [&](int64_t item) { row_blocks(item, f); });
  }

  template <class F>
  void row_blocks(int64_t item, const F& f) const {
    const int64_t n = item / out.rows(), start = item % out.rows() * out.w;
    for (int64_t x = 0; x < out.w; x += kBlock) f(n, start + x, int(std::min<int64_t>(kBlock, out.w - x)));
  }
};

// The taps of a block of output voxels along a row.
template <int ndim, class A, class Index, bool derivatives = true>
struct BlockTaps {
  Index plane[kBlock], base[kBlock];
  A w0[ndim][kBlock], w1[ndim][kBlock];
  A d0[derivatives ? ndim : 0][kBlock], d1[derivatives ? ndim : 0][kBlock];
  A poison[kBlock];  // 0, or NaN where a coordinate is not finite

  template <class Source>
  BlockTaps(const Problem<ndim, Source, Index>& p, int64_t n, int64_t first, int count) {
    p.each_position(n, first, count, [&](auto axis, auto padding, const A(&position)[kBlock], Index extent) {
      constexpr int k = axis.value;
      for (int i = 0, end = count; i < end; ++i) {
        const auto t = linear_taps<padding.value, Index>(position[i], extent);
        const A finite = position[i] - position[i];
        if constexpr (k == 0) {
          plane[i] = base[i] = t.base, poison[i] = finite;
        } else {
          base[i] = base[i] * extent + t.base, poison[i] += finite;
        }
        w0[k][i] = t.w0, w1[k][i] = t.w1;
        if constexpr (derivatives) d0[k][i] = t.d0, d1[k][i] = t.d1;
      }
    });
  }
};

// The voxel that each output voxel of a block copies, or -1.
template <int ndim, class A, class Index>
struct BlockNearest {
  Index plane[kBlock], source[kBlock];
  A poison[kBlock];

  template <class Source>
  BlockNearest(const Problem<ndim, Source, Index>& p, int64_t n, int64_t first, int count) {
    p.each_position(n, first, count, [&](auto axis, auto padding, const A(&position)[kBlock], Index extent) {
      constexpr int k = axis.value;
      for (int i = 0, end = count; i < end; ++i) {
        const Index tap = nearest_tap<padding.value, Index>(position[i], extent);
        const A finite = position[i] - position[i];
        if constexpr (k == 0) {
          plane[i] = source[i] = tap, poison[i] = finite;
        } else {
          source[i] = (source[i] < 0) | (tap < 0) ? Index(-1) : source[i] * extent + tap, poison[i] += finite;
        }
      }
    });
  }
};

// For each sample of a block the four values around it in the (y, x) plane, interpolated along z with the
// weights z0, z1 (3-D) or as they are (2-D). Loading pairs of neighbours beats gather instructions, which
// fetch one value a lane.
template <int ndim, class A>
struct Corners {
  typedef A Quad __attribute__((vector_size(4 * sizeof(A))));
  alignas(64) Quad v[kBlock];

  template <class T, class Index>
  void fill(const T* image, const Index* step, const Index* base, const A* z0, const A* z1, int count) {
    const auto with_step_x = [&](auto sx) {
      const Index sy = step[ndim - 2], sz = step[0];
      for (int i = 0; i < count; ++i) {
        const T* near = image + base[i];
        v[i] = quad<sx.value>(near, near + sy);
        if constexpr (ndim == 3) v[i] = z0[i] * v[i] + z1[i] * quad<sx.value>(near + sz, near + sz + sy);
      }
    };
    if (step[ndim - 1] == 1)
      with_step_x(std::integral_constant<int, 1>{});
    else
      with_step_x(std::integral_constant<int, 0>{});
  }

  template <int sx, class T>
  static L2RFAST_INLINE Quad quad(const T* row, const T* next) {
    if constexpr (sx == 1 && std::is_same_v<T, A>) {
      typedef A Pair __attribute__((vector_size(2 * sizeof(A)), aligned(alignof(A)), may_alias));
      return __builtin_shufflevector(*reinterpret_cast<const Pair*>(row), *reinterpret_cast<const Pair*>(next), 0, 1, 2,
                                     3);
    } else {
      return Quad{A(row[0]), A(row[sx]), A(next[0]), A(next[sx])};
    }
  }

  // Interpolation in the plane with the weights of sample i.
  L2RFAST_INLINE A plane(int i, const A* y0, const A* y1, const A* x0, const A* x1) const {
    return y0[i] * (x0[i] * v[i][0] + x1[i] * v[i][1]) + y1[i] * (x0[i] * v[i][2] + x1[i] * v[i][3]);
  }
};

}  // namespace l2rfast
