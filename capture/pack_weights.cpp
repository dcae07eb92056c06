// SPDX-License-Identifier: Apache-2.0
#include "capture/pack_weights.h"

#include <tbb/parallel_for.h>

#include <algorithm>
#include <bit>
#include <span>
#include <vector>

#include "capture/gguf_blocks.h"
#include "core/error.h"

namespace kvscope {
namespace {

PackedMatrix Empty(GgufType type, int outputs, int inputs) {
  if (const QuantFormat* format = FormatOf(type)) return {*format, outputs, inputs};
  switch (type) {
    case GgufType::kF16:
      return {WeightKind::kF16, outputs, inputs};
    case GgufType::kBF16:
      return {WeightKind::kBf16, outputs, inputs};
    default:
      return {WeightKind::kF32, outputs, inputs};
  }
}

// In integers, because a compiler may vectorise an OR: all exponent bits set is NaN or infinity.
template <typename Bits, typename T>
bool IsFinite(std::span<const T> values, Bits exponent) {
  Bits any_bad = 0;
  for (const T& value : values) any_bad |= (std::bit_cast<Bits>(value) & exponent) == exponent;
  return any_bad == 0;
}

// A row of a tensor, taken apart.
struct RowParts {
  std::vector<uint8_t> codes;
  std::vector<float> scales, minimums;
};

// False when a weight is not finite; then the row may be unset.
bool PackRow(GgufType type, const std::byte* row, int output, RowParts& parts, PackedMatrix& matrix) {
  const size_t inputs = matrix.inputs();
  switch (matrix.kind()) {
    case WeightKind::kF32: {
      const std::span weights(reinterpret_cast<const float*>(row), inputs);
      matrix.SetRow(output, weights);
      return IsFinite<uint32_t>(weights, 0x7f800000u);
    }
    case WeightKind::kF16: {
      const std::span weights(reinterpret_cast<const Half*>(row), inputs);
      matrix.SetRow(output, weights);
      return IsFinite<uint16_t>(weights, 0x7c00);
    }
    case WeightKind::kBf16: {
      const std::span weights(reinterpret_cast<const uint16_t*>(row), inputs);
      matrix.SetRow(output, weights);
      return IsFinite<uint16_t>(weights, 0x7f80);
    }
    case WeightKind::kQuantised:
      break;
  }
  const QuantFormat& format = matrix.format();
  parts.codes.resize(inputs);
  parts.scales.resize(inputs / format.group);
  parts.minimums.resize(format.has_minimum ? parts.scales.size() : 0);
  UnpackRow(type, row, matrix.inputs(), parts.codes, parts.scales, parts.minimums);
  if (!IsFinite<uint32_t>(std::span<const float>(parts.scales), 0x7f800000u) ||
      !IsFinite<uint32_t>(std::span<const float>(parts.minimums), 0x7f800000u)) {
    return false;
  }
  matrix.SetRow(output, parts.codes, parts.scales, parts.minimums);
  return true;
}

}  // namespace

PackedMatrix PackWeights(const GgufFile& gguf, const GgufTensor& tensor, int outputs,
                         const std::function<int64_t(int output)>& source_row) {
  KVSCOPE_CHECK(IsReadable(tensor.type));
  const int inputs = static_cast<int>(tensor.Cols());
  PackedMatrix matrix = Empty(tensor.type, outputs, inputs);
  const int64_t row_bytes = GgufRowBytes(tensor.type, inputs);
  tbb::parallel_for(0, matrix.num_panels(), [&](int panel) {
    RowParts parts;
    for (int output = panel * kPanelOutputs; output < std::min((panel + 1) * kPanelOutputs, outputs); ++output) {
      const int64_t row = source_row(output);
      KVSCOPE_CHECK(0 <= row && row < tensor.Rows());
      if (PackRow(tensor.type, tensor.data.data() + row * row_bytes, output, parts, matrix)) continue;
      std::vector<float> values(inputs);
      gguf.Dequantize(tensor, row, values);  // says which weight it is
      KVSCOPE_CHECK(false);
    }
  });
  gguf.Release(tensor);
  return matrix;
}

}  // namespace kvscope
