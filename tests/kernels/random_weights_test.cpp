// SPDX-License-Identifier: Apache-2.0
#include "kernels/random_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

class RandomWeights : public testing::TestWithParam<Backend> {};

std::vector<uint16_t> Filled(Backend backend, int count, DenseType type, uint64_t seed, float deviation) {
  std::vector<uint16_t> data(count);
  Lent lent(backend, data, ContiguousView(nullptr, DType::kF16, {count}, 1));
  void* const target = lent.view().data;
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::FillRandom(target, count, type, seed, deviation, {});
  } else {
    backend == Backend::kCuda ? cuda::FillRandom(target, count, type, seed, deviation, {})
                              : cpu::FillRandom(target, count, type, seed, deviation);
  }
  lent.Fetch();
  return data;
}

TEST_P(RandomWeights, AreTheSameEverywhereAndSpreadAsAsked) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  constexpr int kCount = 40001;
  constexpr float kDeviation = 0.02f;
  for (const DenseType type : {DenseType::kF16, DenseType::kBF16}) {
    const std::vector<uint16_t> data = Filled(GetParam(), kCount, type, 7, kDeviation);
    EXPECT_EQ(data, Filled(Backend::kCpu, kCount, type, 7, kDeviation));
    double sum = 0, squares = 0;
    for (const uint16_t bits : data) {
      const double value = DenseValue(bits, type);
      ASSERT_LE(std::fabs(value), 1.005 * std::sqrt(3) * kDeviation);  // bf16 rounds by up to 0.4 %
      sum += value, squares += value * value;
    }
    // Five standard errors: of the mean 1 / sqrt(count), of a uniform's mean square 0.9 / sqrt(count).
    EXPECT_NEAR(sum / kCount / kDeviation, 0, 5 / std::sqrt(kCount));
    EXPECT_NEAR(squares / kCount / (kDeviation * kDeviation), 1, 5 * 0.9 / std::sqrt(kCount));
  }
}

TEST_P(RandomWeights, DependOnSeedAndIndexAlone) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  const std::vector<uint16_t> few = Filled(GetParam(), 300, DenseType::kBF16, 1, 1.0f);
  std::vector<uint16_t> more = Filled(GetParam(), 1000, DenseType::kBF16, 1, 1.0f);
  more.resize(few.size());
  EXPECT_EQ(few, more);
  const std::vector<uint16_t> other = Filled(GetParam(), 300, DenseType::kBF16, 2, 1.0f);
  int equal = 0;
  for (size_t i = 0; i < few.size(); ++i) equal += few[i] == other[i];
  EXPECT_LT(equal, 10);
  Filled(GetParam(), 0, DenseType::kF16, 1, 1.0f);
}

std::string TestName(const testing::TestParamInfo<Backend>& info) {
  return Name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Backends, RandomWeights,
                         testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards,
                                         Backend::kCuda),
                         TestName);

}  // namespace
}  // namespace kvscope
