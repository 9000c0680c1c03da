// Room for large results on the CPU: see memory.cpp.
#pragma once

#include "common/tensor.h"

namespace l2rfast {

// A tensor of the dtype of another, of what memory is kept.
Tensor room_as(const Tensor& like, std::vector<int64_t> shape);

}  // namespace l2rfast
