// Sum of squared differences to a warped image and its gradient to the field, on the CPU.
//
// Floor: both features and the field are read once, the gradient is written once; per voxel and channel 8
// loads and some 30 operations. The warped image is never stored. Features are used channel by channel in
// runs of 16 beside each other in memory (channels last), so that the 8 neighbours are 8 vector loads, and
// the four sums over channels are taken of vectors. Features in another layout are rearranged first: in a
// loop, pass them in channels-last layout with a multiple of 16 channels.

#include "common/interpolation.h"
#include "common/memory.h"

namespace l2rfast {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kAhead = 16;  // voxels between a prefetch and its use

// A (N, C, *spatial) tensor as (N, voxels, channels), channels padded with zeros to whole vectors.
template <class T>
class ChannelsLast {
 public:
  explicit ChannelsLast(const Tensor& t, int64_t ndim) : channels_((t.size(1) + kLanes - 1) / kLanes * kLanes) {
    int64_t dense = t.size(1);
    bool last = t.size(1) == channels_ && t.stride(1) == 1;
    for (int64_t k = t.dim() - 1; k >= 2; --k) {
      last = last && (t.size(k) == 1 || t.stride(k) == dense);
      dense *= t.size(k);
    }
    voxels_ = dense / t.size(1);
    if (last && (t.size(0) == 1 || t.stride(0) == dense)) {
      data_ = read<T>(t);
      return;
    }
    const Tensor source = packed(t);
    const T* from = read<T>(source);
    const int64_t channels = t.size(1);
    own_.assign(t.size(0) * voxels_ * channels_, T(0));
    parallel_runs(t.size(0) * voxels_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t c = 0; c < channels; ++c)
          own_[i * channels_ + c] = from[(i / voxels_ * channels + c) * voxels_ + i % voxels_];
    });
    data_ = own_.data();
  }

  const T* item(int64_t n) const { return data_ + n * voxels_ * channels_; }
  int64_t channels() const { return channels_; }

 private:
  int64_t channels_, voxels_;
  const T* data_;
  std::vector<T> own_;
};

template <class T>
struct Lanes {
  typedef T Vector __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
  static L2RFAST_INLINE Vector load(const T* p) { return *reinterpret_cast<const Vector*>(p); }
  static L2RFAST_INLINE T sum(Vector v) {
    const auto h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
    return (q[0] + q[2]) + (q[1] + q[3]);
  }
};

// Value and gradient by position, of one vector of channels, interpolated axis by axis from the last to the
// first.
template <int ndim, class T>
struct Sample {
  using Vector = typename Lanes<T>::Vector;
  Vector value, slope[ndim];

  template <class A>
  static L2RFAST_INLINE Sample at(const T* v, const int64_t* step, const A* w0, const A* w1) {
    if constexpr (ndim == 1) {
      const Vector low = Lanes<T>::load(v), high = Lanes<T>::load(v + step[0]);
      return {w0[0] * low + w1[0] * high, {high - low}};
    } else {
      using Lower = Sample<ndim - 1, T>;
      const Lower low = Lower::at(v, step + 1, w0 + 1, w1 + 1);
      const Lower high = Lower::at(v + step[0], step + 1, w0 + 1, w1 + 1);
      Sample s;
      s.value = w0[0] * low.value + w1[0] * high.value;
      s.slope[0] = high.value - low.value;
      for (int k = 1; k < ndim; ++k) s.slope[k] = w0[0] * low.slope[k - 1] + w1[0] * high.slope[k - 1];
      return s;
    }
  }
};

template <int ndim, class T>
void warp_ssd_item(const T* fixed, const T* moving, int64_t channels, const Tensor& shape, const T* disp, Grid out,
                   T* gradient, T* loss) {
  int64_t size[ndim], step[ndim], stride = channels;
  for (int k = ndim - 1; k >= 0; --k) {
    size[k] = shape.size(2 + k);
    step[k] = size[k] > 1 ? stride : 0;
    stride *= size[k];
  }
  const T scale = T(2) / T(out.numel());
  std::vector<double> partial(out.rows());
  parallel_each(out.rows(), [&](int64_t row) {
    const T start[3] = {T(row / out.h), T(row % out.h), T(0)};
    double total = 0;
    for (int64_t x = 0; x < out.w; ++x) {
      const int64_t i = row * out.w + x;
      T w0[ndim], w1[ndim], d[ndim];
      int64_t base = 0;
      T poison = 0;
      for (int k = 0; k < ndim; ++k) {
        const T position = start[3 - ndim + k] + (k == ndim - 1 ? T(x) : T(0)) + disp[k * out.numel() + i];
        const auto t = linear_taps<Padding::border, int64_t>(position, size[k]);
        base = base * size[k] + t.base;
        w0[k] = t.w0, w1[k] = t.w1, d[k] = t.d1;
        poison += position - position;
        // The hardware does not foresee the next page of the field.
        if (x % (64 / int64_t(sizeof(T))) == 0) __builtin_prefetch(disp + k * out.numel() + i + 512);
      }
      // The next samples of a smooth field lie on along the row; what is new to the cache is the far corner.
      __builtin_prefetch(fixed + (i + kAhead) * channels);
      int64_t far = kAhead * channels;
      for (int k = 0; k < ndim; ++k) far += step[k];
      for (int k = 0; k < ndim - 1; ++k) __builtin_prefetch(moving + base * channels + far - step[k]);
      __builtin_prefetch(moving + base * channels + far);
      typename Lanes<T>::Vector squares = {}, products[ndim] = {};
      for (int64_t c = 0; c < channels; c += kLanes) {
        const auto s = Sample<ndim, T>::at(moving + base * channels + c, step, w0, w1);
        const auto residual = s.value - Lanes<T>::load(fixed + i * channels + c);
        squares += residual * residual;
        for (int k = 0; k < ndim; ++k) products[k] += residual * s.slope[k];
      }
      total += double(Lanes<T>::sum(squares) + poison);
      for (int k = 0; k < ndim; ++k)
        gradient[k * out.numel() + i] = poison == 0 ? scale * d[k] * Lanes<T>::sum(products[k]) : T(0);
    }
    partial[row] = total;
  });
  double total = 0;
  for (const double p : partial) total += p;
  *loss = T(total / double(out.numel()));
}

std::tuple<Tensor, Tensor> warp_ssd(const Tensor& fixed, const Tensor& moving, const Tensor& disp_) {
  const Tensor disp = packed(disp_), gradient = room_as(disp, shape_of(disp));
  const Tensor loss = room_as(disp, {disp.size(0)});
  const int64_t ndim = disp.size(1);
  const Grid out = grid_of(disp, ndim);
  for_real(disp.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const ChannelsLast<T> f(fixed, ndim), m(moving, ndim);
    for (int64_t n = 0; n < disp.size(0); ++n) {
      const int64_t first = n * ndim * out.numel();
      const auto run = ndim == 3 ? warp_ssd_item<3, T> : warp_ssd_item<2, T>;
      run(f.item(n), m.item(n), f.channels(), moving, read<T>(disp) + first, out, write<T>(gradient) + first,
          write<T>(loss) + n);
    }
  });
  return {loss, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) { m.impl("warp_ssd", TORCH_BOX(&warp_ssd)); }

}  // namespace l2rfast
