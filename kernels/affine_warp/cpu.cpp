// Sampling at an affine map of the output voxels on the CPU; see common/sampler.h for how, and for what it costs at
// least: no field is read. Between resolutions maps mix no axes: then taps are found once for each axis, and what is
// interpolated along x serves all the rows that lie between the same ones of the image. The bits are the same.

#include <cmath>

#include "common/sampler.h"
#include "common/text.h"

namespace l2rfast {
namespace {

// The linear taps of all output voxels along one axis of a map that mixes none.
template <class A>
struct AxisTaps {
  std::vector<int32_t> base, next;
  std::vector<A> w0, w1;

  AxisTaps(A start, A slope, int64_t count, int64_t size, Padding padding) {
    for (int64_t i = 0; i < count; ++i)
      for_padding(padding, [&](auto p) {
        const Taps<A, int32_t> taps = linear_taps<p>(start + slope * A(i), int32_t(size));
        base.push_back(taps.base), next.push_back(taps.base + (size > 1));
        w0.push_back(taps.w0), w1.push_back(taps.w1);
      });
  }
};

// Rows of one plane of an image, interpolated along x where they are asked for.
template <class A>
struct Rows {
  const AxisTaps<A>& x;
  std::vector<A> values;
  std::vector<char> there;
  const A* plane = nullptr;

  Rows(const AxisTaps<A>& x, int64_t count) : x(x), values(count * x.base.size()), there(count) {}

  const A* row(int64_t y, int64_t width) {
    const int64_t count = x.base.size();
    A* __restrict to = values.data() + y * count;
    if (!there[y]) {
      const A* from = plane + y * width;
      for (int64_t i = 0; i < count; ++i) to[i] = x.w0[i] * from[x.base[i]] + x.w1[i] * from[x.next[i]];
      there[y] = 1;
    }
    return to;
  }
  void begin(const A* at) {
    if (at == plane) return;
    plane = at;
    std::fill(there.begin(), there.end(), 0);
  }
};

// Whether a map mixes no axes, and takes every voxel of the output to a finite place.
template <int ndim, class A>
bool along_axes(const Affine<ndim, A>& source) {
  const int64_t size[3] = {source.out.d, source.out.h, source.out.w};
  for (size_t i = 0; i < source.matrix.size(); ++i) {
    const int64_t k = int64_t(i) / (ndim + 1) % ndim, j = int64_t(i) % (ndim + 1);
    const A entry = source.matrix[i];
    if (!std::isfinite(entry) || (j < ndim && j != k && entry != 0)) return false;
    if (j == k && !std::isfinite(entry * A(size[3 - ndim + k]) + source.matrix[i - j + ndim])) return false;
  }
  return true;
}

// Linear samples of such a map.
template <int ndim, class A>
Tensor sample_along_axes(const Tensor& image_, const Affine<ndim, A>& source, Padding padding) {
  const Tensor image = packed(image_);
  const Grid in = grid_of(image, ndim), out = source.out;
  const int64_t channels = image.size(1), items = std::max(image.size(0), source.items);
  std::vector<int64_t> shape = {items, channels};
  if (ndim == 3) shape.push_back(out.d);
  shape.push_back(out.h), shape.push_back(out.w);
  const Tensor result = room_as(image, shape);
  const int64_t before[3] = {in.d, in.h, in.w}, after[3] = {out.d, out.h, out.w};
  std::vector<std::array<AxisTaps<A>, ndim>> taps;
  for (int64_t n = 0; n < source.items; ++n) {
    const auto of = [&](int k) {
      const A* m = source.matrix.data() + (n * ndim + k) * (ndim + 1);
      return AxisTaps<A>(m[ndim], m[k], after[3 - ndim + k], before[3 - ndim + k], padding);
    };
    if constexpr (ndim == 3)
      taps.push_back({of(0), of(1), of(2)});
    else
      taps.push_back({of(0), of(1)});
  }
  const int64_t planes = channels * out.d;
  parallel_runs(items * planes, [&](int64_t begin, int64_t end) {
    std::optional<Rows<A>> kept[2];
    int64_t last = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / planes, c = item % planes / out.d, z = item % out.d;
      const auto& t = taps[source.items > 1 ? n : 0];
      const A* volume = read<A>(image) + ((image.size(0) > 1 ? n : 0) * channels + c) * in.numel();
      if (n != last)
        for (auto& rows : kept) rows.emplace(t[ndim - 1], in.h);
      last = n;
      // Neighbouring planes are in one and the other.
      int64_t low = 0, high = 0;
      if constexpr (ndim == 3) low = t[0].base[z], high = t[0].next[z];
      Rows<A>&first = *kept[low % 2], &second = *kept[high % 2];
      first.begin(volume + low * in.h * in.w), second.begin(volume + high * in.h * in.w);
      const auto& ty = t[ndim - 2];
      for (int64_t y = 0; y < out.h; ++y) {
        const A y0 = ty.w0[y], y1 = ty.w1[y];
        const A *a = first.row(ty.base[y], in.w), *b = first.row(ty.next[y], in.w);
        A* __restrict to = write<A>(result) + (item * out.h + y) * out.w;
        if constexpr (ndim == 2) {
          for (int64_t x = 0; x < out.w; ++x) to[x] = y0 * a[x] + y1 * b[x];
        } else {
          const A z0 = t[0].w0[z], z1 = t[0].w1[z];
          const A *e = second.row(ty.base[y], in.w), *f = second.row(ty.next[y], in.w);
          for (int64_t x = 0; x < out.w; ++x) to[x] = z0 * (y0 * a[x] + y1 * b[x]) + z1 * (y0 * e[x] + y1 * f[x]);
        }
      }
    }
  });
  return result;
}

Tensor affine_warp(const Tensor& image, const Tensor& matrix, std::vector<int64_t> size, Text mode, Text padding) {
  Tensor result;
  for_arithmetic(image, matrix, [&](auto ndim, auto real) {
    using A = decltype(real);
    const Affine<ndim.value, A> source(matrix, Grid::of(size));
    const bool alike = image.scalar_type() == dtype_of<A> && mode == "linear" && along_axes(source);
    result = alike ? sample_along_axes(image, source, padding_of(padding))
                   : sample<ndim.value>(image, source, mode, padding);
  });
  return result;
}

Tensor affine_resample(const Tensor& image, const Tensor& matrix, std::optional<Tensor> disp, std::vector<int64_t> size,
                       Text mode, Text padding, std::optional<Tensor> outside) {
  Tensor result;
  for_arithmetic(image, matrix, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const auto from = [&](const Positions<A>& source) {
      result = sample<ndim, A>(image, source, mode, padding, nullptr, outside);
    };
    disp ? from(AffineDisplaced<ndim, A>(*disp, matrix)) : from(Affine<ndim, A>(matrix, Grid::of(size)));
  });
  return result;
}

std::tuple<Tensor, Tensor> affine_warp_backward(const Tensor& grad_, const Tensor& image, const Tensor& matrix,
                                                Text mode, Text padding, bool to_image, bool to_matrix) {
  const Tensor grad = packed(grad_), grad_matrix = gradient_to(matrix, to_matrix, mode);
  Tensor grad_image;
  for_arithmetic(image, matrix, [&](auto ndim_, auto real) {
    constexpr int ndim = ndim_.value;
    using A = decltype(real);
    const Affine<ndim, A> source(matrix, grid_of(grad, ndim));
    grad_image = zeros_like<A>(image, to_image);
    if (to_image) backward_image<ndim>(grad, source, mode, padding, grad_image);
    if (!to_matrix || mode != "linear") return;
    // A sum per row of the output, then over the rows in order: the same bits for any number of threads.
    using Entries = std::array<double, ndim*(ndim + 1)>;
    const int64_t rows = source.out.rows();
    std::vector<Entries> by_row(source.items * rows, Entries{});
    backward_positions<ndim, A>(grad, image, source, padding, [&](const Block& b, const A(&sum)[ndim][kBlock]) {
      Entries& row = by_row[b.n * rows + b.first / source.out.w];
      for (int k = 0; k < ndim; ++k) {
        double total = 0, moment = 0;
        for (int i = 0; i < b.count; ++i) total += sum[k][i], moment += sum[k][i] * double(b.x + i);
        double* entry = &row[k * (ndim + 1)];
        for (int j = 0; j < ndim - 1; ++j) entry[j] += total * b.coordinate<double>(3 - ndim + j);
        entry[ndim - 1] += moment, entry[ndim] += total;
      }
    });
    for_field<A>(matrix.scalar_type(), [&](auto t) {
      for (int64_t n = 0; n < source.items; ++n) {
        Entries total{};
        for (int64_t r = 0; r < rows; ++r)
          for (size_t j = 0; j < total.size(); ++j) total[j] += by_row[n * rows + r][j];
        std::copy(total.begin(), total.end(), write<decltype(t)>(grad_matrix) + n * total.size());
      }
    });
  });
  return {grad_image, grad_matrix};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CPU, m) {
  m.impl("affine_warp", TORCH_BOX(&affine_warp));
  m.impl("affine_resample", TORCH_BOX(&affine_resample));
  m.impl("affine_warp_backward", TORCH_BOX(&affine_warp_backward));
}

}  // namespace l2rfast
