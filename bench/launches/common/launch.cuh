// In place of kernels/common/launch.cuh: what the CUDA operators would launch is written down and not run, with the bytes
// of every kernel's argument, which are the same on the host. Found first, as bench/launches comes before kernels.
#pragma once

#define each_voxel each_voxel_on_host
#define each_block each_block_on_host
#include_next "common/launch.cuh"
#undef each_voxel
#undef each_block

#include <string>
#include <typeinfo>

namespace l2rfast {

inline std::string written;  // a line for each launch

// Name of the kernel's body, its bytes, and what it runs over.
template <class Body>
void write_down(const Body& body, const std::string& over) {
  written += std::string(typeid(Body).name()) + " ";
  for (size_t i = 0; i < sizeof(Body); ++i) {
    constexpr char digits[] = "0123456789abcdef";
    const auto byte = reinterpret_cast<const unsigned char*>(&body)[i];
    written += {digits[byte >> 4], digits[byte & 15]};
  }
  written += over + "\n";
}

template <class Body>
void each_voxel(const Body& body, const Extent& e, const Tensor&) {
  std::string over = " voxels";
  for (const int64_t n : {e.items, int64_t(e.d), int64_t(e.h), int64_t(e.w)}) over += " " + std::to_string(n);
  write_down(body, over);
}

template <class Body>
void each_block(const Body& body, int64_t count, int64_t room, const Tensor&) {
  write_down(body, " blocks " + std::to_string(count) + " " + std::to_string(room));
}

}  // namespace l2rfast

// What was launched since this was called last.
extern "C" inline __attribute__((visibility("default"), used)) const char* l2rfast_launched() {
  static std::string told;
  told.swap(l2rfast::written);
  l2rfast::written.clear();
  return told.c_str();
}
