// Local NCC with a warped image in windows of whole blocks of voxels, and its gradient to displacements of blocks.
//
// Three passes, each over a part of the volume for every thread: the moments of every block, of values sampled once;
// the march of kernels/common/local_ncc.h over blocks; and the gradient, of values sampled again for their derivatives.
//
// Floor: fixed, moving and field are read twice; the moments, 40 bytes a block, are written once and read twice, and
// what gradients sum to, 12 bytes, once each. With blocks of 2^3 voxels the windows are an eighth of the work, and what
// is left is sampling.
#pragma once

#include "common/local_ncc.h"
#include "warp_lncc/sampler.h"

namespace l2rfast {

// A channel in windows of blocks: what the march over any part of it needs.
template <class R>
class WarpedBlocks : public Channel<R> {
 public:
  using Of = Channel<R>;
  using Of::sampler, Of::moving, Of::out, Of::first, Of::fixed, Of::inside, Of::level_a, Of::level_b, Of::scale,
      Of::gradient, Of::sums, Of::add, Of::masked;

  // `sides`: voxels of a block along each axis, 1 along one that the images lack.
  WarpedBlocks(const Channel<R>& channel, const Grid& blocks, const std::array<int64_t, 3>& sides)
      : Channel<R>(channel),
        blocks_(blocks),
        sides_(sides),
        folded_(blocks.w),
        wide_((out.w + kPieces - 1) / kPieces * kPieces),
        moments_(blocks.rows() * count() * folded_.pitch()),
        factors_(blocks.rows() * kFactors * folded_.pitch()) {}

  // Sums the moments of all blocks.
  void enter_all() {
    parallel_runs(blocks_.rows(), [&](int64_t begin, int64_t end) {
      const int64_t beside = sides_[0] * sides_[1];  // rows of voxels in one of blocks
      Aligned<R> a(beside * wide_), b(beside * wide_), mask(beside * wide_);
      Aligned<double> sums(count() * wide_), straight(folded_.pitch());
      for (int64_t i = begin; i < end; ++i) {
        int64_t at = 0;
        each_row(i, [&](int64_t z, int64_t y) {
          read(z, y, a.data() + at, mask.data() + at);
          sampler.values(moving, first + z * out.h + y, b.data() + at);
          if (masked()) inside.select(z, y, b.data() + at);
          at += wide_;
        });
        sum_rows(beside, a.data(), b.data(), mask.data(), sums.data());
        for (int64_t c = 0; c < count(); ++c) {
          along_x(sums.data() + c * wide_, straight.data());
          folded_.fold(straight.data(), moments_.data() + (i * count() + c) * folded_.pitch());
        }
      }
    });
  }

  // After the march: of what it gave, the gradient to the displacements of the blocks.
  void gradients(int64_t ndim) const {
    parallel_runs(blocks_.rows(), [&](int64_t begin, int64_t end) {
      Aligned<R> a(wide_), mask(wide_), straight(wide_), slope(wide_), rows(ndim * wide_), of_blocks(folded_.pitch());
      Aligned<R> of_voxels(kFactors * wide_);
      const R *p = of_voxels.data(), *q = p + wide_, *r = q + wide_;
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t k = 0; k < kFactors; ++k) {
          folded_.unfold(factors_.data() + (i * kFactors + k) * folded_.pitch(), of_blocks.data());
          at_voxels(of_blocks.data(), of_voxels.data() + k * wide_);
        }
        std::fill(rows.begin(), rows.end(), R(0));
        each_row(i, [&](int64_t z, int64_t y) {
          read(z, y, a.data(), mask.data());
          each_of(wide_, [&](int64_t x) {
            const auto own = load_as<double>(a.data() + x) - level_a.mean;
            store_as<double>(straight.data() + x, load_as<double>(p + x) * own + load_as<double>(r + x));
          });
          std::copy_n(q, wide_, slope.data());
          if (masked()) inside.select(z, y, straight.data()), inside.select(z, y, slope.data());
          sampler.backward(moving, first + z * out.h + y, {straight.data(), slope.data(), R(level_b.mean)}, rows.data(),
                           wide_);
        });
        for (int64_t k = 0; k < ndim; ++k) {
          along_x(rows.data() + k * wide_, of_blocks.data());
          R* row = gradient + k * blocks_.numel() + i * blocks_.w;
          for (int64_t x = 0; x < blocks_.w; ++x) row[x] = scale * of_blocks[x] + (add ? row[x] : R(0));
        }
      }
    });
  }

  // What the march asks for.
  int64_t voxels() const { return sides_[0] * sides_[1] * sides_[2]; }
  void enter(int64_t, Range) {}
  const double* moments(int64_t z, int64_t y) const {
    return moments_.data() + (z * blocks_.h + y) * count() * folded_.pitch();
  }
  void mask(int64_t z, int64_t y, R* to) const {
    Aligned<double> voxels(folded_.pitch());
    folded_.unfold(moments(z, y) + 5 * folded_.pitch(), voxels.data());
    for (int64_t x = 0; x < blocks_.w; ++x) to[x] = voxels[x] > 0;
  }
  void values(int64_t z, int64_t y, const R* row) { sums[z * blocks_.h + y] += sum(row, blocks_.w); }
  void factors(int64_t z, int64_t y, const double* row) {
    std::copy_n(row, kFactors * folded_.pitch(), factors_.data() + (z * blocks_.h + y) * kFactors * folded_.pitch());
  }

 private:
  static constexpr int64_t kFactors = 3;

  int64_t count() const { return 5 + masked(); }

  // Calls f(z, y) for the rows of voxels in row i of blocks.
  template <class F>
  void each_row(int64_t i, const F& f) const {
    const int64_t z = i / blocks_.h * sides_[0], y = i % blocks_.h * sides_[1];
    for (int64_t j = 0; j < sides_[0]; ++j)
      for (int64_t k = 0; k < sides_[1]; ++k) f(z + j, y + k);
  }

  // A row of fixed, 0 outside the mask, and of the mask.
  void read(int64_t z, int64_t y, R* a, R* mask) const {
    fixed.read(z, y, a);
    if (masked()) inside.select(z, y, a), inside.read(z, y, mask);
  }

  // The moments of rows, each in a row.
  void sum_rows(int64_t rows, const R* a, const R* b, const R* mask, double* to) const {
    const int64_t n = wide_;
    each_of(n, [&](int64_t x) {
      Vector<double> sums[5] = {};
      for (int64_t at = x; at < rows * n; at += n) {
        const auto va = load_as<double>(a + at), vb = load_as<double>(b + at);
        sums[0] += va, sums[1] += vb, sums[2] += va * va, sums[3] += vb * vb, sums[4] += va * vb;
      }
      for (int c = 0; c < 5; ++c) store(to + c * n + x, sums[c]);
    });
    if (!masked()) return;
    each_of(n, [&](int64_t x) {
      Vector<double> sum = {};
      for (int64_t at = x; at < rows * n; at += n) sum += load_as<double>(mask + at);
      store(to + 5 * n + x, sum);
    });
  }

  // Calls f with the side of blocks along x, the usual one as a constant: the loops over it are then in vectors.
  template <class F>
  void with_side(const F& f) const {
    sides_[2] == 2 ? f(std::integral_constant<int64_t, 2>{}) : f(sides_[2]);
  }

  // A row of blocks, each at all of its voxels.
  void at_voxels(const R* __restrict from, R* __restrict to) const {
    with_side([&](auto side) {
      for (int64_t block = 0, n = blocks_.w; block < n; ++block)
        for (int64_t k = 0; k < side; ++k) to[side * block + k] = from[block];
    });
  }

  // Sums over the voxels of each block of a row.
  template <class T>
  void along_x(const T* __restrict from, T* __restrict to) const {
    with_side([&](auto side) {
      for (int64_t block = 0, n = blocks_.w; block < n; ++block) {
        T total = from[side * block];
        for (int64_t k = 1; k < side; ++k) total += from[side * block + k];
        to[block] = total;
      }
    });
  }

  Grid blocks_;
  std::array<int64_t, 3> sides_;
  Folded folded_;
  int64_t wide_;
  Aligned<double> moments_;
  Aligned<R> factors_;
};

}  // namespace l2rfast
