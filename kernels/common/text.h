// Names, as "border", that operators are called with.
#pragma once

#include <torch/csrc/stable/stableivalue_conversions.h>

#include <string>

namespace l2rfast {

// A string among the arguments of an operator. Up to PyTorch 2.13 its own conversion, to std::string, makes one that
// nothing deletes: 32 bytes of each argument of each call. 2.15 does not.
struct Text : std::string {
  using std::string::string;
};

}  // namespace l2rfast

template <>
struct torch::stable::detail::ToImpl<l2rfast::Text> {
  static l2rfast::Text call(StableIValue value, uint64_t, bool) {
    const auto handle = torch::stable::detail::to<StringHandle>(value);
    size_t length;
    const char* letters;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &letters));
    l2rfast::Text text(letters, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};
