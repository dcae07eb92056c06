// SPDX-License-Identifier: Apache-2.0
#include "kernels/cap_logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

class CapLogits : public testing::TestWithParam<Backend> {};

TEST_P(CapLogits, BendsValuesTowardsTheCap) {
  const Backend backend = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  constexpr int kRows = 515, kDim = 7, kStride = 9;
  constexpr float kCap = 30;
  std::vector<float> x;
  for (int i = 0; i < kRows * kStride; ++i) x.push_back(0.13f * static_cast<float>(i % 2001 - 1000));
  const std::vector<float> before = x;
  TensorView view = ContiguousView(nullptr, DType::kF32, {kRows, kDim}, 2);
  view.strides[0] = kStride;
  Lent lent(backend, x, view);
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::CapLogits(kCap, lent.view(), {});
  } else {
    backend == Backend::kCuda ? cuda::CapLogits(kCap, lent.view(), {}) : cpu::CapLogits(kCap, lent.view());
  }
  lent.Fetch();
  for (int i = 0; i < kRows * kStride; ++i) {
    const double expected = i % kStride < kDim ? kCap * std::tanh(double{before[i]} / kCap) : before[i];
    ASSERT_NEAR(x[i], expected, 1e-6 * std::fabs(expected)) << before[i];
  }
}

std::string TestName(const testing::TestParamInfo<Backend>& info) {
  return Name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Backends, CapLogits,
                         testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards,
                                         Backend::kCuda),
                         TestName);

}  // namespace
}  // namespace kvscope
