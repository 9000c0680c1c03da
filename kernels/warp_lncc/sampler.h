// Rows of images as a field warps them, and the gradients of what is made of them to the field.
#pragma once

#include "common/images.h"
#include "common/sampler.h"

namespace l2rfast {

// The gradient of a local NCC to a row of warped values b: straight[x] - slope[x] * (b - level).
template <class R>
struct Linear {
  const R *straight, *slope;
  R level;
};

// Of one dtype; rows are counted over the batch.
template <class R>
struct Sampler {
  virtual void values(const R* moving, int64_t row, R* to) const = 0;
  // Stores the gradient to a row of the field, or adds it: of values of which `grad` is the gradient, times `scale`.
  virtual void backward(const R* moving, int64_t row, const R* grad, R scale, bool add, R* to) const = 0;
  // Adds the gradient to a row of the field, its components `component` apart.
  virtual void backward(const R* moving, int64_t row, const Linear<R>& grad, R* to, int64_t component) const = 0;

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

  void backward(const R* moving, int64_t row, const R* grad, R scale, bool add, R* to) const override {
    const auto factor = [&](int64_t x, const auto&) { return scale * load(grad + x); };
    derive(moving, row, factor, add, to, problem.out.numel());
  }

  void backward(const R* moving, int64_t row, const Linear<R>& grad, R* to, int64_t component) const override {
    const auto factor = [&](int64_t x, const auto& value) {
      return load(grad.straight + x) - load(grad.slope + x) * (value() - grad.level);
    };
    derive(moving, row, factor, true, to, component);
  }

 private:
  // `factor(x, value)`: what the derivatives of the values from x on are multiplied with; value() gives these.
  template <class Factor>
  void derive(const R* moving, int64_t row, const Factor& factor, bool add, R* gradient, int64_t component) const {
    problem.row_blocks(row, [&](const Block& b) {
      const BlockTaps<ndim, R, Index, true> taps(problem, b);
      each_vector<ndim, R>(moving, problem.step, taps.base, b.count, [&](const auto& corners, int i, int n) {
        const Vector<R> times = factor(b.x + i, [&] { return corners.interpolate(taps.weights(i)); });
        const Vector<R> poison = load(taps.poison + i);
        each_axis<ndim>([&](auto k) {
          const Vector<R> slope = corners.interpolate(taps.template weights<1u << k.value>(i));
          Vector<R> share = poison == 0 ? times * slope : Vector<R>{};
          R* to = gradient + k.value * component + b.x + i;
          if (add) share += load_some<R>(to, n);
          store_some<R>(to, share, n);
        });
      });
    });
  }
};

// A channel of the fixed and of the warped moving image, and where its results go.
template <class R>
struct Channel {
  const Sampler<R>& sampler;
  const R* moving;
  Grid out;
  int64_t first;  // row of the item
  Rows<R> fixed;
  Rows<bool> inside;
  Level level_a, level_b;
  R scale;       // of the gradient
  R* gradient;   // to the field of the item
  double* sums;  // of the values of every row of windows
  bool add;      // to what other channels gave: to the gradient
  static constexpr bool to_a = false, to_b = true;

  bool masked() const { return inside.data != nullptr; }
  const R* upstream(int64_t, int64_t) const { return nullptr; }
};

}  // namespace l2rfast
