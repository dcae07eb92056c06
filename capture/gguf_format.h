// SPDX-License-Identifier: Apache-2.0
// What the gguf files share: numbers of the format and where the bytes are held. Private to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "capture/gguf.h"

namespace kvscope {
namespace gguf {

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of a value of fixed size; 0 for text, arrays and unknown numbers.
constexpr size_t ScalarBytes(uint32_t type) {
  constexpr size_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}

inline std::string ValueTypeName(uint32_t type) {
  constexpr const char* kNames[] = {"an 8-bit unsigned integer",
                                    "an 8-bit integer",
                                    "a 16-bit unsigned integer",
                                    "a 16-bit integer",
                                    "a 32-bit unsigned integer",
                                    "a 32-bit integer",
                                    "a 32-bit float",
                                    "a truth value",
                                    "a text",
                                    "an array",
                                    "a 64-bit unsigned integer",
                                    "a 64-bit integer",
                                    "a 64-bit float"};
  return type < std::size(kNames) ? kNames[type] : "value type " + std::to_string(type);
}

// A text that the parser has checked: 8 bytes of length, then that many bytes.
inline std::string_view TextAt(const std::byte* from) {
  uint64_t length;
  std::memcpy(&length, from, sizeof(length));
  return {reinterpret_cast<const char*>(from + 8), length};
}

}  // namespace gguf

// The bytes of one file: mapped, or a copy that is aligned as a mapping is (well enough for every legal alignment).
struct GgufFile::Storage {
  explicit Storage(std::string_view bytes);                // copies
  Storage(const std::string& path, const Wanted& wanted);  // maps
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  ~Storage();

  std::span<const std::byte> bytes() const { return bytes_; }
  void Release(std::span<const std::byte> piece) const;  // drops a mapping's pages from memory

 private:
  std::vector<uint64_t> copy_;
  bool is_mapped_ = false;
  std::span<const std::byte> bytes_;
};

}  // namespace kvscope
