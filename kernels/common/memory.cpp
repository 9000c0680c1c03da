// The memory of results on the CPU.
//
// Fresh memory comes from the system page by page, each filled with zeros when it is first written: for a large result
// that takes longer than most of these kernels compute. While somebody asks for it, the memory of large results that
// are gone is therefore kept for the next of the same size. And always, Linux is asked for pages of 2 MB where it
// leaves that to programs: of small ones, 82 MB (a field's gradient) took 50 ms or more, of these 10.

#include "common/memory.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <mutex>
#include <unordered_map>

namespace l2rfast {
namespace {

constexpr size_t kLarge = size_t(1) << 20;  // bytes; what is smaller the C library keeps well by itself
constexpr size_t kPage = 4096, kHugePage = size_t(1) << 21;

// Asks for large pages where whole ones fit. What has been written to stays as it is.
void advise(void* block, size_t bytes) {
#ifdef __linux__
  const auto begin = (reinterpret_cast<uintptr_t>(block) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(block) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

class Kept {
 public:
  // Null where nobody asks for it, or there is none.
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (scopes_ == 0) return nullptr;
    if (const auto found = idle_.find(bytes); found != idle_.end()) {
      void* block = found->second;
      idle_.erase(found);
      return block;
    }
    void* block = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
    if (!block) return nullptr;
    advise(block, bytes);
    size_of_[block] = bytes;
    return block;
  }

  void give_back(void* block) {
    const std::lock_guard lock(mutex_);
    if (scopes_ > 0)
      idle_.emplace(size_of_.at(block), block);
    else
      release(block);
  }

  void keep(bool more) {
    const std::lock_guard lock(mutex_);
    scopes_ += more ? 1 : -1;
    if (scopes_ > 0) return;
    for (const auto& [bytes, block] : idle_) release(block);
    idle_.clear();
  }

 private:
  void release(void* block) {
    size_of_.erase(block);
    std::free(block);
  }

  std::mutex mutex_;
  int64_t scopes_ = 0;
  std::unordered_multimap<size_t, void*> idle_;
  std::unordered_map<void*, size_t> size_of_;
};

Kept& kept = *new Kept;  // never destroyed: tensors may outlive everything

void keep_memory(bool more) { kept.keep(more); }

}  // namespace

Tensor room_as(const Tensor& like, std::vector<int64_t> shape) {
  size_t bytes = like.element_size();
  for (const int64_t n : shape) bytes *= n;
  void* const block = bytes < kLarge ? nullptr : kept.take(bytes);
  if (!block) {
    const Tensor fresh = torch::stable::new_empty(like, shape);
    if (bytes >= kLarge) advise(fresh.mutable_data_ptr(), bytes);
    return fresh;
  }
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t k = shape.size() - 1; k > 0; --k) strides[k - 1] = strides[k] * shape[k];
  return torch::stable::from_blob(block, shape, strides, like.device(), like.scalar_type(),
                                  [](void* data) { kept.give_back(data); });
}

STABLE_TORCH_LIBRARY_IMPL(l2rfast_cpp, CompositeExplicitAutograd, m) { m.impl("keep_memory", TORCH_BOX(&keep_memory)); }

}  // namespace l2rfast
