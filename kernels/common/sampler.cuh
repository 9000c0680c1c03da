// Sampling on the GPU for any origin of positions: from tensors to the functions of a voxel, and their launch.
//
// An origin has `where`, a tensor of the positions' dtype, on their device; items(), how many outputs have positions of
// their own: where there is one, they serve the whole batch; size(k) of an output; reach(), the largest offset to what
// is read at a voxel; and source<ndim, A, Index>(), what the kernels read it through.
#pragma once

#include "common/launch.cuh"
#include "common/scatter.cuh"

namespace l2rfast {

// The largest offset within a channel.
inline int64_t reach(const Tensor& t, int spatial = 2) {
  int64_t sum = 0;
  for (int64_t k = spatial; k < t.dim() + spatial - 2; ++k) sum += (t.size(k) - 1) * t.stride(k);
  return sum;
}

// The part of an origin that a tensor with the voxels of the output has, from axis `spatial` on.
struct Over {
  const Tensor& where;
  int spatial = 2;

  int64_t items() const { return where.size(0); }
  int64_t size(int k) const { return where.size(spatial + k); }
  int64_t reach() const { return l2rfast::reach(where, spatial); }
};

// The origin that a displacement field is.
struct ByField : Over {
  template <int ndim, class A, class Index>
  Displaced<ndim, A, Index> source() const {
    return Displaced<ndim, A, Index>(where);
  }
};

inline Padding padding_of(const std::string& name) {
  return name == "border"       ? Padding::border
         : name == "zeros"      ? Padding::zeros
         : name == "reflection" ? Padding::reflection
                                : Padding::symmetric;
}

// Calls f(ndim, A) for the dimensions of an image and the arithmetic that a field or grid asks for.
template <class F>
void for_arithmetic(const Tensor& image, const Tensor& where, const F& f) {
  const auto with = [&](auto ndim) { where.scalar_type() == Dtype::Double ? f(ndim, double{}) : f(ndim, float{}); };
  if (image.dim() == 5)
    with(std::integral_constant<int, 3>{});
  else
    with(std::integral_constant<int, 2>{});
}

// Calls f with a value of the type of an image or field that goes with arithmetic in A.
template <class A, class F>
void for_field(const Tensor& t, const F& f) {
  const bool wide = t.scalar_type() == Dtype::Double;
  STD_TORCH_CHECK(wide == (std::is_same_v<A, double>), "expected float64 of both or neither of image and positions");
  if constexpr (std::is_same_v<A, double>) {
    f(double{});
  } else {
    for_floating(t.scalar_type(), [&](auto v) {
      if constexpr (!std::is_same_v<decltype(v), double>) f(v);
    });
  }
}

// Calls f with the type of offsets that these need.
template <class F>
void for_index(std::initializer_list<int64_t> reaches, const F& f) {
  if (std::max(reaches) > std::numeric_limits<int32_t>::max())
    f(int64_t{});
  else
    f(int32_t{});
}

template <int ndim, class A, class Index, class Origin>
auto samples_of(const Tensor& image, const Origin& origin, const std::string& padding) {
  using Source = decltype(origin.template source<ndim, A, Index>());
  Samples<Source, Index> s{origin.template source<ndim, A, Index>(), padding_of(padding)};
  s.items = origin.items() == 1 ? image.size(0) : 1;
  s.channels = image.size(1), s.numel = 1;
  for (int k = 0; k < ndim; ++k) {
    const int64_t size = image.size(2 + k), out = origin.size(k);
    STD_TORCH_CHECK(std::max(size, out) <= std::numeric_limits<int32_t>::max(),
                    "expected fewer than 2^31 voxels a row");
    s.size[k] = int32_t(size), s.out[k] = int32_t(out), s.numel *= out;
  }
  return s;
}

// Of the samples of an image with so many channels.
template <class Origin>
std::vector<int64_t> shape_of_samples(const Tensor& image, const Origin& origin) {
  std::vector<int64_t> shape = {std::max(image.size(0), origin.items()), image.size(1)};
  for (int k = 0; k < image.dim() - 2; ++k) shape.push_back(origin.size(k));
  return shape;
}

template <class Body, class Origin>
void each_sample(const Body& body, const Origin& origin) {
  each_voxel(body, Extent(origin.items(), body.out), origin.where);
}

// NaN in a dtype, 0 where it has none.
inline uint64_t nan_bits(Dtype t) {
  return t == Dtype::Half       ? 0x7e00
         : t == Dtype::BFloat16 ? 0x7fc0
         : t == Dtype::Float    ? 0x7fc00000
         : t == Dtype::Double   ? 0x7ff8000000000000
                                : 0;
}

// Several images, each linearly or at the nearest voxel, into one result each.
template <int ndim, class A, class Origin>
std::vector<Tensor> sample_many(const std::vector<Tensor>& images, const Origin& origin,
                                const std::vector<bool>& nearest, const std::string& padding) {
  const auto samples = samples_of<ndim, A, int64_t>(images[0], origin, padding);
  using Body = Jobs<std::remove_cv_t<decltype(samples.source)>>;
  std::vector<Tensor> results;
  for (size_t begin = 0; begin < images.size(); begin += Body::most) {
    Body body{samples};
    body.count = int(std::min<size_t>(Body::most, images.size() - begin));
    for (int i = 0; i < body.count; ++i) {
      const Tensor& image = images[begin + i];
      results.push_back(empty_as(image, shape_of_samples(image, origin)));
      const bool copied = nearest[begin + i];
      if (!copied) for_field<A>(image, [](auto) {});  // checks it
      body.jobs[i] = {image.const_data_ptr(),        results.back().mutable_data_ptr(),
                      Strides<ndim, int64_t>(image), image.size(1),
                      nan_bits(image.scalar_type()), int(image.element_size()),
                      image.scalar_type(),           copied};
      (copied ? body.any_nearest : body.any_linear) = true;
    }
    each_sample(body, origin);
  }
  return results;
}

// Linear samples; `composed` adds the field.
template <int ndim, class A, bool composed = false, class Origin>
Tensor sample_linear(const Tensor& image, const Origin& origin, const std::string& padding) {
  const Tensor result = empty_as(image, shape_of_samples(image, origin));
  for_field<A>(image, [&](auto t) {
    for_index({reach(image), origin.reach(), reach(result)}, [&](auto i) {
      using T = decltype(t);
      using Index = decltype(i);
      const auto samples = samples_of<ndim, A, Index>(image, origin, padding);
      using Source = std::remove_cv_t<decltype(samples.source)>;
      each_sample(Linear<Source, T, Index, composed>{samples, read<ReadOnly<T>>(image), Strides<ndim, Index>(image),
                                                     write<T>(result)},
                  origin);
    });
  });
  return result;
}

template <class Origin>
Tensor sample(const Tensor& image, const Origin& origin, const std::string& mode, const std::string& padding) {
  Tensor result;
  for_arithmetic(image, origin.where, [&](auto ndim, auto real) {
    using A = decltype(real);
    if (mode == "nearest")
      result = sample_many<decltype(ndim)::value, A>({image}, origin, {true}, padding)[0];
    else
      result = sample_linear<decltype(ndim)::value, A>(image, origin, padding);
  });
  return result;
}

// Calls f(a FloatSum or FixedSum) for adding shares to a tensor (N, C, *spatial) in the usual order, which keeps what
// it holds. No share is larger than the product of the largest of each of the factors, and their sums than 2^bits such.
template <int ndim, class A, class F>
void scatter(const Tensor& to, const std::vector<Tensor>& factors, int bits, const F& f) {
  if (!deterministic()) return f(FloatSum<A>{write<A>(to)});
  const Tensor sums = torch::stable::new_zeros(to, shape_of(to), Dtype::Long);
  const Tensor exponents = torch::stable::new_zeros(to, {int64_t(factors.size())}, Dtype::Int);
  int* exponent = write<int>(exponents);
  for (const Tensor& factor : factors) {
    for_floating(factor.scalar_type(), [&](auto t) {
      using T = decltype(t);
      int32_t size[ndim];
      for (int k = 0; k < ndim; ++k) size[k] = int32_t(factor.size(2 + k));
      const int32_t width = size[ndim - 1], lanes = size[ndim - 1] = std::min(width, 32);
      each_voxel(
          Largest<ndim, T>{read<T>(factor), Strides<ndim, int64_t>(factor), factor.size(1), width, lanes, exponent},
          Extent(factor.size(0), size), factor);
    });
    ++exponent;
  }
  const FixedSum<A> sum{write<A>(to), write<int64_t>(sums), read<int>(exponents), int(factors.size()), 62 - bits};
  f(sum);
  Finish<ndim, A> finish{sum};
  finish.numel = 1;
  for (int k = 0; k < ndim; ++k) finish.numel *= finish.size[k] = int32_t(to.size(2 + k));
  each_voxel(finish, Extent(to.size(0) * to.size(1), finish.size), to);
}

// ceil(log2) of how many samples may meet in one voxel of an image.
inline int bits_of_samples(const Tensor& grad, const Tensor& image) {
  const int64_t samples = grad.numel() / grad.size(1) / (image.size(0) > 1 ? grad.size(0) : 1);
  int bits = 0;
  while (int64_t(1) << bits < samples) ++bits;
  return bits;
}

// Zeros of the shape of an image in the type of the arithmetic; empty where no gradient is asked for.
template <class A>
Tensor zeros_like(const Tensor& image, bool asked) {
  return torch::stable::new_zeros(image, asked ? shape_of(image) : std::vector<int64_t>{0}, dtype_of<A>);
}

// Calls f(SampleGradients), of which that to the image is added to `to_image`, if given; `further` is the largest
// offset within what f writes.
template <int ndim, class A, class Origin, class F>
void for_gradients(const Tensor& grad, const Tensor& image, const Origin& origin, bool nearest,
                   const std::string& padding, const Tensor* to_image, int64_t further, const F& f) {
  STD_TORCH_CHECK(grad.scalar_type() == image.scalar_type(), "expected a gradient of the image's dtype");
  const auto run = [&](const auto& sum, auto i) {
    using Index = decltype(i);
    using Sum = std::remove_cvref_t<decltype(sum)>;
    for_field<A>(image, [&](auto t) {
      using T = decltype(t);
      const auto samples = samples_of<ndim, A, Index>(image, origin, padding);
      using Source = std::remove_cv_t<decltype(samples.source)>;
      using Strided = Strides<ndim, Index>;
      f(SampleGradients<Source, T, Index, Sum>{samples, read<T>(grad), read<ReadOnly<T>>(image), Strided(grad),
                                               Strided(image), Strided(to_image ? *to_image : image), sum, nearest});
    });
  };
  const auto run_small = [&](const auto& sum) {
    for_index({reach(image), reach(grad), origin.reach(), to_image ? reach(*to_image) : 0, further},
              [&](auto i) { run(sum, i); });
  };
  if (!to_image) return run_small(FloatSum<A>{nullptr});
  scatter<ndim, A>(*to_image, {grad}, bits_of_samples(grad, image), [&](const auto& sum) {
    if constexpr (std::is_same_v<decltype(sum), const FloatSum<A>&>)
      run_small(sum);
    else
      run(sum, int64_t{});
  });
}

// Adds the gradient to an image to `to_image`, and puts that to positions into `to_field`, each if given. With add_own
// the gradient itself is added to the latter.
template <int ndim, class A, class Origin>
void backward(const Tensor& grad, const Tensor& image, const Origin& origin, bool nearest, const std::string& padding,
              const Tensor* to_image, const Tensor* to_field, bool add_own = false) {
  const int64_t further = to_field ? reach(*to_field, origin.spatial) : 0;
  for_gradients<ndim, A>(grad, image, origin, nearest, padding, to_image, further, [&](const auto& gradients) {
    const auto& source = gradients.source;
    auto field = to_field ? source.like(*to_field) : source.field;
    if (!to_field) field.data = nullptr;
    each_sample(Backward<std::remove_cvref_t<decltype(gradients)>>{gradients, field, add_own}, origin);
  });
}

// The same as a pair of new tensors.
template <class Origin>
std::tuple<Tensor, Tensor> sample_backward(const Tensor& grad, const Tensor& image, const Origin& origin,
                                           const std::string& mode, const std::string& padding, bool asked_image,
                                           bool asked_field) {
  const bool nearest = mode == "nearest", writes = asked_field && !nearest;
  const Tensor& where = origin.where;
  const std::vector<int64_t> shape = asked_field ? shape_of(where) : std::vector<int64_t>{0};
  // There is no gradient to the position of the nearest voxel.
  const Tensor to_field = writes ? empty_as(where, shape) : torch::stable::new_zeros(where, shape);
  Tensor to_image;
  for_arithmetic(image, where, [&](auto ndim, auto real) {
    using A = decltype(real);
    to_image = zeros_like<A>(image, asked_image);
    if (asked_image || writes)
      backward<decltype(ndim)::value, A>(grad, image, origin, nearest, padding, asked_image ? &to_image : nullptr,
                                         writes ? &to_field : nullptr);
  });
  return {to_image, to_field};
}

}  // namespace l2rfast
