// Repeated box averages on the GPU: all passes of one axis after all of another, which is the same, as averages along
// different axes commute.
//
// A block holds whole lines of the axis in shared memory, 32 beside each other, and takes them from one of two buffers
// to the other for every pass. Every window is summed anew: what is not finite stays in its windows.
//
// Floor: the image is read once and written once, 8 bytes a voxel of float32; here once for every axis.

#include "common/box.h"
#include "common/launch.cuh"

namespace l2rfast {
namespace {

constexpr int kLines = 32, kPitch = kLines + 1;  // odd: neighbours along a line are in different banks
constexpr int64_t kLongest = 1 << 24;            // line, and reach of all passes

// Lines of `size` numbers that are `inner` apart.
struct Lines {
  int64_t count, inner;
  int32_t size;

  L2RFAST_INLINE int64_t at(int64_t line, int i) const {
    return inner > 1 ? (line / inner * size + i) * inner + line % inner : line * size + i;
  }
};

struct Box {
  int32_t radius, passes;
  Outside outside;
  bool adjoint;

  L2RFAST_INLINE bool extended() const { return outside == Outside::extended; }
  L2RFAST_INLINE bool repeated() const { return outside != Outside::zero && !adjoint; }
  // How far what a pass makes goes beyond both ends: what passes to come, or the adjoint's ends, need of it.
  L2RFAST_INLINE int beyond(int pass) const {
    if (!extended() || pass == passes - 1) return 0;
    return radius * (adjoint ? pass + 1 : passes - 1 - pass);
  }
  int most() const { return extended() ? radius * (passes - 1) : 0; }
  // In the adjoint of a repeated border, how far beyond an end averages belong to it.
  L2RFAST_INLINE int folded(int pass) const {
    if (!adjoint || outside == Outside::zero) return 0;
    return !extended() ? radius : pass == passes - 1 ? radius * passes : 0;
  }
};

template <class T>
struct Averages {
  static constexpr int resident = 4;
  const T* image;
  T* result;  // may be the image
  Lines lines;
  Box box;
  int32_t margin;

  int64_t length() const { return lines.size + 2 * int64_t(margin); }
  int64_t room() const { return (2 * length() * kPitch * int64_t(sizeof(T)) + 7) / int64_t(sizeof(double)); }

  // f(line, i) for places [begin, end) of `count` lines; threads beside each other take what is so in memory.
  template <class F>
  L2RFAST_INLINE void each(int thread, int count, int begin, int end, const F& f) const {
    const int lane = thread % kLines, group = thread / kLines;
    if (lines.inner > 1) {
      if (lane >= count) return;
      for (int i = begin + group; i < end; i += kThreads / kLines) f(lane, i);
    } else {
      for (int line = group; line < count; line += kThreads / kLines)
        for (int i = begin + lane; i < end; i += kLines) f(line, i);
    }
  }

  // Of a pass at place i, over a line that goes `beyond` both ends.
  L2RFAST_INLINE T average(const T* line, int i, int pass, int beyond) const {
    const int first = -beyond, last = lines.size - 1 + beyond, fold = box.folded(pass), r = box.radius;
    const int low = i == 0 ? -fold : i, high = i == lines.size - 1 ? i + fold : i;
    T total = 0;
    for (int v = low; v <= high; ++v) {
      const int begin = box.repeated() ? v - r : std::max(v - r, first);
      const int end = box.repeated() ? v + r : std::min(v + r, last);
      for (int k = begin; k <= end; ++k) total += line[std::clamp(k, first, last) * kPitch];
    }
    return total * (T(1) / T(2 * r + 1));
  }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const int64_t start = block * kLines;
    const int count = int(std::min<int64_t>(kLines, lines.count - start));
    T *from = reinterpret_cast<T*>(scratch) + margin * kPitch, *to = from + (lines.size + 2 * margin) * kPitch;
    all_threads([&](int thread) {
      each(thread, count, 0, lines.size,
           [&](int line, int i) { from[i * kPitch + line] = image[lines.at(start + line, i)]; });
    });
    int before = 0;
    for (int pass = 0; pass < box.passes; ++pass) {
      const int after = box.beyond(pass);
      all_threads([&](int thread) {
        each(thread, count, -after, lines.size + after,
             [&](int line, int i) { to[i * kPitch + line] = average(from + line, i, pass, before); });
      });
      std::swap(from, to);
      before = after;
    }
    all_threads([&](int thread) {
      each(thread, count, 0, lines.size,
           [&](int line, int i) { result[lines.at(start + line, i)] = from[i * kPitch + line]; });
    });
  }
};

template <bool adjoint>
Tensor box(const Tensor& image_, int64_t radius, int64_t passes, std::string padding) {
  const Tensor image = packed(image_), result = empty_as(image, shape_of(image));
  STD_TORCH_CHECK(radius * passes < kLongest, "radius: expected a reach of fewer than 2^24 voxels");
  const Box box{int32_t(radius), int32_t(passes),
                padding == "zeros"    ? Outside::zero
                : padding == "border" ? Outside::border
                                      : Outside::extended,
                adjoint};
  for_real(image.scalar_type(), [&](auto t) {
    using T = decltype(t);
    const T* from = read<T>(image);
    int64_t inner = 1;
    for (int64_t axis = image.dim() - 1; axis >= 2; --axis) {
      const int64_t size = image.size(axis);
      STD_TORCH_CHECK(size < kLongest, "image: expected fewer than 2^24 voxels along an axis, got ", size);
      const Lines lines{size > 0 ? image.numel() / size : 0, inner, int32_t(size)};
      const Averages<T> body{from, write<T>(result), lines, box, box.most()};
      each_block(body, (lines.count + kLines - 1) / kLines, body.room(), image);
      from = write<T>(result), inner *= size;
    }
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) {
  m.impl("box_average", TORCH_BOX(&box<false>));
  m.impl("box_average_backward", TORCH_BOX(&box<true>));
}

}  // namespace l2rfast
