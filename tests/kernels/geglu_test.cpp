// SPDX-License-Identifier: Apache-2.0
#include "kernels/geglu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace kvscope {
namespace {

TEST(GeGlu, GatesInPlaceAsSpecified) {
  for (const int count : {0, 1, 16, 1003}) {
    std::vector<float> gate, up;
    for (int i = 0; i < count; ++i) gate.push_back((i - 500) * 0.03f), up.push_back(std::sin(i * 0.7f));
    std::vector<float> fast = gate, plain = gate;
    cpu_fast::GeGlu(fast, up, fast);
    cpu::GeGlu(plain, up, plain);
    for (int i = 0; i < count; ++i) {
      // torch.nn.functional.gelu(x, approximate="tanh") in double.
      const double x = gate[i];
      const double expected = 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) * up[i];
      ASSERT_NEAR(plain[i], expected, 1e-6 * std::fabs(expected) + 1e-30) << x;
      ASSERT_NEAR(fast[i], expected, 3e-6 * std::fabs(expected) + 1e-6 * std::exp(-std::fabs(x))) << x;
    }
  }
}

TEST(GeGlu, FarValuesPassOrVanish) {
  std::vector<float> gate(16, -1e30f), up(16, 2.0f);
  gate[1] = 1e12f;
  cpu_fast::GeGlu(gate, up, gate);
  EXPECT_EQ(gate[1], 2e12f);
  EXPECT_NEAR(gate[0], 0, 1e-6);
}

}  // namespace
}  // namespace kvscope
