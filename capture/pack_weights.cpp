// SPDX-License-Identifier: Apache-2.0
#include "capture/pack_weights.h"

#include <tbb/parallel_for.h>

#include <cstring>
#include <vector>

namespace kvscope {
namespace {

void PackRow(const GgufTensor& tensor, const std::byte* row, int output, int inputs, PackedMatrix& matrix) {
  const int blocks = inputs / kQuantBlock;
  std::vector<Half> scales(blocks);
  const auto half_at = [](const std::byte* at) {
    Half half;
    std::memcpy(&half, at, sizeof half);
    return half;
  };
  switch (tensor.type) {
    case GgufType::kF32:
      matrix.SetRow(output, std::span(reinterpret_cast<const float*>(row), inputs));
      return;
    case GgufType::kF16:
      matrix.SetRow(output, std::span(reinterpret_cast<const Half*>(row), inputs));
      return;
    case GgufType::kQ8_0: {
      std::vector<int8_t> codes(inputs);
      for (int block = 0; block < blocks; ++block, row += 2 + kQuantBlock) {
        scales[block] = half_at(row);
        std::memcpy(&codes[block * kQuantBlock], row + 2, kQuantBlock);
      }
      matrix.SetRow(output, codes, scales);
      return;
    }
    case GgufType::kQ4_0:
    case GgufType::kQ4_1: {
      const bool has_minimum = tensor.type == GgufType::kQ4_1;
      std::vector<uint8_t> codes(inputs);
      std::vector<float> minimums(blocks);
      for (int block = 0; block < blocks; ++block) {
        scales[block] = half_at(row);
        minimums[block] = has_minimum ? FloatFromHalf(half_at(row + 2)) : -8 * FloatFromHalf(scales[block]);
        row += has_minimum ? 4 : 2;
        for (int i = 0; i < kQuantBlock / 2; ++i, ++row) {
          codes[block * kQuantBlock + i] = static_cast<uint8_t>(*row) & 15;
          codes[block * kQuantBlock + kQuantBlock / 2 + i] = static_cast<uint8_t>(*row) >> 4;
        }
      }
      matrix.SetRow(output, codes, scales, minimums);
      return;
    }
    default: {
      std::vector<float> weights(inputs);
      DequantizeRow(tensor.type, row, weights);
      matrix.SetRow(output, weights);
    }
  }
}

WeightKind KindOf(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return WeightKind::kF16;
    case GgufType::kQ8_0:
      return WeightKind::kQ8;
    case GgufType::kQ4_0:
    case GgufType::kQ4_1:
      return WeightKind::kQ4;
    default:
      return WeightKind::kF32;
  }
}

}  // namespace

PackedMatrix PackWeights(const GgufFile& gguf, const GgufTensor& tensor, int outputs,
                         const std::function<int64_t(int output)>& source_row) {
  const int inputs = static_cast<int>(tensor.Cols());
  PackedMatrix matrix(KindOf(tensor.type), outputs, inputs);
  const int64_t row_bytes = GgufRowBytes(tensor.type, inputs);
  tbb::parallel_for(0, matrix.num_panels(), [&](int panel) {
    std::vector<float> values(inputs);
    for (int output = panel * 32; output < std::min(panel * 32 + 32, outputs); ++output) {
      const int64_t row = source_row(output);
      gguf.Dequantize(tensor, row, values);  // refuses values that are not finite, with a good message
      PackRow(tensor, tensor.data.data() + row * row_bytes, output, inputs, matrix);
    }
  });
  return matrix;
}

}  // namespace kvscope
