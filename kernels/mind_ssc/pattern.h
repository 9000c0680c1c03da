// Which neighbours of a voxel a channel compares, along (z, y, x) in dilations: the order of the channels is that of
// reference.py.
#pragma once

namespace l2rfast {

struct Pair {
  int a[3], b[3];
};

template <int ndim>
struct Pattern;

template <>
struct Pattern<3> {
  static constexpr int channels = 12;
  static constexpr Pair pairs[12] = {{{1, 0, 0}, {0, -1, 0}},  {{0, 1, 0}, {-1, 0, 0}},  {{0, -1, 0}, {-1, 0, 0}},
                                     {{0, 1, 0}, {1, 0, 0}},   {{0, -1, 0}, {0, 0, -1}}, {{0, 1, 0}, {0, 0, 1}},
                                     {{0, 0, -1}, {-1, 0, 0}}, {{1, 0, 0}, {0, 0, 1}},   {{0, 1, 0}, {0, 0, -1}},
                                     {{0, 0, 1}, {0, -1, 0}},  {{1, 0, 0}, {0, 0, -1}},  {{0, 0, 1}, {-1, 0, 0}}};
};

template <>
struct Pattern<2> {
  static constexpr int channels = 4;
  static constexpr Pair pairs[4] = {
      {{0, -1, 0}, {0, 0, -1}}, {{0, 0, 1}, {0, -1, 0}}, {{0, 1, 0}, {0, 0, -1}}, {{0, 1, 0}, {0, 0, 1}}};
};

}  // namespace l2rfast
