// Local normalised cross-correlation with a warped image, and its gradient to the field, on the GPU.
//
// The passes of lncc/passes.cuh, between a kernel that samples some channels and one that takes the gradient to their
// samples to the field. What is sampled is kept for as many channels as `kKept` numbers hold: a sample takes 4 bytes
// that are written once and read 3.5 times by the first march, mostly from the caches, and once by the second. Sampled
// anew, it would be 8 loads and a position, of 12 bytes, each of 4.5 times.
//
// Floor: a voxel of one float32 channel takes 8 bytes of images and 24 of the field and its gradient, which all
// channels share. Here the samples, the 3 quantities of windows and the gradient to the samples are written and read
// besides.

#include "common/sampler.cuh"
#include "lncc/passes.cuh"

namespace l2rfast {
namespace {

// Some channels of all items', from `begin` to before `end`.
template <class Source, class Index>
struct Some : Samples<Source, Index> {
  static constexpr int ndim = Source::ndim;
  using A = typename Source::Real;
  int64_t begin, end;
  const ReadOnly<A>* image;
  Strides<ndim, Index> strides;

  // f(the first of the values around the sample, its place among those of some channels) for the channels of an item.
  template <class F>
  L2RFAST_INLINE void each(const Voxel<ndim>& x, const Around<ndim, A, Index>& around, const F& f) const {
    const int64_t from = x.item * this->channels, to = from + this->channels;
    const Index base = around.base(strides.step), at = this->first(x);
    for (int64_t i = from > begin ? from : begin; i < to && i < end; ++i)
      f(image + strides.of(x.item, i - from) + base, (i - begin) * this->numel + at);
  }
  L2RFAST_INLINE int64_t first_item() const { return begin / this->channels; }
  int64_t some_items() const { return (end - 1) / this->channels - first_item() + 1; }
};

template <class Source, class Index>
struct Sampled : Some<Source, Index> {
  using Base = Some<Source, Index>;
  static constexpr int resident = sizeof(typename Base::A) + sizeof(Index) > 8 ? 2 : 4;
  typename Base::A* to;

  L2RFAST_INLINE void operator()(Voxel<Base::ndim> x) const {
    x.item += this->first_item();
    const auto around = this->around(x);
    this->each(x, around, [&](const auto* v, int64_t place) {
      to[place] = interpolate<0>(v, around.taps, this->strides.step) + around.poison;
    });
  }
};

// Takes gradients to samples to the displacements of blocks of voxels; adds to what earlier channels gave.
template <class Source, class Index>
struct Slopes : Some<Source, Index> {
  using Base = Some<Source, Index>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = sizeof(A) + sizeof(Index) > 8 ? 1 : 3;
  const A *grad, *scale;
  int sides[ndim], count;
  Field<ndim, A, Index> to_field;

  L2RFAST_INLINE void operator()(Voxel<ndim> block) const {
    block.item += this->first_item();
    A sum[ndim] = {};
    for (int i = 0; i < count; ++i) {
      Voxel<ndim> x = block;
      int rest = i;
      each_axis<ndim>([&](auto back) {
        constexpr int k = ndim - 1 - back;
        x.at[k] = block.at[k] * sides[k] + rest % sides[k];
        rest /= sides[k];
      });
      const auto around = this->around(x);
      if (around.poison != 0) continue;
      this->each(x, around, [&](const auto* v, int64_t place) {
        add_slopes(grad[place], v, around.taps, this->strides.step, sum);
      });
    }
    const bool adds = this->begin > block.item * this->channels;
    to_field.with(block, [&](auto* to) {
      each_axis<ndim>([&](auto k) {
        auto& value = to[k * to_field.strides.channel];
        value = std::remove_reference_t<decltype(value)>((adds ? A(value) : A(0)) + scale[block.item] * sum[k]);
      });
    });
  }
};

// The values of items times their scales; a block each.
template <class A>
struct Scaled {
  static constexpr int resident = 4;
  const A *sums, *scale;
  A* to;

  L2RFAST_INLINE void operator()(int64_t block, double*) const {
    all_threads([&](int thread) {
      if (thread == 0) to[block] = scale[block] * sums[block];
    });
  }
};

std::tuple<Tensor, Tensor> warp_local_ncc(const Tensor& fixed, const Tensor& moving, const Tensor& disp,
                                          std::optional<Tensor> mask, const Tensor& scale_, std::vector<int64_t> window,
                                          std::vector<double> weights, std::string borders,
                                          std::vector<double> constants, bool averaged, std::string padding,
                                          std::vector<int64_t> blocks) {
  const Tensor scale = packed(scale_);
  std::vector<int64_t> shape = shape_of(disp);
  for (size_t k = 0; k < blocks.size(); ++k) shape[2 + k] /= blocks[k];
  const Tensor value = empty_as(disp, {disp.size(0)}), gradient = empty_as(disp, shape);
  const auto run = [&]<int ndim, class A, class S, class Index, bool blocked>(std::integral_constant<int, ndim>, A, S,
                                                                              Index, std::bool_constant<blocked>) {
    using Source = Displaced<ndim, A, Index>;
    const MeasureOf<Beside<S>> measure(constants, averaged, borders);
    Passes<A, S, blocked> passes(fixed, gradient, window, weights, blocks, measure);
    if (mask) passes.images.mask = Image<uint8_t>(*mask);
    const int64_t volume = passes.images.volume(), numbers = 2 * volume + 3 * passes.places();
    const auto room = [&](int64_t each) { return empty_as(disp, {passes.at_once(numbers), each}); };
    const Tensor warped = room(volume), grad = room(volume), factors = room(3 * passes.places());
    passes.each(numbers, [&](int64_t first, int64_t some) {
      Some<Source, Index> channels{samples_of<ndim, A, Index>(moving, ByField{disp}, padding)};
      channels.begin = first, channels.end = first + some;
      channels.image = read<ReadOnly<A>>(moving), channels.strides = Strides<ndim, Index>(moving);
      each_voxel(Sampled<Source, Index>{channels, write<A>(warped)}, Extent(channels.some_items(), channels.out), disp);
      // Both by the number of a channel among all.
      const int64_t before = first * volume;
      passes.images.b = passes.images.packed(read<A>(warped) - before);
      passes.run(first, some, write<A>(factors), nullptr, write<A>(grad) - before);
      Slopes<Source, Index> slopes{channels, read<A>(grad), read<A>(scale), {}, 1, Source::like(gradient)};
      int32_t places[ndim];
      for (int k = 0; k < ndim; ++k) {
        slopes.count *= slopes.sides[k] = int(blocks[k]);
        places[k] = int32_t(gradient.size(2 + k));
      }
      each_voxel(slopes, Extent(channels.some_items(), places), disp);
    });
    const Tensor sums = passes.sums();
    each_block(Scaled<A>{read<A>(sums), read<A>(scale), write<A>(value)}, value.numel(), 0, disp);
  };
  for_arithmetic(moving, disp, [&](auto ndim, auto real) {
    for_sums<decltype(real)>(disp, [&](auto s) {
      for_index({reach(moving), reach(disp), reach(gradient)}, [&](auto index) {
        if (*std::max_element(blocks.begin(), blocks.end()) > 1)
          run(ndim, real, s, index, std::true_type{});
        else
          run(ndim, real, s, index, std::false_type{});
      });
    });
  });
  return {value, gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("warp_local_ncc", TORCH_BOX(&warp_local_ncc)); }

}  // namespace l2rfast
