// SPDX-License-Identifier: Apache-2.0
#include "capture/byte_ring.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace kvscope {
namespace {

TEST(ByteRing, GivesPiecesInOrderAndTakesRoomBackInOrder) {
  ByteRing ring(1024);
  EXPECT_EQ(ring.Take(256), 0u);
  EXPECT_EQ(ring.Take(300), 256u) << "of 256-byte units";
  EXPECT_EQ(ring.Take(256), 768u);
  EXPECT_EQ(ring.Take(1), std::nullopt) << "full";
  ring.Release(256);
  EXPECT_EQ(ring.Take(1), std::nullopt) << "an older piece is still taken";
  ring.Release(0);
  EXPECT_EQ(ring.Take(768), 0u) << "both are free again, from the beginning on";
  EXPECT_EQ(ring.Take(1), std::nullopt);
  ring.Release(768);
  EXPECT_EQ(ring.Take(256), 768u);
}

TEST(ByteRing, LeavesTheEndWhenAPieceDoesNotFitThere) {
  ByteRing ring(1024);
  EXPECT_EQ(ring.Take(768), 0u);
  EXPECT_EQ(ring.Take(128), 768u);
  EXPECT_EQ(ring.Take(512), std::nullopt);
  ring.Release(0);
  EXPECT_EQ(ring.Take(512), 0u) << "in one stretch";
  EXPECT_EQ(ring.taken_bytes(), 768u);
}

TEST(ByteRing, NeverFitsAPieceThatIsTooLarge) {
  ByteRing ring(1000);
  EXPECT_EQ(ring.Take(1001), std::nullopt);
  EXPECT_EQ(ring.Take(900), std::nullopt) << "rounded up it is 1,024";
  EXPECT_EQ(ring.Take(700), 0u);
}

// Whatever the order in which pieces come back, no two that are taken overlap.
TEST(ByteRing, NeverGivesAByteTwice) {
  std::mt19937 random(3);
  ByteRing ring(1 << 14);
  std::vector<int> owner(1 << 14, 0);
  struct Piece {
    size_t begin, bytes;
    int name;
  };
  std::vector<Piece> taken;
  int given = 0;
  for (int step = 0; step < 20000; ++step) {
    const size_t bytes = 1 + random() % 5000;
    const std::optional<size_t> begin = ring.Take(bytes);
    if (begin) {
      ++given;
      taken.push_back({*begin, bytes, given});
      for (size_t i = 0; i < bytes; ++i) {
        ASSERT_EQ(owner.at(*begin + i), 0) << "step " << step;
        owner[*begin + i] = given;
      }
    }
    if (taken.empty() || (begin && random() % 3 != 0)) continue;
    const size_t which = random() % taken.size();
    for (size_t i = 0; i < taken[which].bytes; ++i) owner[taken[which].begin + i] = 0;
    ring.Release(taken[which].begin);
    taken.erase(taken.begin() + static_cast<int64_t>(which));
  }
  EXPECT_GT(given, 5000);
}

}  // namespace
}  // namespace kvscope
