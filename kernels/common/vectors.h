// Vectors as wide as the processor's registers.
#pragma once

#include <algorithm>
#include <type_traits>

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

}  // namespace l2rfast
