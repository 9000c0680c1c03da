// Where the voxels of an output are sampled, a block of a row at a time, and what such positions come from.
#pragma once

#include "common/interpolation.h"
#include "common/tensor.h"
#include "common/vectors.h"

namespace l2rfast {

constexpr int kBlock = 256;

// Some voxels of a row of the output: `count` from (z, y, x) of item n on, `first` in the order of the item's voxels.
struct Block {
  int64_t n, z, y, x, first;
  int count;

  template <class A>
  A coordinate(int axis) const {
    return A(axis == 0 ? z : axis == 1 ? y : x);
  }
  // `count` in whole vectors: lanes beyond it repeat a sample, and are never stored.
  template <class A>
  int whole() const {
    return (count + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
  }
};

// The row of a grid that is visited as the i-th: in stacks of 32, followed through all planes before the next. What is
// sampled for a row is then still in the cache for the row beside it in the next plane.
inline int64_t in_stacks(const Grid& grid, int64_t i) {
  constexpr int64_t height = 32;
  const int64_t first = i / (height * grid.d) * height, rows = std::min(height, grid.h - first);
  const int64_t in_stack = i - first * grid.d;
  return in_stack / rows * grid.h + first + in_stack % rows;
}

// f(std::integral_constant<int, k>{}) for every axis k.
template <int ndim, class F>
L2RFAST_INLINE void each_axis(const F& f) {
  [&]<int... k>(std::integer_sequence<int, k...>) {
    (f(std::integral_constant<int, k>{}), ...);
  }(std::make_integer_sequence<int, ndim>{});
}

// Calls f with the dtype of a field that goes with arithmetic in A.
template <class A, class F>
void for_field(Dtype dtype, const F& f) {
  if constexpr (std::is_same_v<A, double>) {
    f(double{});
  } else {
    for_floating(dtype, [&](auto t) {
      if constexpr (!std::is_same_v<decltype(t), double>) f(t);
    });
  }
}

// Components of a field over the output's voxels, in any floating dtype and strides, read as A.
template <class A>
struct Field {
  const void* data;
  Dtype dtype;
  int64_t batch, component, step[3];

  // `component` is the stride of the components, at that axis of the tensor; the spatial axes start at another.
  Field(const Tensor& t, int ndim, int component_axis, int spatial_axis)
      : data(t.const_data_ptr()),
        dtype(t.scalar_type()),
        batch(t.size(0) > 1 ? t.stride(0) : 0),
        component(t.stride(component_axis)),
        step{} {
    for (int k = 0; k < ndim; ++k) step[3 - ndim + k] = t.stride(spatial_axis + k);
  }

  // to[i] = f(i, value) for component k.
  template <class F>
  L2RFAST_INLINE void read(int k, const Block& b, A* __restrict to, const F& f) const {
    const int64_t at = b.n * batch + k * component + b.z * step[0] + b.y * step[1] + b.x * step[2];
    for_field<A>(dtype, [&](auto t) {
      const auto* u = static_cast<const decltype(t)*>(data) + at;
      const int count = b.count;
      if (step[2] == 1) {
        fetch(u, count);
        for (int i = 0; i < count; ++i) to[i] = f(i, A(u[i]));
      } else {
        const int64_t stride = step[2];
        for (int i = 0; i < count; ++i) to[i] = f(i, A(u[i * stride]));
      }
    });
  }

  // f(u, step) with all components of a block, value i of component k being u[k][i * step].
  template <int ndim, class F>
  L2RFAST_INLINE void read_all(bool first, const Block& b, const F& f) const {
    const int64_t at = b.n * batch + b.z * step[0] + b.y * step[1] + b.x * step[2];
    for_field<A>(dtype, [&](auto t) {
      std::array<const decltype(t)*, ndim> u;
      for (int k = 0; k < ndim; ++k) u[k] = static_cast<const decltype(t)*>(data) + at + k * component;
      if (step[2] != 1) return f(u, step[2]);
      for (int k = 0; first && k < ndim; ++k) fetch(u[k], b.count);
      f(u, std::integral_constant<int64_t, 1>{});
    });
  }

 private:
  // The hardware does not foresee the next rows of three components at once.
  template <class T>
  static L2RFAST_INLINE void fetch(const T* u, int count) {
    for (int i = 0; i < count; i += 64 / int(sizeof(T))) __builtin_prefetch(u + 2 * kBlock + i);
  }
};

// Where `items` outputs of some size are sampled. Asked a block at a time, so that the loops over samples are compiled
// once, not once for each kind of positions.
template <class A>
struct Positions {
  Grid out;
  int64_t items;

  // Those of a block along axis k of the image.
  virtual void along(int k, const Block& b, A (&position)[kBlock]) const = 0;

 protected:
  Positions(const Grid& out, int64_t items) : out(out), items(items) {}
  ~Positions() = default;
};

// x + disp(x) of a displacement field (N, ndim, *out).
template <int ndim, class A>
struct Displaced final : Positions<A> {
  Field<A> disp;

  explicit Displaced(const Tensor& t) : Positions<A>(grid_of(t, ndim), t.size(0)), disp(t, ndim, 1, 2) {}

  void along(int k, const Block& b, A (&position)[kBlock]) const override {
    const A start = b.coordinate<A>(3 - ndim + k);
    if (k == ndim - 1)
      disp.read(k, b, position, [=](int i, A u) { return start + A(i) + u; });
    else
      disp.read(k, b, position, [=](int, A u) { return start + u; });
  }
};

// Those of a grid (N, *out, ndim) in [-1, 1], component ndim - 1 - k along axis k of the image.
template <int ndim, class A>
struct Normalised final : Positions<A> {
  Field<A> grid;
  A scale[ndim], shift;

  Normalised(const Tensor& t, const Tensor& image, bool align_corners)
      : Positions<A>({ndim == 3 ? t.size(1) : 1, t.size(ndim - 1), t.size(ndim), ndim == 3}, t.size(0)),
        grid(t, ndim, ndim + 1, 1),
        shift(align_corners ? A(0) : A(0.5)) {
    for (int k = 0; k < ndim; ++k) scale[k] = A(image.size(2 + k) - align_corners) / 2;
  }

  void along(int k, const Block& b, A (&position)[kBlock]) const override {
    const A times = scale[k], minus = shift;
    grid.read(ndim - 1 - k, b, position, [=](int, A g) { return (g + 1) * times - minus; });
  }
};

// A matrix (N, ndim, ndim + 1) times (x, 1).
template <int ndim, class A>
struct Affine final : Positions<A> {
  std::vector<A> matrix;

  Affine(const Tensor& t, const Grid& size) : Positions<A>(size, t.size(0)), matrix(t.numel()) {
    const Tensor source = packed(t);
    for_field<A>(t.scalar_type(), [&](auto v) { std::copy_n(read<decltype(v)>(source), t.numel(), matrix.begin()); });
  }

  void along(int k, const Block& b, A (&position)[kBlock]) const override {
    const A* m = matrix.data() + (b.n * ndim + k) * (ndim + 1);
    A start = m[ndim];
    for (int j = 0; j < ndim - 1; ++j) start += m[j] * b.coordinate<A>(3 - ndim + j);
    const A slope = m[ndim - 1], x = b.coordinate<A>(2);
    for (int i = 0, end = b.count; i < end; ++i) position[i] = start + slope * (x + A(i));
  }
};

// A matrix (N, ndim, ndim + 1) times (x + disp(x), 1).
template <int ndim, class A>
struct AffineDisplaced final : Positions<A> {
  Field<A> disp;
  Affine<ndim, A> affine;

  AffineDisplaced(const Tensor& t, const Tensor& matrix)
      : Positions<A>(grid_of(t, ndim), std::max(t.size(0), matrix.size(0))),
        disp(t, ndim, 1, 2),
        affine(matrix, grid_of(t, ndim)) {}

  void along(int k, const Block& b, A (&position)[kBlock]) const override {
    const A* m = affine.matrix.data() + ((affine.items > 1 ? b.n : 0) * ndim + k) * (ndim + 1);
    disp.template read_all<ndim>(k == 0, b, [&](auto u, auto step) L2RFAST_LAMBDA {
      for (int i = 0, end = b.count; i < end; ++i) {
        A sum = m[ndim];
        for (int j = 0; j < ndim; ++j) {
          const A start = b.coordinate<A>(3 - ndim + j);
          sum += m[j] * ((j == ndim - 1 ? start + A(i) : start) + A(u[j][i * step]));
        }
        position[i] = sum;
      }
    });
  }
};

}  // namespace l2rfast
