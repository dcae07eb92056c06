// SPDX-License-Identifier: Apache-2.0
#include "kernels/packed_matrix.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.h"
#include "kernels/bf16.h"

namespace kvscope {
namespace {

constexpr int kQuad = 4;

template <typename T>
void Put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}
template <typename T>
T Get(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

int ValueBytes(WeightKind kind) {
  return kind == WeightKind::kF32 ? 4 : 2;
}

// Four codes as the bytes of a word, in the high or low half of each byte for 4-bit codes.
uint32_t QuadOf(const uint8_t* codes, int shift) {
  return Get<uint32_t>(reinterpret_cast<const std::byte*>(codes)) << shift;
}

}  // namespace

void PackedMatrix::Free::operator()(void* memory) const {
  std::free(memory);
}

// calloc takes large pieces fresh from the system: zero, and without cost before they are written. Huge pages, because
// every token sweeps over all weights.
void PackedMatrix::Allocate() {
  constexpr uintptr_t kLine = 64, kPage = 4096;
  constexpr int64_t kWorthHugePages = int64_t{4} << 20;
  if (bytes() == 0) return;
  memory_.reset(std::calloc(static_cast<size_t>(bytes()) + kLine, 1));
  if (!memory_) throw std::bad_alloc();
  const auto begin = reinterpret_cast<uintptr_t>(memory_.get());
  data_ = reinterpret_cast<std::byte*>((begin + kLine - 1) / kLine * kLine);
  if (bytes() < kWorthHugePages) return;
  const uintptr_t first_page = (begin + kPage - 1) / kPage * kPage;
  // Refused where the system has none: nothing lost.
  (void)madvise(reinterpret_cast<void*>(first_page), begin + static_cast<uintptr_t>(bytes()) - first_page,
                MADV_HUGEPAGE);
}

PackedMatrix::PackedMatrix(WeightKind plain, int outputs, int inputs)
    : kind_(plain), outputs_(outputs), inputs_(inputs), blocks_((inputs + kBlockInputs - 1) / kBlockInputs) {
  KVSCOPE_CHECK(plain != WeightKind::kQuantised);
  block_bytes_ = kBlockInputs * kPanelOutputs * ValueBytes(plain);
  Allocate();
}

PackedMatrix::PackedMatrix(const QuantFormat& format, int outputs, int inputs)
    : kind_(WeightKind::kQuantised),
      format_(format),
      outputs_(outputs),
      inputs_(inputs),
      blocks_(inputs / kBlockInputs) {
  KVSCOPE_CHECK_EQ(inputs % kBlockInputs, 0);
  KVSCOPE_CHECK(format.code_bits == 4 || format.code_bits == 8);
  KVSCOPE_CHECK(format.group == 16 || format.group == 32);
  codes_offset_ = kBlockInputs / format.group * kPanelOutputs * ScaleBytes() * (format.has_minimum ? 2 : 1);
  block_bytes_ = codes_offset_ + kBlockInputs * kPanelOutputs * format.code_bits / 8;
  Allocate();
}

template <typename T>
void PackedMatrix::SetPlainRow(int output, std::span<const T> weights) {
  const int column = output % kPanelOutputs;
  for (int input = 0; input < inputs_; ++input) {
    std::byte* const block = Block(output / kPanelOutputs, input / kBlockInputs);
    Put(block + (input % kBlockInputs * kPanelOutputs + column) * static_cast<int>(sizeof(T)), weights[input]);
  }
}

void PackedMatrix::SetRow(int output, std::span<const float> weights) {
  KVSCOPE_CHECK(kind_ == WeightKind::kF32);
  SetPlainRow(output, weights);
}

void PackedMatrix::SetRow(int output, std::span<const Half> weights) {
  KVSCOPE_CHECK(kind_ == WeightKind::kF16);
  SetPlainRow(output, weights);
}

void PackedMatrix::SetRow(int output, std::span<const uint16_t> weights) {
  KVSCOPE_CHECK(kind_ == WeightKind::kBf16);
  SetPlainRow(output, weights);
}

void PackedMatrix::SetRow(int output, std::span<const uint8_t> codes, std::span<const float> scales,
                          std::span<const float> minimums) {
  KVSCOPE_CHECK(kind_ == WeightKind::kQuantised);
  const int groups = inputs_ / format_.group;
  KVSCOPE_CHECK_EQ(static_cast<int>(codes.size()), inputs_);
  KVSCOPE_CHECK_EQ(static_cast<int>(scales.size()), groups);
  KVSCOPE_CHECK_EQ(static_cast<int>(minimums.size()), format_.has_minimum ? groups : 0);
  const auto put_number = [&](int which, int group, float value) {
    auto* const at = const_cast<std::byte*>(ScaleAt(which, output, group * format_.group));
    if (format_.is_half) {
      Put(at, HalfFromFloat(value));
    } else {
      Put(at, value);
    }
  };
  for (int group = 0; group < groups; ++group) {
    put_number(0, group, scales[group]);
    if (format_.has_minimum) put_number(1, group, minimums[group]);
  }
  const int column = output % kPanelOutputs, panel = output / kPanelOutputs;
  for (int input = 0; input < inputs_; input += kQuad) {
    std::byte* const quad = Block(panel, input / kBlockInputs) + codes_offset_ +
                            input % kBlockInputs * kPanelOutputs * format_.code_bits / 8;
    if (format_.code_bits == 8) {
      Put(quad + column * kQuad, QuadOf(&codes[input], 0));
    } else {
      std::byte* const at = quad + column % 16 * kQuad;
      const int shift = column < 16 ? 0 : 4;
      Put(at, (Get<uint32_t>(at) & (0xf0f0f0f0u >> shift)) | QuadOf(&codes[input], shift));
    }
  }
}

const std::byte* PackedMatrix::ScaleAt(int which, int output, int input) const {
  const int groups = kBlockInputs / format_.group, group = input % kBlockInputs / format_.group;
  return Block(output / kPanelOutputs, input / kBlockInputs) +
         ((which * groups + group) * kPanelOutputs + output % kPanelOutputs) * ScaleBytes();
}

float PackedMatrix::Number(const std::byte* at) const {
  return format_.is_half ? FloatFromHalf(Get<Half>(at)) : Get<float>(at);
}

float PackedMatrix::Scale(int output, int input) const {
  return Number(ScaleAt(0, output, input));
}

float PackedMatrix::Minimum(int output, int input) const {
  if (format_.has_minimum) return Number(ScaleAt(1, output, input));
  return static_cast<float>(-format_.zero) * Scale(output, input);
}

int PackedMatrix::Code(int output, int input) const {
  const int column = output % kPanelOutputs, within = input % kBlockInputs;
  const std::byte* const codes = Block(output / kPanelOutputs, input / kBlockInputs) + codes_offset_;
  if (format_.code_bits == 8)
    return static_cast<int>(codes[(within / kQuad * kPanelOutputs + column) * kQuad + within % kQuad]);
  const int pair = static_cast<int>(codes[(within / kQuad * 16 + column % 16) * kQuad + within % kQuad]);
  return column < 16 ? pair & 15 : pair >> 4;
}

float PackedMatrix::At(int output, int input) const {
  if (kind_ == WeightKind::kQuantised) {
    return std::fma(Scale(output, input), static_cast<float>(Code(output, input)), Minimum(output, input));
  }
  const int value_bytes = ValueBytes(kind_);
  const std::byte* const at = Block(output / kPanelOutputs, input / kBlockInputs) +
                              (input % kBlockInputs * kPanelOutputs + output % kPanelOutputs) * value_bytes;
  switch (kind_) {
    case WeightKind::kF16:
      return FloatFromHalf(Get<Half>(at));
    case WeightKind::kBf16:
      return FloatFromBf16(Get<uint16_t>(at));
    default:
      return Get<float>(at);
  }
}

}  // namespace kvscope
