// Jacobian determinant on the CPU.
//
// Floor: the field is read once, the determinant written once; 9 differences and 14 operations a voxel. Done
// row by row: the rows above and below are in the cache when their turn comes.
//
// The gradient is gathered, row by row too: what every voxel gets of its neighbours' determinants. Their cofactors are
// computed again for each of the 2 * ndim + 1 rows that need them, which is cheaper than to store ndim^2 volumes.

#include "common/memory.h"
#include "common/rows.h"
#include "common/sampling.h"
#include "common/vectors.h"
#include "jacobian/determinant.h"

namespace l2rfast {
namespace {

// As many values as V has: one, or a vector.
template <class V, class T>
L2RFAST_INLINE void store_values(T* p, V v) {
  if constexpr (std::is_same_v<V, T>)
    *p = v;
  else
    store(p, v);
}

// J on a stretch of a row that begins at x, where every voxel has the same kind of neighbours along it; of a field
// (ndim, *spatial).
template <int ndim, class T>
Jacobian<ndim, T> jacobian(const T* disp, const Grid& grid, int64_t row, int64_t x, Side side = Side::both) {
  return {disp + row * grid.w, {grid.d, grid.h, grid.w}, {row / grid.h, row % grid.h, x}, side};
}

// Calls f(begin, end) for the stretches of a row.
template <class F>
void each_stretch(int64_t w, const F& f) {
  f(0, 1);
  if (w > 2) f(1, w - 1);
  if (w > 1) f(w - 1, w);
}

template <int ndim, class T>
void determinant_row(const T* disp, const Grid& grid, int64_t row, T* __restrict result) {
  each_stretch(grid.w, [&](int64_t begin, int64_t end) {
    const auto j = jacobian<ndim>(disp, grid, row, begin);
    for (int64_t x = begin; x < end; ++x) result[x] = j.determinant(x);
  });
}

// Calls f(V, x) for vectors, the last of which may overlap the one before, or for values where there are few.
template <class T, class F>
void each_vector(int64_t begin, int64_t end, const F& f) {
  constexpr int64_t lanes = kLanes<T>;
  if (end - begin >= lanes)
    for (int64_t x = begin; x < end; x += lanes) f(Vector<T>{}, std::min(x, end - lanes));
  else
    for (int64_t x = begin; x < end; ++x) f(T{}, x);
}

template <int ndim, class T>
void digital_row(const T* disp, const Grid& grid, int64_t row, T* result) {
  each_stretch(grid.w, [&](int64_t begin, int64_t end) {
    const Jacobian<ndim, T> sides[2] = {jacobian<ndim>(disp, grid, row, begin, Side::before),
                                        jacobian<ndim>(disp, grid, row, begin, Side::after)};
    each_vector<T>(begin, end, [&](auto v, int64_t x) L2RFAST_LAMBDA {
      using V = decltype(v);
      store_values(result + x, least_of_sides<V>(sides, x));
    });
  });
  if constexpr (ndim == 3) {
    if (row / grid.h == grid.d - 1 || row % grid.h == grid.h - 1) return;
    each_vector<T>(0, grid.w - 1, [&](auto v, int64_t x) L2RFAST_LAMBDA {
      using V = decltype(v);
      const V middles = least_of_middles<V>(disp + row * grid.w + x, grid.numel(), grid.h * grid.w, grid.w);
      store_values(result + x, least(values<V>(result + x), middles));
    });
  }
}

// The least of digital_row in each block of a row of blocks, of `side` voxels along the axes.
template <int ndim, class T>
void digital_blocks(const T* disp, const Grid& grid, const Grid& side, const Grid& blocks, int64_t row, T* result) {
  const int64_t first = row / blocks.h * side.d * grid.h + row % blocks.h * side.h;
  std::vector<T> buffer(2 * grid.w);
  T *const found = buffer.data(), *const next = found + grid.w;
  digital_row<ndim>(disp, grid, first, found);
  for (int64_t i = 1; i < side.rows(); ++i) {
    digital_row<ndim>(disp, grid, first + i / side.h * grid.h + i % side.h, next);
    for (int64_t x = 0; x < grid.w; ++x) found[x] = least(found[x], next[x]);
  }
  for (int64_t b = 0; b < blocks.w; ++b) {
    const T* const of = found + b * side.w;
    T lowest = of[0];
    for (int64_t i = 1; i < side.w; ++i) lowest = least(lowest, of[i]);
    result[b] = lowest;
  }
}

template <int ndim, class T>
void gradient_row(const T* grad, const T* disp, const Grid& grid, int64_t row, T* result) {
  const int64_t at[3] = {row / grid.h, row % grid.h, 0}, size[3] = {grid.d, grid.h, grid.w};
  const int64_t stride[3] = {grid.h, 1, 0};  // in rows
  const int64_t w = grid.w;
  std::vector<T> buffer(w);
  T* const products = buffer.data();
  each_axis<ndim>([&](auto k) {
    T* const out = result + k.value * grid.numel() + row * w;
    std::fill_n(out, w, T(0));
    each_axis<ndim>([&](auto l) {
      constexpr int axis = 3 - ndim + l.value;
      const int64_t reach = axis < 2;
      for (int64_t away = -reach; away <= reach; ++away) {
        const int64_t from = at[axis] + away;
        if (from < 0 || from >= size[axis]) continue;
        const T factor = axis < 2 ? share<T>(from, at[axis], size[axis]) : T(1);
        if (factor == 0) continue;
        const int64_t other = row + away * stride[axis];
        const T* g = grad + other * w;
        each_stretch(w, [&](int64_t begin, int64_t end) {
          const auto j = jacobian<ndim>(disp, grid, other, begin);
          T* __restrict to = products;
          for (int64_t x = begin; x < end; ++x) to[x] = factor * g[x] * j.template cofactor<k.value, l.value>(x);
        });
        if constexpr (axis < 2) {
          add(out, products, w);
        } else {
          for (int64_t x = 1; x < w - 1; ++x)
            out[x] += products[x - 1] * share<T>(x - 1, x, w) + products[x + 1] * share<T>(x + 1, x, w);
          for (int64_t x : {int64_t(0), w - 1})
            for (int64_t i = std::max<int64_t>(x - 1, 0); i <= std::min(x + 1, w - 1) && w > 1; ++i)
              out[x] += products[i] * share<T>(i, x, w);
        }
      }
    });
  });
}

// Calls f(ndim, T, n, row) for every row of a grid, for every item of a field (N, ndim, *spatial).
template <class F>
void each_row(const Tensor& disp, const Grid& grid, const F& f) {
  for_real(disp.scalar_type(), [&](auto t) {
    parallel_each(disp.size(0) * grid.rows(), [&](int64_t item) {
      const int64_t n = item / grid.rows(), row = item % grid.rows();
      if (grid.deep)
        f(std::integral_constant<int, 3>{}, t, n, row);
      else
        f(std::integral_constant<int, 2>{}, t, n, row);
    });
  });
}

// A number for every block of voxels: f(ndim, disp, grid, side, blocks, row, result), of the grids of an item, of a
// block and of the blocks, and of pointers to the item's first voxel and to the row of blocks.
template <class F>
Tensor of_each_row(const Tensor& disp_, const std::vector<int64_t>& sides, const F& f) {
  const Tensor disp = packed(disp_);
  std::vector<int64_t> shape = {disp.size(0)};
  for (size_t k = 0; k < sides.size(); ++k) shape.push_back(disp.size(2 + k) / sides[k]);
  const Tensor result = room_as(disp, shape);
  const Grid grid = grid_of(disp, disp.size(1)), side = Grid::of(sides), blocks = grid_of(result, disp.size(1));
  each_row(disp, blocks, [&](auto ndim, auto t, int64_t n, int64_t row) {
    using T = decltype(t);
    T* out = write<T>(result) + n * blocks.numel() + row * blocks.w;
    f(ndim, read<T>(disp) + n * ndim.value * grid.numel(), grid, side, blocks, row, out);
  });
  return result;
}

Tensor jacobian_determinant(const Tensor& disp) {
  const auto voxel = std::vector<int64_t>(disp.size(1), 1);
  return of_each_row(disp, voxel, [](auto ndim, auto* field, const Grid& grid, auto&, auto&, int64_t row, auto* out) {
    determinant_row<ndim.value>(field, grid, row, out);
  });
}

Tensor digital_jacobian(const Tensor& disp, std::vector<int64_t> blocks) {
  return of_each_row(disp, blocks, [](auto ndim, auto... row) { digital_blocks<ndim.value>(row...); });
}

Tensor jacobian_determinant_backward(const Tensor& grad_, const Tensor& disp_) {
  const Tensor disp = packed(disp_), grad = packed(grad_), result = room_as(disp, shape_of(disp));
  const Grid grid = grid_of(disp, disp.size(1));
  each_row(disp, grid, [&](auto ndim, auto t, int64_t n, int64_t row) {
    using T = decltype(t);
    const int64_t at = n * ndim.value * grid.numel();
    gradient_row<ndim.value>(read<T>(grad) + n * grid.numel(), read<T>(disp) + at, grid, row, write<T>(result) + at);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("jacobian_determinant", TORCH_BOX(&jacobian_determinant));
  m.impl("digital_jacobian", TORCH_BOX(&digital_jacobian));
  m.impl("jacobian_determinant_backward", TORCH_BOX(&jacobian_determinant_backward));
}

}  // namespace l2rfast
