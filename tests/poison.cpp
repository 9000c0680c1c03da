// Memory that nothing has written yet holds NaN in tests, in every floating dtype, and -1 or 255 in integers: a kernel
// that leaves a voxel unwritten shows. Every CPU tensor comes from here, whether Python, C++ or PyTorch makes it.

#include <c10/core/CPUAllocator.h>

#include <cstring>

namespace {

// More than that is of tests that hardly touch what they ask for, and would take all memory of the machine.
constexpr size_t most = size_t{1} << 28;

struct Poisoned final : c10::Allocator {
  c10::Allocator* inner = c10::GetDefaultCPUAllocator();

  c10::DataPtr allocate(size_t bytes) override {
    auto memory = inner->allocate(bytes);
    if (0 < bytes && bytes <= most) std::memset(memory.get(), 0xff, bytes);
    return memory;
  }

  c10::DeleterFnPtr raw_deleter() const override { return inner->raw_deleter(); }

  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Poisoned poisoned;
const bool used = (c10::SetCPUAllocator(&poisoned, 1), true);

}  // namespace
