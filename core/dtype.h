// SPDX-License-Identifier: Apache-2.0
// Element types that tensors of a trace, a cache or a model can have.
#pragma once

#include <cstddef>
#include <string_view>

namespace kvscope {

enum class DType { kF32, kF16 };

constexpr size_t ElementBytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}
constexpr std::string_view Name(DType dtype) {
  return dtype == DType::kF32 ? "f32" : "f16";
}

}  // namespace kvscope
