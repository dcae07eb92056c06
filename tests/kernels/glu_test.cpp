// SPDX-License-Identifier: Apache-2.0
#include "kernels/glu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

void GluOn(Backend backend, Gate kind, std::vector<float>& gate, std::vector<float>& up) {
  const auto count = static_cast<int64_t>(gate.size());
  Lent lent_gate(backend, gate, ContiguousView(nullptr, DType::kF32, {count}, 1));
  Lent lent_up(backend, up, ContiguousView(nullptr, DType::kF32, {count}, 1));
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::Glu(kind, lent_gate.view(), lent_up.view(), lent_gate.view(), {});
  } else if (backend == Backend::kCuda) {
    cuda::Glu(kind, lent_gate.view(), lent_up.view(), lent_gate.view(), {});
  } else {
    backend == Backend::kCpu ? cpu::Glu(kind, gate, up, gate) : cpu_fast::Glu(kind, gate, up, gate);
  }
  lent_gate.Fetch();
}

double Gated(Gate kind, double x) {
  if (kind == Gate::kSilu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

class Glu : public testing::TestWithParam<std::tuple<Backend, Gate>> {};

TEST_P(Glu, GatesInPlace) {
  const auto [backend, kind] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  for (const int count : {0, 1, 1003}) {
    std::vector<float> gate, up;
    for (int i = 0; i < count; ++i) gate.push_back((i - 500) * 0.21f), up.push_back(std::sin(i * 0.7f));
    const std::vector<float> before = gate;
    GluOn(backend, kind, gate, up);
    for (int i = 0; i < count; ++i) {
      const double expected = Gated(kind, before[i]) * up[i];
      // Where tanh is near -1 the reference itself cancels out.
      ASSERT_NEAR(gate[i], expected, 3e-6 * std::fabs(expected) + (kind == Gate::kGelu ? 1e-14 : 1e-30)) << before[i];
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Gate>>& info) {
  const auto [backend, kind] = info.param;
  return Name(backend) + (kind == Gate::kGelu ? "_gelu" : "_silu");
}
INSTANTIATE_TEST_SUITE_P(Backends, Glu,
                         testing::Combine(testing::Values(Backend::kCpu, Backend::kCpuFast, Backend::kEmulated,
                                                          Backend::kEmulatedBackwards, Backend::kCuda),
                                          testing::Values(Gate::kSilu, Gate::kGelu)),
                         TestName);

// gate and up lie side by side as one product leaves them; the result goes over gate.
class GluRows : public Glu {};

TEST_P(GluRows, GateInPlaceWhatLiesSideBySide) {
  const auto [backend, kind] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  for (const auto& [rows, width] : {std::pair(3, 300), std::pair(515, 2), std::pair(0, 8)}) {  // 512 rows a grid
    const int stride = 2 * width + 1;
    std::vector<float> values;
    for (int i = 0; i < rows * stride; ++i) values.push_back(4 * std::sin(static_cast<float>(i) * 0.7f));
    const std::vector<float> before = values;
    TensorView view = ContiguousView(nullptr, DType::kF32, {rows, width}, 2);
    view.strides[0] = stride;
    Lent lent(backend, values, view);
    const TensorView gate = lent.view();
    TensorView up = gate;
    up.data = gate.floats() + width;
    if (IsEmulated(backend)) {
      cuda_emulated::SetBackend(backend);
      cuda_emulated::Glu(kind, gate, up, gate, {});
    } else {
      cuda::Glu(kind, gate, up, gate, {});
    }
    lent.Fetch();
    for (int at = 0; at < rows * stride; ++at) {
      double expected = before[at];
      if (at % stride < width) expected = Gated(kind, expected) * before[at + width];
      ASSERT_NEAR(values[at], expected, 3e-6 * std::fabs(expected) + 1e-14) << at;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Backends, GluRows,
                         testing::Combine(testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards,
                                                          Backend::kCuda),
                                          testing::Values(Gate::kSilu, Gate::kGelu)),
                         TestName);

}  // namespace
}  // namespace kvscope
