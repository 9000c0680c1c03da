// Sampling a block of a row: the taps of its positions, and the values around them.
//
// What is only declared here is compiled once, in common/cpu.cpp.
#pragma once

#include <span>

#include "common/positions.h"

namespace l2rfast {

// Channels of an image or of the gradient to one, for item n of the output. A batch of one image serves every item,
// and where there is one item the images of the whole batch are its channels.
struct Channels {
  int64_t per_image, batch, channel;

  explicit Channels(const Tensor& t)
      : per_image(t.size(1)), batch(t.size(0) > 1 ? t.stride(0) : 0), channel(t.stride(1)) {}

  int64_t offset(int64_t n, int64_t c) const { return (n + c / per_image) * batch + c % per_image * channel; }
};

// One call: where to sample, and the sizes and strides of what is sampled (or, backward, of the gradient to it).
// "Plane" means a slice across the image's first spatial axis.
template <int ndim, class A, class Index>
struct Problem {
  const Positions<A>& source;
  Grid out;
  Channels image;
  int64_t items, channels;
  Padding padding;
  const void* outside;  // the value, in the image's dtype, of what is beyond it; null: the padding's
  Index size[ndim];
  Index step[ndim];  // to the next voxel on each axis; 0 on an axis of size 1

  Problem(const Tensor& sampled, const Positions<A>& from, Padding pad, const void* outside = nullptr)
      : source(from),
        out(from.out),
        image(sampled),
        items(from.items),
        channels(items == 1 ? sampled.size(0) * sampled.size(1) : sampled.size(1)),
        padding(pad),
        outside(outside) {
    for (int k = 0; k < ndim; ++k) {
      size[k] = Index(sampled.size(2 + k));
      step[k] = size[k] > 1 ? Index(sampled.stride(2 + k)) : 0;
    }
  }

  // Of an output with so many channels.
  std::vector<int64_t> shape(int64_t count) const {
    std::vector<int64_t> result = {items == 1 ? channels / image.per_image : items, count};
    if (ndim == 3) result.push_back(out.d);
    result.push_back(out.h), result.push_back(out.w);
    return result;
  }
  // Where channel c of a block begins in an output in the usual order.
  int64_t at(const Block& b, int64_t c) const { return (b.n * channels + c) * out.numel() + b.first; }

  // The first and the last plane with taps (or a nearest voxel, next to one) of the samples of a block.
  std::array<Index, 2> planes(const Block& b) const;

  int64_t visited(int64_t i) const { return i / out.rows() * out.rows() + in_stacks(out, i % out.rows()); }

  // Rows of which the taps make a group: some 4 to 16 blocks. A channel is done for a whole group before the next: its
  // rows are then still in the cache, where those of many channels displace each other.
  int64_t rows_of_group() const {
    const int64_t blocks_of_row = (out.w + kBlock - 1) / kBlock;
    return std::max<int64_t>(1, std::clamp<int64_t>(channels, 4, 16) / blocks_of_row);
  }

  // Calls f(group) for groups of Taps of the blocks of the output.
  template <class Taps, class F>
  void each_group(const F& f) const {
    const int64_t some = rows_of_group(), rows = items * out.rows();
    parallel_runs((rows + some - 1) / some, [&](int64_t begin, int64_t end) {
      std::vector<Taps> group;
      for (int64_t g = begin; g < end; ++g) {
        group.clear();
        for (int64_t i = g * some; i < std::min((g + 1) * some, rows); ++i) append(visited(i), group);
        f(std::span<const Taps>(group));
      }
    });
  }

  // Calls f(c, taps) for every channel and the taps of a group, channel by channel; before each, soon(c, taps) with
  // what comes next.
  template <class Taps, class Soon, class F>
  L2RFAST_INLINE void each_channel(std::span<const Taps> group, const Soon& soon, const F& f) const {
    for (int64_t c = 0; c < channels; ++c)
      for (size_t j = 0; j < group.size(); ++j) {
        if (j + 1 < group.size())
          soon(c, group[j + 1]);
        else if (c + 1 < channels)
          soon(c + 1, group[0]);
        f(c, group[j]);
      }
  }

  // Calls f(block) for every block of the output.
  template <class F>
  void each_block(const F& f) const {
    parallel_each(items * out.rows(), [&](int64_t row) { row_blocks(row, f); });
  }

  template <class F>
  void row_blocks(int64_t row, const F& f) const {
    const int64_t n = row / out.rows(), r = row % out.rows();
    for (int64_t x = 0; x < out.w; x += kBlock)
      f(Block{n, r / out.h, r % out.h, x, r * out.w + x, int(std::min<int64_t>(kBlock, out.w - x))});
  }

  template <class Taps>
  void append(int64_t row, std::vector<Taps>& group) const {
    row_blocks(row, [&](const Block& b) { group.emplace_back(*this, b); });
  }
};

// Which samples of a block get one value, whatever their taps are.
template <class A>
struct Outside {
  A near[kBlock];  // 1, or 0 farther than half a voxel beyond the image; set where there is such a value

  // Along axis k, in whole vectors: the compiler leaves this loop as it stands.
  template <int k, class Index>
  L2RFAST_INLINE void look(const A (&position)[kBlock], Index size, int count) {
    const A low = A(-0.5), high = A(size) + low;
    for (int i = 0; i < count; i += kLanes<A>) {
      const Vector<A> p = load(position + i), before = k == 0 ? Vector<A>{} + A(1) : load(near + i);
      store(near + i, (p >= low) & (p < high) ? before : Vector<A>{});
    }
  }

  // Writes the value over what the taps gave.
  template <class T>
  L2RFAST_INLINE void fill(const void* value, T* __restrict to, int count) const {
    const T v = *static_cast<const T*>(value);
    for (int i = 0; i < count; ++i) to[i] = near[i] != 0 ? to[i] : v;
  }
};

// Weights of the lower and the upper neighbour on each axis, of as many samples as a vector has lanes.
template <int ndim, class A>
struct Weights {
  Vector<A> of[ndim][2];
};

// The taps of a block of output voxels along a row.
template <int ndim, class A, class Index, bool derivatives = false>
struct BlockTaps {
  Block block;
  Index plane[kBlock], base[kBlock];
  A w0[ndim][kBlock], w1[ndim][kBlock];
  A d0[derivatives ? ndim : 0][kBlock], d1[derivatives ? ndim : 0][kBlock];
  A poison[kBlock];  // 0, or NaN where a coordinate is not finite
  Outside<A> outside;

  BlockTaps(const Problem<ndim, A, Index>& p, const Block& b);

  // Brings what will be sampled of an image into the cache; the hardware does not foresee rows that bend. Asking for
  // every fourth sample helps where a field bends a lot, and costs little where it does not.
  template <class T>
  L2RFAST_INLINE void prefetch(const T* image, const Index (&step)[ndim]) const {
    for (int i = 0; i < block.count; i += 4) {
      const T* at = image + base[i];
      __builtin_prefetch(at), __builtin_prefetch(at + step[ndim - 2]);
      if constexpr (ndim == 3) __builtin_prefetch(at + step[0]), __builtin_prefetch(at + step[0] + step[1]);
    }
  }

  // Of the samples from i on; derived by position along every axis whose bit is set.
  template <unsigned axes = 0>
  L2RFAST_INLINE Weights<ndim, A> weights(int i) const {
    Weights<ndim, A> w;
    each_axis<ndim>([&](auto k) {
      if constexpr (axes >> k.value & 1)
        w.of[k.value][0] = load(d0[k.value] + i), w.of[k.value][1] = load(d1[k.value] + i);
      else
        w.of[k.value][0] = load(w0[k.value] + i), w.of[k.value][1] = load(w1[k.value] + i);
    });
    return w;
  }

  // Those of sample i, for `interpolate` and `spread`.
  void get(int i, Taps<A, Index> (&taps)[ndim]) const
    requires derivatives
  {
    for (int k = 0; k < ndim; ++k) taps[k] = {Index(0), w0[k][i], w1[k][i], d0[k][i], d1[k][i]};
  }
};

// The voxel that each output voxel of a block copies, or -1.
template <int ndim, class A, class Index>
struct BlockNearest {
  Block block;
  Index plane[kBlock], source[kBlock];
  A poison[kBlock];
  Outside<A> outside;

  BlockNearest(const Problem<ndim, A, Index>& p, const Block& b);
};

// The values around as many samples as a vector has lanes: plane[z][2 * y + x], a single plane in 2-D.
template <int ndim, class A>
struct Corners {
  static constexpr int planes = ndim == 3 ? 2 : 1;
  Vector<A> plane[planes][4];

  // Pairs of neighbours along x are loaded at once, which beats gather instructions: they fetch one value a lane.
  template <class T, class Index, class StepX>
  L2RFAST_INLINE Corners(const T* image, Index sz, Index sy, StepX sx, const Index* base) {
    if constexpr (!std::is_integral_v<StepX> && std::is_same_v<T, A>) {
      constexpr int some = kLanes<A> / 4;  // samples of which a vector holds the four values in a plane
      Vector<A> row[planes][4];
      for (int r = 0; r < 4; ++r) {
        Quad quad[planes][some];
        for (int i = 0; i < some; ++i) {
          const T* at = image + base[some * r + i];
          quad[0][i] = pairs(at, at + sy);
          if constexpr (ndim == 3) quad[1][i] = pairs(at + sz, at + sz + sy);
        }
        for (int side = 0; side < planes; ++side) row[side][r] = joined(quad[side]);
      }
      for (int side = 0; side < planes; ++side) transpose(row[side], plane[side]);
    } else {
      for (int i = 0; i < kLanes<A>; ++i)
        for (int side = 0; side < planes; ++side) {
          const T* at = image + base[i] + side * sz;
          plane[side][0][i] = A(at[0]), plane[side][1][i] = A(at[sx]);
          plane[side][2][i] = A(at[sy]), plane[side][3][i] = A(at[sy + sx]);
        }
    }
  }

  // Interpolates with these weights of the lower and the upper neighbour on each axis.
  L2RFAST_INLINE Vector<A> interpolate(const Weights<ndim, A>& w) const {
    const auto in_plane = [&](const Vector<A>(&v)[4]) {
      const auto &y = w.of[ndim - 2], &x = w.of[ndim - 1];
      return y[0] * (x[0] * v[0] + x[1] * v[1]) + y[1] * (x[0] * v[2] + x[1] * v[3]);
    };
    if constexpr (ndim == 2)
      return in_plane(plane[0]);
    else
      return w.of[0][0] * in_plane(plane[0]) + w.of[0][1] * in_plane(plane[1]);
  }

 private:
  typedef A Quad __attribute__((vector_size(4 * sizeof(A))));

  static L2RFAST_INLINE Quad pairs(const A* row, const A* next) {
    typedef A Pair __attribute__((vector_size(2 * sizeof(A)), aligned(alignof(A)), may_alias));
    return __builtin_shufflevector(*reinterpret_cast<const Pair*>(row), *reinterpret_cast<const Pair*>(next), 0, 1, 2,
                                   3);
  }

  // By shuffles: through memory, a wide load would wait for narrow stores to be written.
  template <int groups>
  static L2RFAST_INLINE Vector<A> joined(const Quad (&quad)[groups]) {
    if constexpr (groups == 1) {
      return quad[0];
    } else {
      const auto two = [](Quad a, Quad b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7); };
      if constexpr (groups == 2)
        return two(quad[0], quad[1]);
      else
        return __builtin_shufflevector(two(quad[0], quad[1]), two(quad[2], quad[3]), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
                                       11, 12, 13, 14, 15);
    }
  }

  // Value c of sample i, lane 4 * i + c of the rows one after the other, becomes lane i of out[c].
  static L2RFAST_INLINE void transpose(const Vector<A> (&row)[4], Vector<A> (&out)[4]) {
    [&]<int... i>(std::integer_sequence<int, i...>) {
      constexpr int n = kLanes<A>;
      // Values 0 and then 1, or 2 and then 3, of the samples of two rows; then halves joined.
      const auto values_01 = [](Vector<A> a, Vector<A> b) {
        return __builtin_shufflevector(a, b, (i % (n / 2) * 4 + i / (n / 2))...);
      };
      const auto values_23 = [](Vector<A> a, Vector<A> b) {
        return __builtin_shufflevector(a, b, (i % (n / 2) * 4 + i / (n / 2) + 2)...);
      };
      const auto first = [](Vector<A> a, Vector<A> b) {
        return __builtin_shufflevector(a, b, (i < n / 2 ? i : n / 2 + i)...);
      };
      const auto second = [](Vector<A> a, Vector<A> b) {
        return __builtin_shufflevector(a, b, (i < n / 2 ? n / 2 + i : n + i)...);
      };
      const Vector<A> low = values_01(row[0], row[1]), high = values_01(row[2], row[3]);
      out[0] = first(low, high), out[1] = second(low, high);
      const Vector<A> low2 = values_23(row[0], row[1]), high2 = values_23(row[2], row[3]);
      out[2] = first(low2, high2), out[3] = second(low2, high2);
    }(std::make_integer_sequence<int, kLanes<A>>{});
  }
};

// Calls f(corners, i, n) for the samples of a block, n of them from i on: as many as a vector has lanes, a constant
// that spares every loop but the last the question, or what remains.
template <int ndim, class A, class T, class Index, class F>
L2RFAST_INLINE void each_vector(const T* image, const Index (&step)[ndim], const Index* base, int count, const F& f) {
  constexpr std::integral_constant<int, kLanes<A>> lanes;
  const Index sz = step[0], sy = step[ndim - 2];
  const auto with = [=, &f](auto sx) {
    int i = 0;
    for (; i + lanes <= count; i += lanes) f(Corners<ndim, A>(image, sz, sy, sx, base + i), i, lanes);
    if (i < count) f(Corners<ndim, A>(image, sz, sy, sx, base + i), i, count - i);
  };
  if (step[ndim - 1] == 1)
    with(std::integral_constant<Index, 1>{});
  else
    with(step[ndim - 1]);
}

}  // namespace l2rfast
