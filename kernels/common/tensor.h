// What every cpu.cpp needs of PyTorch: tensors, dtype dispatch and threads, on the stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

namespace l2rfast {

using torch::stable::Tensor;
using Dtype = torch::headeronly::ScalarType;
using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;

// The type in which values of T are added up.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline Tensor empty_as(const Tensor& like, std::vector<int64_t> shape) { return torch::stable::new_empty(like, shape); }

// The dtype of a C++ floating type.
template <class A>
constexpr Dtype dtype_of = std::is_same_v<A, double> ? Dtype::Double : Dtype::Float;

inline std::vector<int64_t> shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

inline Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

template <class T>
const T* read(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* write(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Calls f with a value of the C++ type that a dtype names: f(float{}), f(double{}).
template <class F>
auto for_real(Dtype dtype, F&& f) {
  STD_TORCH_CHECK(dtype == Dtype::Float || dtype == Dtype::Double, "expected float32 or float64");
  return dtype == Dtype::Double ? f(double{}) : f(float{});
}

// The same with the 16-bit types.
template <class F>
auto for_floating(Dtype dtype, F&& f) {
  if (dtype == Dtype::Half) return f(Half{});
  if (dtype == Dtype::BFloat16) return f(BFloat16{});
  return for_real(dtype, f);
}

// Calls f with an integer type of that many bytes.
template <class F>
void for_width(size_t bytes, const F& f) {
  if (bytes == 1) return f(int8_t{});
  if (bytes == 2) return f(int16_t{});
  if (bytes == 4) return f(int32_t{});
  return f(int64_t{});
}

// A number in any floating dtype.
template <class R>
R value_of(const Tensor& t) {
  R value = 0;
  for_floating(t.scalar_type(), [&](auto type) { value = R(*read<decltype(type)>(t)); });
  return value;
}

// Sizes of the last `ndim` axes, as (D, H, W): a 2-D image is a 3-D one with a single plane and not deep.
struct Grid {
  int64_t d = 1, h = 1, w = 1;
  bool deep = false;
  int64_t numel() const { return d * h * w; }
  int64_t rows() const { return d * h; }

  static Grid of(const std::vector<int64_t>& size) {
    const size_t n = size.size();
    return {n == 3 ? size[0] : 1, size[n - 2], size[n - 1], n == 3};
  }
};

inline Grid grid_of(const Tensor& t, int64_t ndim) {
  const auto n = t.dim();
  return {ndim == 3 ? t.size(n - 3) : 1, t.size(n - 2), t.size(n - 1), ndim == 3};
}

// The spatial size of an image (N, C, *spatial) with one to three axes; those absent have one voxel.
inline Grid grid_of_all(const Tensor& t) {
  const int64_t n = t.dim();
  return {n == 5 ? t.size(2) : 1, n >= 4 ? t.size(n - 2) : 1, t.size(n - 1), n == 5};
}

// f(begin, end) for pieces of [0, n), `some` at a time, that PyTorch's threads take from a common counter: a thread
// that another process keeps from its core leaves what it has not begun to the others. Work items must not depend on
// how they are split: that is what makes results the same bits for any number of threads.
template <class F>
void parallel_pieces(int64_t n, int64_t some, const F& f) {
  const int64_t pieces = (n + some - 1) / some;
  std::atomic<int64_t> taken{0};
  torch::stable::parallel_for(0, std::min<int64_t>(pieces, torch::stable::get_num_threads()), 1, [&](auto...) {
    for (int64_t i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < pieces;)
      f(i * some, std::min((i + 1) * some, n));
  });
}

// As many items as make `each` pieces for a thread.
inline int64_t piece_of(int64_t n, int64_t each) {
  return std::max<int64_t>(1, n / (each * int64_t(torch::stable::get_num_threads())));
}

// f(i) for every i below n.
template <class F>
void parallel_each(int64_t n, const F& f) {
  parallel_pieces(n, piece_of(n, 32), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}

// The same for items of which a thread wants a run at a time, to keep its buffers: f(begin, end).
template <class F>
void parallel_runs(int64_t n, const F& f) {
  parallel_pieces(n, piece_of(n, 16), f);
}

// The same for single values, of which a thread wants thousands: f(begin, end).
template <class F>
void parallel_parts(int64_t n, const F& f) {
  parallel_pieces(n, std::max<int64_t>(1 << 15, piece_of(n, 16)), f);
}

// The same for items of which each run costs something of its own: f(begin, end) once for a thread.
template <class F>
void parallel_shares(int64_t n, const F& f) {
  torch::stable::parallel_for(0, n, 1, f);
}

}  // namespace l2rfast
