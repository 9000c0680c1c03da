// Coupled convex optimisation of a cost volume on the GPU.
//
// A block finds the arg-min at a run of control points, whose costs lie side by side: each warp of it goes over every
// eighth row of displacements, and the best of the warps is the result. The averages between are kernels of their own.
//
// Floor: the cost volume is read once for every coefficient and once to start, 4 bytes an entry of float32; nothing of
// its size is written. As on the CPU, what is too far from the field to be the least is left out: here a row of
// displacements, where that is so at all 32 points of a run.

#include "common/volume.cuh"
#include "coupled_convex/reach.h"

namespace l2rfast {
namespace {

constexpr int kRun = 32, kShares = kThreads / kRun;

template <class T>
struct Least {
  static constexpr int resident = sizeof(T) == 8 ? 4 : 6;
  int32_t size[3];  // a 2-D search is a 3-D one of a single plane
  int64_t axes, points;
  const T* cost;
  T a;             // 0: finds the floor, without a field
  const T* field;  // (N, axes, points)
  T* floor;        // of each control point, its least cost
  int32_t* index;  // and the displacement of the least value at last
  T* result;       // (N, axes, points)

  int64_t count(int64_t items) const { return items * runs(); }
  static int64_t room() { return kThreads + kThreads / 2; }
  L2RFAST_INLINE int64_t runs() const { return (points + kRun - 1) / kRun; }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const int64_t n = block / runs(), first = block % runs() * kRun;
    T* best = reinterpret_cast<T*>(scratch);
    int32_t* found = reinterpret_cast<int32_t*>(scratch + kThreads);
    all_threads([&](int thread) {
      const int64_t x = first + thread % kRun;
      if (x < points) search(n, x, thread / kRun, best[thread], found[thread]);
    });
    all_threads([&](int thread) {
      if (thread >= kRun || first + thread >= points) return;
      T least = best[thread];
      int32_t e = found[thread];
      for (int i = thread + kRun; i < kThreads; i += kRun) {
        const bool better = best[i] < least || (best[i] == least && found[i] < e);
        least = better ? best[i] : least;
        e = better ? found[i] : e;
      }
      const int64_t point = n * points + first + thread;
      index[point] = e;
      if (a == 0) floor[point] = least;
      for (int64_t k = 0; k < axes; ++k) {
        const int axis = int(3 - axes + k);
        result[(n * axes + k) * points + first + thread] = T(at(e, axis) - size[axis] / 2);
      }
    });
  }

 private:
  // Along an axis, of a displacement.
  L2RFAST_INLINE int32_t at(int32_t e, int axis) const {
    return axis == 0 ? e / (size[1] * size[2]) : axis == 1 ? e / size[2] % size[1] : e % size[2];
  }

  // Over the share of a warp.
  L2RFAST_INLINE void search(int64_t n, int64_t x, int32_t share, T& best, int32_t& found) const {
    const T* own = cost + n * size[0] * size[1] * size[2] * points + x;
    T s[3] = {}, most = std::numeric_limits<T>::infinity();
    const auto term = [&](int32_t i, int axis) {
      const T difference = T(i - size[axis] / 2) - s[axis];
      return a * (difference * difference);
    };
    if (a > 0) {
      each_axis<3>([&](auto axis) {
        const int64_t k = axis + axes - 3;
        if (k >= 0) s[axis] = fetch(field + (n * axes + k) * points + x);
      });
      const int32_t e = index[n * points + x];
      const T distance = (term(at(e, 0), 0) + term(at(e, 1), 1)) + term(at(e, 2), 2);
      most = reach(fetch(own + e * points) + distance, floor[n * points + x]);
    }
    best = std::numeric_limits<T>::infinity(), found = 0;
    for (int32_t row = share; row < size[0] * size[1]; row += kShares) {
      const T outer = term(row / size[1], 0) + term(row % size[1], 1);
      if (outer > most) continue;
      const T* costs = own + int64_t(row) * size[2] * points;
      for (int32_t k = 0; k < size[2]; ++k) {
        const T value = fetch(costs + k * points) + (outer + term(k, 2));
        const bool less = value < best;
        best = less ? value : best;
        found = less ? row * size[2] + k : found;
      }
    }
  }
};

Tensor coupled_convex(const Tensor& cost_, std::vector<double> coefficients) {
  const Tensor cost = packed(cost_);
  const int64_t ndim = (cost.dim() - 1) / 2, batch = cost.size(0);
  const Volume volume(grid_of(cost, ndim));
  std::vector<int64_t> shape = {batch, ndim};
  for (int64_t k = 0; k < ndim; ++k) shape.push_back(cost.size(1 + ndim + k));
  const Tensor field = empty_as(cost, shape), least = empty_as(cost, shape);
  for_real(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const int64_t points = volume.volume();
    const Tensor floor = empty_as(cost, {batch, points});
    const Tensor index = torch::stable::new_empty(cost, {batch, points}, Dtype::Int);
    Least<T> search = {{int32_t(ndim == 3 ? cost.size(1) : 1), int32_t(cost.size(ndim - 1)), int32_t(cost.size(ndim))},
                       ndim,
                       points,
                       read<T>(cost),
                       0,
                       read<T>(field),
                       write<T>(floor),
                       write<int32_t>(index),
                       write<T>(least)};
    const auto step = [&](T a) {
      search.a = a;
      each_block(search, search.count(batch), search.room(), cost);
      each_voxel(Averages<T, T>{volume, read<T>(least), write<T>(field)}, volume.extent(batch * ndim), cost);
    };
    step(0);
    for (const double a : coefficients) step(T(a));
  });
  return field;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("coupled_convex", TORCH_BOX(&coupled_convex)); }

}  // namespace l2rfast
