// Coupled convex optimisation on the CPU.
//
// Floor: the cost volume is read once for every coefficient and once to start; per entry one addition of the
// cost, two of the distance terms, a comparison and a selection. A work item is a run of control points: the
// terms a (e_k - s_k)^2 are tabulated per axis for the run (they are separable) and stay in the cache, the
// costs stream past, and the arg-min is kept in the pass that makes the values. Nothing of the size of the
// cost volume is written.
//
// Got: of the passes but the first much less is read. No cost is below the least of its control point, which the first
// pass finds, and no least value is above that of the last displacement: what is too far from the field to lie between
// is left out. The larger the coefficient, the more.

#include "common/memory.h"
#include "common/smoother.h"
#include "common/tensor.h"
#include "coupled_convex/reach.h"

namespace l2rfast {
namespace {

constexpr int64_t kRun = 256;  // control points whose costs are read together
constexpr int64_t kPart = 64;  // and those of them that are left out together

template <class T>
struct Search {
  int64_t size[3];  // a 2-D search is a 3-D one of a single plane
  int64_t points;   // control points
  const T* cost;
  T* floor;        // of each control point, its least cost
  int32_t* index;  // and the displacement of the least value at last

  // The displacement of least cost + a * |e - field|^2 at points [begin, begin + n); a = 0 ignores the field, and finds
  // the floor.
  void least(int64_t begin, int64_t n, T a, const T* field, T* result) const {
    std::vector<T> terms((size[0] + size[1] + size[2]) * kRun);
    T* table[3] = {terms.data(), terms.data() + size[0] * kRun, terms.data() + (size[0] + size[1]) * kRun};
    for (int k = 0; k < 3; ++k)
      for (int64_t i = 0; i < size[k] && a > 0; ++i)
        for (int64_t x = 0; x < n; ++x) {
          const T difference = T(i - (size[k] - 1) / 2) - field[k * points + begin + x];
          table[k][i * kRun + x] = a * (difference * difference);
        }
    T best[kRun], outer[kRun], most[kRun];
    int32_t found[kRun];
    std::fill_n(best, n, std::numeric_limits<T>::infinity());
    std::fill_n(most, n, std::numeric_limits<T>::infinity());
    std::fill_n(found, n, 0);
    for (int64_t x = 0; x < n && a > 0; ++x) most[x] = reach_of_last(begin + x, x, table);
    for (int64_t i = 0; i < size[0]; ++i)
      for (int64_t j = 0; j < size[1]; ++j) {
        for (int64_t x = 0; x < n; ++x) outer[x] = table[0][i * kRun + x] + table[1][j * kRun + x];
        // The parts that are read.
        int64_t parts[kRun / kPart], count = 0;
        for (int64_t part = 0; part < n; part += kPart) {
          int32_t near = 0;
          for (int64_t x = part; x < std::min(part + kPart, n); ++x) near |= outer[x] <= most[x];
          if (near) parts[count++] = part;
        }
        for (int64_t k = 0; k < size[2]; ++k) {
          const int32_t e = int32_t((i * size[1] + j) * size[2] + k);
          const T* __restrict c = cost + e * points + begin;
          const T* __restrict inner = table[2] + k * kRun;
          for (int64_t p = 0; p < count; ++p) {
            const int64_t first = parts[p], last = std::min(first + kPart, n);
            // The hardware does not foresee the jump from one displacement's costs to the next one's.
            for (int64_t x = first; x < last; x += 64 / int64_t(sizeof(T))) __builtin_prefetch(c + 2 * points + x);
            for (int64_t x = first; x < last; ++x) {
              const T value = c[x] + (outer[x] + inner[x]);
              const bool less = value < best[x];
              best[x] = less ? value : best[x];
              found[x] = less ? e : found[x];
            }
          }
        }
      }
    std::copy_n(found, n, index + begin);
    if (a == 0) std::copy_n(best, n, floor + begin);
    for (int64_t x = 0; x < n; ++x)
      for (int k = 0; k < 3; ++k) result[k * points + begin + x] = T(at(found[x], k) - (size[k] - 1) / 2);
  }

 private:
  // Along axis k, of a displacement.
  int64_t at(int32_t e, int k) const {
    return k == 0 ? e / (size[1] * size[2]) : k == 1 ? e / size[2] % size[1] : e % size[2];
  }

  // That of the last index at a point, which is number x of those of the tables.
  T reach_of_last(int64_t point, int64_t x, T* const (&table)[3]) const {
    const int32_t e = index[point];
    const auto term = [&](int k) { return table[k][at(e, k) * kRun + x]; };
    return reach(cost[e * points + point] + ((term(0) + term(1)) + term(2)), floor[point]);
  }
};

template <class T>
void optimise(const Search<T>& search, Grid grid, const std::vector<double>& coefficients, T* field) {
  const int64_t runs = (search.points + kRun - 1) / kRun;
  std::vector<T> least(3 * search.points);
  const auto step = [&](T a) {
    parallel_each(runs, [&](int64_t r) {
      search.least(r * kRun, std::min(kRun, search.points - r * kRun), a, field, least.data());
    });
    parallel_each(3, [&](int64_t k) { Smoother<T>(grid, 1, 1, Outside::zero)(least.data() + k * search.points); });
    std::copy(least.begin(), least.end(), field);
  };
  step(0);
  for (const double a : coefficients) step(T(a));
}

Tensor coupled_convex(const Tensor& cost_, std::vector<double> coefficients) {
  const Tensor cost = packed(cost_);
  const int64_t ndim = (cost.dim() - 1) / 2, batch = cost.size(0);
  std::vector<int64_t> shape = {batch, ndim};
  for (int64_t k = 0; k < ndim; ++k) shape.push_back(cost.size(1 + ndim + k));
  const Tensor result = room_as(cost, shape);
  const Grid grid = grid_of(cost, ndim);
  for_real(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const int64_t points = grid.numel(), unused = 3 - ndim;
    std::vector<T> field(3 * points), floor(points);
    std::vector<int32_t> index(points);
    for (int64_t n = 0; n < batch; ++n) {
      const Search<T> search = {{ndim == 3 ? cost.size(1) : 1, cost.size(ndim - 1), cost.size(ndim)},
                                points,
                                read<T>(cost) + n * (cost.numel() / batch),
                                floor.data(),
                                index.data()};
      optimise(search, grid, coefficients, field.data());
      std::copy(field.begin() + unused * points, field.end(), write<T>(result) + n * ndim * points);
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("coupled_convex", TORCH_BOX(&coupled_convex)); }

}  // namespace l2rfast
