// Energies of a displacement field and their gradients on the CPU, in one pass.
//
// An energy is a sum of terms, each a weight times the mean over a domain of e(x)^2, or of |e(x)|, where e(x) is a sum
// over taps of c u(x + o). Its gradient at y gathers, of every term, weight / voxels * sum over taps of c times 2 e(y -
// o), or times the sign of that.
//
// Floor: the field is read once, the gradient written once. Done row by row: e is computed again for every row that
// gathers it, from rows that the cache holds, rather than stored: 15 rows of e a row for bending in 3-D, 5 for
// diffusion, of 3 to 7 operations a voxel each.

#include "common/rows.h"
#include "common/tensor.h"

namespace l2rfast {
namespace {

struct Tap {
  int64_t o[3];
  double c;
};

// Voxels whose distance from the first along each axis is at least `low`, from the last at least `high`.
struct Term {
  std::vector<Tap> taps;  // those of one row beside each other
  int64_t low[3] = {}, high[3] = {};
  double weight = 1;

  bool holds(const Grid& grid, int64_t z, int64_t y) const {
    return z >= low[0] && z < grid.d - high[0] && y >= low[1] && y < grid.h - high[1];
  }
  int64_t voxels(const Grid& g) const {
    return (g.d - low[0] - high[0]) * (g.h - low[1] - high[1]) * (g.w - low[2] - high[2]);
  }
};

std::vector<Term> diffusion(const Grid& grid, int ndim, const std::vector<double>& spacing) {
  std::vector<Term> terms;
  const int64_t size[3] = {grid.d, grid.h, grid.w};
  for (int k = 3 - ndim; k < 3; ++k) {
    if (size[k] == 1) continue;
    Term term;
    term.taps = {{{0, 0, 0}, -1}, {{k == 0, k == 1, k == 2}, 1}};
    term.high[k] = 1;
    const double side = spacing[k - 3 + ndim];
    term.weight = 1 / (ndim * side * side);
    terms.push_back(term);
  }
  return terms;
}

template <bool compact>
std::vector<Term> bending(const Grid&, int ndim) {
  std::vector<Term> terms;
  for (int k = 3 - ndim; k < 3; ++k)
    for (int m = k; m < 3; ++m) {
      Term term;
      for (int axis = 3 - ndim; axis < 3; ++axis) term.low[axis] = term.high[axis] = compact ? 1 : 2;
      for (const int a : {-1, 1})
        for (const int b : {-1, 1}) {
          Tap tap = {{0, 0, 0}, a * b / 4.0};
          tap.o[k] += a, tap.o[m] += b;
          term.taps.push_back(tap);
        }
      if (k == m) {
        term.taps = {term.taps[0], {{0, 0, 0}, -0.5}, term.taps[3]};
        if (compact)  // of half the reach
          for (Tap& tap : term.taps) tap.o[k] /= 2, tap.c *= 4;
      }
      term.weight = k == m ? 1 : 2;
      terms.push_back(term);
    }
  return terms;
}

std::vector<Term> central(const Grid&, int ndim) {
  std::vector<Term> terms;
  for (int k = 3 - ndim; k < 3; ++k) {
    Term term;
    for (int axis = 3 - ndim; axis < 3; ++axis) term.low[axis] = term.high[axis] = 1;
    for (const int a : {-1, 1}) {
      Tap tap = {{0, 0, 0}, a / 2.0};
      tap.o[k] = a;
      term.taps.push_back(tap);
    }
    terms.push_back(term);
  }
  return terms;
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
  for (size_t t = 0; t < term.taps.size(); ++t) {
    const auto& o = term.taps[t].o;
    sources[t] = {u + (row + o[0] * grid.h + o[1]) * grid.w + o[2], T(term.taps[t].c)};
  }
  const int64_t begin = term.low[2], end = grid.w - term.high[2];
  std::fill(e, e + begin, T(0));
  std::fill(e + end, e + grid.w, T(0));
  const auto run = term.taps.size() == 2 ? combine<2, T> : term.taps.size() == 3 ? combine<3, T> : combine<4, T>;
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
double gather(const std::vector<Term>& terms, const T* u, const Grid& grid, int64_t row, T* buffer, T* out) {
  constexpr int64_t kMargin = 2;
  const int64_t z = row / grid.h, y = row % grid.h;
  T *const e = buffer + kMargin, *const own = e + grid.w + kMargin;
  std::fill(buffer, own, T(0));
  std::fill(out, out + grid.w, T(0));
  double energy = 0;
  for (const Term& term : terms) {
    const double share = term.weight / double(term.voxels(grid));
    for (size_t t = 0; t < term.taps.size(); ++t) {
      const auto& o = term.taps[t].o;
      const int64_t from = row - o[0] * grid.h - o[1];
      const bool same = t > 0 && o[0] == term.taps[t - 1].o[0] && o[1] == term.taps[t - 1].o[1];
      if (!term.holds(grid, z - o[0], y - o[1])) continue;
      if (!same) {
        row_of(term, u, grid, from, e);
        slopes<absolute>(e, grid.w);
      }
      const T factor = T(share * term.taps[t].c), *shifted = e - o[2];
      for (int64_t x = 0; x < grid.w; ++x) out[x] += factor * shifted[x];
    }
    if (term.holds(grid, z, y)) {
      row_of(term, u, grid, row, own);
      energy += share * total<absolute>(own, grid.w);
    }
  }
  return energy;
}

template <bool absolute, class Terms>
std::tuple<Tensor, Tensor> energy(const Tensor& disp_, const Terms& terms_of) {
  const Tensor disp = packed(disp_), gradient = empty_as(disp, shape_of(disp)), result = empty_as(disp, {disp.size(0)});
  const int64_t ndim = disp.size(1);
  const Grid grid = grid_of(disp, ndim);
  auto terms = terms_of(grid, int(ndim));
  for (Term& term : terms) term.weight /= double(ndim);  // a mean over the components
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
  return energy<false>(disp, [&](const Grid& grid, int ndim) { return diffusion(grid, ndim, spacing); });
}

std::tuple<Tensor, Tensor> bending_energy(const Tensor& disp, bool compact) {
  return energy<false>(disp, compact ? bending<true> : bending<false>);
}

std::tuple<Tensor, Tensor> gradient_energy(const Tensor& disp, bool absolute) {
  return absolute ? energy<true>(disp, central) : energy<false>(disp, central);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("diffusion_energy", TORCH_BOX(&diffusion_energy));
  m.impl("bending_energy", TORCH_BOX(&bending_energy));
  m.impl("gradient_energy", TORCH_BOX(&gradient_energy));
}

}  // namespace l2rfast
