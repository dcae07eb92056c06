// SPDX-License-Identifier: Apache-2.0
// The emulation that stands in for a device must itself find what goes wrong on one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_fibres.h"

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
