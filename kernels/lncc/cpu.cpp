// Squared local normalised cross-correlation and its gradients on the CPU.
//
// Floor: both images are read once and each gradient is written once; per voxel some 30 additions of window sums for
// the values, as many again for both gradients, and some 60 other operations.
// Got, window 9, both gradients: 148 AVX2 instructions a voxel (216 before), 190 at window 21, 129 at window 5, by
// callgrind. Above the floor are rows that parts share, sums anew at anchors, and loads and stores of sums in double;
// moving these to and from the last cache takes as long as the additions.

#include "common/images.h"
#include "common/local_ncc.h"
#include "common/text.h"

namespace l2rfast {
namespace {

// A channel of two images, and what becomes of it.
template <class T, class R>
struct Pair {
  Rows<T> image_a, image_b;
  Rows<bool> inside;
  Level level_a, level_b;
  bool to_a, to_b;
  Grid grid;
  const R* weights;          // of the windows' values, or null
  R *map, *grad_a, *grad_b;  // or null
  double* sums;              // of the values of every row

  static constexpr int64_t voxels() { return 1; }
  bool masked() const { return inside.data != nullptr; }
  void enter(int64_t, Range) {}
  void a(int64_t z, int64_t y, R* to) { read(image_a, z, y, to); }
  void b(int64_t z, int64_t y, R* to) { read(image_b, z, y, to); }
  void mask(int64_t z, int64_t y, R* to) { inside.read(z, y, to); }
  const R* upstream(int64_t z, int64_t y) const { return weights ? weights + first(z, y) : nullptr; }

  void values(int64_t z, int64_t y, const R* row) {
    sums[z * grid.h + y] = sum(row, grid.w);
    if (map) std::copy_n(row, grid.w, map + first(z, y));
  }
  void gradients(int64_t z, int64_t y, const R* a, const R* b) {
    if (to_a) std::copy_n(a, grid.w, grad_a + first(z, y));
    if (to_b) std::copy_n(b, grid.w, grad_b + first(z, y));
  }

 private:
  int64_t first(int64_t z, int64_t y) const { return (z * grid.h + y) * grid.w; }

  void read(const Rows<T>& image, int64_t z, int64_t y, R* to) const {
    image.read(z, y, to);
    if (masked()) inside.select(z, y, to);
  }
};

std::tuple<Tensor, Tensor, Tensor> local_ncc(const Tensor& a, const Tensor& b, std::optional<Tensor> mask,
                                             std::optional<Tensor> upstream, std::vector<int64_t> window,
                                             std::vector<double> weights, Text borders, std::vector<double> constants,
                                             bool averaged, bool windows, bool to_a, bool to_b) {
  Tensor value, grad_a, grad_b;
  for_floating(a.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Measure measure(constants, averaged, borders);
    const Grid grid = grid_of_all(a);
    const int64_t batch = a.size(0), channels = a.size(1), volume = grid.numel(), rows = grid.rows();
    const auto room = [&](bool asked, std::vector<int64_t> shape) {
      return torch::stable::new_empty(a, asked ? shape : std::vector<int64_t>{0}, dtype_of<R>);
    };
    value = room(true, windows ? shape_of(a) : std::vector<int64_t>{batch});
    grad_a = room(to_a, shape_of(a)), grad_b = room(to_b, shape_of(b));
    const Tensor factors = upstream ? packed(*upstream) : room(false, {});
    std::vector<double> sums(batch * channels * rows);
    std::vector<Pair<T, R>> pairs(batch * channels);
    const auto of = [&](R* data, bool asked, int64_t i) { return asked ? data + i * volume : nullptr; };
    for (int64_t i = 0; i < batch * channels; ++i) {
      const int64_t n = i / channels, c = i % channels;
      const Rows<bool> inside = mask ? Rows<bool>(*mask, mask->size(0) > 1 ? n : 0, 0) : Rows<bool>();
      pairs[i] = {Rows<T>(a, n, c),
                  Rows<T>(b, n, c),
                  inside,
                  {},
                  {},
                  to_a,
                  to_b,
                  grid,
                  of(upstream ? write<R>(factors) : nullptr, bool(upstream), i),
                  of(write<R>(value), windows, i),
                  of(write<R>(grad_a), to_a, i),
                  of(write<R>(grad_b), to_b, i),
                  sums.data() + i * rows};
      pairs[i].level_a = level(pairs[i].image_a, inside, grid);
      pairs[i].level_b = level(pairs[i].image_b, inside, grid);
    }
    const bool finite = std::all_of(pairs.begin(), pairs.end(),
                                    [](const auto& pair) { return pair.level_a.finite && pair.level_b.finite; });
    const Windows w(a, window, weights.empty() ? nullptr : weights.data());
    const std::vector<Part> parts = parts_of(w, batch * channels);
    parallel_each(int64_t(pairs.size() * parts.size()), [&](int64_t i) {
      LocalNCC<R, Pair<T, R>>(w, finite, measure, parts[i % parts.size()], pairs[i / parts.size()]).run();
    });
    if (!windows)
      for (int64_t n = 0; n < batch; ++n)
        write<R>(value)[n] = R(sum(sums.data() + n * channels * rows, channels * rows));
  });
  return {value, grad_a, grad_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("local_ncc", TORCH_BOX(&local_ncc)); }

}  // namespace l2rfast
