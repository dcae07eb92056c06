// SPDX-License-Identifier: Apache-2.0
// An owned array of f16 or f32 elements: what moves between the decoder, the trace file and replay.
#pragma once

#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/half.h"

namespace kvscope {

class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, size_t num_elements) : dtype_(dtype), bytes_(num_elements * ElementBytes(dtype)) {}

  DType dtype() const { return dtype_; }
  size_t size() const { return bytes_.size() / ElementBytes(dtype_); }
  size_t size_bytes() const { return bytes_.size(); }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  // Keeps the elements that were there; new ones are zero.
  void resize(size_t num_elements) { bytes_.resize(num_elements * ElementBytes(dtype_)); }

  void* At(size_t element) { return bytes_.data() + element * ElementBytes(dtype_); }
  const void* At(size_t element) const { return bytes_.data() + element * ElementBytes(dtype_); }
  std::span<Half> halves() { return Cast<Half>(DType::kF16); }
  std::span<const Half> halves() const { return const_cast<Buffer*>(this)->Cast<Half>(DType::kF16); }
  std::span<float> floats() { return Cast<float>(DType::kF32); }
  std::span<const float> floats() const { return const_cast<Buffer*>(this)->Cast<float>(DType::kF32); }

 private:
  template <typename Element>
  std::span<Element> Cast(DType expected) {
    KVSCOPE_CHECK(dtype_ == expected);
    return {reinterpret_cast<Element*>(bytes_.data()), size()};
  }

  DType dtype_ = DType::kF16;
  std::vector<std::byte> bytes_;
};

}  // namespace kvscope
