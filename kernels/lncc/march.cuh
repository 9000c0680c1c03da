// Sums over windows of whatever adds to them, taken to whatever uses them, on the GPU.
//
// A block marches over the planes of a tile. For every plane it adds up what enters the windows there and takes away
// what leaves, sums that over the windows along y and then along x by sums that run along lines, and adds the result
// to the sums of its voxels, all in shared memory: the cost does not grow with the window but for the tile's margins.
// Where sums may not run (weights; NaN or infinity, which would stay in them), every window is summed anew, axis by
// axis.
//
// Sums are of S: double, or Paired where that is slow. Either takes 8 bytes.
#pragma once

#include "common/launch.cuh"
#include "common/pairs.cuh"
#include "common/window.h"

namespace l2rfast {

constexpr int kTileX = 32, kTileY = 16;
constexpr int kPitch = kTileY + 1, kTile = kTileX * kPitch;  // of sums, which are kept by columns

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

// What blocks take of a channel.
struct Tiles {
  int64_t deep, down, across;

  template <class W>
  L2RFAST_INLINE explicit Tiles(const WindowsOf<W>& w)
      : deep(pieces(w.axis[0].size, kAnchor)),
        down(pieces(w.axis[1].size, kTileY)),
        across(pieces(w.axis[2].size, kTileX)) {}
  L2RFAST_INLINE int64_t count() const { return deep * down * across; }

 private:
  static L2RFAST_INLINE int64_t pieces(int64_t size, int64_t of) { return (size + of - 1) / of; }
};

// Takes the sums over the windows of a tile from what adds to them to what uses them.
//
// source.of(channel)(z, y, x, weight, S* to) adds a voxel to its sums; use.of(channel)(z, y, x, sums) may return what
// adds to the total. images says of a channel whether all of it is finite.
template <class S, class Images, class Source, class Use>
struct March {
  static constexpr int resident = 2, count = Source::count;
  static_assert(sizeof(S) == sizeof(double));
  using W = Beside<S>;
  Images images;
  Source source;
  Use use;
  WindowsOf<W> windows;
  int64_t first;   // channel
  double* totals;  // of what use returned, by block, or null

  L2RFAST_INLINE int rows() const { return kTileY + 2 * int(windows.axis[1].radius); }
  L2RFAST_INLINE int columns() const { return kTileX + 2 * int(windows.axis[2].radius); }
  L2RFAST_INLINE int pitch() const { return columns() | 1; }  // odd: lines side by side are in different banks
  // Of the tile with its margins for every quantity, of the sums over windows, of every thread's total.
  int64_t room() const { return count * (rows() * pitch() + kTile) + kThreads; }

  // use(i, sum) of the sums over windows along a line of `n`.
  template <class F>
  static L2RFAST_INLINE void along(const S* line, int step, int n, const WindowOf<W>& w, bool run, const F& use) {
    const int last = 2 * int(w.radius);
    S sum = W(0);
    for (int i = 0; run && i <= last; ++i) sum += line[i * step];
    for (int i = 0; i < n; ++i) {
      // Not first one and then the other: where both are the same nothing changes, and no sum waits for two.
      const S change = run && i + 1 < n ? line[(i + 1 + last) * step] - line[i * step] : S(W(0));
      if (!run) {
        sum = W(0);
        for (int k = 0; k <= last; ++k) sum += w.weight(k) * line[(i + k) * step];
      }
      use(i, sum);
      sum += change;
    }
  }

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const auto& [z, y, x] = windows.axis;
    const Tiles tiles(windows);
    const int x0 = int(block % tiles.across) * kTileX, y0 = int(block / tiles.across % tiles.down) * kTileY;
    const int z0 = int(block / (tiles.across * tiles.down) % tiles.deep) * int(kAnchor);
    const Channel c = images.channel(first + block / tiles.count());
    const bool run = !windows.weighted() && images.finite(c);
    const int h = rows(), w = columns(), p = pitch(), depth = int(z.size), reach = int(z.radius);
    const auto add = source.of(c);
    const auto take = use.of(c);
    S *planes = reinterpret_cast<S*>(scratch), *sums = planes + count * h * p, *total = sums + count * kTile;
    all_threads([&](int thread) { total[thread] = W(0); });
    for (int iz = z0; iz < z0 + int(kAnchor) && iz < depth; ++iz) {
      const bool anew = iz == z0 || !run;
      all_threads([&](int thread) {
        for (int i = thread; i < h * w; i += kThreads) {
          const int row = i / w, column = i % w;
          const int iy = y0 + row - int(y.radius), ix = x0 + column - int(x.radius);
          S change[count];
          for (S& each : change) each = W(0);
          if (iy >= 0 && iy < y.size && ix >= 0 && ix < x.size) {
            if (anew) {
              L2RFAST_ROLLED
              for (int k = int(z.first(iz)); k <= int(z.last(iz)); ++k) add(k, iy, ix, z.weight(iz, k), change);
            } else {
              if (iz + reach < depth) add(iz + reach, iy, ix, 1, change);
              if (iz - reach > 0) add(iz - reach - 1, iy, ix, -1, change);
            }
          }
          for (int q = 0; q < count; ++q) planes[(q * h + row) * p + column] = change[q];
        }
      });
      all_threads([&](int thread) {
        for (int i = thread; i < count * w; i += kThreads) {
          S* line = planes + i / w * h * p + i % w;
          // In place: the first of a window makes room for its sum.
          along(line, p, kTileY, y, run, [&](int k, S sum) { line[k * p] = sum; });
        }
      });
      all_threads([&](int thread) {
        for (int i = thread; i < count * kTileY; i += kThreads) {
          const int q = i / kTileY, row = i % kTileY;
          S* to = sums + q * kTile + row;  // by columns: rows side by side are in different banks
          along(planes + (q * h + row) * p, 1, kTileX, x, run,
                [&](int k, S sum) { to[k * kPitch] = (anew ? S(W(0)) : to[k * kPitch]) + sum; });
        }
      });
      all_threads([&](int thread) {
        for (int i = thread; i < kTileX * kTileY; i += kThreads) {
          const int row = i / kTileX, column = i % kTileX;
          S own[count];
          for (int q = 0; q < count; ++q) own[q] = sums[q * kTile + column * kPitch + row];
          if (y0 + row < y.size && x0 + column < x.size) total[thread] += take(iz, y0 + row, x0 + column, own);
        }
      });
    }
    all_threads([&](int thread) {
      if (!totals || thread != 0) return;
      for (int i = 1; i < kThreads; ++i) total[0] += total[i];
      totals[block + first * tiles.count()] = double(total[0]);
    });
  }
};

// Takes the sums over windows of `channels` channels, from `first` on, to what uses them.
template <class S, class Images, class Source, class Use>
void march(const Images& images, const Source& source, const Use& use, const WindowsOf<Beside<S>>& w, int64_t first,
           int64_t channels, double* totals, const Tensor& on) {
  const March<S, Images, Source, Use> body{images, source, use, w, first, totals};
  each_block(body, channels * Tiles(w).count(), body.room(), on);
}

}  // namespace l2rfast
