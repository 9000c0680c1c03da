// What windows of two images sum, their values, and what gradients to the images sum, on the GPU.
//
// Images are taken relative to a level of their channel, in units of a power of two: squares neither overflow float32
// nor vanish in it, and are small where intensities vary little beside their level, so that sums lose least.
#pragma once

#include "common/ncc.h"
#include "lncc/march.cuh"

namespace l2rfast {

// The level of a channel of an image and its largest magnitude, both times `scale`.
template <class F>
struct Unit {
  LevelOf<F> level;
  F scale;
};

// Of a channel of both images, and the loss in these units.
template <class F>
struct Units {
  Unit<F> a, b;
  MeasureOf<F> measure;
};

// Both images and their mask, of which places are voxels, or blocks of them.
template <class T, class S, bool blocked = false>
struct Pair {
  using Value = T;
  using Sums = S;
  using F = Beside<S>;
  Image<T> a, b;
  Image<uint8_t> mask;
  int64_t channels, d, h, w;
  int sides[3];           // of blocks
  const Units<F>* units;  // of every channel

  L2RFAST_INLINE Channel channel(int64_t i) const { return {i, i / channels, i % channels}; }
  L2RFAST_INLINE int64_t volume() const { return d * h * w; }
  L2RFAST_INLINE int64_t flat(int z, int y, int x) const { return (int64_t(z) * h + y) * w + x; }
  L2RFAST_INLINE bool inside(const Channel& c, int z, int y, int x) const { return !mask.data || mask.at(c, z, y, x); }
  L2RFAST_INLINE bool finite(const Channel& c) const {
    return units[c.all].a.level.finite && units[c.all].b.level.finite;
  }
  // An image of this size whose channels lie one after the other.
  Image<T> packed(const T* data) const {
    Image<T> image;
    image.data = data, image.item = channels * volume(), image.channel = volume();
    image.plane = h * w, image.row = w, image.step = 1;
    return image;
  }
  // f(z, y, x) for the voxels of a place.
  template <class Do>
  L2RFAST_INLINE void each(int z, int y, int x, const Do& f) const {
    if constexpr (blocked) {
      for (int k = 0; k < sides[0] * sides[1] * sides[2]; ++k)
        f(z * sides[0] + k / sides[2] / sides[1], y * sides[1] + k / sides[2] % sides[1], x * sides[2] + k % sides[2]);
    } else {
      f(z, y, x);
    }
  }
  // Whether any voxel of a place is inside.
  L2RFAST_INLINE bool counts(const Channel& c, int z, int y, int x) const {
    bool any = false;
    each(z, y, x, [&](int k, int j, int i) { any |= inside(c, k, j, i); });
    return any;
  }
  L2RFAST_INLINE F voxels() const { return blocked ? F(sides[0] * sides[1] * sides[2]) : F(1); }
  static L2RFAST_INLINE S relative(T value, const Unit<F>& unit) {
    return S(F(Sum<T>(value)) * unit.scale) - unit.level.mean;
  }
};

// The sum, the largest magnitude and the number of a channel's values inside the mask, in parts; a block each.
template <class Images>
struct Levels {
  static constexpr int resident = 4;
  using R = Sum<typename Images::Value>;
  Images images;
  int64_t first, parts;
  double *sums, *largest, *counts;

  L2RFAST_INLINE void operator()(int64_t block, double* scratch) const {
    const Channel c = images.channel(first + block / parts / 2);
    const auto& image = block / parts % 2 ? images.b : images.a;
    all_threads([&](int thread) {
      R sum = 0, most = 0;
      int64_t count = 0;
      for (int64_t i = block % parts * kThreads + thread; i < images.volume(); i += parts * kThreads) {
        const int64_t x = i % images.w, y = i / images.w % images.h, z = i / images.w / images.h;
        if (!images.inside(c, z, y, x)) continue;
        const R v = R(image.at(c, z, y, x)), magnitude = v < 0 ? -v : v;
        sum += v;
        most = magnitude > most ? magnitude : most;
        ++count;
      }
      scratch[thread] = sum, scratch[kThreads + thread] = most, scratch[2 * kThreads + thread] = count;
    });
    all_threads([&](int thread) {
      if (thread != 0) return;
      double sum = 0, most = 0, count = 0;
      for (int i = 0; i < kThreads; ++i) {
        sum += scratch[i];
        most = scratch[kThreads + i] > most ? scratch[kThreads + i] : most;
        count += scratch[2 * kThreads + i];
      }
      sums[block] = sum, largest[block] = most, counts[block] = count;
    });
  }
};

// The units of a channel, from the parts of its images; a block each.
template <class T, class S>
struct Together {
  static constexpr int resident = 4;
  using F = Beside<S>;
  MeasureOf<F> measure;
  int64_t parts;
  const double *sums, *largest, *counts;
  Units<F>* to;

  L2RFAST_INLINE void operator()(int64_t block, double*) const {
    all_threads([&](int thread) {
      if (thread != 0) return;
      const Unit<F> a = unit(2 * block), b = unit(2 * block + 1);
      to[block] = {a, b, measure.times(a.scale, b.scale)};
    });
  }

 private:
  L2RFAST_INLINE Unit<F> unit(int64_t image) const {
    double sum = 0, most = 0, count = 0;
    for (int64_t i = image * parts; i < (image + 1) * parts; ++i) {
      sum += sums[i];
      most = largest[i] > most ? largest[i] : most;
      count += counts[i];
    }
    const bool finite = sum - sum == 0;
    // Beyond 2^20 the constants of the loss would overflow, and smaller images are nothing beside them.
    const int power = !(most - most == 0) ? 0 : most < 0x1p-20 ? 20 : -std::ilogb(most) - 1;
    const F scale = std::ldexp(F(1), power);
    const F mean = finite && count > 0 ? F(Sum<T>(sum / count)) * scale : 0;
    return {{finite, mean, F(most) * scale}, scale};
  }
};

// Puts the units of `channels` channels, from `first` on, in their places.
template <class T, class S, bool blocked>
void measure_units(const Pair<T, S, blocked>& images, const MeasureOf<Beside<S>>& measure, int64_t first,
                   int64_t channels, Units<Beside<S>>* to, const Tensor& on) {
  const int64_t parts = std::clamp<int64_t>(images.volume() / (16 * kThreads), 1, 64);
  const auto room = [&](int64_t each) { return torch::stable::new_empty(on, {channels, each}, Dtype::Double); };
  const Tensor sums = room(2 * parts), largest = room(2 * parts), counts = room(2 * parts);
  using Images = Pair<T, S, blocked>;
  each_block(Levels<Images>{images, first, parts, write<double>(sums), write<double>(largest), write<double>(counts)},
             2 * channels * parts, 3 * kThreads, on);
  each_block(
      Together<T, S>{measure, parts, read<double>(sums), read<double>(largest), read<double>(counts), to + first},
      channels, 0, on);
}

// What windows of images sum.
template <class Images, bool masked>
struct OfImages {
  static constexpr int count = 5 + masked;
  using S = typename Images::Sums;
  using F = Beside<S>;
  Images images;

  L2RFAST_INLINE auto of(const Channel& c) const {
    return [this, c, &units = images.units[c.all]](int z, int y, int x, F weight, S* to) {
      images.each(z, y, x, [&](int k, int j, int i) {
        if (masked && !images.inside(c, k, j, i)) return;
        const S a = images.relative(images.a.at(c, k, j, i), units.a);
        const S b = images.relative(images.b.at(c, k, j, i), units.b);
        const S times_a = weight * a, times_b = weight * b;
        to[0] += times_a, to[1] += times_b;
        to[2] += times_a * a, to[3] += times_b * b, to[4] += times_a * b;
        if constexpr (masked) to[5] += weight;
      });
    };
  }
};

// What gradients sum: a volume of each quantity for each of some channels.
template <class R, class S, int count_>
struct OfWindows {
  static constexpr int count = count_;
  using F = Beside<S>;
  const R* factors;
  int64_t first, volume, plane, row;

  L2RFAST_INLINE auto of(const Channel& c) const {
    const R* channel = factors + (c.all - first) * count * volume;
    return [this, channel](int z, int y, int x, F weight, S* to) {
      const R* from = channel + z * plane + y * row + x;
      for (int q = 0; q < count; ++q) to[q] += S(F(fetch(from + q * volume))) * weight;
    };
  }
};

// Windows: their values, and what gradients sum. Returns what adds to the loss.
template <class Images>
struct Values {
  using R = Sum<typename Images::Value>;
  using S = typename Images::Sums;
  using F = Beside<S>;
  Images images;
  WindowsOf<F> windows;
  S whole;
  const R* upstream;  // or null
  R *map, *factors;   // or null
  int64_t first;
  bool to_a, to_b;

  L2RFAST_INLINE auto of(const Channel& c) const {
    return [this, c, &units = images.units[c.all]](int z, int y, int x, const auto& s) {
      const auto& [a, b, measure] = units;
      const bool centre = images.counts(c, z, y, x);
      const S inside = windows.template inside<S>(z, y, x) * images.voxels();
      S mass = inside;
      if constexpr (sizeof(s) / sizeof(S) == 6) mass = s[5];
      const S n = measure.count(whole, inside, mass), beyond = n - mass;
      Moments<S> sums = {s[0], s[1], s[2], s[3], s[4]};
      if (F(beyond) > 0) {  // zeros outside the image
        const S beyond_a = beyond * -a.level.mean, beyond_b = beyond * -b.level.mean;
        sums.a += beyond_a, sums.aa -= beyond_a * a.level.mean;
        sums.b += beyond_b, sums.bb -= beyond_b * b.level.mean, sums.ab -= beyond_a * b.level.mean;
      }
      const int64_t volume = windows.places(), at = windows.place(z, y, x);
      const F asked = !centre ? F(0) : upstream ? F(upstream[c.all * volume + at]) : F(1);
      const S share = centre ? reciprocal(n) : S(F(0));
      const auto level = [&](const Unit<F>& unit, S sum) -> LevelOf<F> {
        return {unit.level.finite, 0, resolved(unit.level.largest, F(sum * share))};
      };
      const Factors<F> f = measured(measure, sums, level(a, sums.a), level(b, sums.b), share, F(centre), asked);
      if (map) map[c.all * volume + at] = R(f.value);
      if (factors) {
        R* to = factors + (c.all - first) * (1 + 2 * to_a + 2 * to_b) * volume + at;
        *to = R(f.p);
        if (to_a) *(to += volume) = R(f.q_a), *(to += volume) = R(f.r_a);
        if (to_b) *(to += volume) = R(f.q_b), *(to += volume) = R(f.r_b);
      }
      return f.value;
    };
  }

  // What takes the place of the largest magnitude where windows become flat, for one of a mean: pairs resolve variances
  // of 2^-44 of its square, which kFlat exceeds by the square of this factor.
  static L2RFAST_INLINE F resolved(F largest, F mean) {
    if constexpr (std::is_same_v<S, double>) return largest;
    const F least = F(2.4) * std::fabs(mean);
    return least > largest ? least : largest;
  }
};

// The gradients asked for, from the sums of what they sum over.
template <class Images>
struct Gradients {
  using R = Sum<typename Images::Value>;
  using S = typename Images::Sums;
  using F = Beside<S>;
  Images images;
  R *grad_a, *grad_b;  // or null

  L2RFAST_INLINE auto of(const Channel& c) const {
    return [this, c, &units = images.units[c.all]](int z, int y, int x, const auto& s) {
      constexpr int count = sizeof(s) / sizeof(S);
      images.each(z, y, x, [&](int k, int j, int i) {
        const int64_t at = c.all * images.volume() + images.flat(k, j, i);
        const bool inside = images.inside(c, k, j, i);
        const S a = images.relative(images.a.at(c, k, j, i), units.a);
        const S b = images.relative(images.b.at(c, k, j, i), units.b);
        if (grad_a) grad_a[at] = inside ? R(F(gradient_of(s[0], s[1], s[2], a, b)) * units.a.scale) : R(0);
        if (grad_b)
          grad_b[at] = inside ? R(F(gradient_of(s[0], s[count - 2], s[count - 1], b, a)) * units.b.scale) : R(0);
      });
      return F(0);
    };
  }
};

}  // namespace l2rfast
