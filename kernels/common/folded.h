// Rows in pieces that lie side by side: a vector holds the same place of every piece, so that its neighbours along the
// row are whole vectors as well, and sums along the row run as they do along the other axes.
#pragma once

#include <algorithm>

#include "common/vectors.h"

namespace l2rfast {

constexpr int kPieces = 8;

// Calls f(x) for the vectors of a row of n numbers, n a multiple of kPieces.
template <class F>
L2RFAST_INLINE void each_of(int64_t n, const F& f) {
#pragma GCC unroll 2
  for (int64_t x = 0; x < n; x += kPieces)
    for (int piece = 0; piece < kPieces; piece += kLanes<double>) f(x + piece);
}

// A row of `size` voxels, folded: voxel x at place x % length of piece x / length.
class Folded {
 public:
  explicit Folded(int64_t size) : length_((size + kPieces - 1) / kPieces) {}

  int64_t length() const { return length_; }
  // Numbers of a row, folded or not; those beyond the image are 0.
  int64_t pitch() const { return kPieces * length_; }

  template <class R>
  void fold(const R* from, R* to) const {
    each_four(
        [&](int64_t i) {
          Eight<R> v[4];
          for (int k = 0; k < 4; ++k) v[k] = joined(four(from + k * length_ + i), four(from + (k + 4) * length_ + i));
          transpose(v);
          for (int k = 0; k < 4; ++k) eight(to + (i + k) * kPieces) = v[k];
        },
        [&](int64_t i, int64_t piece) { to[i * kPieces + piece] = from[piece * length_ + i]; });
  }

  template <class R>
  void unfold(const R* from, R* to) const {
    each_four(
        [&](int64_t i) {
          Eight<R> v[4];
          for (int k = 0; k < 4; ++k) v[k] = eight(from + (i + k) * kPieces);
          transpose(v);
          for (int k = 0; k < 4; ++k) {
            four(to + k * length_ + i) = __builtin_shufflevector(v[k], v[k], 0, 1, 2, 3);
            four(to + (k + 4) * length_ + i) = __builtin_shufflevector(v[k], v[k], 4, 5, 6, 7);
          }
        },
        [&](int64_t i, int64_t piece) { to[piece * length_ + i] = from[i * kPieces + piece]; });
  }

  // Continues a folded row by `places` on both sides, as the pieces there go on: with zeros beyond the ends.
  void extend(double* row, int64_t places) const {
    for (int64_t i = 1; i <= places; ++i) {
      const int64_t before = (i + length_ - 1) / length_, after = 1 + (i - 1) / length_;  // pieces away
      moved(row + (before * length_ - i) * kPieces, -before, row - i * kPieces);
      moved(row + (length_ + i - 1 - after * length_) * kPieces, after, row + (length_ + i - 1) * kPieces);
    }
  }

 private:
  template <class R, int n>
  struct Some {
    typedef R type __attribute__((vector_size(n * sizeof(R)), aligned(alignof(R)), may_alias));
  };
  template <class R>
  using Four = typename Some<R, 4>::type;
  template <class R>
  using Eight = typename Some<R, 8>::type;

  template <class R>
  static L2RFAST_INLINE Four<R>& four(R* p) {
    return *reinterpret_cast<Four<R>*>(p);
  }
  template <class R>
  static L2RFAST_INLINE const Four<R>& four(const R* p) {
    return *reinterpret_cast<const Four<R>*>(p);
  }
  template <class R>
  static L2RFAST_INLINE Eight<R>& eight(R* p) {
    return *reinterpret_cast<Eight<R>*>(p);
  }
  template <class R>
  static L2RFAST_INLINE const Eight<R>& eight(const R* p) {
    return *reinterpret_cast<const Eight<R>*>(p);
  }
  template <class V>
  static L2RFAST_INLINE auto joined(V low, V high) {
    return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
  }

  // The first four lanes of four vectors, and the last four.
  template <class V>
  static L2RFAST_INLINE void transpose(V (&v)[4]) {
    const V a = __builtin_shufflevector(v[0], v[1], 0, 8, 1, 9, 4, 12, 5, 13);
    const V b = __builtin_shufflevector(v[0], v[1], 2, 10, 3, 11, 6, 14, 7, 15);
    const V c = __builtin_shufflevector(v[2], v[3], 0, 8, 1, 9, 4, 12, 5, 13);
    const V d = __builtin_shufflevector(v[2], v[3], 2, 10, 3, 11, 6, 14, 7, 15);
    v[0] = __builtin_shufflevector(a, c, 0, 1, 8, 9, 4, 5, 12, 13);
    v[1] = __builtin_shufflevector(a, c, 2, 3, 10, 11, 6, 7, 14, 15);
    v[2] = __builtin_shufflevector(b, d, 0, 1, 8, 9, 4, 5, 12, 13);
    v[3] = __builtin_shufflevector(b, d, 2, 3, 10, 11, 6, 7, 14, 15);
  }

  // Calls fours(i) for four places at a time, or one(i, piece) where there are fewer.
  template <class Fours, class One>
  L2RFAST_INLINE void each_four(const Fours& fours, const One& one) const {
    if (length_ < 4) {
      for (int64_t piece = 0; piece < kPieces; ++piece)
        for (int64_t i = 0; i < length_; ++i) one(i, piece);
    } else {
      for (int64_t i = 0; i < length_; i += 4) fours(std::min(i, length_ - 4));
    }
  }

  // A place's vector where every piece is the one `by` further: those that there are, else zeros.
  static L2RFAST_INLINE void moved(const double* from, int64_t by, double* to) {
    static constexpr double lanes[kPieces] = {0, 1, 2, 3, 4, 5, 6, 7};
    each_of(kPieces, [&](int64_t piece) {
      const Vector<double> zero = {}, source = load(lanes + piece) + double(by);
      const auto inside = (source >= 0) & (source < kPieces);
      store(to + piece, inside ? load(from + piece + by) : zero);
    });
  }

  int64_t length_;
};

}  // namespace l2rfast
