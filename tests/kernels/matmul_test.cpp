// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "core/error.h"
#include "kernels/bf16.h"
#include "kernels/matmul_int8.h"
#include "kernels/quantized_rows.h"

namespace kvscope {
namespace {

// A plain kind, or a format.
struct Storage {
  WeightKind kind = WeightKind::kQuantised;
  QuantFormat format;
};

std::vector<Storage> AllFormats() {
  std::vector<Storage> all;
  for (const int bits : {4, 8}) {
    for (const int group : {16, 32}) {
      for (const bool is_half : {false, true}) {
        all.push_back({.format = {.code_bits = bits, .group = group, .has_minimum = true, .is_half = is_half}});
        for (const int zero : {1 << (bits - 1), 4})
          all.push_back({.format = {.code_bits = bits, .group = group, .zero = zero, .is_half = is_half}});
      }
    }
  }
  return all;
}

std::vector<Storage> AllStorage() {
  std::vector<Storage> all = AllFormats();
  for (const WeightKind kind : {WeightKind::kF32, WeightKind::kF16, WeightKind::kBf16}) all.push_back({kind, {}});
  return all;
}

std::string StorageName(const testing::TestParamInfo<Storage>& info) {
  const QuantFormat& f = info.param.format;
  switch (info.param.kind) {
    case WeightKind::kF32:
      return "f32";
    case WeightKind::kF16:
      return "f16";
    case WeightKind::kBf16:
      return "bf16";
    default:
      return StrCat("bits", f.code_bits, "_group", f.group, f.has_minimum ? "_minimum" : StrCat("_zero", f.zero),
                    f.is_half ? "_half" : "");
  }
}

float Round(float value, bool is_half) {
  return is_half ? FloatFromHalf(HalfFromFloat(value)) : value;
}

// Fills rows in random order with random codes, or those of `code`. values: what each weight must be.
PackedMatrix RandomMatrix(const Storage& storage, int outputs, int inputs, std::vector<float>& values,
                          const std::function<int()>& code = {}) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const QuantFormat& format = storage.format;
  const bool is_quantised = storage.kind == WeightKind::kQuantised;
  PackedMatrix matrix =
      is_quantised ? PackedMatrix(format, outputs, inputs) : PackedMatrix(storage.kind, outputs, inputs);
  values.assign(static_cast<size_t>(outputs) * inputs, 0.0f);
  std::vector<int> order(outputs);
  for (int i = 0; i < outputs; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  for (const int output : order) {
    float* const row = &values[static_cast<size_t>(output) * inputs];
    std::vector<uint8_t> codes(inputs);
    std::vector<Half> halves(inputs);
    std::vector<uint16_t> bf16(inputs);
    std::vector<float> scales, minimums;
    for (int group = 0; is_quantised && group < inputs / format.group; ++group) {
      scales.push_back(Round(normal(random), format.is_half));
      if (format.has_minimum) minimums.push_back(Round(normal(random), format.is_half));
    }
    for (int input = 0; input < inputs; ++input) {
      row[input] = normal(random);
      halves[input] = HalfFromFloat(row[input]);
      bf16[input] = Bf16FromFloat(row[input]);
      if (storage.kind == WeightKind::kF16) row[input] = FloatFromHalf(halves[input]);
      if (storage.kind == WeightKind::kBf16) row[input] = FloatFromBf16(bf16[input]);
      if (!is_quantised) continue;
      codes[input] = static_cast<uint8_t>((code ? code() : static_cast<int>(random())) & ((1 << format.code_bits) - 1));
      const float scale = scales[input / format.group];
      row[input] = std::fma(scale, static_cast<float>(codes[input]),
                            format.has_minimum ? minimums[input / format.group] : -scale * format.zero);
    }
    switch (storage.kind) {
      case WeightKind::kF32:
        matrix.SetRow(output, std::span<const float>(row, inputs));
        break;
      case WeightKind::kF16:
        matrix.SetRow(output, halves);
        break;
      case WeightKind::kBf16:
        matrix.SetRow(output, bf16);
        break;
      case WeightKind::kQuantised:
        matrix.SetRow(output, codes, scales, minimums);
    }
  }
  return matrix;
}

std::vector<float> RandomRows(int count, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = normal(random);
  return x;
}

class Matmul : public testing::TestWithParam<Storage> {};

TEST_P(Matmul, FastEqualsTheSpecificationAndRowsAreIndependent) {
  const int outputs = 75, inputs = 96, rows = 41;
  std::vector<float> values;
  const PackedMatrix matrix = RandomMatrix(GetParam(), outputs, inputs, values);
  for (int i = 0; i < outputs * inputs; ++i) ASSERT_EQ(matrix.At(i / inputs, i % inputs), values[i]);
  const std::vector<float> x = RandomRows(rows * inputs, 6);
  std::vector<float> plain(rows * outputs), fast(rows * outputs);
  cpu::Matmul({x.data(), inputs, rows, &matrix, plain.data(), outputs});
  cpu_fast::Matmul({x.data(), inputs, rows, &matrix, fast.data(), outputs});
  for (int i = 0; i < rows * outputs; ++i) {
    const float* const row = &x[i / outputs * inputs];
    const float* const weights = &values[i % outputs * inputs];
    double magnitude = 0;  // of the terms: what rounding is relative to
    float chain = 0;       // the order of additions that kernels/matmul.h promises
    for (int input = 0; input < inputs; ++input) {
      magnitude += std::fabs(row[input] * weights[input]);
      chain = std::fma(row[input], weights[input], chain);
    }
    ASSERT_NEAR(fast[i], plain[i], 1e-6 * magnitude) << i;
    ASSERT_EQ(fast[i], chain) << i;
  }
  for (const int few : {1, 2, 3, 7, 12, 25}) {
    std::vector<float> part(few * outputs);
    cpu_fast::Matmul({x.data() + 5 * inputs, inputs, few, &matrix, part.data(), outputs});
    for (int i = 0; i < few * outputs; ++i) ASSERT_EQ(part[i], fast[5 * outputs + i]) << few << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Storage, Matmul, testing::ValuesIn(AllStorage()), StorageName);

class MatmulInt8 : public testing::TestWithParam<Storage> {};

TEST_P(MatmulInt8, FastEqualsTheSpecificationBitForBitWhateverTheNumberOfRows) {
  const int outputs = 75, inputs = 96, rows = 41;
  std::vector<float> values;
  const PackedMatrix matrix = RandomMatrix(GetParam(), outputs, inputs, values);
  const std::vector<float> x = RandomRows(rows * inputs, 7);
  std::vector<float> plain(rows * outputs), fast(rows * outputs), exact(rows * outputs);
  cpu::Matmul({x.data(), inputs, rows, &matrix, plain.data(), outputs}, Activations::kInt8);
  cpu_fast::Matmul({x.data(), inputs, rows, &matrix, fast.data(), outputs}, Activations::kInt8);
  cpu::Matmul({x.data(), inputs, rows, &matrix, exact.data(), outputs});
  for (int i = 0; i < rows * outputs; ++i) {
    ASSERT_EQ(fast[i], plain[i]) << i;
    double largest = 0;  // rounding of x: half a code of the row's largest, times every weight
    for (int input = 0; input < inputs; ++input) largest += std::fabs(values[i % outputs * inputs + input]);
    ASSERT_NEAR(plain[i], exact[i], 5 / 254.0 * largest) << i;
  }
  for (const int few : {1, 2, 3, 4, 5, 7, 12, 25}) {
    std::vector<float> part(few * outputs);
    cpu_fast::Matmul({x.data() + 5 * inputs, inputs, few, &matrix, part.data(), outputs}, Activations::kInt8);
    for (int i = 0; i < few * outputs; ++i) ASSERT_EQ(part[i], fast[5 * outputs + i]) << few << " rows";
  }
}

// Codes and activations at the ends of their ranges, where 16-bit sums would not hold them.
TEST_P(MatmulInt8, EveryInstructionSetSumsExtremeCodesExactly) {
  const int outputs = 29, inputs = 64, rows = 13;
  for (const int pattern : {0, 1, 2}) {
    int count = 0;
    std::vector<float> values;
    const PackedMatrix matrix = RandomMatrix(GetParam(), outputs, inputs, values, [&] {
      const int i = count++;
      return pattern == 0 ? 255 : pattern == 1 ? 0 : i % 3 == 0 ? 0 : 255;
    });
    std::vector<float> x(rows * inputs);
    for (int i = 0; i < rows * inputs; ++i)
      x[i] = (i / inputs % 3 == 0 || (i / inputs % 3 == 1 && i % 2)) ? 2.0f : -2.0f;
    std::vector<float> plain(rows * outputs), fast(rows * outputs);
    cpu::Matmul({x.data(), inputs, rows, &matrix, plain.data(), outputs}, Activations::kInt8);
    QuantizedRows quantized(rows, inputs, matrix.format().group);
    for (int row = 0; row < rows; ++row) quantized.Set(row, {&x[row * inputs], static_cast<size_t>(inputs)});
    for (int i = 0; i < int8::kNumInstructionSets; ++i) {
      const int8::InstructionSet& set = int8::InstructionSets()[i];
      if (!set.is_available) continue;
      std::ranges::fill(fast, 0.0f);
      set.multiply(int8::ProblemOf(matrix, 0, quantized, rows, fast.data(), matrix.outputs()));
      for (int k = 0; k < rows * outputs; ++k) ASSERT_EQ(fast[k], plain[k]) << set.name << ' ' << pattern << ' ' << k;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, MatmulInt8, testing::ValuesIn(AllFormats()), StorageName);

TEST(MatmulInt8, PlainMatricesKeepFloatActivations) {
  std::vector<float> values;
  const PackedMatrix matrix = RandomMatrix({WeightKind::kF16, {}}, 40, 50, values);
  const std::vector<float> x = RandomRows(3 * 50, 8);
  std::vector<float> as_float(3 * 40), as_int8(3 * 40);
  cpu_fast::Matmul({x.data(), 50, 3, &matrix, as_float.data(), 40});
  cpu_fast::Matmul({x.data(), 50, 3, &matrix, as_int8.data(), 40}, Activations::kInt8);
  EXPECT_EQ(as_int8, as_float);
}

TEST(QuantizeRow, RoundsTiesToEvenAndKeepsTheLargestExactly) {
  std::vector<float> x(64, 0.0f);
  x[0] = 127, x[1] = -127, x[2] = 0.5f, x[3] = 1.5f, x[4] = -2.5f, x[5] = 100.4f;
  x[32] = 1e-35f;  // the second 32: nothing worth a scale
  int8_t codes[64];
  float scales[4];
  int32_t sums[4];
  QuantizeRow(x, 16, codes, scales, sums);
  EXPECT_EQ(std::vector<int>(codes, codes + 6), (std::vector<int>{127, -127, 0, 2, -2, 100}));
  EXPECT_EQ(std::vector<float>(scales, scales + 4), (std::vector<float>{1, 1, 0, 0}));
  EXPECT_EQ(std::vector<int>(sums, sums + 4), (std::vector<int>{100, 0, 0, 0}));
  EXPECT_EQ(codes[32], 0);
}

TEST(QuantizeRow, GivesNotANumberForWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x(64, 1.0f);
    x[40] = bad;
    int8_t codes[64];
    float scales[2];
    int32_t sums[2];
    QuantizeRow(x, 32, codes, scales, sums);
    EXPECT_EQ(codes[0], 127);
    EXPECT_EQ(codes[33], 0);
    EXPECT_TRUE(std::isnan(scales[1]));
  }
}

}  // namespace
}  // namespace kvscope
