// The expected displacement under a softmax of costs, on the CPU.
//
// Floor: the cost volume is read once; per entry one exponential and some ten other operations. A work item is a run of
// control points: it goes over their costs twice, for the least and for the sums, the second time in the cache.

#include "common/exponential.h"
#include "common/rows.h"
#include "soft_argmin/search.h"

namespace l2rfast {
namespace {

constexpr int64_t kPoints = 64;  // of a work item

// Of an item of the batch.
template <class R>
int64_t runs(const Search<R>& s) {
  return (s.points + kPoints - 1) / kPoints;
}

// f(run, item, first point, how many) for every run of points.
template <class R, class F>
void each_run(const Search<R>& s, const F& f) {
  parallel_each(s.batch * runs(s), [&](int64_t run) {
    const int64_t first = run % runs(s) * kPoints;
    f(run, run / runs(s), first, std::min(kPoints, s.points - first));
  });
}

// f(e, steps[3]) for every displacement, in raster order.
template <class R, class F>
void each_displacement(const Search<R>& s, const F& f) {
  int64_t e = 0;
  for (int64_t i = 0; i < s.size[0]; ++i)
    for (int64_t j = 0; j < s.size[1]; ++j)
      for (int64_t k = 0; k < s.size[2]; ++k, ++e) {
        const R steps[3] = {s.step(0, i), s.step(1, j), s.step(2, k)};
        f(e, steps);
      }
}

template <class T>
void expect(const Search<Sum<T>>& s, const T* cost, Sum<T> beta, Sum<T>* displacement, Sum<T>* entropy, Sum<T>* log_z,
            T* probabilities) {
  using R = Sum<T>;
  // The differences of costs are scaled, not scaled costs subtracted: of large ones a fused product would leave what
  // rounding takes off the least, and its exponential overflows.
  const R sign = beta < 0 ? R(-1) : R(1), sharpness = sign * beta;
  each_run(s, [&](int64_t, int64_t item, int64_t first, int64_t n) {
    const T* costs = cost + item * s.displacements() * s.points + first;
    R least[kPoints], total[kPoints] = {}, mean[kPoints] = {}, sums[3][kPoints] = {};
    std::fill_n(least, kPoints, std::numeric_limits<R>::infinity());
    for (int64_t e = 0; e < s.displacements(); ++e)
      for (int64_t x = 0; x < n; ++x) {
        const R c = sign * R(costs[e * s.points + x]);
        least[x] = c < least[x] ? c : least[x];
      }
    each_displacement(s, [&](int64_t e, const R* steps) {
      for (int64_t x = 0; x < n; ++x) {
        const R above = sharpness * (sign * R(costs[e * s.points + x]) - least[x]), p = exponential_or_nan(-above);
        total[x] += p;
        mean[x] += p == 0 ? R(0) : p * above;
        for (int k = 0; k < 3; ++k) sums[k][x] += p * steps[k];
      }
    });
    for (int64_t x = 0; x < n; ++x) {
      const int64_t at = item * s.points + first + x;
      for (int64_t k = 0; k < s.axes; ++k)
        displacement[(item * s.axes + k) * s.points + first + x] = sums[3 - s.axes + k][x] / total[x];
      entropy[at] = std::log(total[x]) + mean[x] / total[x];
      log_z[at] = std::log(total[x]) - sharpness * least[x];
    }
    for (int64_t e = 0; probabilities && e < s.displacements(); ++e)
      for (int64_t x = 0; x < n; ++x) {
        const R above = sharpness * (sign * R(costs[e * s.points + x]) - least[x]);
        probabilities[(item * s.displacements() + e) * s.points + first + x] = T(exponential_or_nan(-above) / total[x]);
      }
  });
}

// The logarithm of a probability: not above 0, however large the costs are that it is the difference of.
template <class R>
L2RFAST_INLINE R log_share(R beta, R cost, R log_z) {
  const R log_p = -beta * cost - log_z;
  return log_p > 0 ? R(0) : log_p;
}

// Returns the gradient to beta.
template <class T>
double differentiate(const Search<Sum<T>>& s, const T* cost, Sum<T> beta, const Outcome<T>& o, Sum<T>* result) {
  using R = Sum<T>;
  std::vector<double> to_beta(s.batch * runs(s));
  each_run(s, [&](int64_t run, int64_t item, int64_t first, int64_t n) {
    const int64_t begin = item * s.displacements() * s.points + first, at = item * s.points + first;
    const R *log_z = o.log_z + at, *to_entropy = o.grad_entropy + at;
    R toward[3][kPoints] = {}, mean[kPoints] = {}, sum[kPoints] = {};
    for (int64_t k = 0; k < s.axes; ++k)
      for (int64_t x = 0; x < n; ++x) {
        const int64_t of = (item * s.axes + k) * s.points + first + x;
        toward[3 - s.axes + k][x] = o.grad[of];
        mean[x] += o.grad[of] * o.displacement[of];
      }
    for (int64_t x = 0; x < n; ++x) mean[x] += to_entropy[x] * o.entropy[at + x];
    for (int64_t e = 0; o.grad_p && e < s.displacements(); ++e)
      for (int64_t x = 0; x < n; ++x) {
        const int64_t i = begin + e * s.points + x;
        mean[x] += exponential_or_nan(log_share(beta, R(cost[i]), log_z[x])) * R(o.grad_p[i]);
      }
    each_displacement(s, [&](int64_t e, const R* steps) {
      const int64_t from = begin + e * s.points;
      for (int64_t x = 0; x < n; ++x) {
        const R c = R(cost[from + x]), log_p = log_share(beta, c, log_z[x]), p = exponential_or_nan(log_p);
        R h = toward[0][x] * steps[0] + toward[1][x] * steps[1] + toward[2][x] * steps[2] - mean[x];
        if (o.grad_p) h += R(o.grad_p[from + x]);
        const R share = to_log(p, log_p, h, to_entropy[x]);
        result[from + x] = -beta * share;
        sum[x] -= p == 0 ? R(0) : share * c;
      }
    });
    to_beta[run] = l2rfast::sum(sum, n);
  });
  return l2rfast::sum(to_beta.data(), int64_t(to_beta.size()));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> soft_argmin(const Tensor& cost_, const Tensor& beta,
                                                       std::vector<double> dilation, bool probabilities) {
  const Tensor cost = packed(cost_);
  Tensor displacement, entropy, log_z, p;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Search<R> s(cost, dilation);
    const auto room = [&](int64_t channels) {
      return torch::stable::new_empty(cost, s.shape(cost, channels), dtype_of<R>);
    };
    displacement = room(s.axes), entropy = room(1), log_z = room(1);
    p = empty_as(cost, probabilities ? shape_of(cost) : std::vector<int64_t>{0});
    expect(s, read<T>(cost), value_of<R>(beta), write<R>(displacement), write<R>(entropy), write<R>(log_z),
           probabilities ? write<T>(p) : nullptr);
  });
  return {displacement, entropy, log_z, p};
}

std::tuple<Tensor, Tensor> soft_argmin_backward(const Tensor& grad_, const Tensor& grad_entropy_,
                                                std::optional<Tensor> grad_p_, const Tensor& cost_, const Tensor& beta,
                                                const Tensor& displacement_, const Tensor& entropy_,
                                                const Tensor& log_z_, std::vector<double> dilation) {
  const Tensor grad = packed(grad_), grad_entropy = packed(grad_entropy_), cost = packed(cost_);
  const Tensor displacement = packed(displacement_), entropy = packed(entropy_), log_z = packed(log_z_);
  const Tensor grad_p = grad_p_ ? packed(*grad_p_) : cost;
  Tensor to_cost, to_beta;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Search<R> s(cost, dilation);
    to_cost = torch::stable::new_empty(cost, shape_of(cost), dtype_of<R>);
    to_beta = torch::stable::new_empty(cost, std::vector<int64_t>{}, dtype_of<R>);
    const Outcome<T> o = {read<R>(displacement), read<R>(entropy),      read<R>(log_z),
                          read<R>(grad),         read<R>(grad_entropy), grad_p_ ? read<T>(grad_p) : nullptr};
    *write<R>(to_beta) = R(differentiate(s, read<T>(cost), value_of<R>(beta), o, write<R>(to_cost)));
  });
  return {to_cost, to_beta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("soft_argmin", TORCH_BOX(&soft_argmin));
  m.impl("soft_argmin_backward", TORCH_BOX(&soft_argmin_backward));
}

}  // namespace l2rfast
