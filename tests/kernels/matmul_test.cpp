// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace kvscope {
namespace {

PackedMatrix RandomMatrix(WeightKind kind, int outputs, int inputs, std::vector<float>* values) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  PackedMatrix matrix(kind, outputs, inputs);
  values->assign(static_cast<size_t>(outputs) * inputs, 0.0f);
  for (int output = 0; output < outputs; ++output) {
    float* row = &(*values)[static_cast<size_t>(output) * inputs];
    std::vector<Half> scales, halves;
    std::vector<float> minimums;
    for (int block = 0; block < inputs / kQuantBlock; ++block) {
      scales.push_back(HalfFromFloat(0.01f + std::fabs(normal(random))));
      minimums.push_back(FloatFromHalf(HalfFromFloat(normal(random))));
    }
    std::vector<int8_t> signed_codes;
    std::vector<uint8_t> codes;
    for (int input = 0; input < inputs; ++input) {
      const int block = input / kQuantBlock;
      signed_codes.push_back(static_cast<int8_t>(static_cast<int>(random() % 255) - 127));
      codes.push_back(static_cast<uint8_t>(random() % 16));
      switch (kind) {
        case WeightKind::kF32:
          row[input] = normal(random);
          break;
        case WeightKind::kF16:
          halves.push_back(HalfFromFloat(normal(random))), row[input] = FloatFromHalf(halves.back());
          break;
        case WeightKind::kQ8:
          row[input] = FloatFromHalf(scales[block]) * signed_codes[input];
          break;
        case WeightKind::kQ4:
          row[input] = std::fma(FloatFromHalf(scales[block]), static_cast<float>(codes[input]), minimums[block]);
          break;
      }
    }
    switch (kind) {
      case WeightKind::kF32:
        matrix.SetRow(output, std::span<const float>(row, inputs));
        break;
      case WeightKind::kF16:
        matrix.SetRow(output, halves);
        break;
      case WeightKind::kQ8:
        matrix.SetRow(output, signed_codes, scales);
        break;
      case WeightKind::kQ4:
        matrix.SetRow(output, codes, scales, minimums);
        break;
    }
  }
  return matrix;
}

class Matmul : public testing::TestWithParam<WeightKind> {};

TEST_P(Matmul, FastEqualsTheSpecificationAndRowsAreIndependent) {
  const int outputs = 75, inputs = 96;
  std::vector<float> values;
  const PackedMatrix matrix = RandomMatrix(GetParam(), outputs, inputs, &values);
  for (int i = 0; i < outputs * inputs; ++i) ASSERT_EQ(matrix.At(i / inputs, i % inputs), values[i]);
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  const int rows = 41;
  std::vector<float> x(rows * inputs), plain(rows * outputs), fast(rows * outputs);
  for (float& value : x) value = normal(random);
  cpu::Matmul({x.data(), inputs, rows, &matrix, plain.data(), outputs});
  cpu_fast::Matmul({x.data(), inputs, rows, &matrix, fast.data(), outputs});
  for (int i = 0; i < rows * outputs; ++i) {
    double magnitude = 0;  // of the terms: what rounding is relative to
    for (int input = 0; input < inputs; ++input)
      magnitude += std::fabs(x[i / outputs * inputs + input] * values[i % outputs * inputs + input]);
    ASSERT_NEAR(fast[i], plain[i], 1e-6 * magnitude) << i;
  }
  for (const int few : {1, 2, 3, 7, 12, 25}) {
    std::vector<float> part(few * outputs);
    cpu_fast::Matmul({x.data() + 5 * inputs, inputs, few, &matrix, part.data(), outputs});
    for (int i = 0; i < few * outputs; ++i) ASSERT_EQ(part[i], fast[5 * outputs + i]) << few << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Matmul,
                         testing::Values(WeightKind::kF32, WeightKind::kF16, WeightKind::kQ8, WeightKind::kQ4));

}  // namespace
}  // namespace kvscope
