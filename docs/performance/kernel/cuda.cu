// Normalised gradient fields on the GPU: the distance and its gradient in one pass.
//
// A thread goes down a column of eight voxels. At each it gathers the gradient from the flows at the six neighbours,
// which it computes again: to keep them would take memory that threads share, and two barriers a plane.
//
// Floor: 12 bytes a voxel of float32. Of the 84 loads a voxel all but two come from the caches; 7 flows, of 55
// operations each.

#include "common/columns.cuh"
#include "flow.h"

namespace l2rfast {
namespace {

template <class T>
struct Gather {
  static constexpr int resident = 2;
  Columns<3> columns;
  const T *fixed, *moving;
  T* gradient;
  double* sums;  // of the distances, of blocks
  double voxels;
  T edge2, scale;

  L2RFAST_INLINE int64_t index(const Voxel<3>& x) const {
    return ((x.item * columns.size[0] + x.at[0]) * columns.size[1] + x.at[1]) * columns.size[2] + x.at[2];
  }

  // A slope of both images along an axis, the border repeated.
  L2RFAST_INLINE void slope(const Voxel<3>& x, int axis, T& a, T& b) const {
    Voxel<3> before = x, after = x;
    before.at[axis] = x.at[axis] > 0 ? x.at[axis] - 1 : 0;
    after.at[axis] = x.at[axis] < columns.size[axis] - 1 ? x.at[axis] + 1 : x.at[axis];
    const int64_t i = index(before), j = index(after);
    a = T(0.5) * (fetch(fixed + j) - fetch(fixed + i));
    b = T(0.5) * (fetch(moving + j) - fetch(moving + i));
  }

  L2RFAST_INLINE Flow<T> flow_at(const Voxel<3>& x) const {
    T a[3], b[3];
    each_axis<3>([&](auto k) { slope(x, k, a[k], b[k]); });
    return flow(a[0], a[1], a[2], b[0], b[1], b[2], edge2);
  }

  static L2RFAST_INLINE T part(const Flow<T>& f, int axis) { return axis == 0 ? f.z : axis == 1 ? f.y : f.x; }

  // That part of the flow at a neighbour; beyond the border the own one, its sign turned.
  L2RFAST_INLINE T beside(const Voxel<3>& x, const Flow<T>& own, int axis, int step) const {
    Voxel<3> other = x;
    other.at[axis] += step;
    const bool inside = other.at[axis] >= 0 && other.at[axis] < columns.size[axis];
    return inside ? part(flow_at(other), axis) : -part(own, axis);
  }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    all_threads([&](int thread) {
      T total = 0;
      columns.of_thread(block, thread, [&](Voxel<3> x, int count) {
        for (int i = 0; i < count; ++i, ++x.at[0]) {
          const Flow<T> own = flow_at(x);
          T sum = 0;
          each_axis<3>([&](auto k) { sum += beside(x, own, k, -1) - beside(x, own, k, 1); });
          gradient[index(x)] = scale * sum;
          total += own.distance;
        }
      });
      scratch[thread] = double(total);
    });
    add_up(scratch, 1);
    all_threads([&](int thread) {
      if (thread == 0) sums[block] = scratch[0] / voxels;
    });
  }
};

std::tuple<Tensor, Tensor> ngf(const Tensor& fixed_, const Tensor& moving_, double edge) {
  const Tensor fixed = packed(fixed_), moving = packed(moving_), gradient = empty_as(moving, shape_of(moving));
  const int64_t ndim = fixed.dim() - 2, items = fixed.size(0) * fixed.size(1);
  int32_t size[3] = {1, 1, 1};  // 2-D is 3-D with one plane
  int64_t voxels = 1;
  for (int64_t k = 0; k < ndim; ++k) {
    STD_TORCH_CHECK(fixed.size(2 + k) <= std::numeric_limits<int32_t>::max(), "expected fewer than 2^31 voxels a row");
    size[3 - ndim + k] = int32_t(fixed.size(2 + k));
    voxels *= fixed.size(2 + k);
  }
  Tensor distance;
  for_real(fixed.scalar_type(), [&](auto t) {
    using T = decltype(t);
    Gather<T> body{Columns<3>(size), read<T>(fixed), read<T>(moving), write<T>(gradient)};
    body.voxels = double(voxels);
    body.edge2 = T(edge * edge);
    body.scale = T(-1.0 / double(voxels));  // -2 / voxels, and half of each difference
    const Tensor sums =
        torch::stable::new_empty(fixed, {fixed.size(0), fixed.size(1), body.columns.count()}, Dtype::Double);
    body.sums = write<double>(sums);
    each_block(body, items * body.columns.count(), kThreads, fixed);
    distance = sum_of_blocks(sums, dtype_of<T>);
  });
  return {distance, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("ngf", TORCH_BOX(&ngf)); }

}  // namespace l2rfast
