// Runs a function of one voxel over all voxels of an output, on the GPU a thread each, or a function of a block of
// threads over many blocks. Compiled as plain C++ these are loops on the host, for the tests to run the same functions,
// called the same way, where there is no GPU.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#define L2RFAST_KEY CUDA
#else
#define L2RFAST_KEY CPU
#endif

#include <algorithm>

#include "common/sampling.cuh"

namespace l2rfast {

// The voxels to run over; 2-D has one plane.
struct Extent {
  int64_t items;
  int32_t d, h, w;

  template <int ndim>
  Extent(int64_t n, const int32_t (&size)[ndim])
      : items(n), d(ndim == 3 ? size[0] : 1), h(size[ndim - 2]), w(size[ndim - 1]) {}
};

template <int ndim>
L2RFAST_INLINE Voxel<ndim> voxel(int64_t n, int32_t z, int32_t y, int32_t x) {
  if constexpr (ndim == 3)
    return {n, {z, y, x}};
  else
    return {n, {y, x}};
}

// What an operator says that the package defines, of an argument that it may have.
inline bool said(const char* name, StableIValue argument = 0) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", &argument, TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(argument);
}

// Whether torch.use_deterministic_algorithms(True) is in force, which the stable ABI has no function for.
inline bool deterministic() { return said("l2rfast_cuda::deterministic"); }

// Whether sums that float32 cannot hold are kept in pairs of it, on the device of a tensor.
inline bool in_pairs(const Tensor& on) {
  const int64_t device = on.is_cuda() ? on.get_device_index() : -1;
  return said("l2rfast_cuda::in_pairs", torch::stable::detail::from(device));
}

constexpr int kThreads = 256;  // of a block

// What all threads of a block do between two barriers: f(thread).
template <class F>
L2RFAST_INLINE void all_threads(const F& f) {
#ifdef __CUDA_ARCH__
  f(int(threadIdx.x));
  __syncthreads();
#else
  for (int thread = 0; thread < kThreads; ++thread) f(thread);
#endif
}

#ifdef __CUDACC__

// A block covers a tile of 32 x 4 x 2 voxels (2-D: 32 x 8), x fastest, so that its threads read the same few lines.
// At least Body::resident blocks share a multiprocessor, which caps their registers at 65536 / 256 / resident.
// deep: tiles of an item along z.
template <class Body>
__global__ void __launch_bounds__(kThreads, Body::resident)
    each_voxel_kernel(const __grid_constant__ Body body, const __grid_constant__ Extent e, uint32_t deep) {
  const uint32_t x = blockIdx.x * blockDim.x + threadIdx.x;
  if (x >= e.w) return;
  for (uint32_t slab = blockIdx.z; slab < e.items * deep; slab += gridDim.z) {
    const uint32_t n = slab / deep, z = (slab - n * deep) * blockDim.z + threadIdx.z;
    if (z >= e.d) continue;
    for (uint32_t y = blockIdx.y * blockDim.y + threadIdx.y; y < e.h; y += gridDim.y * blockDim.y)
      body(voxel<Body::ndim>(n, z, y, x));
  }
}

inline void check(cudaError_t error) { STD_TORCH_CHECK(error == cudaSuccess, "CUDA: ", cudaGetErrorString(error)); }

// f(stream), the one that is current on the device of a tensor.
template <class F>
void launch(const Tensor& on, const F& f) {
  const int32_t device = on.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  f(static_cast<cudaStream_t>(stream));
  check(cudaGetLastError());
}

template <class Body>
void each_voxel(const Body& body, const Extent& e, const Tensor& on) {
  if (e.items * e.d * e.h * e.w == 0) return;
  const dim3 tile = e.d == 1 ? dim3(32, 8, 1) : dim3(32, 4, 2);
  const auto tiles = [](int64_t size, int64_t of) { return (size + of - 1) / of; };
  const int64_t deep = tiles(e.d, tile.z), slabs = e.items * deep;
  STD_TORCH_CHECK(slabs <= int64_t(UINT32_MAX) - 65535, "expected fewer planes in the batch, got ", slabs);
  constexpr int64_t most = 65535;  // blocks along y and z; beyond, a block takes several tiles
  const dim3 blocks(tiles(e.w, tile.x), std::min(tiles(e.h, tile.y), most), std::min(slabs, most));
  launch(on, [&](cudaStream_t stream) { each_voxel_kernel<<<blocks, tile, 0, stream>>>(body, e, uint32_t(deep)); });
}

template <class Body>
__global__ void __launch_bounds__(kThreads, Body::resident)
    each_block_kernel(const __grid_constant__ Body body, int64_t count, double* far, int64_t room) {
  extern __shared__ double near[];
  double* scratch = far ? far + blockIdx.x * room : near;
  for (int64_t block = blockIdx.x; block < count; block += gridDim.x) body(block, scratch);
}

// body(block, scratch) for all blocks below `count`, each with `room` numbers that its threads share: in shared memory,
// or where that is too small in global memory, of which the caches hold what is in use.
template <class Body>
void each_block(const Body& body, int64_t count, int64_t room, const Tensor& on) {
  if (count == 0) return;
  launch(on, [&](cudaStream_t stream) {
    const auto attribute = [&](cudaDeviceAttr name) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, name, on.get_device_index()));
      return int64_t(value);
    };
    const auto kernel = each_block_kernel<Body>;
    const int64_t bytes = room * int64_t(sizeof(double));
    if (bytes <= attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
      const unsigned grid = unsigned(std::min<int64_t>(count, 1 << 30));
      kernel<<<grid, kThreads, bytes, stream>>>(body, count, nullptr, room);
    } else {
      const int64_t grid = std::min(count, Body::resident * attribute(cudaDevAttrMultiProcessorCount));
      const Tensor far = torch::stable::new_empty(on, {grid * room}, Dtype::Double);
      kernel<<<unsigned(grid), kThreads, 0, stream>>>(body, count, write<double>(far), room);
    }
  });
}

#else

template <class Body>
void each_voxel(const Body& body, const Extent& e, const Tensor&) {
  for (int64_t n = 0; n < e.items; ++n)
    for (int32_t z = 0; z < e.d; ++z)
      for (int32_t y = 0; y < e.h; ++y)
        for (int32_t x = 0; x < e.w; ++x) body(voxel<Body::ndim>(n, z, y, x));
}

template <class Body>
void each_block(const Body& body, int64_t count, int64_t room, const Tensor&) {
  std::vector<double> scratch(room);
  for (int64_t block = 0; block < count; ++block) body(block, scratch.data());
}

#endif

// Values on their way to the device as a kernel's arguments: a copy would make the host wait.
template <class A>
struct Passed {
  static constexpr int ndim = 2, resident = 4, most = 3072 / sizeof(A);
  A values[most];
  A* to;

  L2RFAST_INLINE void operator()(const Voxel<2>& x) const { to[x.at[1]] = values[x.at[1]]; }
};

template <class A>
Tensor on_device(const std::vector<A>& values, const Tensor& like) {
  const int64_t n = int64_t(values.size());
  const Tensor result = torch::stable::new_empty(like, {n}, std::is_same_v<A, int32_t> ? Dtype::Int : dtype_of<A>);
  for (int64_t first = 0; first < n; first += Passed<A>::most) {
    Passed<A> some{{}, write<A>(result) + first};
    const int32_t size[] = {1, int32_t(std::min<int64_t>(n - first, Passed<A>::most))};
    std::copy_n(values.data() + first, size[1], some.values);
    each_voxel(some, Extent(1, size), like);
  }
  return result;
}

}  // namespace l2rfast
