// Local normalised cross-correlation with a warped image, and its gradient to the field, on the CPU.
//
// The march of kernels/common/local_ncc.h, where rows of one image are sampled when their plane enters, kept for as
// many planes as a window has, and sampled again for their derivatives when the gradient to them comes out.

#include <atomic>

#include "common/local_ncc.h"
#include "common/memory.h"
#include "common/sampler.h"

namespace l2rfast {
namespace {

// Rows of images as a field warps them, counted over the batch.
template <class R>
struct Sampler {
  virtual void values(const R* moving, int64_t row, R* to) const = 0;
  // Stores the gradient to the field, or adds it: of values of which `grad` is the gradient, times `scale`.
  virtual void backward(const R* moving, int64_t row, const R* grad, R scale, bool add, R* gradient) const = 0;

 protected:
  ~Sampler() = default;
};

template <int ndim, class R, class Index>
struct SamplerOf final : Sampler<R> {
  const Problem<ndim, R, Index>& problem;

  explicit SamplerOf(const Problem<ndim, R, Index>& problem) : problem(problem) {}

  void values(const R* moving, int64_t row, R* to) const override {
    problem.row_blocks(row, [&](const Block& b) {
      const BlockTaps<ndim, R, Index> taps(problem, b);
      each_vector<ndim, R>(moving, problem.step, taps.base, b.count, [&](const auto& corners, int i, int n) {
        store_some<R>(to + b.x + i, corners.interpolate(taps.weights(i)) + load(taps.poison + i), n);
      });
    });
  }

  void backward(const R* moving, int64_t row, const R* grad, R scale, bool add, R* gradient) const override {
    problem.row_blocks(row, [&](const Block& b) {
      const BlockTaps<ndim, R, Index, true> taps(problem, b);
      each_vector<ndim, R>(moving, problem.step, taps.base, b.count, [&](const auto& corners, int i, int n) {
        const Vector<R> factor = scale * load(grad + b.x + i), poison = load(taps.poison + i);
        each_axis<ndim>([&](auto k) {
          const Vector<R> slope = corners.interpolate(taps.template weights<1u << k.value>(i));
          Vector<R> share = poison == 0 ? factor * slope : Vector<R>{};
          R* to = gradient + k.value * problem.out.numel() + b.first + i;
          if (add) share += load_some<R>(to, n);
          store_some<R>(to, share, n);
        });
      });
    });
  }
};

// A channel of the fixed and of the warped moving image, in a part of them.
template <class R>
struct Warped {
  const Sampler<R>& sampler;
  const R* moving;
  Grid out;
  int64_t first;  // row of the item
  Rows<R> fixed;
  Rows<bool> inside;
  Level level_a, level_b;
  R scale;       // of the gradient
  R* gradient;   // to the field of the item
  double* sums;  // of the values of every row
  bool add;      // to what other channels gave: to the gradient
  int64_t kept;  // planes
  Range rows = {0, 0};
  Aligned<R> warped = {};
  static constexpr bool to_a = false, to_b = true;

  bool masked() const { return inside.data != nullptr; }
  void a(int64_t z, int64_t y, R* to) const {
    fixed.read(z, y, to);
    if (masked()) inside.select(z, y, to);
  }
  void b(int64_t z, int64_t y, R* to) {
    std::copy_n(row(z, y), out.w, to);
    if (masked()) inside.select(z, y, to);
  }
  void mask(int64_t z, int64_t y, R* to) const { inside.read(z, y, to); }
  const R* upstream(int64_t, int64_t) const { return nullptr; }

  void enter(int64_t z, Range reach) {
    rows = reach;
    warped.resize(kept * rows.count() * out.w);
    for (int64_t y = rows.begin; y < rows.end; ++y) sampler.values(moving, first + z * out.h + y, row(z, y));
  }

  void values(int64_t z, int64_t y, const R* row) { sums[z * out.h + y] += sum(row, out.w); }

  void gradients(int64_t z, int64_t y, const R*, const R* grad) {
    sampler.backward(moving, first + z * out.h + y, grad, scale, add, gradient);
  }

 private:
  R* row(int64_t z, int64_t y) { return warped.data() + (z % kept * rows.count() + y - rows.begin) * out.w; }
};

template <class R>
bool all_finite(const Tensor& t) {
  const R* v = read<R>(t);
  std::atomic<bool> finite = true;
  torch::stable::parallel_for(0, t.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
    Vector<R> zeros = {};  // unless a value is not finite
    for (int64_t i = begin; i < end; i += kLanes<R>) {
      const Vector<R> some = load_some<R>(v + i, int(std::min<int64_t>(end - i, kLanes<R>)));
      zeros += some - some;
    }
    for (int k = 0; k < kLanes<R>; ++k)
      if (!(zeros[k] == 0)) finite = false;
  });
  return finite;
}

std::tuple<Tensor, Tensor> warp_local_ncc(const Tensor& fixed, const Tensor& moving, const Tensor& disp_,
                                          std::optional<Tensor> mask, const Tensor& scale_, std::vector<int64_t> window,
                                          std::vector<double> weights, std::string borders,
                                          std::vector<double> constants, bool averaged, std::string padding) {
  const Tensor disp = packed(disp_), scale = packed(scale_);
  const Tensor value = room_as(disp, {disp.size(0)}), gradient = room_as(disp, shape_of(disp));
  const Measure measure(constants, averaged, borders);
  const Windows w(disp, window, weights.empty() ? nullptr : weights.data());
  const auto run = [&]<class R>(const Sampler<R>& sampler, const Grid& out, const Channels& image) {
    const int64_t batch = disp.size(0), channels = moving.size(1), rows = out.rows();
    std::vector<double> sums(batch * rows);
    std::vector<Warped<R>> all;
    bool finite = all_finite<R>(disp);
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t c = 0; c < channels; ++c) {
        const Rows<bool> inside = mask ? Rows<bool>(*mask, mask->size(0) > 1 ? n : 0, 0) : Rows<bool>();
        const Rows<R> a(fixed, n, c);
        const Level level_a = level(a, inside, out), level_b = level(Rows<R>(moving, n, c), {}, grid_of_all(moving));
        finite = finite && level_a.finite && level_b.finite;
        all.push_back({sampler, read<R>(moving) + image.offset(n, c), out, n * rows, a, inside, level_a, level_b,
                       read<R>(scale)[n], write<R>(gradient) + n * disp.size(1) * out.numel(), sums.data() + n * rows,
                       c > 0, out.deep ? window[0] + 1 : 1});
      }
    const std::vector<Part> parts = parts_of(w, batch);
    parallel_each(batch * int64_t(parts.size()), [&](int64_t i) {
      for (int64_t c = 0; c < channels; ++c) {
        Warped<R> channel = all[i / parts.size() * channels + c];
        LocalNCC<R, Warped<R>>(w, finite, measure, parts[i % parts.size()], channel).run();
      }
    });
    for (int64_t n = 0; n < batch; ++n) write<R>(value)[n] = read<R>(scale)[n] * R(sum(sums.data() + n * rows, rows));
  };
  for_arithmetic(moving, disp, [&](auto dims, auto real) {
    using R = decltype(real);
    const Displaced<dims, R> source(disp);
    for_problem<dims>(moving, source, padding, [&]<class Index>(const Problem<dims, R, Index>& p) {
      run(SamplerOf<dims, R, Index>(p), p.out, p.image);
    });
  });
  return {value, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("warp_local_ncc", TORCH_BOX(&warp_local_ncc)); }

}  // namespace l2rfast
