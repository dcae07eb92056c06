// SPDX-License-Identifier: Apache-2.0
// One test over the twins of an operation: which twin, and tensors that lie where it wants them.
#pragma once

#include <vector>

#include "kernels/device.h"
#include "kernels/tensor.h"
#include "tests/support/kernels_emulated.h"

namespace kvscope {

#define KVSCOPE_SKIP_WITHOUT(backend)                                            \
  if ((backend) == ::kvscope::Backend::kCuda && !::kvscope::cuda::IsAvailable()) \
  GTEST_SKIP() << "no CUDA device that this build has code for"

// Lends a host vector to a backend: in place on the CPU, as a copy on the device. Fetch brings results back.
template <typename Element>
class Lent {
 public:
  Lent(Backend backend, std::vector<Element>& host, TensorView view) : host_(host), view_(view) {
    view_.data = host.data();
    if (backend != Backend::kCuda) return;
    buffer_ = cuda::DeviceBuffer(host.size() * sizeof(Element));
    buffer_.CopyFromHost(host.data(), buffer_.bytes());
    view_.data = buffer_.data(), view_.device = Device::kCuda;
  }
  const TensorView& view() const { return view_; }
  void Fetch() {
    if (view_.device == Device::kCuda) buffer_.CopyToHost(host_.data(), buffer_.bytes());
  }

 private:
  std::vector<Element>& host_;
  TensorView view_;
  cuda::DeviceBuffer buffer_;
};

}  // namespace kvscope
