// Energies of a displacement field and their gradients on the GPU, in one pass.
//
// A thread gathers the gradient at a voxel of one component from the e(x) of every term (energy/terms.h) that reach it,
// which it computes again. Terms are constants of the kernel: inside the volume, where no domain ends, what is read and
// computed for several of them is so once. What the voxels of a thread add to the energy is one float64 addition.
//
// Floor: the field is read once, the gradient written once, 8 bytes a voxel and component of float32. The neighbours
// that terms share come from the caches.

#include "common/columns.cuh"
#include "energy/terms.h"

namespace l2rfast {
namespace {

struct Diffusion {
  static constexpr bool absolute = false;
  static constexpr Terms terms(int ndim) { return diffusion(ndim); }
};

template <bool compact>
struct Bending {
  static constexpr bool absolute = false;
  static constexpr Terms terms(int ndim) { return bending(ndim, compact); }
};

template <bool absolute_>
struct Central {
  static constexpr bool absolute = absolute_;
  static constexpr Terms terms(int ndim) { return central(ndim); }
};

// The furthest from a voxel that the end of a domain changes what is gathered there.
constexpr int margin_of(const Terms& terms) {
  int margin = 0;
  for (const Term& term : terms)
    for (const Tap& tap : term.taps)
      for (int k = 0; k < 3; ++k) {
        const int away = std::max(tap.o[k], -tap.o[k]) + std::max(term.low[k], term.high[k]);
        margin = std::max(margin, away);
      }
  return margin;
}

template <class Kind, int ndim, class T>
struct Gather {
  static constexpr int resident = 2;
  static constexpr Terms terms = Kind::terms(ndim);
  static constexpr int margin = margin_of(terms), own = -1;
  Columns<ndim> columns;
  const T* disp;
  T* gradient;
  double* energies;  // of blocks
  T share[terms.count];

  // The first of the three axes is not in 2-D.
  L2RFAST_INLINE int size(int axis) const { return axis < 3 - ndim ? 1 : columns.size[axis - 3 + ndim]; }
  static L2RFAST_INLINE int at(const Voxel<ndim>& x, int axis) { return axis < 3 - ndim ? 0 : x.at[axis - 3 + ndim]; }
  L2RFAST_INLINE int64_t step(int axis) const { return axis == 2 ? 1 : size(2) * (axis == 1 ? 1 : int64_t(size(1))); }

  static constexpr int offset(int t, int tap, int axis) { return tap == own ? 0 : terms.terms[t].taps[tap].o[axis]; }

  // e of term t as far from a voxel as a tap is, against its direction; 0 beyond the domain.
  template <int t, int tap, bool inner>
  L2RFAST_INLINE T difference(const T* u, const Voxel<ndim>& x) const {
    bool inside = true;
    each_axis<3>([&](auto k) {
      constexpr int o = offset(t, tap, k), low = terms.terms[t].low[k], high = terms.terms[t].high[k];
      if constexpr (!inner) inside &= at(x, k) - o >= low && at(x, k) - o < size(k) - high;
    });
    T e = 0;
    if (!inside) return e;
    each_axis<terms.terms[t].count>([&](auto i) {
      constexpr int z = offset(t, i, 0) - offset(t, tap, 0), y = offset(t, i, 1) - offset(t, tap, 1),
                    x = offset(t, i, 2) - offset(t, tap, 2);
      e += T(terms.terms[t].taps[i].c) * fetch(u + z * step(0) + y * step(1) + x);
    });
    return e;
  }

  // What a voxel adds to the energy; its gradient. `u` is its component there.
  template <bool inner>
  L2RFAST_INLINE T gather(const T* u, const Voxel<ndim>& x, T* to) const {
    T energy = 0, gradient = 0;
    each_axis<terms.count>([&](auto t) {
      T sum = 0;
      each_axis<terms.terms[t].count>([&](auto tap) {
        const T e = difference<t, tap, inner>(u, x);
        sum += T(terms.terms[t].taps[tap].c) * (Kind::absolute ? T(e > 0) - T(e < 0) : 2 * e);
      });
      const T e = difference<t, own, inner>(u, x);
      gradient += share[t] * sum;
      energy += share[t] * (Kind::absolute ? std::fabs(e) : e * e);
    });
    *to = gradient;
    return energy;
  }

  // Items are components of items of the batch.
  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    all_threads([&](int thread) {
      T energy = 0;
      columns.of_thread(block, thread, [&](Voxel<ndim> x, int count) {
        for (int i = 0; i < count; ++i, ++x.at[0]) {
          bool inner = true;
          int64_t flat = x.item;
          each_axis<ndim>([&](auto k) {
            inner &= x.at[k] >= margin && x.at[k] < columns.size[k] - margin;
            flat = flat * columns.size[k] + x.at[k];
          });
          const T* u = disp + flat;
          T* to = gradient + flat;
          energy += inner ? gather<true>(u, x, to) : gather<false>(u, x, to);
        }
      });
      scratch[thread] = double(energy);
    });
    add_up(scratch, 1);
    all_threads([&](int thread) {
      if (thread == 0) energies[block] = scratch[0];
    });
  }
};

template <class Kind>
std::tuple<Tensor, Tensor> energy(const Tensor& disp_, const Terms& terms) {
  const Tensor disp = packed(disp_), gradient = empty_as(disp, shape_of(disp));
  Tensor result;
  const auto with = [&](auto ndim_, auto t) {
    constexpr int ndim = decltype(ndim_)::value;
    using T = decltype(t);
    int32_t size[ndim];
    int64_t numel[3] = {1, 1, 1};
    for (int k = 0; k < ndim; ++k) {
      numel[3 - ndim + k] = disp.size(2 + k);
      STD_TORCH_CHECK(disp.size(2 + k) <= std::numeric_limits<int32_t>::max(), "expected fewer than 2^31 voxels a row");
      size[k] = int32_t(disp.size(2 + k));
    }
    Gather<Kind, ndim, T> body{Columns<ndim>(size), read<T>(disp), write<T>(gradient)};
    const int64_t blocks = ndim * body.columns.count();
    const Tensor energies = torch::stable::new_empty(disp, {disp.size(0), blocks}, Dtype::Double);
    body.energies = write<double>(energies);
    for (int i = 0; i < terms.count; ++i) body.share[i] = T(terms.terms[i].share(numel[0], numel[1], numel[2]));
    each_block(body, disp.size(0) * blocks, kThreads, disp);
    result = sum_of_blocks(energies, dtype_of<T>);
  };
  for_real(disp.scalar_type(), [&](auto t) {
    disp.size(1) == 3 ? with(std::integral_constant<int, 3>{}, t) : with(std::integral_constant<int, 2>{}, t);
  });
  return {result, gradient};
}

std::tuple<Tensor, Tensor> diffusion_energy(const Tensor& disp, std::vector<double> spacing) {
  return energy<Diffusion>(disp, diffusion(int(disp.size(1)), spacing.data()));
}

std::tuple<Tensor, Tensor> bending_energy(const Tensor& disp, bool compact) {
  const Terms terms = bending(int(disp.size(1)), compact);
  return compact ? energy<Bending<true>>(disp, terms) : energy<Bending<false>>(disp, terms);
}

std::tuple<Tensor, Tensor> gradient_energy(const Tensor& disp, bool absolute) {
  const Terms terms = central(int(disp.size(1)));
  return absolute ? energy<Central<true>>(disp, terms) : energy<Central<false>>(disp, terms);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("diffusion_energy", TORCH_BOX(&diffusion_energy));
  m.impl("bending_energy", TORCH_BOX(&bending_energy));
  m.impl("gradient_energy", TORCH_BOX(&gradient_energy));
}

}  // namespace l2rfast
