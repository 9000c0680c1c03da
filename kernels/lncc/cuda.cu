// Squared local normalised cross-correlation and its gradients on the GPU.
//
// Two kernels go over the same tiles: one from the images to the windows' values and the 3 or 5 quantities that
// gradients sum over, one from these to the gradients. Those quantities are kept for as many channels at once as
// `kKept` numbers hold, which fill a GPU, or for one channel.
//
// A block marches over the planes of a tile. For every plane it adds up what enters the windows there and takes away
// what leaves, sums that over the windows along y and then along x by sums that run along lines, and adds the result
// to the sums of its voxels, all in shared memory: the cost does not grow with the window but for the tile's margins.
// Where sums may not run (weights; NaN or infinity, which would stay in them), every window is summed anew, axis by
// axis.
//
// Floor: a voxel of one float32 channel takes 8 bytes of images and 4 of each gradient. Here the quantities are written
// and read besides, and with a window of 7 each march loads every number 3.5 times, of which the caches should serve
// 2.5: 1.6 for the margins, times the two planes that enter and leave.

#include "common/launch.cuh"
#include "common/ncc.h"
#include "common/window.h"

namespace l2rfast {
namespace {

constexpr int kTileX = 32, kTileY = 16;
constexpr int kPitch = kTileY + 1, kTile = kTileX * kPitch;  // of sums, which are kept by columns
constexpr int64_t kKept = 1 << 26;

// A channel of all of a batch's.
struct Channel {
  int64_t all, item, own;  // n C + c, n, c
};

// A tensor (N, C, *spatial) of one to three spatial axes.
template <class T>
struct Image {
  const T* data = nullptr;
  int64_t item = 0, channel = 0, plane = 0, row = 0, step = 0;

  Image() = default;
  explicit Image(const Tensor& t)
      : data(read<T>(t)),
        item(t.size(0) == 1 ? 0 : t.stride(0)),
        channel(t.size(1) == 1 ? 0 : t.stride(1)),
        plane(t.dim() == 5 ? t.stride(2) : 0),
        row(t.dim() >= 4 ? t.stride(t.dim() - 2) : 0),
        step(t.stride(t.dim() - 1)) {}

  L2RFAST_INLINE T at(const Channel& c, int z, int y, int x) const {
    return fetch(data + c.item * item + c.own * channel + z * plane + y * row + x * step);
  }
};

// Both images and their mask.
template <class T>
struct Pair {
  Image<T> a, b;
  Image<uint8_t> mask;
  int64_t channels, d, h, w;
  const double* levels;  // of every channel: sum and largest magnitude of a, then of b

  L2RFAST_INLINE Channel channel(int64_t i) const { return {i, i / channels, i % channels}; }
  L2RFAST_INLINE int64_t volume() const { return d * h * w; }
  L2RFAST_INLINE int64_t flat(int z, int y, int x) const { return (int64_t(z) * h + y) * w + x; }
  L2RFAST_INLINE bool inside(const Channel& c, int z, int y, int x) const { return !mask.data || mask.at(c, z, y, x); }
  L2RFAST_INLINE Level level(const Channel& c, bool of_b) const {
    const double* from = levels + 4 * c.all + 2 * of_b;
    const bool finite = from[0] - from[0] == 0;
    return {finite, finite ? double(Sum<T>(from[0] / double(volume()))) : 0, from[1]};
  }
};

// The sum and the largest magnitude of a channel of an image inside the mask, in parts; a block each.
template <class T>
struct Levels {
  static constexpr int resident = 4;
  Pair<T> images;
  int64_t parts;
  double *sums, *largest;

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const Channel c = images.channel(block / parts / 2);
    const Image<T>& image = block / parts % 2 ? images.b : images.a;
    all_threads([&](int thread) {
      double sum = 0, most = 0;
      for (int64_t i = block % parts * kThreads + thread; i < images.volume(); i += parts * kThreads) {
        const int64_t x = i % images.w, y = i / images.w % images.h, z = i / images.w / images.h;
        if (!images.inside(c, z, y, x)) continue;
        const double v = double(Sum<T>(image.at(c, z, y, x))), magnitude = v < 0 ? -v : v;
        sum += v;
        most = magnitude > most ? magnitude : most;
      }
      scratch[thread] = sum, scratch[kThreads + thread] = most;
    });
    all_threads([&](int thread) {
      if (thread != 0) return;
      double sum = 0, most = 0;
      for (int i = 0; i < kThreads; ++i) {
        sum += scratch[i];
        most = scratch[kThreads + i] > most ? scratch[kThreads + i] : most;
      }
      sums[block] = sum, largest[block] = most;
    });
  }
};

// What windows of images sum.
template <class T, bool masked>
struct OfImages {
  static constexpr int count = 5 + masked;
  Pair<T> images;

  L2RFAST_INLINE void add(const Channel& c, int z, int y, int x, double weight, double* to) const {
    if (masked && !images.inside(c, z, y, x)) return;
    const double a = double(Sum<T>(images.a.at(c, z, y, x))), b = double(Sum<T>(images.b.at(c, z, y, x)));
    to[0] += weight * a, to[1] += weight * b;
    to[2] += weight * a * a, to[3] += weight * b * b, to[4] += weight * a * b;
    if constexpr (masked) to[5] += weight;
  }
};

// What gradients sum: a volume of each quantity for each of some channels.
template <class R, int count_>
struct OfWindows {
  static constexpr int count = count_;
  const R* factors;
  int64_t first, volume, plane, row;

  L2RFAST_INLINE void add(const Channel& c, int z, int y, int x, double weight, double* to) const {
    const R* from = factors + (c.all - first) * count * volume + z * plane + y * row + x;
    for (int q = 0; q < count; ++q) to[q] += weight * double(fetch(from + q * volume));
  }
};

// Windows: their values, and what gradients sum. Returns what adds to the loss.
template <class T>
struct Values {
  using R = Sum<T>;
  Pair<T> images;
  Measure measure;
  Windows windows;
  double whole;
  const R* upstream;  // or null
  R *map, *factors;   // or null
  int64_t first;
  bool to_a, to_b;

  template <int count>
  L2RFAST_INLINE double operator()(const Channel& c, int iz, int iy, int ix, const double (&s)[count]) const {
    const bool centre = images.inside(c, iz, iy, ix);
    const auto& [z, y, x] = windows.axis;
    const double inside = z.inside(iz) * y.inside(iy) * x.inside(ix);
    const double share = centre ? 1 / measure.count(whole, inside, count == 6 ? s[count - 1] : inside) : 0;
    const int64_t volume = images.volume(), at = images.flat(iz, iy, ix);
    const double asked = !centre ? 0 : upstream ? double(upstream[c.all * volume + at]) : 1;
    const Factors<double> f = measured<double>(measure, {s[0], s[1], s[2], s[3], s[4]}, images.level(c, false),
                                               images.level(c, true), share, centre, asked);
    if (map) map[c.all * volume + at] = R(f.value);
    if (factors) {
      R* to = factors + (c.all - first) * (1 + 2 * to_a + 2 * to_b) * volume + at;
      *to = R(f.p);
      if (to_a) *(to += volume) = R(f.q_a), *(to += volume) = R(f.r_a);
      if (to_b) *(to += volume) = R(f.q_b), *(to += volume) = R(f.r_b);
    }
    return f.value;
  }
};

// The gradients asked for, from the sums of what they sum over.
template <class T>
struct Gradients {
  using R = Sum<T>;
  Pair<T> images;
  R *grad_a, *grad_b;  // or null

  template <int count>
  L2RFAST_INLINE double operator()(const Channel& c, int z, int y, int x, const double (&s)[count]) const {
    const int64_t at = c.all * images.volume() + images.flat(z, y, x);
    const bool inside = images.inside(c, z, y, x);
    const double a = double(R(images.a.at(c, z, y, x))) - images.level(c, false).mean;
    const double b = double(R(images.b.at(c, z, y, x))) - images.level(c, true).mean;
    if (grad_a) grad_a[at] = inside ? R(gradient_of(s[0], s[1], s[2], a, b)) : R(0);
    if (grad_b) grad_b[at] = inside ? R(gradient_of(s[0], s[count - 2], s[count - 1], b, a)) : R(0);
    return 0;
  }
};

// What blocks take of a channel.
struct Tiles {
  int64_t deep, down, across;

  L2RFAST_INLINE explicit Tiles(const Windows& w)
      : deep(pieces(w.axis[0].size, kAnchor)),
        down(pieces(w.axis[1].size, kTileY)),
        across(pieces(w.axis[2].size, kTileX)) {}
  L2RFAST_INLINE int64_t count() const { return deep * down * across; }

 private:
  static L2RFAST_INLINE int64_t pieces(int64_t size, int64_t of) { return (size + of - 1) / of; }
};

// Takes the sums over the windows of a tile from what adds to them to what uses them.
template <class T, class Source, class Use>
struct March {
  static constexpr int resident = 2, count = Source::count;
  Source source;
  Use use;
  Pair<T> images;
  Windows windows;
  int64_t first;   // channel
  double* totals;  // of what use returned, by block, or null

  L2RFAST_INLINE int rows() const { return kTileY + 2 * int(windows.axis[1].radius); }
  L2RFAST_INLINE int columns() const { return kTileX + 2 * int(windows.axis[2].radius); }
  L2RFAST_INLINE int pitch() const { return columns() | 1; }  // odd: lines side by side are in different banks
  // Of the tile with its margins for every quantity, of the sums over windows, of every thread's total.
  int64_t room() const { return count * (rows() * pitch() + kTile) + kThreads; }

  // use(i, sum) of the sums over windows along a line of `n`.
  template <class F>
  static L2RFAST_INLINE void along(const double* line, int step, int n, const Window& w, bool run, const F& use) {
    const int last = 2 * int(w.radius);
    double sum = 0;
    for (int i = 0; run && i < last; ++i) sum += line[i * step];
    for (int i = 0; i < n; ++i) {
      const double leaves = line[i * step];
      if (run) {
        sum += line[(i + last) * step];
      } else {
        sum = 0;
        for (int k = 0; k <= last; ++k) sum += w.weight(k) * line[(i + k) * step];
      }
      use(i, sum);
      sum -= leaves;
    }
  }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const auto& [z, y, x] = windows.axis;
    const Tiles tiles(windows);
    const int x0 = int(block % tiles.across) * kTileX, y0 = int(block / tiles.across % tiles.down) * kTileY;
    const int z0 = int(block / (tiles.across * tiles.down) % tiles.deep) * int(kAnchor);
    const Channel c = images.channel(first + block / tiles.count());
    const bool run = !windows.weighted() && images.level(c, false).finite && images.level(c, true).finite;
    const int h = rows(), w = columns(), p = pitch(), depth = int(z.size), reach = int(z.radius);
    double *planes = scratch, *sums = planes + count * h * p, *total = sums + count * kTile;
    all_threads([&](int thread) { total[thread] = 0; });
    for (int iz = z0; iz < z0 + int(kAnchor) && iz < depth; ++iz) {
      const bool anew = iz == z0 || !run;
      all_threads([&](int thread) {
        for (int i = thread; i < h * w; i += kThreads) {
          const int row = i / w, column = i % w;
          const int iy = y0 + row - int(y.radius), ix = x0 + column - int(x.radius);
          double change[count] = {};
          if (iy >= 0 && iy < y.size && ix >= 0 && ix < x.size) {
            if (anew) {
              L2RFAST_ROLLED
              for (int k = int(z.first(iz)); k <= int(z.last(iz)); ++k)
                source.add(c, k, iy, ix, z.weight(iz, k), change);
            } else {
              if (iz + reach < depth) source.add(c, iz + reach, iy, ix, 1, change);
              if (iz - reach > 0) source.add(c, iz - reach - 1, iy, ix, -1, change);
            }
          }
          for (int q = 0; q < count; ++q) planes[(q * h + row) * p + column] = change[q];
        }
      });
      all_threads([&](int thread) {
        for (int i = thread; i < count * w; i += kThreads) {
          double* line = planes + i / w * h * p + i % w;
          // In place: the first of a window makes room for its sum.
          along(line, p, kTileY, y, run, [&](int k, double sum) { line[k * p] = sum; });
        }
      });
      all_threads([&](int thread) {
        for (int i = thread; i < count * kTileY; i += kThreads) {
          const int q = i / kTileY, row = i % kTileY;
          double* to = sums + q * kTile + row;  // by columns: rows side by side are in different banks
          along(planes + (q * h + row) * p, 1, kTileX, x, run,
                [&](int k, double sum) { to[k * kPitch] = (anew ? 0 : to[k * kPitch]) + sum; });
        }
      });
      all_threads([&](int thread) {
        for (int i = thread; i < kTileX * kTileY; i += kThreads) {
          const int row = i / kTileX, column = i % kTileX;
          double own[count];
          for (int q = 0; q < count; ++q) own[q] = sums[q * kTile + column * kPitch + row];
          if (y0 + row < y.size && x0 + column < x.size) total[thread] += use(c, iz, y0 + row, x0 + column, own);
        }
      });
    }
    all_threads([&](int thread) {
      if (!totals || thread != 0) return;
      for (int i = 1; i < kThreads; ++i) total[0] += total[i];
      totals[block + first * tiles.count()] = total[0];
    });
  }
};

// Takes the sums over windows of `channels` channels, from `first` on, to what uses them.
template <class T, class Source, class Use>
void march(const Source& source, const Use& use, const Pair<T>& images, const Windows& w, int64_t first,
           int64_t channels, double* totals, const Tensor& on) {
  const March<T, Source, Use> body{source, use, images, w, first, totals};
  each_block(body, channels * Tiles(w).count(), body.room(), on);
}

// Of every channel of both images: Pair::levels.
template <class T>
Tensor levels_of(const Pair<T>& images, int64_t channels, const Tensor& on) {
  const int64_t parts = std::clamp<int64_t>(images.volume() / (16 * kThreads), 1, 64);
  const auto room = [&] { return torch::stable::new_empty(on, {channels, 2, parts}, Dtype::Double); };
  const Tensor sums = room(), largest = room();
  each_block(Levels<T>{images, parts, write<double>(sums), write<double>(largest)}, 2 * channels * parts, 2 * kThreads,
             on);
  Tensor levels = torch::stable::new_empty(on, {channels, 2, 2}, Dtype::Double);
  Tensor total = torch::stable::select(levels, 2, 0), most = torch::stable::select(levels, 2, 1);
  const int64_t last[] = {2};
  torch::stable::copy_(total, torch::stable::sum(sums, last));
  torch::stable::copy_(most, torch::stable::amax(largest, 2));
  return levels;
}

std::tuple<Tensor, Tensor, Tensor> local_ncc(const Tensor& a, const Tensor& b, std::optional<Tensor> mask,
                                             std::optional<Tensor> upstream, std::vector<int64_t> window,
                                             std::vector<double> weights, std::string borders,
                                             std::vector<double> constants, bool averaged, bool windows, bool to_a,
                                             bool to_b) {
  Tensor value, grad_a, grad_b;
  for_floating(a.scalar_type(), [&](auto t) {
    using T = decltype(t);
    using R = Sum<T>;
    const Measure measure(constants, averaged, borders);
    const Grid grid = grid_of_all(a);
    const int64_t batch = a.size(0), channels = batch * a.size(1), volume = grid.numel();
    const auto room = [&](bool asked, std::vector<int64_t> shape) {
      return torch::stable::new_empty(a, asked ? shape : std::vector<int64_t>{0}, dtype_of<R>);
    };
    const auto of = [](const Tensor& values, bool asked) { return asked ? write<R>(values) : nullptr; };
    const Tensor map = room(windows, shape_of(a)), asked = upstream ? packed(*upstream) : room(false, {});
    grad_a = room(to_a, shape_of(a)), grad_b = room(to_b, shape_of(b));

    Tensor on_host = torch::stable::from_blob(weights.data(), {int64_t(weights.size())}, {1},
                                              torch::stable::Device(torch::headeronly::DeviceType::CPU), Dtype::Double);
    const Tensor on_device = torch::stable::to(on_host, a.device());
    const Windows w(a, window, weights.empty() ? nullptr : read<double>(on_device));
    const double whole = Windows(a, window, weights.empty() ? nullptr : weights.data()).whole();

    Pair<T> images{Image<T>(a), Image<T>(b), {}, a.size(1), grid.d, grid.h, grid.w, nullptr};
    if (mask) images.mask = Image<uint8_t>(*mask);
    const Tensor levels = levels_of(images, channels, a);
    images.levels = read<double>(levels);

    const bool derived = to_a || to_b;
    const int64_t quantities = 1 + 2 * to_a + 2 * to_b;
    const int64_t together = std::clamp<int64_t>(kKept / (quantities * volume), 1, channels);
    const Tensor factors = room(derived, {together, quantities, volume});
    const Tensor totals = torch::stable::new_empty(a, {batch, a.size(1) * Tiles(w).count()}, Dtype::Double);
    for (int64_t first = 0; first < channels; first += together) {
      const int64_t some = std::min(together, channels - first);
      const Values<T> values{
          images, measure, w,   whole, of(asked, bool(upstream)), of(map, windows), of(factors, derived),
          first,  to_a,    to_b};
      if (mask)
        march(OfImages<T, true>{images}, values, images, w, first, some, write<double>(totals), a);
      else
        march(OfImages<T, false>{images}, values, images, w, first, some, write<double>(totals), a);
      const Gradients<T> gradients{images, of(grad_a, to_a), of(grad_b, to_b)};
      const auto back = [&](auto source) { march(source, gradients, images, w, first, some, nullptr, a); };
      if (to_a && to_b)
        back(OfWindows<R, 5>{read<R>(factors), first, volume, grid.h * grid.w, grid.w});
      else if (derived)
        back(OfWindows<R, 3>{read<R>(factors), first, volume, grid.h * grid.w, grid.w});
    }
    const int64_t last[] = {1};
    value = windows ? map : torch::stable::to(torch::stable::sum(totals, last), dtype_of<R>);
  });
  return {value, grad_a, grad_b};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cuda, L2RFAST_KEY, m) { m.impl("local_ncc", TORCH_BOX(&local_ncc)); }

}  // namespace l2rfast
