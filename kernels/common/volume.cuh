// Dense volumes on the GPU, and averages over their voxels' neighbours.
#pragma once

#include "common/launch.cuh"

namespace l2rfast {

struct Volume {
  int32_t size[3];
  bool deep;  // not a plane

  explicit Volume(const Grid& grid) : size{int32_t(grid.d), int32_t(grid.h), int32_t(grid.w)}, deep(grid.deep) {}

  Extent extent(int64_t items) const { return Extent(items, size); }
  L2RFAST_INLINE int64_t volume() const { return int64_t(size[0]) * size[1] * size[2]; }
  L2RFAST_INLINE int64_t flat(const Voxel<3>& x) const {
    return (int64_t(x.at[0]) * size[1] + x.at[1]) * size[2] + x.at[2];
  }
  L2RFAST_INLINE bool inside(const Voxel<3>& x) const {
    return x.at[0] >= 0 && x.at[0] < size[0] && x.at[1] >= 0 && x.at[1] < size[1] && x.at[2] >= 0 && x.at[2] < size[2];
  }
};

// Averages over 3 neighbours along every axis, zeros outside.
template <class From, class To>
struct Averages {
  using R = Sum<From>;
  static constexpr int ndim = 3, resident = 4;
  Volume v;
  const From* from;
  To* to;

  L2RFAST_INLINE void operator()(const Voxel<3>& x) const {
    const int32_t deep = v.deep;
    R total = 0;
    for (int32_t dz = -deep; dz <= deep; ++dz)
      for (int32_t dy = -1; dy <= 1; ++dy)
        for (int32_t dx = -1; dx <= 1; ++dx) {
          const Voxel<3> there = {x.item, {x.at[0] + dz, x.at[1] + dy, x.at[2] + dx}};
          if (v.inside(there)) total += R(fetch(from + x.item * v.volume() + v.flat(there)));
        }
    to[x.item * v.volume() + v.flat(x)] = To(total / R(deep ? 27 : 9));
  }
};

}  // namespace l2rfast
