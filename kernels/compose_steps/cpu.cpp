// A displacement field between two steps on blocks of its voxels, on the CPU.
//
// Floor: the field is read once, the result is written once, 2 ndim numbers a voxel; the steps are an eighth of that.
// The step before the field lies on its grid, and is made by rows. The field is sampled no farther from a voxel than
// the longest step: stacks of rows go through the planes with a window of them; the step after it is sampled anywhere.

#include <cmath>

#include "common/memory.h"
#include "common/sampler.h"
#include "common/vector_field.h"

namespace l2rfast {
namespace {

constexpr int64_t kStack = 16, kPlanes = 32;  // rows and planes of a work item

// What an axis of the field takes of the blocks along it: for every voxel the lower of two, and the share of the upper.
template <class A>
struct Between {
  std::vector<int32_t> lower;
  std::vector<A> share;

  // To whole vectors the last is repeated.
  Between(int64_t size, int64_t blocks, int64_t side) : lower(size + kLanes<A>), share(size + kLanes<A>) {
    const A scale = 1 / A(side), shift = (scale - 1) / 2;
    for (int64_t i = 0; i < size + kLanes<A>; ++i) {
      const A at = std::clamp<A>(A(i) * scale + shift, 0, A(blocks - 1));
      lower[i] = int32_t(std::min<int64_t>(int64_t(at), std::max<int64_t>(blocks - 2, 0)));
      share[i] = at - A(lower[i]);
    }
  }
};

// A component of a step (*blocks) at the voxels of rows of the field.
template <int ndim, class A>
class Rows {
 public:
  Rows(const Grid& blocks, const Grid& out, const A (&sides)[3])
      : grid_(blocks),
        z_(out.d, grid_.d, int64_t(sides[0])),
        y_(out.h, grid_.h, int64_t(sides[1])),
        x_(out.w, grid_.w, int64_t(sides[2])),
        row_(grid_.w + 1 + kLanes<A>) {}

  void read(const A* component, const Block& b, A (&to)[kBlock]) {
    const A wz = z_.share[b.z], wy = y_.share[b.y];
    const A* lower = component + (z_.lower[b.z] * grid_.h + y_.lower[b.y]) * grid_.w;
    const int64_t up = grid_.h > 1 ? grid_.w : 0, over = grid_.d > 1 ? grid_.h * grid_.w : 0;
    A* __restrict row = row_.data();
    for (int64_t i = 0, n = grid_.w; i < n; ++i)
      row[i] = (1 - wz) * ((1 - wy) * lower[i] + wy * lower[i + up]) +
               wz * ((1 - wy) * lower[i + over] + wy * lower[i + over + up]);
    row[grid_.w] = row[grid_.w - 1];
    const int32_t* at = x_.lower.data() + b.x;
    const A* share = x_.share.data() + b.x;
    // Where a shuffle picks values by their numbers: a vector's voxels, no farther from each other than blocks are, lie
    // between as many of them. Else one by one.
    if constexpr (kVectorBytes >= 32 && std::is_same_v<A, float>)
      for (int i = 0; i < b.count; i += kLanes<A>) {
        const Vector<A> low = picked(row + at[i], at + i), high = picked(row + at[i] + 1, at + i);
        store(to + i, low + load(share + i) * (high - low));
      }
    else
      for (int i = 0, n = b.count; i < n; ++i) to[i] = row[at[i]] + share[i] * (row[at[i] + 1] - row[at[i]]);
  }

 private:
  // Of a vector of values, those at so many from the first on.
  static L2RFAST_INLINE Vector<A> picked(const A* values, const int32_t* at) {
    return __builtin_shuffle(load(values), *reinterpret_cast<const typename Beside<int32_t, A>::type*>(at) - *at);
  }

  Grid grid_;
  Between<A> z_, y_, x_;
  std::vector<A> row_;
};

// One call for items of one dtype.
template <int ndim, class A>
struct Steps {
  Grid out, coarse;
  A sides[3] = {1, 1, 1};
  int64_t reach[3] = {};  // planes, rows and columns from a voxel that the step before it leads to

  Steps(const Tensor& disp, const Tensor& before, const std::vector<int64_t>& blocks)
      : out(grid_of(disp, ndim)), coarse(grid_of(before, ndim)) {
    for (int k = 0; k < ndim; ++k) {
      sides[3 - ndim + k] = A(blocks[k]);
      const A longest = longest_of(before, k);
      reach[3 - ndim + k] = int64_t(std::min<A>(longest, A(out.d + out.h + out.w))) + 1;
    }
  }

  void item(const A* disp, const A* before, const VectorField<ndim, A>& after, Range z, Range y, A* result) const {
    const int64_t volume = out.numel();
    const Range rows{std::max<int64_t>(y.begin - reach[1], 0), std::min(y.end + reach[1] + 1, out.h)};
    VectorField<ndim, A> field(out, 2 * reach[0] + 2, rows);
    Rows<ndim, A> on_grid(coarse, out, sides);
    A step[ndim][kBlock], position[ndim][kBlock];
    int64_t entered = std::max<int64_t>(z.begin - reach[0], 0);
    for (int64_t plane = z.begin; plane < z.end; ++plane) {
      const Range planes{std::max<int64_t>(plane - reach[0], 0), std::min(plane + reach[0] + 2, out.d)};
      for (; entered < planes.end; ++entered) field.enter(disp, volume, entered);
      for (int64_t row = y.begin; row < y.end; ++row)
        for (int64_t x = 0; x < out.w; x += kBlock) {
          const Block b{0, plane, row, x, (plane * out.h + row) * out.w + x, int(std::min<int64_t>(kBlock, out.w - x))};
          for (int k = 0; k < ndim; ++k) on_grid.read(before + k * coarse.numel(), b, step[k]);
          place(b, step, {1, 1, 1}, position);
          field.values(planes, position, b.count, [&](int i, const auto& value) L2RFAST_LAMBDA {
            for (int k = 0; k < ndim; ++k) store(step[k] + i, load(step[k] + i) + value[k]);
          });
          place(b, step, sides, position);
          after.values({0, coarse.d}, position, b.count, [&](int i, const auto& value) L2RFAST_LAMBDA {
            for (int k = 0; k < ndim; ++k)
              store_some<A>(result + k * volume + b.first + i, load(step[k] + i) + value[k], b.count - i);
          });
        }
    }
  }

 private:
  // The longest along an axis; what is not a number is none. In lanes: one number would wait for the last.
  A longest_of(const Tensor& before, int k) const {
    A lanes[16] = {};
    for (int64_t n = 0; n < before.size(0); ++n) {
      const A* step = read<A>(before) + (n * ndim + k) * coarse.numel();
      const int64_t count = coarse.numel();
      for (int64_t i = 0; i < count / 16 * 16; i += 16)
        for (int j = 0; j < 16; ++j) lanes[j] = std::abs(step[i + j]) > lanes[j] ? std::abs(step[i + j]) : lanes[j];
      for (int64_t i = count / 16 * 16; i < count; ++i) lanes[0] = std::max(lanes[0], std::abs(step[i]));
    }
    return *std::max_element(lanes, lanes + 16);
  }

  // Where displacements lead, in blocks of so many voxels.
  static void place(const Block& b, const A (&step)[ndim][kBlock], const A (&sides)[3], A (&position)[ndim][kBlock]) {
    each_axis<ndim>([&](auto k) {
      constexpr int axis = 3 - ndim + k;
      const A first = b.template coordinate<A>(axis), scale = 1 / sides[axis], shift = (scale - 1) / 2;
      for (int i = 0, n = b.count; i < n; ++i)
        position[k][i] = (first + (axis == 2 ? A(i) : A(0)) + step[k][i]) * scale + shift;
    });
  }
};

Tensor compose_steps(const Tensor& disp_, const Tensor& before_, const Tensor& after_, std::vector<int64_t> blocks) {
  const Tensor disp = packed(disp_), before = packed(before_), after = packed(after_);
  const Tensor result = room_as(disp, shape_of(disp));
  for_arithmetic(disp, disp, [&](auto dims, auto real) {
    constexpr int ndim = dims;
    using A = decltype(real);
    const Steps<ndim, A> steps(disp, before, blocks);
    const Grid &out = steps.out, &coarse = steps.coarse;
    const int64_t stacks = (out.h + kStack - 1) / kStack, chunks = (out.d + kPlanes - 1) / kPlanes;
    VectorField<ndim, A> second(coarse, coarse.d, {0, coarse.h});
    for (int64_t n = 0; n < disp.size(0); ++n) {
      const A *field = read<A>(disp) + n * ndim * out.numel(), *first = read<A>(before) + n * ndim * coarse.numel();
      parallel_each(coarse.d,
                    [&](int64_t z) { second.enter(read<A>(after) + n * ndim * coarse.numel(), coarse.numel(), z); });
      parallel_each(stacks * chunks, [&](int64_t i) {
        const int64_t y = i / chunks * kStack, z = i % chunks * kPlanes;
        steps.item(field, first, second, {z, std::min(z + kPlanes, out.d)}, {y, std::min(y + kStack, out.h)},
                   write<A>(result) + n * ndim * out.numel());
      });
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("compose_steps", TORCH_BOX(&compose_steps)); }

}  // namespace l2rfast
