// Min-convolution of a cost volume on the CPU.
//
// Floor: the cost volume is read once and written once. A work item is a run of control points: all their costs, of
// which those of a displacement are contiguous, fit the cache, and go through one axis after the other. Along an axis
// of n displacements n^2 sums and comparisons, vectors of control points at a time, beat the envelope's O(n) up to
// `kDirect` displacements: it goes control point by control point, and jumps.

#include "common/parabola.h"
#include "common/tensor.h"
#include "common/vectors.h"

namespace l2rfast {
namespace {

constexpr int64_t kPoints = 32;  // of a work item
constexpr int64_t kDirect = 48;

// Buffers (outer, n, inner) of lines along the middle axis.
struct Lines {
  int64_t outer, inner;
};

// What minima along an axis are taken over.
template <class R>
struct Minima {
  int64_t in, out;
  R weight;     // of the parabola
  bool pooled;  // no parabola, but the neighbours of positions -2 ... in + 1, the border repeated

  // to[d] = min over e of from[e] + weight * |d - e|^2, without it where pooled, and which e where `where` is not null.
  void run(Lines lines, const R* from, R* to, R* where) const {
    if (pooled) return neighbours(lines, from, to, where);
    if (in > kDirect) return envelopes(lines, from, to, where);
    if (where)
      direct<true>(lines, from, to, where);
    else
      direct<false>(lines, from, to, where);
  }

  void neighbours(Lines lines, const R* from, R* to, R* where) const {
    using V = Vector<R>;
    for (int64_t o = 0; o < lines.outer; ++o)
      for (int64_t d = 0; d < out; ++d)
        for (int64_t i = 0; i < lines.inner; i += kLanes<R>) {
          const auto cost = [&](int64_t e) { return load(from + (o * in + e) * lines.inner + i); };
          const int64_t first = std::clamp<int64_t>(d - 3, 0, in - 1), last = std::clamp<int64_t>(d - 1, 0, in - 1);
          V best = cost(first), found = V{} + R(first);
          for (int64_t e = first + 1; e <= last; ++e) {
            found = cost(e) < best ? V{} + R(e) : found;
            best = cost(e) < best ? cost(e) : best;
          }
          store(to + (o * out + d) * lines.inner + i, best);
          if (where) store(where + (o * out + d) * lines.inner + i, found);
        }
  }

  // Some displacements at a time, which share the loads of costs and do not wait for each other.
  template <bool kWhere>
  void direct(Lines lines, const R* from, R* to, R* where) const {
    using V = Vector<R>;
    constexpr int64_t kAtOnce = 4;
    std::vector<R> penalties(in + kAtOnce);
    for (int64_t k = 0; k < in; ++k) penalties[k] = parabola(weight, k);
    for (int64_t o = 0; o < lines.outer; ++o)
      for (int64_t i = 0; i < lines.inner; i += kLanes<R>)
        for (int64_t d = 0; d < out; d += kAtOnce) {
          V best[kAtOnce], found[kAtOnce] = {};
          for (V& b : best) b = V{} + std::numeric_limits<R>::infinity();
          for (int64_t e = 0; e < in; ++e) {
            const V cost = load(from + (o * in + e) * lines.inner + i);
            for (int64_t j = 0; j < kAtOnce; ++j) {
              const V total = cost + penalties[std::abs(d + j - e)];
              if constexpr (kWhere) found[j] = total < best[j] ? V{} + R(e) : found[j];
              best[j] = total < best[j] ? total : best[j];
            }
          }
          for (int64_t j = 0; j < std::min(kAtOnce, out - d); ++j) {
            const int64_t at = (o * out + d + j) * lines.inner + i;
            store(to + at, best[j]);
            if constexpr (kWhere) store(where + at, found[j]);
          }
        }
  }

  // The parabolas that are lowest somewhere, from left to right (Felzenszwalb and Huttenlocher 2012, algorithm 1).
  void envelopes(Lines lines, const R* from, R* to, R* where) const {
    std::vector<int64_t> lowest(in);
    std::vector<double> begin(in);
    for (int64_t o = 0; o < lines.outer; ++o)
      for (int64_t i = 0; i < lines.inner; ++i) {
        const int64_t at = o * in * lines.inner + i;
        const auto cost = [&](int64_t e) { return double(from[at + e * lines.inner]); };
        int64_t count = 0;
        for (int64_t e = 0; e < in; ++e) {
          if (cost(e) == std::numeric_limits<double>::infinity()) continue;
          double start = -std::numeric_limits<double>::infinity();
          for (; count > 0; --count) {
            const int64_t p = lowest[count - 1];
            start = (cost(e) - cost(p)) / (2 * double(weight) * double(e - p)) + 0.5 * double(e + p);
            if (start > begin[count - 1]) break;
            start = -std::numeric_limits<double>::infinity();
          }
          lowest[count] = e, begin[count] = start, ++count;
        }
        for (int64_t d = 0, k = 0; d < out; ++d) {
          while (k + 1 < count && begin[k + 1] < double(d)) ++k;
          const int64_t e = count ? lowest[k] : 0;
          to[at + d * lines.inner] = from[at + e * lines.inner] + parabola(weight, d - e);
          if (where) where[at + d * lines.inner] = R(e);
        }
      }
  }

  // To every cost, what its minima received.
  void back(Lines lines, const R* grad, const R* where, R* to) const {
    using V = Vector<R>;
    for (int64_t o = 0; o < lines.outer; ++o)
      for (int64_t i = 0; i < lines.inner; i += kLanes<R>)
        for (int64_t e = 0; e < in; ++e) {
          V sum = {};
          for (int64_t d = 0; d < out; ++d) {
            const int64_t at = (o * out + d) * lines.inner + i;
            sum += load(where + at) == R(e) ? load(grad + at) : V{};
          }
          store(to + (o * in + e) * lines.inner + i, sum);
        }
  }

  // The sum of what minima received times |d - e|^2, by lane.
  void add_to_weight(Lines lines, const R* grad, const R* where, double* sums) const {
    for (int64_t line = 0; line < lines.outer * out; ++line)
      for (int64_t i = 0; i < lines.inner; ++i) {
        const double steps = double(line % out) - double(where[line * lines.inner + i]);
        sums[i % kPoints] += double(grad[line * lines.inner + i]) * steps * steps;
      }
  }
};

constexpr int kTaps[] = {1, 2, 3, 2, 1};  // two averages of width 3, of sum 9

// (outer, n + 4, inner) -> (outer, n, inner).
template <class R>
void averaged(Lines lines, int64_t n, const R* from, R* to) {
  for (int64_t o = 0; o < lines.outer; ++o)
    for (int64_t d = 0; d < n; ++d)
      for (int64_t i = 0; i < lines.inner; i += kLanes<R>) {
        Vector<R> sum = {};
        for (int64_t k = 0; k < 5; ++k) sum += R(kTaps[k]) * load(from + (o * (n + 4) + d + k) * lines.inner + i);
        store(to + (o * n + d) * lines.inner + i, sum / 9);
      }
}

// Its adjoint.
template <class R>
void spread(Lines lines, int64_t n, const R* from, R* to) {
  for (int64_t o = 0; o < lines.outer; ++o)
    for (int64_t d = 0; d < n + 4; ++d)
      for (int64_t i = 0; i < lines.inner; i += kLanes<R>) {
        Vector<R> sum = {};
        for (int64_t k = std::max<int64_t>(d - n + 1, 0); k <= std::min<int64_t>(d, 4); ++k)
          sum += R(kTaps[k]) * load(from + (o * n + d - k) * lines.inner + i);
        store(to + (o * (n + 4) + d) * lines.inner + i, sum / 9);
      }
}

// A cost volume, and the buffers of a work item.
template <class T>
struct Volume {
  using R = Sum<T>;
  std::vector<int64_t> search;
  int64_t batch, displacements = 1, points;

  explicit Volume(const Tensor& cost) : batch(cost.size(0)) {
    for (int64_t k = 1; k <= (cost.dim() - 1) / 2; ++k) search.push_back(cost.size(k)), displacements *= cost.size(k);
    points = cost.numel() / batch / displacements;
  }

  size_t axes() const { return search.size(); }
  int64_t runs() const { return (points + kPoints - 1) / kPoints; }
  // Numbers of a buffer, with so many more displacements along every axis.
  int64_t room(int64_t more) const {
    int64_t n = kPoints;
    for (const int64_t s : search) n *= s + more;
    return n;
  }
  // Along an axis, where those before it have `before` displacements more and those behind it `behind`.
  Lines lines(size_t axis, int64_t before, int64_t behind) const {
    Lines l = {1, kPoints};
    for (size_t k = 0; k < axes(); ++k) {
      if (k < axis) l.outer *= search[k] + before;
      if (k > axis) l.inner *= search[k] + behind;
    }
    return l;
  }
  Minima<R> minima(size_t axis, R weight, bool pooled) const {
    return {search[axis], search[axis] + (pooled ? 4 : 0), weight, pooled};
  }

  void load_run(const T* cost, int64_t run, R* to) const {
    const int64_t first = run % runs() * kPoints, n = std::min(kPoints, points - first);
    const T* from = cost + run / runs() * displacements * points + first;
    for (int64_t e = 0; e < displacements; ++e)
      for (int64_t i = 0; i < n; ++i) to[e * kPoints + i] = R(from[e * points + i]);
  }
  template <class To>
  void store_run(const R* from, int64_t run, To* cost) const {
    const int64_t first = run % runs() * kPoints, n = std::min(kPoints, points - first);
    To* to = cost + run / runs() * displacements * points + first;
    for (int64_t e = 0; e < displacements; ++e)
      for (int64_t i = 0; i < n; ++i) to[e * points + i] = To(from[e * kPoints + i]);
  }
};

template <class T>
void convolve(const Volume<T>& v, const T* cost, bool pooled, Sum<T> weight, T* result) {
  using R = Sum<T>;
  const int64_t more = pooled ? 4 : 0;
  parallel_runs(v.batch * v.runs(), [&](int64_t begin, int64_t end) {
    Aligned<R> here(v.room(more)), there(v.room(more));
    for (int64_t run = begin; run < end; ++run) {
      v.load_run(cost, run, here.data());
      for (size_t k = 0; k < v.axes(); ++k, here.swap(there))
        v.minima(k, weight, pooled).run(v.lines(k, more, 0), here.data(), there.data(), nullptr);
      for (size_t k = 0; pooled && k < v.axes(); ++k, here.swap(there))
        averaged(v.lines(k, 0, more), v.search[k], here.data(), there.data());
      v.store_run(here.data(), run, result);
    }
  });
}

// Returns the gradient to the weight.
template <class T>
double differentiate(const Volume<T>& v, const T* grad, const T* cost, bool pooled, Sum<T> weight, Sum<T>* result) {
  using R = Sum<T>;
  const int64_t more = pooled ? 4 : 0;
  std::vector<double> to_weight(v.batch * v.runs());
  parallel_runs(v.batch * v.runs(), [&](int64_t begin, int64_t end) {
    Aligned<R> here(v.room(more)), there(v.room(more));
    std::vector<Aligned<R>> where(v.axes(), Aligned<R>(v.room(more)));
    for (int64_t run = begin; run < end; ++run) {
      v.load_run(cost, run, here.data());
      for (size_t k = 0; k < v.axes(); ++k, here.swap(there))
        v.minima(k, weight, pooled).run(v.lines(k, more, 0), here.data(), there.data(), where[k].data());
      Aligned<R>& g = there;
      std::fill(g.begin(), g.end(), R(0));
      v.load_run(grad, run, g.data());
      for (int64_t i = 0; !pooled && i < v.room(0); ++i)
        if (here[i] == std::numeric_limits<R>::infinity()) g[i] = 0;  // all is forbidden
      g.swap(here);
      for (size_t k = 0; pooled && k < v.axes(); ++k, here.swap(there))
        spread(v.lines(k, more, 0), v.search[k], here.data(), there.data());
      double sums[kPoints] = {};
      for (size_t k = v.axes(); k-- > 0; here.swap(there)) {
        const Minima<R> minima = v.minima(k, weight, pooled);
        if (!pooled) minima.add_to_weight(v.lines(k, 0, 0), here.data(), where[k].data(), sums);
        minima.back(v.lines(k, more, 0), here.data(), where[k].data(), there.data());
      }
      for (const double s : sums) to_weight[run] += s;
      v.store_run(here.data(), run, result);
    }
  });
  double total = 0;
  for (const double t : to_weight) total += t;
  return total;
}

Tensor run(const Tensor& cost_, bool pooled, const Tensor* weight) {
  const Tensor cost = packed(cost_), result = empty_as(cost, shape_of(cost));
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const Sum<T> value = weight ? value_of<Sum<T>>(*weight) : Sum<T>(0);
    convolve(Volume<T>(cost), read<T>(cost), pooled, value, write<T>(result));
  });
  return result;
}

std::tuple<Tensor, Tensor> back(const Tensor& grad_, const Tensor& cost_, bool pooled, const Tensor* weight) {
  const Tensor grad = packed(grad_), cost = packed(cost_);
  Tensor to_cost, to_weight;
  for_floating(cost.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const R value = weight ? value_of<R>(*weight) : R(0);
    to_cost = torch::stable::new_empty(cost, shape_of(cost), dtype_of<R>);
    to_weight = torch::stable::new_empty(cost, std::vector<int64_t>{}, dtype_of<R>);
    *write<R>(to_weight) =
        R(differentiate(Volume<T>(cost), read<T>(grad), read<T>(cost), pooled, value, write<R>(to_cost)));
  });
  return {to_cost, to_weight};
}

Tensor min_convolution(const Tensor& cost, const Tensor& weight) { return run(cost, false, &weight); }
Tensor pooled_min_convolution(const Tensor& cost) { return run(cost, true, nullptr); }
std::tuple<Tensor, Tensor> min_convolution_backward(const Tensor& grad, const Tensor& cost, const Tensor& weight) {
  return back(grad, cost, false, &weight);
}
Tensor pooled_min_convolution_backward(const Tensor& grad, const Tensor& cost) {
  return std::get<0>(back(grad, cost, true, nullptr));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("min_convolution", TORCH_BOX(&min_convolution));
  m.impl("min_convolution_backward", TORCH_BOX(&min_convolution_backward));
  m.impl("pooled_min_convolution", TORCH_BOX(&pooled_min_convolution));
  m.impl("pooled_min_convolution_backward", TORCH_BOX(&pooled_min_convolution_backward));
}

}  // namespace l2rfast
