// Joint histograms with Parzen windows, and the gradients to the images, on the CPU.
//
// Floor: the images are read once, the gradients written once. A voxel is spread over wa x wb bins, each a product and
// a sum: 7 x 7 for Gaussians of half a bin in float32, 4 x 4 for cubic windows. Windows are found for a block of
// voxels, a voxel in every lane, for two exponentials each; then those of b are laid side by side, so that voxel by
// voxel a row of the histogram, or of its gradient, is one vector.
//
// The next voxel mostly adds to the same rows. A sum that is still on its way to memory can be read at once only by a
// load of the same place and width, so rows are stored as pieces that overlap, one every few bins: every window lies in
// whole vectors of one piece.

#include <bit>

#include "common/parzen.h"
#include "common/tensor.h"
#include "common/text.h"

namespace l2rfast {
namespace {

constexpr int64_t kFlush = 8;        // blocks added up in the images' dtype: rounding of 512 sums stays below 1e-5
constexpr int64_t kChunk = 1 << 15;  // the fewest voxels of a work item,
constexpr int64_t kMostChunks = 64;  // and the most work items of an image

// Rows and columns of eight times eight numbers exchanged.
template <class A>
L2RFAST_INLINE void transpose(Lane<A> (&m)[kLane]) {
  const auto exchange = [&]<int by, int... i>(std::integral_constant<int, by>, std::integer_sequence<int, i...>) {
    for (int j = 0; j < kLane; ++j) {
      if (j & by) continue;
      const Lane<A> x = m[j], y = m[j + by];
      m[j] = __builtin_shufflevector(x, y, (i & by ? i - by + kLane : i)...);
      m[j + by] = __builtin_shufflevector(x, y, (i & by ? i + kLane : i + by)...);
    }
  };
  constexpr auto all = std::make_integer_sequence<int, kLane>{};
  exchange(std::integral_constant<int, 4>{}, all);
  exchange(std::integral_constant<int, 2>{}, all);
  exchange(std::integral_constant<int, 1>{}, all);
}

// The windows of voxels laid side by side, each so many bins on as its anchor lies behind the start of a piece.
template <class A>
struct Rows {
  int64_t lanes, stride;
  Aligned<A> values;

  explicit Rows(const Parzen<A>& w) : lanes(w.lanes()), stride(lanes + kLane), values(kBlock * stride) {}

  void lay(const Aligned<A>& of, const Spread<A>& s, int32_t piece) {
    for (int64_t v = 0; v < kBlock; ++v) lane(&values[v * stride]) = Lane<A>{};
    for (int64_t v = 0; v < kBlock; v += kLane)
      for (int64_t c = 0; c < lanes; c += kLane) {
        Lane<A> m[kLane];
        for (int i = 0; i < kLane; ++i) m[i] = lane(&of[(c + i) * kBlock + v]);
        transpose<A>(m);
        for (int i = 0; i < kLane; ++i) lane(&values[(v + i) * stride + (s.anchor[v + i] & (piece - 1)) + c]) = m[i];
      }
  }
  const A* of(int64_t v) const { return &values[v * stride]; }
};

// Calls f with the width of the windows of a and the vectors of those of b.
template <class A, class F>
void for_sizes(const Parzen<A>& a, const Parzen<A>& b, const F& f) {
  a.for_width([&](auto width) { b.for_vectors([&](auto vectors) { f(width, vectors); }); });
}

// The sums of a chunk of voxels.
template <class A>
class Sums {
 public:
  Sums(const Parzen<A>& a, const Parzen<A>& b)
      : a_(a),
        b_(b),
        of_a_(a),
        of_b_(b),
        rows_(b),
        shift_(int(std::bit_width(uint64_t(rows_.lanes - b.width + 1))) - 1),
        row_((((b.bins - 1) >> shift_) + 1) * rows_.lanes),
        block_(a.rows() * row_),
        chunk_(block_.size()) {}

  // Of `n` voxels -> (bins, bins).
  void take(const A* a, const A* b, const A* weight, int64_t n, double* out) {
    for (int64_t first = 0; first < n; first += kBlock) {
      const int64_t voxels = std::min(kBlock, n - first);
      of_a_.find(a_, a + first, voxels, false);
      of_b_.find(b_, b + first, voxels, false);
      if (weight)
        for (int64_t k = 0; k < a_.width; ++k)
          for (int64_t v = 0; v < voxels; ++v) of_a_.p[k * kBlock + v] *= weight[first + v];
      rows_.lay(of_b_.p, of_b_, 1 << shift_);
      for_sizes(a_, b_, [&](auto width, auto vectors) { add(voxels, width, vectors); });
      if (first / kBlock % kFlush == kFlush - 1 || first + kBlock >= n) flush();
    }
    for (int64_t i = 0; i < a_.bins; ++i)
      for (int64_t at = 0; at < row_; ++at) {
        const int64_t j = (at / rows_.lanes << shift_) + at % rows_.lanes - b_.lead;
        if (j >= 0 && j < b_.bins) out[i * b_.bins + j] += chunk_[(i + a_.lead) * row_ + at];
      }
    std::fill(chunk_.begin(), chunk_.end(), 0.0);
  }

 private:
  void add(int64_t voxels, auto width, auto vectors) {
    A* const sums = block_.data();
    const A* weights = of_a_.p.data();
    const int64_t row = row_, lanes = rows_.lanes;
    const int shift = shift_;
    for (int64_t v = 0; v < voxels; ++v, ++weights) {
      A* to = sums + of_a_.anchor[v] * row + (of_b_.anchor[v] >> shift) * lanes;
      const A* from = rows_.of(v);
      for (int64_t k = 0; k < width; ++k, to += row)
        for (int64_t c = 0; c < vectors; ++c) lane(to + c * kLane) += weights[k * kBlock] * lane(from + c * kLane);
    }
  }

  void flush() {
    for (size_t i = 0; i < block_.size(); ++i) chunk_[i] += double(block_[i]), block_[i] = 0;
  }

  const Parzen<A>&a_, &b_;
  Spread<A> of_a_, of_b_;
  Rows<A> rows_;
  int shift_;         // 2^shift bins from one piece to the next
  int64_t row_;       // numbers of a row: of all its pieces
  Aligned<A> block_;  // (rows of a, row_): of the voxels since the last flush
  Aligned<double> chunk_;
};

template <class A>
Tensor histogram(const Tensor& a, const Tensor& b, const std::optional<Tensor>& weight, const Parzen<A>& of_a,
                 const Parzen<A>& of_b) {
  const int64_t items = a.size(0), voxels = a.numel() / items, cells = of_a.bins * of_b.bins;
  const int64_t length = std::max(kChunk, (voxels + kMostChunks - 1) / kMostChunks);
  const int64_t chunks = (voxels + length - 1) / length;
  std::vector<double> partial(items * chunks * cells);
  parallel_runs(items * chunks, [&](int64_t begin, int64_t end) {
    Sums<A> sums(of_a, of_b);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t start = i % chunks * length, at = i / chunks * voxels + start;
      sums.take(read<A>(a) + at, read<A>(b) + at, weight ? read<A>(*weight) + at : nullptr,
                std::min(length, voxels - start), &partial[i * cells]);
    }
  });
  const Tensor result = torch::stable::new_empty(a, {items, of_a.bins, of_b.bins}, Dtype::Double);
  double* to = write<double>(result);
  std::fill_n(to, items * cells, 0.0);
  for (int64_t i = 0; i < items * chunks; ++i)
    for (int64_t c = 0; c < cells; ++c) to[i / chunks * cells + c] += partial[i * cells + c];
  return result;
}

// The gradient to the histogram of an item in the images' dtype, zeros around it for the bins that do not exist.
template <class A>
struct Grad {
  int64_t row, item;
  std::vector<A> values;

  Grad(const Tensor& grad, const Parzen<A>& a, const Parzen<A>& b)
      : row(b.bins + b.lanes()), item(a.rows() * row), values(grad.size(0) * item) {
    for (int64_t n = 0; n < grad.size(0); ++n)
      for (int64_t i = 0; i < a.bins; ++i) {
        const double* from = read<double>(grad) + (n * a.bins + i) * b.bins;
        std::copy_n(from, b.bins, &values[n * item + (i + a.lead) * row + b.lead]);
      }
  }
};

// The gradients to a block of voxels: of a the sum over bins i and j of G_ij p_i'(a) q_j(b), and of b likewise.
template <class A>
class Back {
 public:
  Back(const Parzen<A>& a, const Parzen<A>& b) : a_(a), b_(b), of_a_(a), of_b_(b), rows_(b), slopes_(b) {}

  // Grad: the first row of the item's. Null for a gradient that is not asked for.
  void take(const A* a, const A* b, const A* weight, int64_t n, const A* grad, int64_t row, A* to_a, A* to_b) {
    of_a_.find(a_, a, n, to_a != nullptr);
    of_b_.find(b_, b, n, to_b != nullptr);
    if (to_a) rows_.lay(of_b_.p, of_b_, 1);
    if (to_b) slopes_.lay(of_b_.slope, of_b_, 1);
    for_sizes(a_, b_, [&](auto width, auto vectors) {
      if (to_a) gather(of_a_.slope, rows_, n, grad, row, to_a, width, vectors);
      if (to_b) gather(of_a_.p, slopes_, n, grad, row, to_b, width, vectors);
    });
    for (A* to : {to_a, to_b})
      if (to && weight)
        for (int64_t v = 0; v < n; ++v) to[v] *= weight[v];
  }

 private:
  void gather(const Aligned<A>& of_a, const Rows<A>& of_b, int64_t n, const A* grad, int64_t row, A* to, auto width,
              auto vectors) {
    A sums[kBlock];
    for (int64_t first = 0; first < kBlock; first += kLane) {
      Lane<A> totals[kLane] = {};
      for (int i = 0; i < kLane; ++i) {
        const int64_t v = first + i;
        const A* from = grad + of_a_.anchor[v] * row + of_b_.anchor[v];
        for (int64_t c = 0; c < vectors; ++c) {
          Lane<A> sum = {};
          for (int64_t k = 0; k < width; ++k) sum += of_a[k * kBlock + v] * lane(from + k * row + c * kLane);
          totals[i] += sum * lane(of_b.of(v) + c * kLane);
        }
      }
      transpose<A>(totals);
      lane(sums + first) =
          ((totals[0] + totals[4]) + (totals[2] + totals[6])) + ((totals[1] + totals[5]) + (totals[3] + totals[7]));
    }
    std::copy_n(sums, n, to);
  }

  const Parzen<A>&a_, &b_;
  Spread<A> of_a_, of_b_;
  Rows<A> rows_, slopes_;
};

template <class A>
std::tuple<Tensor, Tensor> gradients(const Tensor& grad, const Tensor& a, const Tensor& b,
                                     const std::optional<Tensor>& weight, const Parzen<A>& of_a, const Parzen<A>& of_b,
                                     bool to_a, bool to_b) {
  const int64_t voxels = a.numel() / a.size(0), blocks = (voxels + kBlock - 1) / kBlock;
  const Tensor result_a = empty_as(a, to_a ? shape_of(a) : std::vector<int64_t>{0});
  const Tensor result_b = empty_as(b, to_b ? shape_of(b) : std::vector<int64_t>{0});
  const Grad<A> given(grad, of_a, of_b);
  parallel_runs(a.size(0) * blocks, [&](int64_t begin, int64_t end) {
    Back<A> back(of_a, of_b);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t start = i % blocks * kBlock, at = i / blocks * voxels + start;
      back.take(read<A>(a) + at, read<A>(b) + at, weight ? read<A>(*weight) + at : nullptr,
                std::min(kBlock, voxels - start), &given.values[i / blocks * given.item], given.row,
                to_a ? write<A>(result_a) + at : nullptr, to_b ? write<A>(result_b) + at : nullptr);
    }
  });
  return {result_a, result_b};
}

std::optional<Tensor> packed_if_any(const std::optional<Tensor>& t) {
  return t ? std::optional<Tensor>(packed(*t)) : std::nullopt;
}

Tensor joint_histogram(const Tensor& a, const Tensor& b, std::optional<Tensor> weight, int64_t bins, Text window_a,
                       Text window_b, double sigma) {
  return for_real(a.scalar_type(), [&](auto type) {
    using A = decltype(type);
    return histogram<A>(packed(a), packed(b), packed_if_any(weight), {window_a, bins, sigma}, {window_b, bins, sigma});
  });
}

std::tuple<Tensor, Tensor> joint_histogram_backward(const Tensor& grad, const Tensor& a, const Tensor& b,
                                                    std::optional<Tensor> weight, int64_t bins, Text window_a,
                                                    Text window_b, double sigma, bool to_a, bool to_b) {
  return for_real(a.scalar_type(), [&](auto type) {
    using A = decltype(type);
    return gradients<A>(packed(grad), packed(a), packed(b), packed_if_any(weight), {window_a, bins, sigma},
                        {window_b, bins, sigma}, to_a, to_b);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("joint_histogram", TORCH_BOX(&joint_histogram));
  m.impl("joint_histogram_backward", TORCH_BOX(&joint_histogram_backward));
}

}  // namespace l2rfast
