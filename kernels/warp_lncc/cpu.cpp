// Local normalised cross-correlation with a warped image, and its gradient to the field, on the CPU.
//
// The march of kernels/common/local_ncc.h, where rows of one image are sampled when their plane enters, kept for as
// many planes as a window has, and sampled again for their derivatives when the gradient to them comes out. Where
// windows are of blocks: see blocks.h.

#include <atomic>

#include "common/local_ncc.h"
#include "common/memory.h"
#include "common/text.h"
#include "warp_lncc/blocks.h"
#include "warp_lncc/sampler.h"

namespace l2rfast {
namespace {

// In windows of voxels: what a march over a part of a channel needs.
template <class R>
class Warped : public Channel<R> {
 public:
  using Of = Channel<R>;
  using Of::sampler, Of::moving, Of::out, Of::first, Of::fixed, Of::inside, Of::scale, Of::gradient, Of::sums, Of::add,
      Of::masked;

  // `kept`: planes of the warped image.
  Warped(const Channel<R>& channel, int64_t kept) : Channel<R>(channel), kept_(kept) {}

  static constexpr int64_t voxels() { return 1; }
  void a(int64_t z, int64_t y, R* to) const {
    fixed.read(z, y, to);
    if (masked()) inside.select(z, y, to);
  }
  void b(int64_t z, int64_t y, R* to) {
    std::copy_n(row(z, y), out.w, to);
    if (masked()) inside.select(z, y, to);
  }
  void mask(int64_t z, int64_t y, R* to) const { inside.read(z, y, to); }

  void enter(int64_t z, Range reach) {
    rows_ = reach;
    warped_.resize(kept_ * rows_.count() * out.w);
    for (int64_t y = rows_.begin; y < rows_.end; ++y) sampler.values(moving, first + z * out.h + y, row(z, y));
  }

  void values(int64_t z, int64_t y, const R* row) { sums[z * out.h + y] += sum(row, out.w); }

  void gradients(int64_t z, int64_t y, const R*, const R* grad) {
    const int64_t row = z * out.h + y;
    sampler.backward(moving, first + row, grad, scale, add, gradient + row * out.w);
  }

 private:
  R* row(int64_t z, int64_t y) { return warped_.data() + (z % kept_ * rows_.count() + y - rows_.begin) * out.w; }

  int64_t kept_;
  Range rows_ = {0, 0};
  Aligned<R> warped_;
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
                                          std::vector<double> weights, Text borders, std::vector<double> constants,
                                          bool averaged, Text padding, std::vector<int64_t> blocks) {
  const Tensor disp = packed(disp_), scale = packed(scale_);
  std::vector<int64_t> shape = shape_of(disp);
  std::array<int64_t, 3> sides = {1, 1, 1};
  for (size_t k = 0; k < blocks.size(); ++k) {
    shape[2 + k] /= blocks[k];
    sides[3 - blocks.size() + k] = blocks[k];
  }
  const Tensor value = room_as(disp, {disp.size(0)}), gradient = room_as(disp, shape);
  const Measure measure(constants, averaged, borders);
  const Windows w(gradient, window, weights.empty() ? nullptr : weights.data());
  const int64_t batch = disp.size(0), channels = moving.size(1);
  const std::vector<Part> parts = parts_of(w, batch);

  const auto run = [&]<class R>(const Sampler<R>& sampler, const Grid& out, const Channels& image) {
    const Grid places = grid_of_all(gradient);  // of windows
    std::vector<double> sums(batch * places.rows());
    std::vector<Channel<R>> all;
    bool finite = all_finite<R>(disp);
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t c = 0; c < channels; ++c) {
        const Rows<bool> inside = mask ? Rows<bool>(*mask, mask->size(0) > 1 ? n : 0, 0) : Rows<bool>();
        const Rows<R> a(fixed, n, c);
        const Level level_a = level(a, inside, out), level_b = level(Rows<R>(moving, n, c), {}, grid_of_all(moving));
        finite = finite && level_a.finite && level_b.finite;
        all.push_back({sampler, read<R>(moving) + image.offset(n, c), out, n * out.rows(), a, inside, level_a, level_b,
                       read<R>(scale)[n], write<R>(gradient) + n * disp.size(1) * places.numel(),
                       sums.data() + n * places.rows(), c > 0});
      }
    if (sides == std::array<int64_t, 3>{1, 1, 1})
      parallel_each(batch * int64_t(parts.size()), [&](int64_t i) {
        for (int64_t c = 0; c < channels; ++c) {
          Warped<R> images(all[i / parts.size() * channels + c], std::min(w.axis[0].side() + 1, w.axis[0].size));
          LocalNCC<R, Warped<R>>(w, finite, measure, parts[i % parts.size()], images).run();
        }
      });
    else
      for (const Channel<R>& channel : all) {
        WarpedBlocks<R> images(channel, places, sides);
        images.enter_all();
        parallel_each(int64_t(parts.size()),
                      [&](int64_t i) { LocalNCC<R, WarpedBlocks<R>>(w, finite, measure, parts[i], images).run(); });
        images.gradients(blocks.size());
      }
    for (int64_t n = 0; n < batch; ++n)
      write<R>(value)[n] = read<R>(scale)[n] * R(sum(sums.data() + n * places.rows(), places.rows()));
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
