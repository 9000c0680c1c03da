// Sampling at an affine map of the output voxels on the GPU; see common/sampling.cuh for how.
//
// Floor: no field is read, so that a linear sample of one float32 channel takes 4 + 4 bytes per voxel; a thread reads
// the matrix, which is the same for all, from the cache. Going back, the gradient to the samples is read once, for both
// results. That to the matrix is the sum of slopes * (x, 1), slopes being that to the position of voxel x: of a column
// in the registers of a thread, then of the block's threads, then of the blocks, in an order that does not change. A
// value outside is a pass of its own, which writes only there but reads the field again.

#include <optional>

#include "common/columns.cuh"
#include "common/pairs.cuh"
#include "common/sampler.cuh"

namespace l2rfast {
namespace {

// Matrices as they are read: in the dtype of the arithmetic and the usual order, as nearly all are.
Tensor prepared(const Tensor& matrix) {
  return packed(torch::stable::to(matrix, matrix.scalar_type() == Dtype::Double ? Dtype::Double : Dtype::Float));
}

struct ByMatrix {
  Tensor where;
  std::vector<int64_t> sizes;

  ByMatrix(const Tensor& matrix, std::vector<int64_t> size) : where(prepared(matrix)), sizes(std::move(size)) {}
  int64_t items() const { return where.size(0); }
  int64_t size(int k) const { return sizes[k]; }
  int64_t reach() const { return 0; }
  template <int ndim, class A, class Index>
  Affine<ndim, A> source() const {
    return Affine<ndim, A>(where);
  }
};

// Sample positions of matrices times (x + disp(x), 1).
template <int ndim_, class A, class Index>
struct AffineDisplaced {
  static constexpr int ndim = ndim_;
  using Real = A;
  Affine<ndim, A> affine;
  Displaced<ndim, A, Index> displaced;

  L2RFAST_INLINE void positions(const Voxel<ndim>& x, A (&p)[ndim]) const {
    A place[ndim];
    displaced.positions(x, place);
    affine.transform(x.item, place, p);
  }
};

struct ByBoth {
  Tensor where;
  Over field;

  ByBoth(const Tensor& matrix, const Tensor& disp) : where(prepared(matrix)), field{disp} {}
  int64_t items() const { return std::max(where.size(0), field.items()); }
  int64_t size(int k) const { return field.size(k); }
  int64_t reach() const { return field.reach(); }
  template <int ndim, class A, class Index>
  AffineDisplaced<ndim, A, Index> source() const {
    return {Affine<ndim, A>(where), Displaced<ndim, A, Index>(field.where)};
  }
};

// Puts one value where a position is farther than half a voxel beyond the image's voxels, or nowhere. T has its width.
template <class Source, class T>
struct Fill : Samples<Source, int64_t> {
  using Base = Samples<Source, int64_t>;
  using A = typename Base::A;
  static constexpr int ndim = Base::ndim, resident = 4;
  const T* value;
  T* to;

  L2RFAST_INLINE void operator()(const Voxel<ndim>& x) const {
    A p[ndim];
    this->source.positions(x, p);
    bool inside = true;
    each_axis<ndim>([&](auto k) { inside &= p[k] >= A(-0.5) && p[k] < A(this->size[k]) - A(0.5); });
    if (inside) return;
    const int64_t first = this->first(x);
    this->each_channel(x, this->channels, [&](int64_t n, int64_t c) {
      to[(n * this->channels + c) * this->numel + first] = fetch(value);
    });
  }
};

// A block's threads take a column each; S is what their sums are added up in.
template <class Of, class S>
struct ByColumns : Of {
  using A = typename Of::A;
  static constexpr int ndim = Of::ndim, entries = ndim * (ndim + 1);
  static constexpr int resident = sizeof(A) + sizeof(typename Of::Index) > 8 ? 1 : 2;
  Columns<ndim> columns;
  double* numbers;  // entries of matrices, (N, entries, blocks); null where only the gradient to the image is asked for

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    S* sums = reinterpret_cast<S*>(scratch);
    const auto ready = this->to_image.ready();
    all_threads([&](int thread) {
      Voxel<ndim> first{};
      A total[ndim] = {}, moment[ndim] = {};  // of slopes, and times the place along the first axis
      columns.of_thread(block, thread, [&](Voxel<ndim> x, int count) {
        first = x;
        for (int i = 0; i < count; ++i, ++x.at[0]) {
          A slope[ndim] = {};
          this->add(x, ready, numbers, slope);
          each_axis<ndim>([&](auto k) { total[k] += slope[k], moment[k] += slope[k] * A(x.at[0]); });
        }
      });
      if (!numbers) return;
      each_axis<ndim>([&](auto k) {
        each_axis<ndim + 1>([&](auto j) {
          A entry = j == 0 ? moment[k] : total[k];
          if constexpr (j > 0 && j < ndim) entry *= A(first.at[j]);
          sums[(k * (ndim + 1) + j) * kThreads + thread] = S(entry);
        });
      });
    });
    if (!numbers) return;
    add_up(sums, entries);
    all_threads([&](int thread) {
      if (thread >= entries) return;
      const int64_t count = columns.count();
      numbers[(block / count * entries + thread) * count + block % count] = double(sums[thread * kThreads]);
    });
  }
};

Tensor affine_warp(const Tensor& image, const Tensor& matrix, std::vector<int64_t> size, std::string mode,
                   std::string padding) {
  return sample(image, ByMatrix(matrix, size), mode, padding);
}

Tensor affine_resample(const Tensor& image, const Tensor& matrix, std::optional<Tensor> disp, std::vector<int64_t> size,
                       std::string mode, std::string padding, std::optional<Tensor> outside) {
  const auto at = [&](const auto& origin) {
    const Tensor result = sample(image, origin, mode, padding);
    if (!outside) return result;
    for_arithmetic(image, matrix, [&](auto ndim, auto real) {
      const auto samples = samples_of<decltype(ndim)::value, decltype(real), int64_t>(image, origin, padding);
      for_width(image.element_size(), [&](auto of) {
        using T = decltype(of);
        each_sample(
            Fill<std::remove_cv_t<decltype(samples.source)>, T>{
                samples, static_cast<const T*>(outside->const_data_ptr()), static_cast<T*>(result.mutable_data_ptr())},
            origin);
      });
    });
    return result;
  };
  return disp ? at(ByBoth(matrix, *disp)) : at(ByMatrix(matrix, size));
}

std::tuple<Tensor, Tensor> affine_warp_backward(const Tensor& grad, const Tensor& image, const Tensor& matrix,
                                                std::string mode, std::string padding, bool asked_image,
                                                bool asked_matrix) {
  std::vector<int64_t> size = shape_of(grad);
  size.erase(size.begin(), size.begin() + 2);
  const ByMatrix origin(matrix, size);
  const bool nearest = mode == "nearest", sums = asked_matrix && !nearest;
  // There is no gradient to the position of the nearest voxel.
  Tensor to_matrix = torch::stable::new_zeros(matrix, asked_matrix ? shape_of(matrix) : std::vector<int64_t>{0});
  Tensor to_image;
  for_arithmetic(image, matrix, [&](auto ndim_, auto real) {
    constexpr int ndim = decltype(ndim_)::value;
    using A = decltype(real);
    to_image = zeros_like<A>(image, asked_image);
    if (!asked_image && !sums) return;
    int32_t out[ndim];
    for (int k = 0; k < ndim; ++k) out[k] = int32_t(size[k]);
    const Columns<ndim> columns(out);
    const int64_t blocks = columns.count(), items = matrix.size(0);
    const std::vector<int64_t> shape = {items, ndim, ndim + 1, sums ? blocks : 0};
    const Tensor numbers = torch::stable::new_empty(matrix, shape, Dtype::Double);
    for_sums<A>(matrix, [&](auto s) {
      using S = decltype(s);
      for_gradients<ndim, A>(grad, image, origin, nearest, padding, asked_image ? &to_image : nullptr, 0,
                             [&](const auto& gradients) {
                               using Body = ByColumns<std::remove_cvref_t<decltype(gradients)>, S>;
                               each_block(Body{gradients, columns, sums ? write<double>(numbers) : nullptr},
                                          items * blocks, sums ? kThreads * Body::entries : 0, matrix);
                             });
    });
    if (sums) to_matrix = sum_of_blocks(numbers, matrix.scalar_type());
  });
  return {to_image, to_matrix};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("affine_warp", TORCH_BOX(&affine_warp));
  m.impl("affine_resample", TORCH_BOX(&affine_resample));
  m.impl("affine_warp_backward", TORCH_BOX(&affine_warp_backward));
}

}  // namespace l2rfast
