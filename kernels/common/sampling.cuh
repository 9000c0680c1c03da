// Sampling on the GPU: what one thread does for one voxel of the output. Plain functions of host and device, so that
// what is tested without a GPU is what runs on one; common/launch.cuh runs them, common/sampler.cuh calls that.
//
// Floor: image, field and output cross the memory bus once each, so that a linear warp of one float32 channel in 3-D
// takes 4 + 12 + 4 bytes per voxel. A thread finds the taps of its voxel once and goes over the channels with them, and
// over the items where one field serves the whole batch. Neighbouring rows of the image are shared through the L1
// cache by the threads of a block, which cover a compact tile; for the same reason there is no tile in shared memory:
// where a field leads is not known before it is read.
//
// Strides are a kernel's arguments: no input is copied to make it contiguous. Offsets inside one channel are of type
// Index, 32 bits where they fit; those of items and channels have 64.
#pragma once

#include "common/interpolation.h"
#include "common/tensor.h"

namespace l2rfast {

// f(std::integral_constant<int, k>{}) for every axis k.
template <int ndim, int k = 0, class F>
L2RFAST_INLINE void each_axis(const F& f) {
  if constexpr (k < ndim) {
    f(std::integral_constant<int, k>{});
    each_axis<ndim, k + 1>(f);
  }
}

// Loads what no kernel writes, by the read-only path.
template <class T>
L2RFAST_INLINE T fetch(const T* from) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == 2 && !std::is_integral_v<T>) {
    return T(__ldg(reinterpret_cast<const unsigned short*>(from)), T::from_bits());
  } else {
    return __ldg(from);
  }
#else
  return *from;
#endif
}

// What makes interpolate() read that way.
template <class T>
struct ReadOnly {
  T value;

  template <class A>
  L2RFAST_INLINE explicit operator A() const {
    return A(fetch(&value));
  }
};

// A voxel of item `item` of the output.
template <int ndim>
struct Voxel {
  int64_t item;
  int32_t at[ndim];
};

// Strides of a tensor (N, C, *spatial), or of one with its axes elsewhere. A batch of one serves every item.
template <int ndim, class Index>
struct Strides {
  int64_t item, channel;
  Index step[ndim];

  Strides() = default;
  explicit Strides(const Tensor& t, int channel_axis = 1, int spatial_axis = 2)
      : item(t.size(0) > 1 ? t.stride(0) : 0), channel(t.stride(channel_axis)) {
    for (int k = 0; k < ndim; ++k)
      step[k] = t.size(spatial_axis + k) > 1 ? Index(t.stride(spatial_axis + k)) : Index(0);
  }

  L2RFAST_INLINE int64_t of(int64_t n, int64_t c) const { return n * item + c * channel; }
  L2RFAST_INLINE Index of(const int32_t (&at)[ndim]) const {
    Index sum = 0;
    each_axis<ndim>([&](auto k) { sum += at[k] * step[k]; });
    return sum;
  }
};

// A field over the voxels of the output, of any floating dtype that goes with arithmetic in A. The dtype is looked up
// by the thread: one branch that all of them take alike, and a third of the kernels.
template <int ndim, class A, class Index>
struct Field {
  void* data;
  Dtype dtype;
  Strides<ndim, Index> strides;

  Field(const Tensor& t, const Strides<ndim, Index>& of)
      : data(const_cast<void*>(t.const_data_ptr())), dtype(t.scalar_type()), strides(of) {}

  // f(pointer to component 0 at that voxel)
  template <class F>
  L2RFAST_INLINE void with(const Voxel<ndim>& x, const F& f) const {
    const int64_t at = x.item * strides.item + strides.of(x.at);
    if constexpr (std::is_same_v<A, double>) {
      f(static_cast<double*>(data) + at);
    } else if (dtype == Dtype::Half) {
      f(static_cast<Half*>(data) + at);
    } else if (dtype == Dtype::BFloat16) {
      f(static_cast<BFloat16*>(data) + at);
    } else {
      f(static_cast<float*>(data) + at);
    }
  }

  // f(component, its value at that voxel) for as many as there are axes.
  template <class F>
  L2RFAST_INLINE void each(const Voxel<ndim>& x, const F& f) const {
    with(x, [&](const auto* from) { each_axis<ndim>([&](auto k) { f(k, A(fetch(from + k * strides.channel))); }); });
  }

  L2RFAST_INLINE A get(const Voxel<ndim>& x, int64_t component) const {
    A value;
    with(x, [&](const auto* from) { value = A(fetch(from + component * strides.channel)); });
    return value;
  }
};

// Sample positions x + disp(x) of a displacement field (N, ndim, *out).
template <int ndim_, class A, class Index>
struct Displaced {
  static constexpr int ndim = ndim_;
  using Real = A;
  Field<ndim, A, Index> field;

  explicit Displaced(const Tensor& disp) : field(like(disp)) {}

  static Field<ndim, A, Index> like(const Tensor& t) { return {t, Strides<ndim, Index>(t)}; }
  static constexpr int component(int axis) { return axis; }
  L2RFAST_INLINE void positions(const Voxel<ndim>& x, A (&p)[ndim]) const {
    field.each(x, [&](auto k, A u) { p[k] = A(x.at[k]) + u; });
  }
  L2RFAST_INLINE A slope(int) const { return A(1); }
};

// Sample positions of a grid (N, *out, ndim) in [-1, 1], component ndim - 1 - k along axis k of the image.
template <int ndim_, class A, class Index>
struct Normalised {
  static constexpr int ndim = ndim_;
  using Real = A;
  Field<ndim, A, Index> field;
  A scale[ndim], shift;

  Normalised(const Tensor& grid, const Tensor& image, bool align_corners)
      : field(like(grid)), shift(align_corners ? A(0) : A(0.5)) {
    for (int k = 0; k < ndim; ++k) scale[k] = A(image.size(2 + k) - align_corners) / 2;
  }

  static Field<ndim, A, Index> like(const Tensor& t) { return {t, Strides<ndim, Index>(t, ndim + 1, 1)}; }
  static constexpr int component(int axis) { return ndim - 1 - axis; }
  L2RFAST_INLINE void positions(const Voxel<ndim>& x, A (&p)[ndim]) const {
    field.each(x, [&](auto i, A g) {
      constexpr int k = ndim - 1 - i;
      p[k] = (g + 1) * scale[k] - shift;
    });
  }
  L2RFAST_INLINE A slope(int axis) const { return scale[axis]; }
};

// Sample positions of matrices (N, ndim, ndim + 1), in the usual order, times (x, 1).
template <int ndim_, class A>
struct Affine {
  static constexpr int ndim = ndim_;
  using Real = A;
  const A* matrices;
  int64_t item;  // from one to the next

  explicit Affine(const Tensor& t) : matrices(read<A>(t)), item(t.size(0) > 1 ? ndim * (ndim + 1) : 0) {}

  L2RFAST_INLINE void positions(const Voxel<ndim>& x, A (&p)[ndim]) const {
    A place[ndim];
    each_axis<ndim>([&](auto k) { place[k] = A(x.at[k]); });
    transform(x.item, place, p);
  }
  // Of any place of an item.
  L2RFAST_INLINE void transform(int64_t n, const A (&place)[ndim], A (&p)[ndim]) const {
    each_axis<ndim>([&](auto k) {
      const A* row = matrices + n * item + k * (ndim + 1);
      p[k] = fetch(row + ndim);
      each_axis<ndim>([&](auto j) { p[k] += fetch(row + j) * place[j]; });
    });
  }
};

// The taps around a sample, and 0, or NaN where a coordinate is not finite.
template <int ndim, class A, class Index>
struct Around {
  Taps<A, Index> taps[ndim];
  A poison;

  // Of the first of the 2^ndim values in a channel.
  L2RFAST_INLINE Index base(const Index (&step)[ndim]) const {
    Index sum = 0;
    each_axis<ndim>([&](auto k) { sum += taps[k].base * step[k]; });
    return sum;
  }
};

// Adds to the gradient by position what g, that to a sample, gives; the first of the values around it is at v.
template <int ndim, class T, class A, class Index>
L2RFAST_INLINE void add_slopes(A g, const T* v, const Taps<A, Index> (&taps)[ndim], const Index (&step)[ndim],
                               A (&slope)[ndim]) {
  each_axis<ndim>([&](auto k) { slope[k] += g * interpolate<1u << k>(v, taps, step); });
}

// What every kernel that samples knows: where the samples of an image of that size are, how many items share a
// position, and the sizes of the output.
template <class Source, class Index_>
struct Samples {
  static constexpr int ndim = Source::ndim;
  using A = typename Source::Real;
  using Index = Index_;
  Source source;
  Padding padding;
  int32_t size[ndim], out[ndim];
  int64_t items, channels, numel;

  // The padding too is looked up by the thread.
  L2RFAST_INLINE Around<ndim, A, Index> around(const Voxel<ndim>& x) const {
    A p[ndim];
    source.positions(x, p);
    Around<ndim, A, Index> result;
    result.poison = 0;
    for_padding(padding, [&](auto pad) {
      each_axis<ndim>([&](auto k) {
        const auto t = linear_taps<decltype(pad)::value, int32_t>(p[k], size[k]);
        result.taps[k] = {Index(t.base), t.w0, t.w1, t.d0, t.d1};
        result.poison += p[k] - p[k];
      });
    });
    return result;
  }

  // The nearest voxel; returns whether there is one. `finite` says whether the position is.
  L2RFAST_INLINE bool nearest_voxel(const Voxel<ndim>& x, int32_t (&at)[ndim], bool& finite) const {
    A p[ndim];
    source.positions(x, p);
    A poison = 0;
    bool found = true;
    for_padding(padding, [&](auto pad) {
      each_axis<ndim>([&](auto k) {
        at[k] = nearest_tap<decltype(pad)::value, int32_t>(p[k], size[k]);
        found &= at[k] >= 0;
        poison += p[k] - p[k];
      });
    });
    finite = poison == 0;
    return found;
  }

  // f(n, c) for all that is sampled at the position of a voxel; `count` channels in each item.
  template <class F>
  L2RFAST_INLINE void each_channel(const Voxel<ndim>& x, int64_t count, const F& f) const {
    for (int64_t n = x.item; n < x.item + items; ++n)
      for (int64_t c = 0; c < count; ++c) f(n, c);
  }

  // A voxel's place in a channel of the output.
  L2RFAST_INLINE Index first(const Voxel<ndim>& x) const {
    Index sum = 0;
    each_axis<ndim>([&](auto k) { sum = sum * out[k] + x.at[k]; });
    return sum;
  }
};

// Linear samples; `composed` adds the component of the field itself.
//
// resident, here and below: as many blocks at a time on a multiprocessor as leave registers for all that a thread
// holds.
template <class Source, class T, class Index, bool composed>
struct Linear : Samples<Source, Index> {
  using Base = Samples<Source, Index>;
  static constexpr int resident = sizeof(typename Base::A) + sizeof(Index) > 8 ? 2 : composed ? 4 : 5;
  const ReadOnly<T>* image;
  Strides<Base::ndim, Index> strides;
  T* to;

  L2RFAST_INLINE void operator()(const Voxel<Base::ndim>& x) const {
    const auto around = this->around(x);
    const Index base = around.base(strides.step), first = this->first(x);
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      auto value = interpolate<0>(image + strides.of(n, c) + base, around.taps, strides.step) + around.poison;
      if constexpr (composed) value += this->source.field.get(x, c);
      to[(n * this->channels + c) * this->numel + first] = T(value);
    });
  }
};

// One image to sample, of any dtype. The nearest voxel is copied, whatever it means, as so many bytes; `nan` are those
// that stand for NaN.
template <int ndim>
struct Job {
  const void* image;
  void* to;
  Strides<ndim, int64_t> strides;
  int64_t channels;
  uint64_t nan;
  int width;
  Dtype dtype;
  bool nearest;
};

// Several images, or labels, at the same positions.
template <class Source>
struct Jobs : Samples<Source, int64_t> {
  using Base = Samples<Source, int64_t>;
  static constexpr int ndim = Base::ndim;
  static constexpr int resident = 2, most = 8;
  int count;
  bool any_nearest, any_linear;
  Job<ndim> jobs[most];

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    const int64_t first = this->first(x);
    if (any_nearest) {
      int32_t at[ndim];
      bool finite;
      const bool found = this->nearest_voxel(x, at, finite);
      for (int i = 0; i < count; ++i) {
        const Job<ndim>& job = jobs[i];
        if (!job.nearest) continue;
        if (job.width == 1) copy<uint8_t>(x, job, at, found, finite, first);
        if (job.width == 2) copy<uint16_t>(x, job, at, found, finite, first);
        if (job.width == 4) copy<uint32_t>(x, job, at, found, finite, first);
        if (job.width == 8) copy<uint64_t>(x, job, at, found, finite, first);
      }
    }
    if (any_linear) {
      const auto around = this->around(x);
      for (int i = 0; i < count; ++i) {
        const Job<ndim>& job = jobs[i];
        if (job.nearest) continue;
        if constexpr (std::is_same_v<typename Base::A, double>) {
          interpolated<double>(x, job, around, first);
        } else {
          if (job.dtype == Dtype::Half) interpolated<Half>(x, job, around, first);
          if (job.dtype == Dtype::BFloat16) interpolated<BFloat16>(x, job, around, first);
          if (job.dtype == Dtype::Float) interpolated<float>(x, job, around, first);
        }
      }
    }
  }

 private:
  template <class W>
  L2RFAST_INLINE void copy(const Voxel<ndim>& x, const Job<ndim>& job, const int32_t (&at)[ndim], bool found,
                           bool finite, int64_t first) const {
    const W blank = finite ? W(0) : W(job.nan);
    const int64_t base = job.strides.of(at);
    this->each_channel(x, job.channels, [&](int64_t n, int64_t c) {
      const W* from = static_cast<const W*>(job.image) + job.strides.of(n, c) + base;
      static_cast<W*>(job.to)[(n * job.channels + c) * this->numel + first] = found ? fetch(from) : blank;
    });
  }

  template <class T>
  L2RFAST_INLINE void interpolated(const Voxel<ndim>& x, const Job<ndim>& job,
                                   const Around<ndim, typename Base::A, int64_t>& around, int64_t first) const {
    const int64_t base = around.base(job.strides.step);
    this->each_channel(x, job.channels, [&](int64_t n, int64_t c) {
      const auto* v = static_cast<const ReadOnly<T>*>(job.image) + job.strides.of(n, c) + base;
      static_cast<T*>(job.to)[(n * job.channels + c) * this->numel + first] =
          T(interpolate<0>(v, around.taps, job.strides.step) + around.poison);
    });
  }
};

// Linear samples and their derivatives by position, (N, C, ndim, *out).
template <class Source, class T, class Index>
struct WithGradient : Samples<Source, Index> {
  using Base = Samples<Source, Index>;
  static constexpr int ndim = Base::ndim, resident = 2;
  const ReadOnly<T>* image;
  Strides<ndim, Index> strides;
  T *to, *gradient;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    const auto around = this->around(x);
    const Index base = around.base(strides.step), first = this->first(x);
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      const auto* v = image + strides.of(n, c) + base;
      const int64_t at = n * this->channels + c;
      to[at * this->numel + first] = T(interpolate<0>(v, around.taps, strides.step) + around.poison);
      each_axis<ndim>([&](auto k) {
        const auto by_k = interpolate<1u << k>(v, around.taps, strides.step);
        gradient[(at * ndim + k) * this->numel + first] = T(around.poison == 0 ? by_k : 0);
      });
    });
  }
};

}  // namespace l2rfast
