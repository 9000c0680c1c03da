// The expected displacement under a softmax of costs, on the GPU.
//
// A block takes a run of control points, whose costs lie side by side: each warp of it goes over every eighth row of
// displacements, and what the warps found is added in their order. It does so twice, for the least and for the sums; a
// third time for probabilities, and back for gradients to them.
//
// Floor: the cost volume is read once, 4 bytes an entry of float32, which the gradient reads once more and writes. What
// a block reads again comes from the L2 cache.

#include "common/columns.cuh"
#include "common/math.h"
#include "soft_argmin/search.h"

namespace l2rfast {
namespace {

constexpr int kRun = 32, kShares = kThreads / kRun;

template <class T>
struct Runs {
  using R = Sum<T>;
  static constexpr int resident = sizeof(R) == 8 ? 2 : 4;
  Search<R> search;
  const T* cost;
  const R* beta;

  L2RFAST_INLINE int64_t runs() const { return (search.points + kRun - 1) / kRun; }
  int64_t count() const { return search.batch * runs(); }

  // f(item, point) if a thread has one.
  template <class F>
  L2RFAST_INLINE void of_thread(int64_t block, int thread, const F& f) const {
    const int64_t x = block % runs() * kRun + thread % kRun;
    if (x < search.points) f(block / runs(), x);
  }

  // f(index in the cost volume, steps) for the displacements of a thread's share.
  template <class F>
  L2RFAST_INLINE void each_displacement(int64_t item, int64_t x, int thread, const F& f) const {
    const int64_t width = search.size[2], rows = search.size[0] * search.size[1];
    for (int64_t row = thread / kRun; row < rows; row += kShares) {
      const R z = search.step(0, row / search.size[1]), y = search.step(1, row % search.size[1]);
      int64_t i = (item * search.displacements() + row * width) * search.points + x;
      for (int64_t k = 0; k < width; ++k, i += search.points) {
        const R steps[3] = {z, y, search.step(2, k)};
        f(i, steps);
      }
    }
  }

  // Of all shares of a thread's point.
  static L2RFAST_INLINE R sum(const R* numbers, int thread) {
    R total = 0;
    for (int i = thread % kRun; i < kThreads; i += kRun) total += numbers[i];
    return total;
  }
};

template <class T>
struct Expect : Runs<T> {
  using R = Sum<T>;
  R *displacement, *entropy, *log_z;
  T* probabilities;  // or null

  static int64_t room() { return 6 * kThreads; }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    R *least = reinterpret_cast<R*>(scratch), *total = least + kThreads, *mean = total + kThreads;
    R* sums = mean + kThreads;
    const R factor = fetch(this->beta);
    const int64_t points = this->search.points, axes = this->search.axes;
    const auto least_of = [&](int thread) {
      R lowest = least[thread % kRun];
      for (int i = thread % kRun; i < kThreads; i += kRun) lowest = least[i] < lowest ? least[i] : lowest;
      return lowest;
    };
    all_threads([&](int thread) {
      R lowest = std::numeric_limits<R>::infinity();
      this->of_thread(block, thread, [&](int64_t item, int64_t x) {
        this->each_displacement(item, x, thread, [&](int64_t i, const R*) {
          const R c = factor * R(fetch(this->cost + i));
          lowest = c < lowest ? c : lowest;
        });
      });
      least[thread] = lowest;
    });
    all_threads([&](int thread) {
      const R lowest = least_of(thread);
      R of[5] = {};
      this->of_thread(block, thread, [&](int64_t item, int64_t x) {
        this->each_displacement(item, x, thread, [&](int64_t i, const R* steps) {
          const R above = factor * R(fetch(this->cost + i)) - lowest, p = exponential(-above);
          of[0] += p;
          of[1] += p == 0 ? R(0) : p * above;
          for (int k = 0; k < 3; ++k) of[2 + k] += p * steps[k];
        });
      });
      for (int k = 0; k < 5; ++k) total[k * kThreads + thread] = of[k];
    });
    all_threads([&](int thread) {
      this->of_thread(block, thread, [&](int64_t item, int64_t x) {
        const R lowest = least_of(thread), all = this->sum(total, thread);
        if (thread < kRun) {
          for (int64_t k = 0; k < axes; ++k)
            displacement[(item * axes + k) * points + x] = this->sum(sums + (3 - axes + k) * kThreads, thread) / all;
          entropy[item * points + x] = std::log(all) + this->sum(mean, thread) / all;
          log_z[item * points + x] = std::log(all) - lowest;
        }
        if (!probabilities) return;
        this->each_displacement(item, x, thread, [&](int64_t i, const R*) {
          probabilities[i] = T(exponential(lowest - factor * R(fetch(this->cost + i))) / all);
        });
      });
    });
  }
};

template <class T>
struct Differentiate : Runs<T> {
  using R = Sum<T>;
  Outcome<T> outcome;
  R* to_cost;
  double* to_beta;  // of blocks

  static int64_t room() { return 2 * kThreads; }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    R* means = reinterpret_cast<R*>(scratch + kThreads);
    all_threads([&](int thread) {
      R mean = 0;
      this->of_thread(block, thread, [&](int64_t item, int64_t x) {
        if (!outcome.grad_p) return;
        each_probability(item, x, thread,
                         [&](int64_t i, const R*, R, R, R p) { mean += p * R(fetch(outcome.grad_p + i)); });
      });
      means[thread] = mean;
    });
    all_threads([&](int thread) {
      R total = 0;
      this->of_thread(block, thread, [&](int64_t item, int64_t x) { total = gradients(item, x, thread, means); });
      scratch[thread] = double(total);
    });
    add_up(scratch, 1);
    all_threads([&](int thread) {
      if (thread == 0) to_beta[block] = scratch[0];
    });
  }

 private:
  // f(index, steps, cost, log p, p) for the displacements of a thread's share.
  template <class F>
  L2RFAST_INLINE void each_probability(int64_t item, int64_t x, int thread, const F& f) const {
    const R factor = fetch(this->beta), shift = fetch(outcome.log_z + item * this->search.points + x);
    this->each_displacement(item, x, thread, [&](int64_t i, const R* steps) {
      const R c = R(fetch(this->cost + i)), log_p = -factor * c - shift;
      f(i, steps, c, log_p, exponential(log_p));
    });
  }

  // To the costs of a thread's share; returns what they add to that of beta.
  L2RFAST_INLINE R gradients(int64_t item, int64_t x, int thread, const R* means) const {
    const int64_t points = this->search.points, axes = this->search.axes, at = item * points + x;
    const R factor = fetch(this->beta), to_entropy = fetch(outcome.grad_entropy + at);
    R toward[3] = {}, mean = this->sum(means, thread) + to_entropy * fetch(outcome.entropy + at), total = 0;
    each_axis<3>([&](auto axis) {
      const int64_t k = axis + axes - 3, of = (item * axes + k) * points + x;
      if (k < 0) return;
      toward[axis] = fetch(outcome.grad + of);
      mean += toward[axis] * fetch(outcome.displacement + of);
    });
    each_probability(item, x, thread, [&](int64_t i, const R* steps, R c, R log_p, R p) {
      R h = toward[0] * steps[0] + toward[1] * steps[1] + toward[2] * steps[2] - mean;
      if (outcome.grad_p) h += R(fetch(outcome.grad_p + i));
      const R to = to_log(p, log_p, h, to_entropy);
      to_cost[i] = -factor * to;
      total -= p == 0 ? R(0) : to * c;
    });
    return total;
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_argmin(const Tensor& cost_, const Tensor& beta_,
                                                       std::vector<double> dilation, bool probabilities) {
  const Tensor cost = packed(cost_);
  Tensor displacement, entropy, log_z, p;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Search<R> search(cost, dilation);
    const Tensor beta = torch::stable::to(beta_, dtype_of<R>);
    const auto room = [&](int64_t channels) {
      return torch::stable::new_empty(cost, search.shape(cost, channels), dtype_of<R>);
    };
    displacement = room(search.axes), entropy = room(1), log_z = room(1);
    p = empty_as(cost, probabilities ? shape_of(cost) : std::vector<int64_t>{0});
    const Expect<T> body{{search, read<T>(cost), read<R>(beta)},
                         write<R>(displacement),
                         write<R>(entropy),
                         write<R>(log_z),
                         probabilities ? write<T>(p) : nullptr};
    each_block(body, body.count(), body.room(), cost);
  });
  return {displacement, entropy, log_z, p};
}

std::tuple<Tensor, Tensor> soft_argmin_backward(const Tensor& grad_, const Tensor& grad_entropy_,
                                                std::optional<Tensor> grad_p_, const Tensor& cost_, const Tensor& beta_,
                                                const Tensor& displacement_, const Tensor& entropy_,
                                                const Tensor& log_z_, std::vector<double> dilation) {
  const Tensor grad = packed(grad_), grad_entropy = packed(grad_entropy_), cost = packed(cost_);
  const Tensor displacement = packed(displacement_), entropy = packed(entropy_), log_z = packed(log_z_);
  const Tensor grad_p = grad_p_ ? packed(*grad_p_) : cost;
  Tensor to_cost, to_beta;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Tensor beta = torch::stable::to(beta_, dtype_of<R>);
    to_cost = torch::stable::new_empty(cost, shape_of(cost), dtype_of<R>);
    Differentiate<T> body{{Search<R>(cost, dilation), read<T>(cost), read<R>(beta)},
                          {read<R>(displacement), read<R>(entropy), read<R>(log_z), read<R>(grad),
                           read<R>(grad_entropy), grad_p_ ? read<T>(grad_p) : nullptr},
                          write<R>(to_cost)};
    const Tensor sums = torch::stable::new_empty(cost, {body.count()}, Dtype::Double);
    body.to_beta = write<double>(sums);
    each_block(body, body.count(), body.room(), cost);
    to_beta = sum_of_blocks(sums, dtype_of<R>);
  });
  return {to_cost, to_beta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("soft_argmin", TORCH_BOX(&soft_argmin));
  m.impl("soft_argmin_backward", TORCH_BOX(&soft_argmin_backward));
}

}  // namespace l2rfast
