// Energies of a displacement field and their gradients on the CPU, in one pass.
//
// The gradient at y gathers, of every term (energy/terms.h), weight / voxels * sum over taps of c times 2 e(y - o), or
// times the sign of that.
//
// Floor: the field is read once, the gradient written once. Done row by row: e is computed again for every row that
// gathers it, from rows that the cache holds, rather than stored: 15 rows of e a row for bending in 3-D, 5 for
// diffusion, of 3 to 7 operations a voxel each.

#include "common/rows.h"
#include "common/tensor.h"
#include "energy/terms.h"

namespace l2rfast {
namespace {

bool holds(const Term& term, const Grid& grid, int64_t z, int64_t y) {
  return z >= term.low[0] && z < grid.d - term.high[0] && y >= term.low[1] && y < grid.h - term.high[1];
}

template <class T>
struct Source {
  const T* row;
  T c;
};

template <int taps, class T>
void combine(const std::array<Source<T>, 4>& s, int64_t begin, int64_t end, T* __restrict e) {
  for (int64_t x = begin; x < end; ++x) {
    T value = s[0].c * s[0].row[x];
    for (int t = 1; t < taps; ++t) value += s[t].c * s[t].row[x];
    e[x] = value;
  }
}

// e of a term on a row that it holds, 0 on the rest of the row.
template <class T>
void row_of(const Term& term, const T* u, const Grid& grid, int64_t row, T* e) {
  std::array<Source<T>, 4> sources;
  for (int t = 0; t < term.count; ++t) {
    const auto& o = term.taps[t].o;
    sources[t] = {u + (row + o[0] * grid.h + o[1]) * grid.w + o[2], T(term.taps[t].c)};
  }
  const int64_t begin = term.low[2], end = grid.w - term.high[2];
  std::fill(e, e + begin, T(0));
  std::fill(e + end, e + grid.w, T(0));
  const auto run = term.count == 2 ? combine<2, T> : term.count == 3 ? combine<3, T> : combine<4, T>;
  run(sources, begin, end, e);
}

template <bool absolute, class T>
double total(T* e, int64_t w) {
  for (int64_t x = 0; x < w; ++x) e[x] = absolute ? std::abs(e[x]) : e[x] * e[x];
  return sum(e, w);
}

template <bool absolute, class T>
void slopes(T* e, int64_t w) {
  for (int64_t x = 0; x < w; ++x) e[x] = absolute ? T(e[x] > 0) - T(e[x] < 0) : 2 * e[x];
}

// A row of the gradient of one component; what the row itself adds to the energy.
template <bool absolute, class T>
double gather(const Terms& terms, const T* u, const Grid& grid, int64_t row, T* buffer, T* out) {
  constexpr int64_t kMargin = 2;
  const int64_t z = row / grid.h, y = row % grid.h;
  T *const e = buffer + kMargin, *const own = e + grid.w + kMargin;
  std::fill(buffer, own, T(0));
  std::fill(out, out + grid.w, T(0));
  double energy = 0;
  for (const Term& term : terms) {
    const double share = term.share(grid.d, grid.h, grid.w);
    for (int t = 0; t < term.count; ++t) {
      const auto& o = term.taps[t].o;
      const int64_t from = row - o[0] * grid.h - o[1];
      const bool same = t > 0 && o[0] == term.taps[t - 1].o[0] && o[1] == term.taps[t - 1].o[1];
      if (!holds(term, grid, z - o[0], y - o[1])) continue;
      if (!same) {
        row_of(term, u, grid, from, e);
        slopes<absolute>(e, grid.w);
      }
      const T factor = T(share * term.taps[t].c), *shifted = e - o[2];
      for (int64_t x = 0; x < grid.w; ++x) out[x] += factor * shifted[x];
    }
    if (holds(term, grid, z, y)) {
      row_of(term, u, grid, row, own);
      energy += share * total<absolute>(own, grid.w);
    }
  }
  return energy;
}

template <bool absolute>
std::tuple<Tensor, Tensor> energy(const Tensor& disp_, const Terms& terms) {
  const Tensor disp = packed(disp_), gradient = empty_as(disp, shape_of(disp)), result = empty_as(disp, {disp.size(0)});
  const int64_t ndim = disp.size(1);
  const Grid grid = grid_of(disp, ndim);
  for_real(disp.scalar_type(), [&](auto t) {
    using T = decltype(t);
    std::vector<double> partial(disp.size(0) * ndim * grid.rows());
    parallel_runs(int64_t(partial.size()), [&](int64_t begin, int64_t end) {
      std::vector<T> buffer(2 * grid.w + 4);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t component = i / grid.rows(), row = i % grid.rows(), first = component * grid.numel();
        T* out = write<T>(gradient) + first + row * grid.w;
        partial[i] = gather<absolute>(terms, read<T>(disp) + first, grid, row, buffer.data(), out);
      }
    });
    const int64_t rows = ndim * grid.rows();
    for (int64_t n = 0; n < disp.size(0); ++n) write<T>(result)[n] = T(sum(partial.data() + n * rows, rows));
  });
  return {result, gradient};
}

std::tuple<Tensor, Tensor> diffusion_energy(const Tensor& disp, std::vector<double> spacing) {
  return energy<false>(disp, diffusion(int(disp.size(1)), spacing.data()));
}

std::tuple<Tensor, Tensor> bending_energy(const Tensor& disp, bool compact) {
  return energy<false>(disp, bending(int(disp.size(1)), compact));
}

std::tuple<Tensor, Tensor> gradient_energy(const Tensor& disp, bool absolute) {
  const Terms terms = central(int(disp.size(1)));
  return absolute ? energy<true>(disp, terms) : energy<false>(disp, terms);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("diffusion_energy", TORCH_BOX(&diffusion_energy));
  m.impl("bending_energy", TORCH_BOX(&bending_energy));
  m.impl("gradient_energy", TORCH_BOX(&gradient_energy));
}

}  // namespace l2rfast
