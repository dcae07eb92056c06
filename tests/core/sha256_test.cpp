// SPDX-License-Identifier: Apache-2.0
#include "core/sha256.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/error.h"

namespace kvscope {
namespace {

std::span<const std::byte> BytesOf(const std::string& text) {
  return std::as_bytes(std::span(text));
}

// From FIPS 180-4's examples and the NIST test vectors.
TEST(Sha256, EqualsKnownDigests) {
  EXPECT_EQ(HexSha256({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(HexSha256(BytesOf("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexSha256(BytesOf("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(HexSha256(BytesOf(std::string(1000000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotDependOnHowTheInputIsCut) {
  for (size_t length = 0; length < 200; ++length) {
    const std::string text(length, 'x');
    for (size_t cut = 0; cut <= length; cut += 7) {
      Sha256 hash;
      hash.Update(BytesOf(text).first(cut));
      hash.Update(BytesOf(text).subspan(cut));
      ASSERT_EQ(hash.HexDigest(), HexSha256(BytesOf(text))) << length << " cut at " << cut;
    }
  }
}

TEST(Sha256, HashesAFileAndRefusesAMissingOne) {
  const std::string path = testing::TempDir() + "kvscope_sha256.bin";
  const std::string bytes(3000001, 'q');
  std::ofstream(path, std::ios::binary) << bytes;
  EXPECT_EQ(HexSha256OfFile(path), HexSha256(BytesOf(bytes)));
  EXPECT_THROW(HexSha256OfFile(path + ".absent"), Error);
}

}  // namespace
}  // namespace kvscope
