// Repeated averages along the first axis of a volume, the planes of which come one after the other.
#pragma once

#include "common/box.h"
#include "common/rows.h"
#include "common/tensor.h"
#include "common/vectors.h"

namespace l2rfast {

// Each pass keeps the few planes that the next one needs: what stays in the cache is a ring of planes for a pass. A
// plane is made of the same sums wherever a march begins.
template <class T>
class March {
 public:
  // Of `size` planes of `plane` numbers each.
  March(int64_t size, int64_t plane, int64_t radius, int64_t passes, Outside outside, bool adjoint)
      : size_(size),
        plane_(plane),
        radius_(radius),
        passes_(passes),
        outside_(outside),
        adjoint_(adjoint && outside != Outside::zero),
        ring_(ring(radius, passes, outside, adjoint_)),
        next_(passes),
        kept_(passes * ring_ * plane) {}

  // Planes that a pass keeps.
  static int64_t ring(int64_t radius, int64_t passes, Outside outside, bool adjoint) {
    return 2 * radius + 1 + (adjoint && outside == Outside::extended ? radius * passes : 0);
  }

  // Averages of planes [begin, end): make(z, to) fills plane z of what is averaged, z rising, and result(z) is where
  // the average goes.
  template <class Make, class Result>
  void operator()(int64_t begin, int64_t end, const Make& make, const Result& result) {
    for (int64_t pass = 0; pass < passes_; ++pass)
      next_[pass] = std::max(first(pass), begin == 0 ? first(pass) : begin - radius_ * (passes_ - pass));
    for (int64_t z = begin; z < end; ++z) average(passes_, z, make, result(z));
  }

 private:
  // The planes there are after a pass. With the border repeated before all passes, there are those that come of it;
  // and in the adjoint those that have to go back to it.
  int64_t beyond(int64_t pass) const {
    if (outside_ != Outside::extended) return 0;
    return radius_ * (!adjoint_ ? passes_ - pass : pass < passes_ ? pass : 0);
  }
  int64_t first(int64_t pass) const { return -beyond(pass); }
  int64_t last(int64_t pass) const { return size_ - 1 + beyond(pass); }

  T* slot(int64_t pass, int64_t z) { return kept_.data() + (pass * ring_ + (z + radius_ * passes_) % ring_) * plane_; }

  template <class Make>
  void average(int64_t pass, int64_t z, const Make& make, T* to) {
    if (pass == 0) return make(std::clamp<int64_t>(z, 0, size_ - 1), to);
    const int64_t before = pass - 1;
    // In the adjoint, the averages that lie beyond an end belong to it.
    const int64_t fold = !adjoint_                       ? 0
                         : outside_ != Outside::extended ? radius_
                         : pass == passes_               ? radius_ * passes_
                                                         : 0;
    const int64_t low = z == 0 ? -fold : z, high = z == size_ - 1 ? z + fold : z;
    for (int64_t& next = next_[before]; next <= std::min(high + radius_, last(before)); ++next)
      average(before, next, make, slot(before, next));
    terms_.clear();
    const bool clamped = outside_ == Outside::border && !adjoint_;
    for (int64_t v = low; v <= high; ++v)
      for (int64_t i = v - radius_; i <= v + radius_; ++i)
        if (clamped)
          terms_.push_back(slot(before, std::clamp(i, first(before), last(before))));
        else if (i >= first(before) && i <= last(before))
          terms_.push_back(slot(before, i));
    add_up(to);
  }

  void add_up(T* to) const {
    const T scale = T(1) / T(2 * radius_ + 1);
    const int64_t count = terms_.size();
    if (count == 3) return add<3>(terms_.data(), 0, plane_, false, scale, to);
    constexpr int64_t run = 512;  // the sums of a run stay in the first-level cache
    for (int64_t start = 0; start < plane_; start += run) {
      const int64_t n = std::min(run, plane_ - start);
      int64_t k = 0;
      for (; k + 4 < count; k += 4) add<4>(&terms_[k], start, n, k > 0, T(1), to + start);
      for (; k < count; ++k) add<1>(&terms_[k], start, n, k > 0, k + 1 < count ? T(1) : scale, to + start);
    }
  }

  // to = scale * (the sum of terms, and of what it holds where there is `more`), n numbers from `start` on.
  template <int together>
  static void add(const T* const* terms, int64_t start, int64_t n, bool more, T scale, T* __restrict to) {
    const T* term[together];
    for (int k = 0; k < together; ++k) term[k] = terms[k] + start;
    const auto sum = [&](int64_t i) L2RFAST_LAMBDA {
      T total = term[0][i];
      for (int k = 1; k < together; ++k) total += term[k][i];
      return total;
    };
    if (more)
      for (int64_t i = 0; i < n; ++i) to[i] = scale * (to[i] + sum(i));
    else
      for (int64_t i = 0; i < n; ++i) to[i] = scale * sum(i);
  }

  int64_t size_, plane_, radius_, passes_;
  Outside outside_;
  bool adjoint_;
  int64_t ring_;
  std::vector<int64_t> next_;  // the plane that a pass makes next
  std::vector<const T*> terms_;
  Aligned<T> kept_;
};

}  // namespace l2rfast
