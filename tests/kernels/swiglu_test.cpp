// SPDX-License-Identifier: Apache-2.0
#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

void SwiGluOn(Backend backend, std::vector<float>& gate, std::vector<float>& up) {
  const auto count = static_cast<int64_t>(gate.size());
  Lent lent_gate(backend, gate, ContiguousView(nullptr, DType::kF32, {count}, 1));
  Lent lent_up(backend, up, ContiguousView(nullptr, DType::kF32, {count}, 1));
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::SwiGlu(lent_gate.view(), lent_up.view(), lent_gate.view(), {});
  } else if (backend == Backend::kCuda) {
    cuda::SwiGlu(lent_gate.view(), lent_up.view(), lent_gate.view(), {});
  } else {
    backend == Backend::kCpu ? cpu::SwiGlu(gate, up, gate) : cpu_fast::SwiGlu(gate, up, gate);
  }
  lent_gate.Fetch();
}

class SwiGlu : public testing::TestWithParam<Backend> {};

TEST_P(SwiGlu, GatesInPlace) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  for (const int count : {0, 1, 1003}) {
    std::vector<float> gate, up;
    for (int i = 0; i < count; ++i) gate.push_back((i - 500) * 0.21f), up.push_back(std::sin(i * 0.7f));
    const std::vector<float> before = gate;
    SwiGluOn(GetParam(), gate, up);
    for (int i = 0; i < count; ++i) {
      const double expected = before[i] / (1 + std::exp(-double{before[i]})) * up[i];
      ASSERT_NEAR(gate[i], expected, 1e-6 * std::fabs(expected) + 1e-30) << before[i];
    }
  }
}

std::string TestName(const testing::TestParamInfo<Backend>& info) {
  return Name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Backends, SwiGlu,
                         testing::Values(Backend::kCpu, Backend::kCpuFast, Backend::kEmulated,
                                         Backend::kEmulatedBackwards, Backend::kCuda),
                         TestName);

// gate and up lie side by side as one product leaves them; the result goes over gate.
class SwiGluRows : public testing::TestWithParam<Backend> {};

TEST_P(SwiGluRows, GateInPlaceWhatLiesSideBySide) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  for (const auto& [rows, width] : {std::pair(3, 300), std::pair(515, 2), std::pair(0, 8)}) {  // 512 rows a grid
    const int stride = 2 * width + 1;
    std::vector<float> values;
    for (int i = 0; i < rows * stride; ++i) values.push_back(4 * std::sin(static_cast<float>(i) * 0.7f));
    const std::vector<float> before = values;
    TensorView view = ContiguousView(nullptr, DType::kF32, {rows, width}, 2);
    view.strides[0] = stride;
    Lent lent(GetParam(), values, view);
    const TensorView gate = lent.view();
    TensorView up = gate;
    up.data = gate.floats() + width;
    if (IsEmulated(GetParam())) {
      cuda_emulated::SetBackend(GetParam());
      cuda_emulated::SwiGlu(gate, up, gate, {});
    } else {
      cuda::SwiGlu(gate, up, gate, {});
    }
    lent.Fetch();
    for (int at = 0; at < rows * stride; ++at) {
      double expected = before[at];
      if (at % stride < width) expected *= before[at + width] / (1 + std::exp(-expected));
      ASSERT_NEAR(values[at], expected, 1e-6 * std::fabs(expected)) << at;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Backends, SwiGluRows,
                         testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda), TestName);

}  // namespace
}  // namespace kvscope
