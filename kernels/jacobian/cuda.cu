// Jacobian determinants on the GPU, a thread for each.
//
// The gradient is gathered: a thread takes from a voxel's neighbours along every axis what their determinants owe it,
// whose cofactors it computes again. The least of one-sided determinants is one thread's for all voxels of a block.
//
// Floor: the field is read once, the determinant written once, 16 bytes a voxel of float32; the gradient reads 4 and
// writes 8 more. Neighbours come from the caches.

#include "common/volume.cuh"
#include "jacobian/determinant.h"

namespace l2rfast {
namespace {

// A field (N, axes, *spatial); 2-D has one plane.
template <int axes, class T>
struct Displacements {
  Volume v;
  const T* disp;

  // The first component at a voxel.
  L2RFAST_INLINE const T* at(const Voxel<3>& x) const { return disp + x.item * axes * v.volume() + v.flat(x); }
  // J where that is `u`, of a voxel with neighbours as x has them.
  L2RFAST_INLINE Jacobian<axes, T> jacobian(const T* u, const Voxel<3>& x, Side side = Side::both) const {
    return {u, {v.size[0], v.size[1], v.size[2]}, {x.at[0], x.at[1], x.at[2]}, side};
  }
};

template <int axes, class T>
struct Determinant {
  static constexpr int ndim = 3, resident = 4;
  Displacements<axes, T> field;
  T* to;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    const Volume& v = field.v;
    to[x.item * v.volume() + v.flat(x)] = field.jacobian(field.at(x), x).determinant(0);
  }
};

template <int axes, class T>
struct Gradient {
  static constexpr int ndim = 3, resident = 2;
  Displacements<axes, T> field;
  const T* grad;
  T* to;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    const Volume& v = field.v;
    T sum[axes] = {};
    each_axis<axes>([&](auto l) {
      constexpr int axis = 3 - axes + l;
      for (int away = -1; away <= 1; ++away) {
        Voxel<3> from = x;
        from.at[axis] += away;
        if (from.at[axis] < 0 || from.at[axis] >= v.size[axis]) continue;
        const T part = share<T>(from.at[axis], x.at[axis], v.size[axis]);
        if (part == 0) continue;  // the voxel's own, but at the border
        const auto j = field.jacobian(field.at(from), from);
        const T factor = part * fetch(grad + x.item * v.volume() + v.flat(from));
        each_axis<axes>([&](auto k) { sum[k] += factor * j.template cofactor<k, l>(0); });
      }
    });
    T* first = to + x.item * axes * v.volume() + v.flat(x);
    each_axis<axes>([&](auto k) { first[k * v.volume()] = sum[k]; });
  }
};

// Of blocks of `side` voxels along the axes; a thread's voxel is a block.
template <int axes, class T>
struct Digital {
  static constexpr int ndim = 3, resident = 2;
  Displacements<axes, T> field;
  Volume side, blocks;
  T* to;

  L2RFAST_INLINE void operator()(const Voxel<3>& block) const {
    T lowest = std::numeric_limits<T>::infinity();
    for (int32_t z = 0; z < side.size[0]; ++z)
      for (int32_t y = 0; y < side.size[1]; ++y)
        for (int32_t x = 0; x < side.size[2]; ++x)
          lowest = least(
              lowest,
              of({block.item,
                  {block.at[0] * side.size[0] + z, block.at[1] * side.size[1] + y, block.at[2] * side.size[2] + x}}));
    to[block.item * blocks.volume() + blocks.flat(block)] = lowest;
  }

 private:
  L2RFAST_INLINE T of(const Voxel<3>& x) const {
    const Volume& v = field.v;
    const T* u = field.at(x);
    const Jacobian<axes, T> sides[2] = {field.jacobian(u, x, Side::before), field.jacobian(u, x, Side::after)};
    const T lowest = least_of_sides<T>(sides, 0);
    if constexpr (axes == 3)
      if (v.inside({x.item, {x.at[0] + 1, x.at[1] + 1, x.at[2] + 1}}))
        return least(lowest, least_of_middles<T>(u, v.volume(), int64_t(v.size[1]) * v.size[2], v.size[2]));
    return lowest;
  }
};

// f(field) of a packed one.
template <class F>
void with_field(const Tensor& disp, const F& f) {
  const int64_t axes = disp.size(1);
  const Volume volume(grid_of(disp, axes));
  for_real(disp.scalar_type(), [&](auto t) {
    using T = decltype(t);
    if (axes == 3)
      f(Displacements<3, T>{volume, read<T>(disp)});
    else
      f(Displacements<2, T>{volume, read<T>(disp)});
  });
}

Tensor jacobian_determinant(const Tensor& disp_) {
  const Tensor disp = packed(disp_);
  std::vector<int64_t> shape = shape_of(disp);
  shape.erase(shape.begin() + 1);
  const Tensor result = empty_as(disp, shape);
  with_field(disp, [&]<int axes, class T>(const Displacements<axes, T>& field) {
    each_voxel(Determinant<axes, T>{field, write<T>(result)}, field.v.extent(disp.size(0)), disp);
  });
  return result;
}

Tensor jacobian_determinant_backward(const Tensor& grad_, const Tensor& disp_) {
  const Tensor grad = packed(grad_), disp = packed(disp_), result = empty_as(disp, shape_of(disp));
  with_field(disp, [&]<int axes, class T>(const Displacements<axes, T>& field) {
    const Gradient<axes, T> body{field, read<T>(grad), write<T>(result)};
    each_voxel(body, field.v.extent(disp.size(0)), disp);
  });
  return result;
}

Tensor digital_jacobian(const Tensor& disp_, std::vector<int64_t> sides) {
  const Tensor disp = packed(disp_);
  std::vector<int64_t> shape = {disp.size(0)};
  for (size_t k = 0; k < sides.size(); ++k) shape.push_back(disp.size(2 + k) / sides[k]);
  const Tensor result = empty_as(disp, shape);
  const Volume side(Grid::of(sides)), blocks(grid_of(result, disp.size(1)));
  with_field(disp, [&]<int axes, class T>(const Displacements<axes, T>& field) {
    each_voxel(Digital<axes, T>{field, side, blocks, write<T>(result)}, blocks.extent(disp.size(0)), disp);
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("jacobian_determinant", TORCH_BOX(&jacobian_determinant));
  m.impl("jacobian_determinant_backward", TORCH_BOX(&jacobian_determinant_backward));
  m.impl("digital_jacobian", TORCH_BOX(&digital_jacobian));
}

}  // namespace l2rfast
