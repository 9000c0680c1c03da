// Vectors as wide as the processor's registers.
#pragma once

#include <algorithm>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef __AVX__
#include <immintrin.h>
#endif

#include "common/interpolation.h"

namespace l2rfast {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
template <class A>
constexpr int kLanes = std::max(kVectorBytes / int(sizeof(A)), 4);
template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(kLanes<A> * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <class A>
using Vector = typename VectorOf<A>::type;

template <class A>
L2RFAST_INLINE Vector<A> load(const A* p) {
  return *reinterpret_cast<const Vector<A>*>(p);
}

template <class A>
L2RFAST_INLINE void store(A* p, Vector<A> v) {
  *reinterpret_cast<Vector<A>*>(p) = v;
}

// As many numbers of another type as a vector of A has lanes.
template <class T, class A>
struct Beside {
  typedef T type __attribute__((vector_size(kLanes<A> * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class A, class T>
L2RFAST_INLINE Vector<A> load_as(const T* p) {
  // One instruction, where GCC makes five of a conversion to longer vectors.
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<A, double> && std::is_same_v<T, float>) return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(__AVX__)
  if constexpr (std::is_same_v<A, double> && std::is_same_v<T, float>) return _mm256_cvtps_pd(_mm_loadu_ps(p));
#endif
  return __builtin_convertvector(*reinterpret_cast<const typename Beside<T, A>::type*>(p), Vector<A>);
}
template <class A, class T>
L2RFAST_INLINE void store_as(T* p, Vector<A> v) {
  using Narrow = typename Beside<T, A>::type;
  *reinterpret_cast<Narrow*>(p) = __builtin_convertvector(v, Narrow);
}

// The first n of p as A, n lanes at most.
template <class A, class T>
L2RFAST_INLINE Vector<A> load_some(const T* p, int n) {
  if constexpr (std::is_same_v<A, T>)
    if (n >= kLanes<A>) return load(p);
  Vector<A> v = {};
  for (int i = 0; i < std::min(n, kLanes<A>); ++i) v[i] = A(p[i]);
  return v;
}

// Its first n lanes as T.
template <class A, class T>
L2RFAST_INLINE void store_some(T* p, Vector<A> v, int n) {
  if (n >= kLanes<A>) {
    if constexpr (std::is_same_v<A, T>)
      *reinterpret_cast<Vector<A>*>(p) = v;
    else
      for (int i = 0; i < kLanes<A>; ++i) p[i] = T(v[i]);
    return;
  }
  A lanes[kLanes<A>];
  *reinterpret_cast<Vector<A>*>(lanes) = v;
  for (int i = 0; i < n; ++i) p[i] = T(lanes[i]);
}

// Lanes from `by` on of two vectors one after the other.
template <int by, class V>
L2RFAST_INLINE V shifted(V a, V b) {
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, (i + by)...);
  }(std::make_integer_sequence<int, sizeof(V) / sizeof(a[0])>{});
}

// Four numbers, as of one of the things that a vector has one number of in each lane.
template <class A>
struct QuadOf {
  typedef A type __attribute__((vector_size(4 * sizeof(A)), aligned(alignof(A)), may_alias));
};
template <class A>
using Quad = typename QuadOf<A>::type;

// Number c of thing i becomes lane i of to[c].
template <class A>
L2RFAST_INLINE void transpose(const Quad<A> (&of)[kLanes<A>], Vector<A> (&to)[4]) {
  constexpr int n = kLanes<A>;
  // Things four apart lie in one vector: every shuffle then stays within four lanes.
  const auto joined = [&](int i) -> Vector<A> {
    const auto two = [&](int j) { return __builtin_shufflevector(of[j], of[j + 4], 0, 1, 2, 3, 4, 5, 6, 7); };
    if constexpr (n == 4)
      return of[i];
    else if constexpr (n == 8)
      return two(i);
    else
      return __builtin_shufflevector(two(i), two(i + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  };
  [&]<int... i>(std::integer_sequence<int, i...>) L2RFAST_LAMBDA {
    const auto low = [](Vector<A> a, Vector<A> b) L2RFAST_LAMBDA {
      return __builtin_shufflevector(a, b, (i % 2 * n + i / 4 * 4 + i % 4 / 2)...);
    };
    const auto high = [](Vector<A> a, Vector<A> b) L2RFAST_LAMBDA {
      return __builtin_shufflevector(a, b, (i % 2 * n + i / 4 * 4 + i % 4 / 2 + 2)...);
    };
    const auto first = [](Vector<A> a, Vector<A> b)
                           L2RFAST_LAMBDA { return __builtin_shufflevector(a, b, (i % 4 < 2 ? i : n + i - 2)...); };
    const auto second = [](Vector<A> a, Vector<A> b)
                            L2RFAST_LAMBDA { return __builtin_shufflevector(a, b, (i % 4 < 2 ? i + 2 : n + i)...); };
    const Vector<A> a = joined(0), b = joined(1), c = joined(2), d = joined(3);
    const Vector<A> ab = low(a, b), cd = low(c, d), ab2 = high(a, b), cd2 = high(c, d);
    to[0] = first(ab, cd), to[1] = second(ab, cd), to[2] = first(ab2, cd2), to[3] = second(ab2, cd2);
  }(std::make_integer_sequence<int, n>{});
}

// Calls f with an odd number below `end` as a constant.
template <int end, class F>
L2RFAST_INLINE void for_odd(int n, const F& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) {
    ((n == 2 * i + 1 ? f(std::integral_constant<int, 2 * i + 1>{}) : void()), ...);
  }(std::make_integer_sequence<int, end / 2>{});
}

// Memory of whole cache lines: a vector that lies across two takes twice the time.
template <class T>
struct WholeLines {
  using value_type = T;
  static constexpr std::align_val_t line{64};

  WholeLines() = default;
  template <class U>
  WholeLines(const WholeLines<U>&) {}

  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), line)); }
  void deallocate(T* p, size_t) { ::operator delete(p, line); }
  bool operator==(const WholeLines&) const { return true; }
};
template <class T>
using Aligned = std::vector<T, WholeLines<T>>;

}  // namespace l2rfast
