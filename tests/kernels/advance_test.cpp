// SPDX-License-Identifier: Apache-2.0
#include "kernels/advance.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

class Advance : public testing::TestWithParam<Backend> {};

TEST_P(Advance, AddsToEveryCounter) {
  const Backend backend = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  for (const int count : {0, 1, 100}) {
    std::vector<int> values, expected;
    for (int i = 0; i < count; ++i) values.push_back(3 * i - 7), expected.push_back(3 * i - 7 - 2);
    Lent lent(backend, values, ContiguousView(nullptr, DType::kF32, {count}, 1));
    auto* const counters = static_cast<int*>(lent.view().data);
    if (IsEmulated(backend)) {
      cuda_emulated::SetBackend(backend);
      cuda_emulated::Advance(counters, count, -2, {});
    } else {
      backend == Backend::kCuda ? cuda::Advance(counters, count, -2, {}) : cpu::Advance(counters, count, -2);
    }
    lent.Fetch();
    EXPECT_EQ(values, expected);
  }
}

std::string TestName(const testing::TestParamInfo<Backend>& info) {
  return Name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Backends, Advance,
                         testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards,
                                         Backend::kCuda),
                         TestName);

}  // namespace
}  // namespace kvscope
