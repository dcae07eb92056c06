// SPDX-License-Identifier: Apache-2.0
// The one argument type of every operation: where a tensor lies and how. It owns nothing.
// Operations live in namespace cpu (plain, the specification), cpu_fast (vectorised, what capture, live and replay
// call) and cuda (the twin), with the same parameters.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace kvscope {

enum class Device { kCpu, kCuda };

struct TensorView {
  void* data = nullptr;
  std::array<int64_t, 4> shape{1, 1, 1, 1};    // outermost first, trailing ones unused
  std::array<int64_t, 4> strides{0, 0, 0, 0};  // in elements; the innermost used one is 1
  int rank = 0;
  DType dtype = DType::kF32;
  Device device = Device::kCpu;

  float* floats() const { return static_cast<float*>(data); }
};

// Scratch memory that the caller owns, and the stream (cudaStream_t as void*) that the CUDA twins run on.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
  void* stream = nullptr;
};

// Contiguous view. Const data is accepted for inputs: an operation writes only where its comment says so.
inline TensorView ContiguousView(const void* data, DType dtype, std::array<int64_t, 4> shape, int rank,
                                 Device device = Device::kCpu) {
  TensorView view{const_cast<void*>(data), shape, {0, 0, 0, 0}, rank, dtype, device};
  int64_t stride = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    view.strides[axis] = stride;
    stride *= shape[axis];
  }
  return view;
}

}  // namespace kvscope
