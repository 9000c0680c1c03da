// Both marches over some channels at a time, on the GPU, of two images or of one and a warped one.
#pragma once

#include "lncc/windows.cuh"

namespace l2rfast {

// Numbers of intermediate results that are kept at a time: enough channels of them fill a GPU.
constexpr int64_t kKept = 1 << 26;

// Holds what all channels share, on the GPU; T, S and `blocked` are those of Pair.
template <class T, class S, bool blocked = false>
struct Passes {
  using R = Sum<T>;
  using F = Beside<S>;
  using Images = Pair<T, S, blocked>;

  Images images;  // of which b and the mask are set by who has them
  const R* upstream = nullptr;
  R* map = nullptr;

  // Of images like `a`, windows of places like `places`.
  Passes(const Tensor& a, const Tensor& places, const std::vector<int64_t>& window, const std::vector<double>& weights,
         const std::vector<int64_t>& sides, const MeasureOf<F>& measure)
      : every_(weights.begin(), weights.end()),
        weights_(on_device(every_, a)),
        windows_(places, window, every_.empty() ? nullptr : read<F>(weights_)),
        measure_(measure),
        on_(a),
        channels_(a.size(0) * a.size(1)),
        units_(room(a, {channels_, (sizeof(Units<F>) + 7) / 8})),
        totals_(room(a, {a.size(0), a.size(1) * Tiles(windows_).count()})) {
    const Grid grid = grid_of_all(a);
    images = {Image<T>(a), {}, {}, a.size(1), grid.d, grid.h, grid.w, {1, 1, 1}, read<Units<F>>(units_)};
    for (size_t k = 0; k < sides.size(); ++k) images.sides[3 - sides.size() + k] = int(sides[k]);
    whole_ = WindowsOf<F>(places, window, every_.empty() ? nullptr : every_.data()).template whole<S>();
    whole_ = whole_ * images.voxels();
  }

  int64_t places() const { return windows_.places(); }

  // f(first, how many) of channels of which each keeps so many numbers.
  template <class Do>
  void each(int64_t numbers, const Do& f) const {
    const int64_t together = at_once(numbers);
    for (int64_t first = 0; first < channels_; first += together) f(first, std::min(together, channels_ - first));
  }
  int64_t at_once(int64_t numbers) const { return std::clamp<int64_t>(kKept / numbers, 1, channels_); }

  // The values of some channels, and their gradients, each if there is a place for it. Of the factors there is room
  // for these channels, of the gradients for all.
  void run(int64_t first, int64_t some, R* factors, R* grad_a, R* grad_b) const {
    measure_units(images, measure_, first, some, write<Units<F>>(units_), on_);
    const bool to_a = grad_a, to_b = grad_b;
    const Values<Images> values{images, windows_, whole_, upstream, map, factors, first, to_a, to_b};
    if (images.mask.data)
      go(OfImages<Images, true>{images}, values, first, some, write<double>(totals_));
    else
      go(OfImages<Images, false>{images}, values, first, some, write<double>(totals_));
    const Gradients<Images> gradients{images, grad_a, grad_b};
    const int64_t row = windows_.axis[2].size, plane = windows_.axis[1].size * row;
    if (to_a && to_b)
      go(OfWindows<R, S, 5>{factors, first, places(), plane, row}, gradients, first, some, nullptr);
    else if (to_a || to_b)
      go(OfWindows<R, S, 3>{factors, first, places(), plane, row}, gradients, first, some, nullptr);
  }

  // Of the values of every item.
  Tensor sums() const {
    const int64_t last[] = {1};
    return torch::stable::to(torch::stable::sum(totals_, last), dtype_of<R>);
  }

 private:
  static Tensor room(const Tensor& like, std::vector<int64_t> shape) {
    return torch::stable::new_empty(like, shape, Dtype::Double);
  }

  template <class Source, class Use>
  void go(const Source& source, const Use& use, int64_t first, int64_t some, double* totals) const {
    march<S>(images, source, use, windows_, first, some, totals, on_);
  }

  std::vector<F> every_;
  Tensor weights_;
  WindowsOf<F> windows_;
  MeasureOf<F> measure_;
  S whole_;
  Tensor on_;
  int64_t channels_;
  Tensor units_, totals_;
};

}  // namespace l2rfast
