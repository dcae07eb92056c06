// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kColumns = 32;

// A block is 32 inputs of 32 outputs. Layout, [input][column] innermost:
//   f32, f16: values                     q8: f32 scale[32], int8 code[32][32]
//   q4: f32 scale[32], f32 minimum[32], code[32][16]: byte b holds column b in its low and column b + 16 in its high
//   half
int BlockBytes(WeightKind kind) {
  switch (kind) {
    case WeightKind::kF32:
      return kQuantBlock * kColumns * 4;
    case WeightKind::kF16:
      return kQuantBlock * kColumns * 2;
    case WeightKind::kQ8:
      return kColumns * 4 + kQuantBlock * kColumns;
    case WeightKind::kQ4:
      return kColumns * 8 + kQuantBlock * kColumns / 2;
  }
  return 0;
}

void PutFloat(std::byte* at, float value) {
  std::memcpy(at, &value, sizeof value);
}
float GetFloat(const std::byte* at) {
  float value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

}  // namespace

PackedMatrix::PackedMatrix(WeightKind kind, int outputs, int inputs)
    : kind_(kind),
      outputs_(outputs),
      inputs_(inputs),
      blocks_((inputs + kQuantBlock - 1) / kQuantBlock),
      block_bytes_(BlockBytes(kind)) {
  if (kind == WeightKind::kQ8 || kind == WeightKind::kQ4) KVSCOPE_CHECK_EQ(inputs % kQuantBlock, 0);
  data_.resize(static_cast<size_t>(num_panels()) * blocks_ * block_bytes_);
}

void PackedMatrix::SetRow(int output, std::span<const float> weights) {
  KVSCOPE_CHECK(kind_ == WeightKind::kF32);
  const int column = output % kColumns;
  for (int input = 0; input < inputs_; ++input) {
    PutFloat(Block(output / kColumns, input / kQuantBlock) + (input % kQuantBlock * kColumns + column) * 4,
             weights[input]);
  }
}

void PackedMatrix::SetRow(int output, std::span<const Half> weights) {
  KVSCOPE_CHECK(kind_ == WeightKind::kF16);
  const int column = output % kColumns;
  for (int input = 0; input < inputs_; ++input) {
    std::memcpy(Block(output / kColumns, input / kQuantBlock) + (input % kQuantBlock * kColumns + column) * 2,
                &weights[input], 2);
  }
}

void PackedMatrix::SetRow(int output, std::span<const int8_t> codes, std::span<const Half> scales) {
  KVSCOPE_CHECK(kind_ == WeightKind::kQ8);
  const int column = output % kColumns;
  for (int block = 0; block < blocks_; ++block) {
    std::byte* at = Block(output / kColumns, block);
    PutFloat(at + column * 4, FloatFromHalf(scales[block]));
    for (int i = 0; i < kQuantBlock; ++i)
      at[kColumns * 4 + i * kColumns + column] = static_cast<std::byte>(codes[block * kQuantBlock + i]);
  }
}

void PackedMatrix::SetRow(int output, std::span<const uint8_t> codes, std::span<const Half> scales,
                          std::span<const float> minimums) {
  KVSCOPE_CHECK(kind_ == WeightKind::kQ4);
  const int column = output % kColumns, shift = column < 16 ? 0 : 4;
  for (int block = 0; block < blocks_; ++block) {
    std::byte* at = Block(output / kColumns, block);
    PutFloat(at + column * 4, FloatFromHalf(scales[block]));
    PutFloat(at + (kColumns + column) * 4, minimums[block]);
    for (int i = 0; i < kQuantBlock; ++i) {
      std::byte& pair = at[kColumns * 8 + i * 16 + column % 16];
      const auto keep = static_cast<std::byte>(shift ? 0x0f : 0xf0);
      pair = (pair & keep) | static_cast<std::byte>(codes[block * kQuantBlock + i] << shift);
    }
  }
}

float PackedMatrix::At(int output, int input) const {
  const int column = output % kColumns, i = input % kQuantBlock;
  const std::byte* at = Block(output / kColumns, input / kQuantBlock);
  switch (kind_) {
    case WeightKind::kF32:
      return GetFloat(at + (i * kColumns + column) * 4);
    case WeightKind::kF16: {
      Half half;
      std::memcpy(&half, at + (i * kColumns + column) * 2, 2);
      return FloatFromHalf(half);
    }
    case WeightKind::kQ8:
      return GetFloat(at + column * 4) * static_cast<int8_t>(at[kColumns * 4 + i * kColumns + column]);
    case WeightKind::kQ4: {
      const int code = static_cast<int>(at[kColumns * 8 + i * 16 + column % 16]) >> (column < 16 ? 0 : 4) & 15;
      return std::fma(GetFloat(at + column * 4), static_cast<float>(code), GetFloat(at + (kColumns + column) * 4));
    }
  }
  return 0;
}

namespace cpu {

void Matmul(const MatmulProblem& p) {
  for (int output = 0; output < p.weights->outputs(); ++output) {
    std::vector<double> sums(p.rows, 0.0);
    for (int input = 0; input < p.weights->inputs(); ++input) {
      const double weight = p.weights->At(output, input);
      for (int row = 0; row < p.rows; ++row) sums[row] += p.x[row * p.x_stride + input] * weight;
    }
    for (int row = 0; row < p.rows; ++row) p.out[row * p.out_stride + output] = static_cast<float>(sums[row]);
  }
}

}  // namespace cpu
}  // namespace kvscope
