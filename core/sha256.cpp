// SPDX-License-Identifier: Apache-2.0
#include "core/sha256.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <memory>

#include "core/error.h"

namespace kvscope {
namespace {

constexpr bool IsPrime(uint32_t n) {
  for (uint32_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

// floor(p^(1/power) * 2^32) mod 2^32 by bisection over 128-bit integers: the standard defines its constants as the
// first 32 bits of the fractional parts of square roots (power 2) and cube roots (power 3) of the first primes.
constexpr uint32_t RootFraction(uint32_t p, int power) {
  unsigned __int128 low = 0, high = static_cast<unsigned __int128>(1) << 37;  // roots are below 2^5
  while (high - low > 1) {
    const unsigned __int128 mid = (low + high) / 2;
    // mid^power <= p * 2^(32 * power), compared without leaving 128 bits: 2^111 at most on the left.
    const unsigned __int128 left = power == 2 ? mid * mid : mid * mid * mid;
    if (left <= static_cast<unsigned __int128>(p) << (32 * power)) {
      low = mid;
    } else {
      high = mid;
    }
  }
  return static_cast<uint32_t>(low);
}

template <size_t kCount>
constexpr std::array<uint32_t, kCount> RootsOfPrimes(int power) {
  std::array<uint32_t, kCount> roots{};
  uint32_t prime = 2;
  for (uint32_t& root : roots) {
    root = RootFraction(prime++, power);
    while (!IsPrime(prime)) ++prime;
  }
  return roots;
}

constexpr std::array<uint32_t, 64> kRound = RootsOfPrimes<64>(3);
constexpr std::array<uint32_t, 8> kInitial = RootsOfPrimes<8>(2);

}  // namespace

Sha256::Sha256() : state_(kInitial) {}

void Sha256::Block(const uint8_t* block) {
  std::array<uint32_t, 64> w;
  for (size_t i = 0; i < 16; ++i) {
    w[i] = uint32_t{block[4 * i]} << 24 | uint32_t{block[4 * i + 1]} << 16 | uint32_t{block[4 * i + 2]} << 8 |
           uint32_t{block[4 * i + 3]};
  }
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
    const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  const std::array<uint32_t, 8> added{a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state_[i] += added[i];
}

void Sha256::Update(std::span<const std::byte> bytes) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  size_t left = bytes.size();
  const size_t held = total_bytes_ % 64;
  total_bytes_ += left;
  if (held > 0) {
    const size_t taken = std::min(left, 64 - held);
    std::memcpy(pending_.data() + held, data, taken);
    data += taken;
    left -= taken;
    if (held + taken < 64) return;
    Block(pending_.data());
  }
  for (; left >= 64; left -= 64, data += 64) Block(data);
  if (left > 0) std::memcpy(pending_.data(), data, left);
}

std::string Sha256::HexDigest() {
  const uint64_t bits = total_bytes_ * 8;
  std::array<std::byte, 72> tail{std::byte{0x80}};
  const size_t held = total_bytes_ % 64;
  const size_t zeros_end = held < 56 ? 56 - held : 120 - held;  // up to the 8 bytes of length
  for (size_t i = 0; i < 8; ++i) tail[zeros_end + i] = static_cast<std::byte>(bits >> (56 - 8 * i));
  Update(std::span(tail).first(zeros_end + 8));
  std::string hex;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  }
  return hex;
}

std::string HexSha256(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.HexDigest();
}

std::string HexSha256OfFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(StrCat(path, ": expected a readable file, found none; check the path and its permissions"));
  constexpr size_t kBufferBytes = 1 << 20;
  const auto buffer = std::make_unique<char[]>(kBufferBytes);
  Sha256 hash;
  while (in.read(buffer.get(), kBufferBytes) || in.gcount() > 0) {
    hash.Update(std::as_bytes(std::span(buffer.get(), static_cast<size_t>(in.gcount()))));
  }
  if (in.bad()) throw Error(StrCat(path, ": expected to read the whole file, found a read error; check the disk"));
  return hash.HexDigest();
}

}  // namespace kvscope
