// SPDX-License-Identifier: Apache-2.0
// SHA-256 (FIPS 180-4), so that a trace can say exactly which model file it was made with.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace kvscope {

class Sha256 {
 public:
  Sha256();
  void Update(std::span<const std::byte> bytes);
  std::string HexDigest();  // 64 lower-case hex digits; ends the computation

 private:
  void Block(const uint8_t* block);

  std::array<uint32_t, 8> state_;
  std::array<uint8_t, 64> pending_{};
  uint64_t total_bytes_ = 0;
};

std::string HexSha256(std::span<const std::byte> bytes);
// Error when the file cannot be read.
std::string HexSha256OfFile(const std::string& path);

}  // namespace kvscope
