// SPDX-License-Identifier: Apache-2.0
#include "capture/gguf_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "core/sha256.h"

namespace kvscope {
namespace {

// What the gguf package made of random blocks: tests/python/make_blocks_fixture.py.
class Fixture {
 public:
  Fixture() {
    const std::string path = KVSCOPE_SOURCE_DIR "/tests/capture/fixtures/blocks";
    std::ifstream(path + ".json") >> header_;
    std::ostringstream bytes;
    bytes << std::ifstream(path + ".bin", std::ios::binary).rdbuf();
    bytes_ = std::move(bytes).str();
  }

  const nlohmann::json& types() const { return header_.at("types"); }
  const nlohmann::json& Type(GgufType type) const {
    for (const nlohmann::json& entry : types())
      if (entry.at("number") == static_cast<uint32_t>(type)) return entry;
    throw std::out_of_range(GgufTypeName(type));
  }
  // Of a readable type, any number of whole blocks.
  std::span<const std::byte> Blocks(const nlohmann::json& entry) const {
    const nlohmann::json& array = header_.at("arrays").at(entry.at("blocks").get<std::string>());
    return std::as_bytes(std::span(bytes_)).subspan(array.at("offset"), array.at("bytes"));
  }

 private:
  nlohmann::json header_;
  std::string bytes_;
};

class GgufBlocks : public testing::TestWithParam<GgufType> {
 protected:
  std::vector<float> Dequantized(std::span<const std::byte> blocks) const {
    const int64_t elements = GgufBlockElements(GetParam());
    std::vector<float> weights(blocks.size() / GgufRowBytes(GetParam(), elements) * elements);
    DequantizeRow(GetParam(), blocks.data(), weights);
    return weights;
  }

  const Fixture fixture_;
};

TEST_P(GgufBlocks, DequantiseToTheBitAsTheGgufPackageDoes) {
  const nlohmann::json& expected = fixture_.Type(GetParam());
  EXPECT_EQ(GgufTypeName(GetParam()), expected.at("name"));
  const std::vector<float> weights = Dequantized(fixture_.Blocks(expected));
  const size_t third = 2 * GgufBlockElements(GetParam());
  for (size_t i = 0; i < 32; ++i) {
    const float wanted = expected.at("first").at(i);
    ASSERT_EQ(std::bit_cast<uint32_t>(weights[third + i]), std::bit_cast<uint32_t>(wanted))
        << weights[third + i] << " for " << wanted << " at weight " << i << " of the third block";
  }
  EXPECT_EQ(HexSha256(std::as_bytes(std::span(weights))), expected.at("sha256"));
}

INSTANTIATE_TEST_SUITE_P(Types, GgufBlocks, testing::ValuesIn(ReadableGgufTypes()),
                         [](const auto& instance) { return GgufTypeName(instance.param); });

}  // namespace
}  // namespace kvscope
