// What energies of a displacement field are sums of: terms, each a weight times the mean over a domain of e(x)^2, or of
// |e(x)|, where e(x) is a sum over taps of c u(x + o). The mean over components is part of the weights. They are
// constants, for kernels that are compiled for them.
#pragma once

#include <cstdint>

namespace l2rfast {

struct Tap {
  int o[3] = {};
  double c = 0;
};

// Voxels whose distance from the first along each axis is at least `low`, from the last at least `high`.
struct Term {
  Tap taps[4] = {};  // those of one row beside each other
  int count = 0;     // of the taps
  int low[3] = {}, high[3] = {};
  double weight = 1;

  constexpr void add(const Tap& tap) { taps[count++] = tap; }
  // What e(x)^2 of every voxel counts in a volume; nothing where it has no voxels of the domain.
  constexpr double share(int64_t d, int64_t h, int64_t w) const {
    const int64_t voxels = (d - low[0] - high[0]) * (h - low[1] - high[1]) * (w - low[2] - high[2]);
    return voxels > 0 ? weight / double(voxels) : 0;
  }
};

struct Terms {
  Term terms[6] = {};
  int count = 0;

  constexpr void add(const Term& term) { terms[count++] = term; }
  constexpr const Term* begin() const { return terms; }
  constexpr const Term* end() const { return terms + count; }
};

// Voxels are as far apart as `spacing` says of each axis, or by 1.
constexpr Terms diffusion(int ndim, const double* spacing = nullptr) {
  Terms terms;
  for (int k = 3 - ndim; k < 3; ++k) {
    Term term;
    term.add({{0, 0, 0}, -1});
    term.add({{k == 0, k == 1, k == 2}, 1});
    term.high[k] = 1;
    const double side = spacing ? spacing[k - 3 + ndim] : 1;
    term.weight = 1 / (ndim * ndim * side * side);
    terms.add(term);
  }
  return terms;
}

constexpr Terms bending(int ndim, bool compact) {
  const int step = compact ? 1 : 2;
  Terms terms;
  for (int k = 3 - ndim; k < 3; ++k)
    for (int m = k; m < 3; ++m) {
      Term term;
      for (int axis = 3 - ndim; axis < 3; ++axis) term.low[axis] = term.high[axis] = step;
      for (const int a : {-1, 0, 1})
        for (const int b : {-1, 0, 1}) {
          if (k == m ? b != 0 : a == 0 || b == 0) continue;
          Tap tap{{0, 0, 0}, k != m ? a * b / 4.0 : (a == 0 ? -2.0 : 1.0) / (step * step)};
          if (k == m)
            tap.o[k] = a * step;
          else
            tap.o[k] = a, tap.o[m] = b;
          term.add(tap);
        }
      term.weight = (k == m ? 1.0 : 2.0) / ndim;
      terms.add(term);
    }
  return terms;
}

constexpr Terms central(int ndim) {
  Terms terms;
  for (int k = 3 - ndim; k < 3; ++k) {
    Term term;
    for (int axis = 3 - ndim; axis < 3; ++axis) term.low[axis] = term.high[axis] = 1;
    for (const int a : {-1, 1}) {
      Tap tap{{0, 0, 0}, a / 2.0};
      tap.o[k] = a;
      term.add(tap);
    }
    term.weight = 1.0 / ndim;
    terms.add(term);
  }
  return terms;
}

}  // namespace l2rfast
