// SPDX-License-Identifier: Apache-2.0
// One struct per quantised type: its fields lie as in the file (little endian), Unpack says what they mean. f16 fields
// are the block's scales d and dmin or its minimum m; "low" and "high" are the low and high bits of codes. The layouts
// are ggml's.
#include "capture/gguf_blocks.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/bf16.h"

namespace kvscope {
namespace {

constexpr int kSuperBlock = 256;  // weights in a block of the "K" types

// Where a block's codes, scales and minimums go.
struct Unpacked {
  uint8_t* codes;
  float* scales;
  float* minimums;
};

// Byte i of the pairs holds elements i (low four bits) and i + kBytes. Eight at a time, because g++ 12 takes loops
// of 16 apart and puts vectors together byte by byte.
template <int kBytes>
void UnpackPairs(const uint8_t* pairs, uint8_t* codes) {
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
  for (int i = 0; i < kBytes; i += 8) {
    uint64_t eight;
    std::memcpy(&eight, pairs + i, 8);
    const uint64_t low = eight & kLow, high = eight >> 4 & kLow;
    std::memcpy(codes + i, &low, 8);
    std::memcpy(codes + kBytes + i, &high, 8);
  }
}

// Bit i is the fifth bit of code i.
void AddFifthBits(const uint8_t (&high)[4], uint8_t* codes) {
  uint32_t bits;
  std::memcpy(&bits, high, sizeof bits);
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(codes[i] | (bits >> i & 1) << 4);
}

struct BlockQ4_0 {
  static constexpr QuantFormat kFormat{.code_bits = 4, .zero = 8};
  static constexpr int kElements = 32;
  Half d;
  uint8_t pairs[16];

  void Unpack(Unpacked to) const {
    to.scales[0] = FloatFromHalf(d);
    UnpackPairs<16>(pairs, to.codes);
  }
};

struct BlockQ4_1 {
  static constexpr QuantFormat kFormat{.code_bits = 4, .has_minimum = true};
  static constexpr int kElements = 32;
  Half d, m;
  uint8_t pairs[16];

  void Unpack(Unpacked to) const {
    to.scales[0] = FloatFromHalf(d);
    to.minimums[0] = FloatFromHalf(m);
    UnpackPairs<16>(pairs, to.codes);
  }
};

struct BlockQ5_0 {
  static constexpr QuantFormat kFormat{.zero = 16};
  static constexpr int kElements = 32;
  Half d;
  uint8_t high[4];
  uint8_t pairs[16];

  void Unpack(Unpacked to) const {
    to.scales[0] = FloatFromHalf(d);
    UnpackPairs<16>(pairs, to.codes);
    AddFifthBits(high, to.codes);
  }
};

struct BlockQ5_1 {
  static constexpr QuantFormat kFormat{.has_minimum = true};
  static constexpr int kElements = 32;
  Half d, m;
  uint8_t high[4];
  uint8_t pairs[16];

  void Unpack(Unpacked to) const {
    to.scales[0] = FloatFromHalf(d);
    to.minimums[0] = FloatFromHalf(m);
    UnpackPairs<16>(pairs, to.codes);
    AddFifthBits(high, to.codes);
  }
};

struct BlockQ8_0 {
  static constexpr QuantFormat kFormat{.zero = 128};
  static constexpr int kElements = 32;
  Half d;
  uint8_t quants[32];  // signed

  void Unpack(Unpacked to) const {
    to.scales[0] = FloatFromHalf(d);
    for (int i = 0; i < 32; ++i) to.codes[i] = quants[i] ^ 0x80;  // + 128
  }
};

// Four bits choose one of 16 values that lie denser around zero.
struct BlockIQ4_NL {
  static constexpr QuantFormat kFormat{.zero = 128};
  static constexpr int kElements = 32;
  static constexpr uint8_t kCodes[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
  Half d;
  uint8_t pairs[16];

  void Unpack(Unpacked to) const {
    to.scales[0] = FloatFromHalf(d);
    for (int i = 0; i < 16; ++i) to.codes[i] = kCodes[pairs[i] & 15];
    for (int i = 0; i < 16; ++i) to.codes[i + 16] = kCodes[pairs[i] >> 4];
  }
};

// Two bits of each code: byte i of a half of 128 elements holds elements i, i + 32, i + 64 and i + 96, lowest bits
// first.
void UnpackTwoBits(const uint8_t (&low)[64], uint8_t* codes) {
  for (int half = 0; half < 2; ++half) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int i = 0; i < 32; ++i) codes[half * 128 + quarter * 32 + i] = low[half * 32 + i] >> 2 * quarter & 3;
    }
  }
}

// Bit k of byte i belongs to element 32 k + i; it is worth `worth`.
void AddHighBits(const uint8_t (&high)[32], int worth, uint8_t* codes) {
  for (int k = 0; k < 8; ++k) {
    for (int i = 0; i < 32; ++i)
      codes[k * 32 + i] = static_cast<uint8_t>(codes[k * 32 + i] | (high[i] >> k & 1) * worth);
  }
}

struct BlockQ2_K {
  static constexpr QuantFormat kFormat{.code_bits = 4, .group = 16, .has_minimum = true, .is_half = false};
  static constexpr int kElements = kSuperBlock;
  uint8_t scales[16];  // scale in the low, minimum in the high four bits
  uint8_t low[64];
  Half d, dmin;

  void Unpack(Unpacked to) const {
    const float scale = FloatFromHalf(d), minimum = FloatFromHalf(dmin);
    for (int group = 0; group < 16; ++group) {
      to.scales[group] = scale * static_cast<float>(scales[group] & 15);
      to.minimums[group] = -(minimum * static_cast<float>(scales[group] >> 4));
    }
    UnpackTwoBits(low, to.codes);
  }
};

struct BlockQ3_K {
  static constexpr QuantFormat kFormat{.code_bits = 4, .group = 16, .zero = 4, .is_half = false};
  static constexpr int kElements = kSuperBlock;
  uint8_t high[32];
  uint8_t low[64];
  uint8_t scales[12];  // six bits each: low four of g and g + 8 in byte g, then high two of g, g + 4 ... in byte 8 + g
  Half d;

  void Unpack(Unpacked to) const {
    const float scale = FloatFromHalf(d);
    for (int group = 0; group < 16; ++group) {
      const int four = scales[group % 8] >> group / 8 * 4 & 15;
      const int two = scales[8 + group % 4] >> group / 4 * 2 & 3;
      to.scales[group] = scale * static_cast<float>((four | two << 4) - 32);
    }
    UnpackTwoBits(low, to.codes);
    AddHighBits(high, 4, to.codes);
  }
};

// Q4_K and Q5_K: eight scales and minimums of six bits. Bytes 0 to 3 hold scales 0 to 3, bytes 4 to 7 minimums 0 to 3,
// each with two high bits of the one four groups on above; bytes 8 to 11 the low four bits of scales and minimums 4
// to 7.
void UnpackSixBits(const uint8_t (&packed)[12], Half d, Half dmin, Unpacked to) {
  const float scale = FloatFromHalf(d), minimum = FloatFromHalf(dmin);
  for (int group = 0; group < 4; ++group) {
    const uint8_t first = packed[group], second = packed[group + 4], third = packed[group + 8];
    to.scales[group] = scale * static_cast<float>(first & 63);
    to.minimums[group] = -(minimum * static_cast<float>(second & 63));
    to.scales[group + 4] = scale * static_cast<float>((third & 15) | (first >> 6) << 4);
    to.minimums[group + 4] = -(minimum * static_cast<float>(third >> 4 | (second >> 6) << 4));
  }
}

// Four quarters of 64 elements, each as 32 pairs.
void UnpackLongPairs(const uint8_t (&low)[128], uint8_t* codes) {
  for (int quarter = 0; quarter < 4; ++quarter) UnpackPairs<32>(low + quarter * 32, codes + quarter * 64);
}

struct BlockQ4_K {
  static constexpr QuantFormat kFormat{.code_bits = 4, .has_minimum = true, .is_half = false};
  static constexpr int kElements = kSuperBlock;
  Half d, dmin;
  uint8_t scales[12];
  uint8_t low[128];

  void Unpack(Unpacked to) const {
    UnpackSixBits(scales, d, dmin, to);
    UnpackLongPairs(low, to.codes);
  }
};

struct BlockQ5_K {
  static constexpr QuantFormat kFormat{.has_minimum = true, .is_half = false};
  static constexpr int kElements = kSuperBlock;
  Half d, dmin;
  uint8_t scales[12];
  uint8_t high[32];
  uint8_t low[128];

  void Unpack(Unpacked to) const {
    UnpackSixBits(scales, d, dmin, to);
    UnpackLongPairs(low, to.codes);
    AddHighBits(high, 16, to.codes);
  }
};

struct BlockQ6_K {
  static constexpr QuantFormat kFormat{.group = 16, .zero = 32, .is_half = false};
  static constexpr int kElements = kSuperBlock;
  uint8_t low[128];  // byte i of a half of 128 elements: elements i and i + 64
  uint8_t high[64];  // two bits, as in UnpackTwoBits
  int8_t scales[16];
  Half d;

  void Unpack(Unpacked to) const {
    const float scale = FloatFromHalf(d);
    for (int group = 0; group < 16; ++group) to.scales[group] = scale * static_cast<float>(scales[group]);
    UnpackTwoBits(high, to.codes);
    for (int half = 0; half < 2; ++half) {
      uint8_t* codes = to.codes + half * 128;
      for (int i = 0; i < 64; ++i) codes[i] = static_cast<uint8_t>(codes[i] << 4 | (low[half * 64 + i] & 15));
      for (int i = 0; i < 64; ++i) codes[i + 64] = static_cast<uint8_t>(codes[i + 64] << 4 | low[half * 64 + i] >> 4);
    }
  }
};

template <typename Block>
void UnpackBlocks(const std::byte* row, int64_t num_blocks, Unpacked to) {
  constexpr int kGroups = Block::kElements / Block::kFormat.group;
  for (int64_t i = 0; i < num_blocks; ++i) {
    Block block;
    std::memcpy(&block, row + i * static_cast<int64_t>(sizeof block), sizeof block);
    block.Unpack(to);
    to.codes += Block::kElements;
    to.scales += kGroups;
    if (Block::kFormat.has_minimum) to.minimums += kGroups;
  }
}

struct TypeInfo {
  uint32_t id;
  const char* name;
  int64_t block_elements = 0;  // 0: cannot be read
  int64_t block_bytes = 0;
  QuantFormat format = {};
  void (*unpack)(const std::byte* row, int64_t num_blocks, Unpacked to) = nullptr;  // nullptr: not quantised
};

template <typename Block>
constexpr TypeInfo Quantised(GgufType type, const char* name) {
  return {static_cast<uint32_t>(type), name, Block::kElements, sizeof(Block), Block::kFormat, UnpackBlocks<Block>};
}

// Every type ggml has, so that an error can name what we cannot read; retired numbers are left out. Ascending.
constexpr TypeInfo kTypes[] = {
    {0, "F32", 1, 4},
    {1, "F16", 1, 2},
    Quantised<BlockQ4_0>(GgufType::kQ4_0, "Q4_0"),
    Quantised<BlockQ4_1>(GgufType::kQ4_1, "Q4_1"),
    Quantised<BlockQ5_0>(GgufType::kQ5_0, "Q5_0"),
    Quantised<BlockQ5_1>(GgufType::kQ5_1, "Q5_1"),
    Quantised<BlockQ8_0>(GgufType::kQ8_0, "Q8_0"),
    {9, "Q8_1"},
    Quantised<BlockQ2_K>(GgufType::kQ2_K, "Q2_K"),
    Quantised<BlockQ3_K>(GgufType::kQ3_K, "Q3_K"),
    Quantised<BlockQ4_K>(GgufType::kQ4_K, "Q4_K"),
    Quantised<BlockQ5_K>(GgufType::kQ5_K, "Q5_K"),
    Quantised<BlockQ6_K>(GgufType::kQ6_K, "Q6_K"),
    {15, "Q8_K"},
    {16, "IQ2_XXS"},
    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},
    {19, "IQ1_S"},
    Quantised<BlockIQ4_NL>(GgufType::kIQ4_NL, "IQ4_NL"),
    {21, "IQ3_S"},
    {22, "IQ2_S"},
    {23, "IQ4_XS"},
    {24, "I8"},
    {25, "I16"},
    {26, "I32"},
    {27, "I64"},
    {28, "F64"},
    {29, "IQ1_M"},
    {30, "BF16", 1, 2},
    {34, "TQ1_0"},
    {35, "TQ2_0"},
    {39, "MXFP4"},
    {40, "NVFP4"},
    {41, "Q1_0"},
    {42, "Q2_0"},
};

const TypeInfo* FindType(GgufType type) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const TypeInfo& info) { return info.id == static_cast<uint32_t>(type); });
  return found == std::end(kTypes) ? nullptr : found;
}

// Weights of one type's row, a piece at a time so that codes stay in the first cache.
void DequantizeBlocks(const TypeInfo& info, const std::byte* row, std::span<float> out) {
  constexpr int64_t kPiece = 8 * kSuperBlock;
  uint8_t codes[kPiece];
  float scales[kPiece / 16], minimums[kPiece / 16];
  const int group = info.format.group;  // not a constant: g++ 12 would take loops of 16 apart
  for (auto begin = int64_t{0}, end = static_cast<int64_t>(out.size()); begin < end; begin += kPiece) {
    const int64_t count = std::min(kPiece, end - begin), num_blocks = count / info.block_elements;
    info.unpack(row, num_blocks, {codes, scales, minimums});
    row += num_blocks * info.block_bytes;
    float* to = out.data() + begin;
    for (int64_t i = 0; i < count / group; ++i, to += group) {
      const uint8_t* from = codes + i * group;
      const float scale = scales[i];
      if (info.format.has_minimum) {
        for (int k = 0; k < group; ++k) to[k] = scale * static_cast<float>(from[k]) + minimums[i];
      } else {
        // Not scale * code - scale * zero, which is the same number but for the sign of zero.
        for (int k = 0; k < group; ++k) to[k] = scale * static_cast<float>(from[k] - info.format.zero);
      }
    }
  }
}

}  // namespace

std::string GgufTypeName(GgufType type) {
  const TypeInfo* info = FindType(type);
  return info ? info->name : StrCat("type ", static_cast<uint32_t>(type));
}

bool IsReadable(GgufType type) {
  const TypeInfo* info = FindType(type);
  return info && info->block_elements > 0;
}

std::span<const GgufType> ReadableGgufTypes() {
  static const std::vector<GgufType> readable = [] {
    std::vector<GgufType> types;
    for (const TypeInfo& info : kTypes)
      if (info.block_elements > 0) types.push_back(static_cast<GgufType>(info.id));
    return types;
  }();
  return readable;
}

std::string ReadableGgufTypeNames() {
  std::string names;
  const std::span<const GgufType> types = ReadableGgufTypes();
  for (const GgufType type : types)
    names += StrCat(names.empty() ? "" : type == types.back() ? " or " : ", ", GgufTypeName(type));
  return names;
}

int64_t GgufBlockElements(GgufType type) {
  KVSCOPE_CHECK(IsReadable(type));
  return FindType(type)->block_elements;
}

int64_t GgufRowBytes(GgufType type, int64_t cols) {
  KVSCOPE_CHECK(IsReadable(type));
  const TypeInfo& info = *FindType(type);
  KVSCOPE_CHECK_EQ(cols % info.block_elements, 0);
  return cols / info.block_elements * info.block_bytes;
}

const QuantFormat* FormatOf(GgufType type) {
  const TypeInfo* info = FindType(type);
  return info && info->unpack ? &info->format : nullptr;
}

void UnpackRow(GgufType type, const std::byte* row, int64_t cols, std::span<uint8_t> codes, std::span<float> scales,
               std::span<float> minimums) {
  KVSCOPE_CHECK(FormatOf(type) != nullptr);
  const TypeInfo& info = *FindType(type);
  const int64_t groups = cols / info.format.group;
  KVSCOPE_CHECK_EQ(cols % info.block_elements, 0);
  KVSCOPE_CHECK_EQ(static_cast<int64_t>(codes.size()), cols);
  KVSCOPE_CHECK_EQ(static_cast<int64_t>(scales.size()), groups);
  KVSCOPE_CHECK_EQ(static_cast<int64_t>(minimums.size()), info.format.has_minimum ? groups : 0);
  info.unpack(row, cols / info.block_elements, {codes.data(), scales.data(), minimums.data()});
}

void DequantizeRow(GgufType type, const std::byte* row, std::span<float> out) {
  KVSCOPE_CHECK(IsReadable(type));
  const TypeInfo& info = *FindType(type);
  KVSCOPE_CHECK_EQ(static_cast<int64_t>(out.size()) % info.block_elements, 0);
  switch (type) {
    case GgufType::kF32:
      std::memcpy(out.data(), row, out.size_bytes());
      break;
    case GgufType::kF16:
      FloatsFromHalves(std::span(reinterpret_cast<const Half*>(row), out.size()), out);
      break;
    case GgufType::kBF16: {
      const auto* const from = reinterpret_cast<const uint16_t*>(row);
      for (size_t i = 0; i < out.size(); ++i) out[i] = FloatFromBf16(from[i]);
      break;
    }
    default:
      DequantizeBlocks(info, row, out);
  }
}

}  // namespace kvscope
