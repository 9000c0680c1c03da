// Cubic B-splines on the CPU: their coefficients, and their samples at displaced positions.
//
// Coefficients. Floor: the image is read once, the result written once; two fused multiplications a voxel and axis.
// Here it is three passes, an axis each, of which those after the first are in place. The recursion runs along the
// axis, with as many lines beside one another as a vector has lanes; for the last axis lines are transposed into a
// buffer.
//
// Samples. Floor: coefficients and field are read once, the output is written once; per voxel and axis some 20
// operations for the weights (shared by all channels), then per channel 16 loads (2-D: 4) of four neighbours along x
// and as many fused multiplications. So a brain's 160 x 192 x 224 voxels take 110 million loads: at two a cycle some 20
// ms of one core at 3 GHz, as much as the 140 MB of coefficients, field and output take. The gradient to the
// coefficients is scattered by slabs of planes, as common/sampler.h has it.

#include "bspline/cubic.h"
#include "common/memory.h"
#include "common/sampler.h"
#include "common/text.h"

namespace l2rfast {
namespace {

template <class A>
L2RFAST_INLINE Quad<A> load_four(const A* p) {
  return *reinterpret_cast<const Quad<A>*>(p);
}
template <class A>
L2RFAST_INLINE void store_four(A* p, Quad<A> v) {
  *reinterpret_cast<Quad<A>*>(p) = v;
}

// --- Coefficients

// Solves `columns` vectors of lines beside one another, of which voxel k begins at v + k * step; of the last vector
// only `lanes` lines exist.
template <int columns, class A>
L2RFAST_INLINE void solve_beside(A* v, int64_t n, int64_t step, const Recursion& r, int lanes = kLanes<A>) {
  using V = Vector<A>;
  constexpr int width = kLanes<A>;
  constexpr A z = A(Recursion::z), scale = A(Recursion::scale), turn = A(Recursion::turn);
  const A ends = A(r.ends), back = 1 / ends;
  const auto read = [=](int64_t k, int c) { return load_some<A>(v + k * step + c * width, lanes); };
  const auto write = [=](int64_t k, int c, V u) { store_some<A>(v + k * step + c * width, u, lanes); };
  V u[columns] = {}, before[columns] = {};
  for (int k = 0; k < r.starts; ++k)
    for (int c = 0; c < columns; ++c) u[c] += A(r.start[k]) * read(k, c);
  for (int c = 0; c < columns; ++c) write(0, c, u[c]);
  for (int64_t k = 1; k < n; ++k)
    for (int c = 0; c < columns; ++c) {
      before[c] = u[c];
      u[c] = (k == n - 1 ? ends : A(1)) * read(k, c) + z * u[c];
      write(k, c, u[c]);
    }
  for (int c = 0; c < columns; ++c) {
    u[c] = turn * (u[c] + z * before[c]);
    write(n - 1, c, back * u[c]);
  }
  for (int64_t k = n - 2; k >= 0; --k)
    for (int c = 0; c < columns; ++c) {
      u[c] = z * u[c] + scale * read(k, c);
      write(k, c, (k == 0 ? back : A(1)) * u[c]);
    }
}

// In place, along an axis of n voxels with `inner` lines beside one another.
template <class A>
void solve_axis(A* values, int64_t outer, int64_t n, int64_t inner, bool adjoint) {
  if (n == 1) return;
  constexpr int columns = 4, lanes = kLanes<A>;
  const Recursion r(n, adjoint);
  const int64_t strips = (inner + columns * lanes - 1) / (columns * lanes);
  parallel_each(outer * strips, [&](int64_t i) {
    A* const v = values + i / strips * n * inner;
    int64_t at = i % strips * columns * lanes;
    const int64_t end = std::min<int64_t>(at + columns * lanes, inner);
    if (end - at == columns * lanes) return solve_beside<columns>(v + at, n, inner, r);
    for (; at + lanes <= end; at += lanes) solve_beside<1>(v + at, n, inner, r);
    if (at < end) solve_beside<1>(v + at, n, inner, r, int(end - at));
  });
}

// to[x * to_step + y] = from[y * from_step + x] for rows and columns below those.
template <class A>
void transpose(const A* from, int64_t from_step, A* to, int64_t to_step, int64_t rows, int64_t columns) {
  int64_t y = 0;
  for (; y + 4 <= rows; y += 4) {
    int64_t x = 0;
    for (; x + 4 <= columns; x += 4) {
      const A* f = from + y * from_step + x;
      const Quad<A> a = load_four(f), b = load_four(f + from_step);
      const Quad<A> c = load_four(f + 2 * from_step), d = load_four(f + 3 * from_step);
      const Quad<A> ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Quad<A> ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      A* t = to + x * to_step + y;
      store_four<A>(t, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
      store_four<A>(t + to_step, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
      store_four<A>(t + 2 * to_step, __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5));
      store_four<A>(t + 3 * to_step, __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7));
    }
    for (; x < columns; ++x)
      for (int64_t k = y; k < y + 4; ++k) to[x * to_step + k] = from[k * from_step + x];
  }
  for (; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) to[x * to_step + y] = from[y * from_step + x];
}

// Along the last axis, from an image to the result.
template <class A>
void solve_rows(const A* from, A* to, int64_t rows, int64_t w, bool adjoint) {
  constexpr int lanes = kLanes<A>;
  const Recursion r(w, adjoint);
  parallel_runs((rows + lanes - 1) / lanes, [&](int64_t begin, int64_t end) {
    Aligned<A> lines(w * lanes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * lanes, some = std::min<int64_t>(lanes, rows - first);
      transpose(from + first * w, w, lines.data(), lanes, some, w);
      if (w > 1) solve_beside<1>(lines.data(), w, lanes, r);
      transpose(lines.data(), lanes, to + first * w, w, w, some);
    }
  });
}

Tensor spline_coefficients(const Tensor& image_, bool adjoint) {
  const Tensor image = packed(image_), result = room_as(image, shape_of(image));
  const Grid grid = grid_of(image, image.dim() - 2);
  const int64_t items = image.size(0) * image.size(1);
  for_real(image.scalar_type(), [&](auto type) {
    using A = decltype(type);
    A* const values = write<A>(result);
    solve_rows(read<A>(image), values, items * grid.rows(), grid.w, adjoint);
    solve_axis(values, items * grid.d, grid.h, grid.w, adjoint);
    solve_axis(values, items, grid.d, grid.h * grid.w, adjoint);
  });
  return result;
}

// --- Samples

// The taps of a block of output voxels along a row: those along x beside one another for every sample.
template <int ndim, class A, class Index, bool derivatives = false>
struct SplineTaps {
  Block block;
  Index plane[kBlock], base[kBlock];
  A w[ndim - 1][4][kBlock], x[kBlock][4];
  A d[derivatives ? ndim - 1 : 0][4][kBlock], dx[derivatives ? kBlock : 0][4];
  A poison[kBlock];  // 0, or NaN where a coordinate is not finite

  SplineTaps(const Problem<ndim, A, Index>& p, const Block& b) : block(b) {
    each_axis<ndim>([&](auto axis) {
      constexpr int k = axis.value;
      A position[kBlock];
      p.source.along(k, b, position);
      for_padding(p.padding, [&](auto padding) {
        const Index size = p.size[k], step = p.step[k];
        for (int i = 0, end = b.count; i < end; ++i) {
          const auto t = cubic_taps<padding.value, Index>(position[i], size);
          const A finite = position[i] - position[i];
          if constexpr (k == 0) {
            plane[i] = t.base, base[i] = t.base * step, poison[i] = finite;
          } else {
            base[i] += t.base * step, poison[i] += finite;
          }
          for (int j = 0; j < 4; ++j) {
            if constexpr (k < ndim - 1) {
              w[k][j][i] = t.w[j];
              if constexpr (derivatives) d[k][j][i] = t.d[j];
            } else {
              x[i][j] = t.w[j];
              if constexpr (derivatives) dx[i][j] = t.d[j];
            }
          }
        }
      });
    });
  }
};

// How far the four coefficients along every axis are from the first: the last again, with weight 0, where there are
// fewer.
template <int ndim, class Index>
struct Around {
  static constexpr int planes = ndim == 3 ? 4 : 1;
  Index outer[ndim - 1][4], x[4];
  bool beside;  // whether those along x follow one another

  template <class A>
  explicit Around(const Problem<ndim, A, Index>& p) : beside(p.step[ndim - 1] == 1 && p.size[ndim - 1] >= 4) {
    for (int k = 0; k < ndim; ++k)
      for (int j = 0; j < 4; ++j) (k < ndim - 1 ? outer[k] : x)[j] = std::min<Index>(j, p.size[k] - 1) * p.step[k];
  }

  // From the first to the first along x of a row in a plane.
  Index row(int z, int y) const { return ndim == 3 ? outer[0][z] + outer[ndim - 2][y] : outer[0][y]; }

  template <class A>
  L2RFAST_INLINE void add(A* at, Quad<A> share) const {
    if (beside)
      store_four(at, load_four(at) + share);
    else
      for (int j = 0; j < 4; ++j) at[x[j]] += share[j];
  }

  // f(four): how to read the four coefficients along x from a place on.
  template <class A, class F>
  void with_reader(const F& f) const {
    if (beside)
      f([](const A* at) L2RFAST_LAMBDA { return load_four(at); });
    else
      f([x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3]](const A* at)
            L2RFAST_LAMBDA { return Quad<A>{at[x0], at[x1], at[x2], at[x3]}; });
  }
};

// Calls f(block) for every block of the output.
template <int ndim, class A, class Index, class F>
void each_block(const Problem<ndim, A, Index>& p, const F& f) {
  parallel_each(p.items * p.out.rows(), [&](int64_t i) { p.row_blocks(p.visited(i), f); });
}

template <class A>
L2RFAST_INLINE A sum_of(const A (&v)[4]) {
  return (v[0] + v[1]) + (v[2] + v[3]);
}

Tensor spline_warp(const Tensor& coefficients_, const Tensor& disp, Text padding) {
  const Tensor coefficients = packed(coefficients_);
  Tensor result;
  for_arithmetic(coefficients, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Displaced<ndim, A> source(disp);
    for_problem<ndim>(coefficients, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
      result = room_as(coefficients, p.shape(coefficients.size(1)));
      const A* const images = read<A>(coefficients);
      A* const results = write<A>(result);
      const Around<ndim, Index> around(p);
      around.template with_reader<A>([&](const auto& four) {
        each_block(p, [&](const Block& b) {
          const SplineTaps<ndim, A, Index> taps(p, b);
          A sums[kBlock][4];
          for (int64_t c = 0; c < p.channels; ++c) {
            const A* const image = images + p.image.offset(b.n, c);
            for (int i = 0; i < b.count; ++i) {
              const A* const at = image + taps.base[i];
              Quad<A> total = {};
              for (int z = 0; z < around.planes; ++z) {
                Quad<A> plane = {};
                for (int y = 0; y < 4; ++y) plane += taps.w[ndim - 2][y][i] * four(at + around.row(z, y));
                total += ndim == 3 ? taps.w[0][z][i] * plane : plane;
              }
              store_four<A>(sums[i], total * load_four(taps.x[i]));
            }
            A* __restrict out = results + p.at(b, c);
            for (int i = 0; i < b.count; ++i) out[i] = sum_of(sums[i]) + taps.poison[i];
          }
        });
      });
    });
  });
  return result;
}

// Puts the gradient to the positions.
template <int ndim, class A>
void back_to_positions(const Tensor& grad, const Tensor& coefficients, const Positions<A>& source,
                       const std::string& padding, const Put<ndim, A>& put) {
  for_problem<ndim>(coefficients, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
    const A *const images = read<A>(coefficients), *const grads = read<A>(grad);
    const Around<ndim, Index> around(p);
    around.template with_reader<A>([&](const auto& four) {
      each_block(p, [&](const Block& b) {
        const SplineTaps<ndim, A, Index, true> taps(p, b);
        A slope[ndim][kBlock] = {}, sums[ndim][kBlock][4];
        for (int64_t c = 0; c < p.channels; ++c) {
          const A* const image = images + p.image.offset(b.n, c);
          for (int i = 0; i < b.count; ++i) {
            const A* const at = image + taps.base[i];
            Quad<A> total = {}, by_y = {}, by_z = {};
            for (int z = 0; z < around.planes; ++z) {
              Quad<A> plane = {}, plane_by_y = {};
              for (int y = 0; y < 4; ++y) {
                const Quad<A> v = four(at + around.row(z, y));
                plane += taps.w[ndim - 2][y][i] * v;
                plane_by_y += taps.d[ndim - 2][y][i] * v;
              }
              const A weight = ndim == 3 ? taps.w[0][z][i] : A(1);
              total += weight * plane, by_y += weight * plane_by_y;
              if constexpr (ndim == 3) by_z += taps.d[0][z][i] * plane;
            }
            const Quad<A> x = load_four(taps.x[i]);
            store_four<A>(sums[ndim - 1][i], total * load_four(taps.dx[i]));
            store_four<A>(sums[ndim - 2][i], by_y * x);
            if constexpr (ndim == 3) store_four<A>(sums[0][i], by_z * x);
          }
          const A* __restrict g = grads + p.at(b, c);
          for (int k = 0; k < ndim; ++k)
            for (int i = 0; i < b.count; ++i) slope[k][i] += taps.poison[i] == 0 ? g[i] * sum_of(sums[k][i]) : A(0);
        }
        put(b, slope);
      });
    });
  });
}

// Adds the gradient to the coefficients to `to`. Neighbours add to the same voxels, and would wait for each other's
// stores: they are visited 8 apart.
template <int ndim, class A>
void back_to_coefficients(const Tensor& grad, const Positions<A>& source, const std::string& padding,
                          const Tensor& to) {
  for_problem<ndim>(to, source, padding, [&]<class Index>(const Problem<ndim, A, Index>& p) {
    constexpr int apart = 8;
    const int last = int(std::min<Index>(p.size[0], 4)) - 1;
    const Around<ndim, Index> around(p);
    const A* const grads = read<A>(grad);
    A* const images = write<A>(to);
    const auto add = [&](auto group, const Slab<Index>& slab) {
      p.each_channel(
          group, [](auto...) {},
          [&](int64_t c, const auto& taps) {
            const Block& b = taps.block;
            const A* const g = grads + p.at(b, c);
            A* const image = images + p.image.offset(b.n, c);
            for (int start = 0; start < apart; ++start)
              for (int i = start; i < b.count; i += apart) {
                const Quad<A> x = (taps.poison[i] == 0 ? g[i] : A(0)) * load_four(taps.x[i]);
                for (int first = 0; first < 4; ++first) {
                  if (!slab.has(taps.plane[i] + std::min(first, last))) continue;
                  A* const plane = image + taps.base[i] + around.outer[0][first];
                  const Quad<A> near = taps.w[0][first][i] * x;
                  if constexpr (ndim == 2) {
                    around.add(plane, near);
                  } else {
                    for (int y = 0; y < 4; ++y) around.add(plane + around.outer[1][y], taps.w[1][y][i] * near);
                  }
                }
              }
          });
    };
    by_slab<SplineTaps<ndim, A, Index>>(p, add, 2, 3);
  });
}

std::tuple<Tensor, Tensor> spline_warp_backward(const Tensor& grad_, const Tensor& coefficients_, const Tensor& disp,
                                                Text padding, bool to_image, bool to_disp) {
  const Tensor grad = packed(grad_), coefficients = packed(coefficients_);
  const Tensor grad_disp = gradient_to(disp, to_disp, "linear");
  Tensor grad_image;
  for_arithmetic(coefficients, disp, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Displaced<ndim, A> source(disp);
    grad_image = zeros_like<A>(coefficients, to_image);
    if (to_image) back_to_coefficients<ndim, A>(grad, source, padding, grad_image);
    if (to_disp)
      back_to_positions<ndim, A>(grad, coefficients, source, padding, put_field<ndim, A>(grad_disp, source.out));
  });
  return {grad_image, grad_disp};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("spline_coefficients", TORCH_BOX(&spline_coefficients));
  m.impl("spline_warp", TORCH_BOX(&spline_warp));
  m.impl("spline_warp_backward", TORCH_BOX(&spline_warp_backward));
}

}  // namespace l2rfast
