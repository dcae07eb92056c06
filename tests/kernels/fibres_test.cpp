// SPDX-License-Identifier: Apache-2.0
// The emulation that stands in for a device must itself find what goes wrong on one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "tests/support/kernels_fibres.h"
// The fibres come first.
#include "kernels/wgmma.cuh"

namespace kvscope::fibres {
namespace {

using testing::HasSubstr;

constexpr int kThreads = 64;

class Fibres : public testing::TestWithParam<Order> {
 protected:
  Fibres() { SetOrder(GetParam()); }
  ~Fibres() override { SetOrder(Order::kForward); }
};

template <typename Kernel>
std::string MessageOf(Kernel kernel) {
  try {
    Launch(1, kThreads, 0, kernel);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_P(Fibres, GiveEveryThreadOfEveryBlockItsIndex) {
  std::vector<int> visits(3 * 2 * 2 * kThreads);
  Launch({3, 2, 2}, {16, 4}, 0, [&] {
    const unsigned in_grid = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x;
    ++visits[in_grid * kThreads + thread];
  });
  EXPECT_EQ(visits, std::vector<int>(visits.size(), 1));
}

TEST_P(Fibres, MeetAtABarrier) {
  std::vector<float> sums(2);
  Launch(2, kThreads, kThreads * sizeof(float), [&] {
    KVSCOPE_DYNAMIC_SHARED(float, values);
    values[threadIdx.x] = static_cast<float>(threadIdx.x);
    __syncthreads();
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) values[threadIdx.x] += values[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = values[0];
  });
  EXPECT_EQ(sums, std::vector<float>(2, kThreads * (kThreads - 1) / 2));
}

TEST_P(Fibres, ThoseThatHaveEndedAreNotWaitedFor) {
  int after = 0;
  Launch(1, kThreads, 0, [&] {
    if (threadIdx.x % 2 == 0) return;
    __syncthreads();
    ++after;
  });
  EXPECT_EQ(after, kThreads / 2);
}

TEST_P(Fibres, ExchangeValuesWithinAWarp) {
  std::vector<float> sums(kThreads);
  Launch(1, kThreads, 0, [&] {
    auto sum = static_cast<float>(threadIdx.x);
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    sums[threadIdx.x] = sum;
  });
  for (int thread = 0; thread < kThreads; ++thread) EXPECT_EQ(sums[thread], thread < 32 ? 496 : 496 + 32 * 32);
}

TEST_P(Fibres, LanesOfAMaskMeetWithoutTheOthers) {
  std::vector<int> received(kThreads, -1);
  Launch(1, kThreads, 0, [&] {
    if (threadIdx.x % 32 >= 8) return;
    received[threadIdx.x] = __shfl_sync(0xffu, static_cast<int>(threadIdx.x), 3);
  });
  EXPECT_EQ(received[7], 3);
  EXPECT_EQ(received[33], 35);
  EXPECT_EQ(received[8], -1);
}

TEST_P(Fibres, DynamicSharedMemoryHoldsNothingToRelyOn) {
  int not_numbers = 0;
  Launch(2, 1, 4 * sizeof(float), [&] {
    KVSCOPE_DYNAMIC_SHARED(float, values);
    for (int i = 0; i < 4; ++i) not_numbers += std::isnan(values[i]);
    values[0] = 1;
  });
  EXPECT_EQ(not_numbers, 8);
}

TEST_P(Fibres, SayWhichThreadsDoNotMeet) {
  EXPECT_THAT(MessageOf([] {
                if (threadIdx.x < 32) {
                  __syncthreads();
                } else {
                  __syncthreads();
                }
              }),
              testing::AllOf(HasSubstr("threads of a block do not meet: thread 0 waits at line"),
                             HasSubstr("thread 32 waits at line")));
  EXPECT_THAT(MessageOf([] {
                if (threadIdx.x != 5) __syncwarp();
              }),
              HasSubstr("thread 5 has ended"));
  EXPECT_THAT(MessageOf([] { __shfl_sync(0xffffffffu, 1.0f, 40); }), HasSubstr("reads lane 40"));
  EXPECT_THAT(MessageOf([] { __shfl_sync(0x3u, 1.0f, 0); }), HasSubstr("outside the mask"));
}

// A kernel that lets every thread copy 16 bytes, 1 2 3 4, and read the word that thread `reader(thread)` has copied:
// as NaN where that is too early.
template <typename Wait>
std::vector<float> Copied(int bytes_valid, Wait wait) {
  const std::vector<float4> from(kThreads, {1, 2, 3, 4});
  std::vector<float> read(kThreads);
  Launch(1, kThreads, kThreads * sizeof(float4), [&] {
    KVSCOPE_DYNAMIC_SHARED(float4, target);
    target[threadIdx.x] = {7, 7, 7, 7};
    __syncthreads();
    cuda_emulated::CopyAsync(target + threadIdx.x, &from[threadIdx.x], bytes_valid);
    read[threadIdx.x] = target[wait()].w;
  });
  return read;
}

TEST_P(Fibres, CopiesArriveAtTheWaitForTheirGroup) {
  const auto here = [] { return threadIdx.x; };
  EXPECT_TRUE(std::isnan(Copied(16, here)[5]));
  EXPECT_TRUE(std::isnan(Copied(16, [&] {
    cuda_emulated::WaitCopies<0>();  // the group is open
    return here();
  })[5]));
  EXPECT_TRUE(std::isnan(Copied(16, [&] {
    cuda_emulated::CommitCopies();
    cuda_emulated::WaitCopies<1>();  // the newest may be late
    return here();
  })[5]));
  const auto waited = [&] {
    cuda_emulated::CommitCopies();
    cuda_emulated::CommitCopies();
    cuda_emulated::WaitCopies<1>();  // an empty group counts
    return here();
  };
  EXPECT_EQ(Copied(16, waited), std::vector<float>(kThreads, 4));
  EXPECT_EQ(Copied(0, waited), std::vector<float>(kThreads, 0));
}

TEST_P(Fibres, OthersSeeACopyBehindABarrierOnly) {
  const auto mirrored = [](bool has_barrier) {
    return Copied(16, [&] {
      cuda_emulated::CommitCopies();
      cuda_emulated::WaitCopies<0>();
      if (has_barrier) __syncthreads();
      return kThreads - 1 - threadIdx.x;
    });
  };
  EXPECT_EQ(mirrored(true), std::vector<float>(kThreads, 4));
  const bool is_last_first = GetParam() == Order::kBackward;
  EXPECT_EQ(mirrored(false)[is_last_first ? 0 : kThreads - 1], 4);
  EXPECT_NE(mirrored(false)[is_last_first ? kThreads - 1 : 0], 4);
}

// A slow warp reads what a fast one overwrites: the copy's target is NaN from its start on.
TEST_P(Fibres, ACopyOverWhatOthersStillReadShows) {
  const std::vector<float4> from(1, {1, 2, 3, 4});
  float read = 0;
  Launch(1, kThreads, sizeof(float4), [&] {
    KVSCOPE_DYNAMIC_SHARED(float4, target);
    const bool is_first = threadIdx.x == (GetParam() == Order::kForward ? 0 : kThreads - 1);
    const bool is_last = threadIdx.x == (GetParam() == Order::kForward ? kThreads - 1 : 0);
    if (is_first) target[0] = {7, 7, 7, 7};
    __syncthreads();
    for (int i = 0; i < 3; ++i) __syncwarp();  // to meet within a warp holds no other warp back
    if (is_first) cuda_emulated::CopyAsync(target, from.data(), 16);
    if (is_last) read = target[0].w;
  });
  EXPECT_TRUE(std::isnan(read));
}

TEST_P(Fibres, CopiesOfAnotherSizeOrAlignmentAreRefused) {
  alignas(16) static float words[8] = {};
  EXPECT_THAT(MessageOf([] { cuda_emulated::CopyAsync(words, words + 4, 8); }), HasSubstr("a copy of 8 bytes"));
  EXPECT_THAT(MessageOf([] { cuda_emulated::CopyAsync(words + 1, words + 4, 16); }), HasSubstr("multiples of 16"));
}

// Half `column` of row `row` of matrix `matrix` is their number; rows lie 48 bytes apart, the last matrix first.
TEST_P(Fibres, LoadMatricesAsTheirLayoutSays) {
  const auto number = [](int matrix, int row, int column) {
    return static_cast<uint16_t>(matrix * 64 + row * 8 + column);
  };
  std::vector<std::array<uint32_t, 4>> plain(32), transposed(32);
  Launch(1, 32, 32 * 48, [&] {
    KVSCOPE_DYNAMIC_SHARED(uint16_t, halves);
    const int lane = static_cast<int>(threadIdx.x);
    uint16_t* const mine = halves + (31 - lane) * 24;
    for (int column = 0; column < 8; ++column) mine[column] = number(lane / 8, lane % 8, column);
    __syncwarp();
    uint32_t words[4];
    cuda_emulated::LoadMatrices(words, mine);
    std::copy(words, words + 4, plain[lane].begin());
    cuda_emulated::LoadMatricesTransposed(words, mine);
    std::copy(words, words + 4, transposed[lane].begin());
  });
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, i = lane % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      EXPECT_EQ(plain[lane][m], number(m, g, i) | uint32_t{number(m, g, i + 1)} << 16) << lane << " " << m;
      EXPECT_EQ(transposed[lane][m], number(m, i, g) | uint32_t{number(m, i + 1, g)} << 16) << lane << " " << m;
    }
  }
  alignas(16) static uint16_t unaligned[16] = {};
  EXPECT_THAT(MessageOf([] {
                uint32_t words[4];
                cuda_emulated::LoadMatrices(words, unaligned + 1);
              }),
              HasSubstr("not a multiple of 16"));
}

// A warpgroup with a tile of 64 rows of 64 halves in shared memory, at a multiple of 1024 of its address space; half
// (row, column) is TileHalf's, stored as the 128-byte swizzle of the PTX ISA does.
constexpr int kGroupThreads = 128, kTileBytes = 64 * 128;

Half TileHalf(int row, int column) {
  return HalfFromFloat(static_cast<float>((row * 5 + column * 3) % 13 - 6));
}

template <typename Kernel>
void WithTile(Kernel kernel) {
  Launch(1, kGroupThreads, kTileBytes + 1024, [&] {
    KVSCOPE_DYNAMIC_SHARED(char, shared);
    char* const tile = shared + (1024 - cuda_emulated::SharedAddress(shared) % 1024) % 1024;
    for (int i = static_cast<int>(threadIdx.x); i < 64 * 64; i += kGroupThreads) {
      const int row = i / 64, column = i % 64, chunk = column / 8 ^ row % 8;
      const Half half = TileHalf(row, column);
      std::memcpy(tile + row * 128 + chunk * 16 + column % 8 * 2, &half, sizeof half);
    }
    __syncthreads();
    kernel(tile);
  });
}

template <typename Kernel>
std::string MessageWithTile(Kernel kernel) {
  try {
    WithTile(kernel);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Row `row` of a, column k.
float LeftValue(int row, int k) {
  return static_cast<float>((row + 2 * k) % 7 - 3);
}

void LeftOperand(uint32_t (&a)[4]) {
  const int lane = Lane(), warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  for (int i = 0; i < 4; ++i) {
    const int row = warp_row + lane / 4 + i % 2 * 8, k = lane % 4 * 2 + i / 2 * 8;
    const Half low = HalfFromFloat(LeftValue(row, k)), high = HalfFromFloat(LeftValue(row, k + 1));
    a[i] = low.bits | uint32_t{high.bits} << 16;
  }
}

// Results [64, 64] of two products of one accumulator that started as 1, from b's rows or columns [16, 32) and [32,
// 48).
template <bool kTransposed>
std::vector<float> TwoProducts(bool accumulate) {
  std::vector<float> results(64 * 64);
  WithTile([&](const char* tile) {
    uint32_t a[4];
    LeftOperand(a);
    float d[8][4];
    std::fill(&d[0][0], &d[0][0] + 32, 1.0f);
    cuda_emulated::FenceRegisters();
    for (int step = 1; step < 3; ++step) {
      const uint32_t start = cuda_emulated::SharedAddress(tile) + step * (kTransposed ? 16 * 128 : 32);
      cuda_emulated::MmaAsync<kTransposed>(d, a, DescribeMatrix(start), accumulate || step > 1);
    }
    cuda_emulated::CommitMmas();
    EXPECT_TRUE(std::isnan(d[3][2]));  // in flight
    cuda_emulated::WaitMmas<0>();
    cuda_emulated::Settle<8>(d);
    const int lane = Lane(), warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
    for (int n = 0; n < 8; ++n) {
      for (int i = 0; i < 4; ++i) {
        results[(warp_row + lane / 4 + i / 2 * 8) * 64 + n * 8 + lane % 4 * 2 + i % 2] = d[n][i];
      }
    }
  });
  return results;
}

TEST_P(Fibres, AsyncProductsReadTheSwizzledTile) {
  for (const bool is_transposed : {false, true}) {
    for (const bool accumulate : {false, true}) {
      const std::vector<float> results = is_transposed ? TwoProducts<true>(accumulate) : TwoProducts<false>(accumulate);
      for (int row = 0; row < 64; ++row) {
        for (int column = 0; column < 64; ++column) {
          float sum = accumulate ? 1 : 0;
          for (int k = 0; k < 32; ++k) {
            const int at = 16 + k;
            const Half right = is_transposed ? TileHalf(at, column) : TileHalf(column, at);
            sum += LeftValue(row, k % 16) * FloatFromHalf(right);
          }
          ASSERT_EQ(results[row * 64 + column], sum) << is_transposed << accumulate << " " << row << " " << column;
        }
      }
    }
  }
}

TEST_P(Fibres, AsyncProductsWithoutTheirFencesAndWaitsAreFound) {
  const auto multiply = [](const char* tile, float(*d)[4]) {
    uint32_t a[4];
    LeftOperand(a);
    cuda_emulated::MmaAsync<false>(d, a, DescribeMatrix(cuda_emulated::SharedAddress(tile)), false);
    cuda_emulated::CommitMmas();
  };
  EXPECT_THAT(MessageWithTile([&](char* tile) {
                float d[8][4] = {};
                multiply(tile, d);
              }),
              HasSubstr("without FenceRegisters"));
  EXPECT_THAT(MessageWithTile([&](char* tile) {
                float d[8][4] = {};
                cuda_emulated::FenceRegisters();
                multiply(tile, d);
                cuda_emulated::WaitMmas<1>();
                cuda_emulated::Settle<8>(d);
              }),
              HasSubstr("Settle before the wait"));
  EXPECT_THAT(MessageWithTile([&](char* tile) {
                float d[8][4] = {};
                cuda_emulated::FenceRegisters();
                multiply(tile, d);
                __syncthreads();
                tile[threadIdx.x] ^= 1;
                __syncthreads();
                cuda_emulated::WaitMmas<0>();
              }),
              HasSubstr("overwritten while MmaAsync reads"));
  static const std::vector<float4> from(1, {1, 2, 3, 4});
  for (const bool has_fence : {false, true}) {
    EXPECT_THAT(MessageWithTile([&](char* tile) {
                  float d[8][4] = {};
                  if (threadIdx.x == 77) cuda_emulated::CopyAsync(tile + 128, from.data(), 16);
                  cuda_emulated::CommitCopies();
                  cuda_emulated::WaitCopies<0>();
                  if (has_fence) cuda_emulated::FenceCopies();
                  __syncthreads();
                  cuda_emulated::FenceRegisters();
                  multiply(tile, d);
                  cuda_emulated::WaitMmas<0>();
                }),
                HasSubstr(has_fence ? "no error" : "no FenceCopies was"));
  }
  EXPECT_THAT(MessageWithTile([&](char* tile) {
                float d[8][4] = {};
                cuda_emulated::FenceRegisters();
                multiply(tile + kTileBytes - 1024, d);
              }),
              HasSubstr("leaves shared memory"));
}

INSTANTIATE_TEST_SUITE_P(Orders, Fibres, testing::Values(Order::kForward, Order::kBackward));

// A kernel that lacks a barrier gives one result when the first thread starts first and another when the last does.
TEST(FibresOrder, ShowsAMissingBarrier) {
  const auto mirrored = [](Order order) {
    SetOrder(order);
    std::vector<float> out(kThreads);
    Launch(1, kThreads, kThreads * sizeof(float), [&] {
      KVSCOPE_DYNAMIC_SHARED(float, values);
      values[threadIdx.x] = 1;
      out[threadIdx.x] = values[kThreads - 1 - threadIdx.x];
    });
    SetOrder(Order::kForward);
    return std::isnan(out[0]);
  };
  EXPECT_TRUE(mirrored(Order::kForward));
  EXPECT_FALSE(mirrored(Order::kBackward));
}

}  // namespace
}  // namespace kvscope::fibres
