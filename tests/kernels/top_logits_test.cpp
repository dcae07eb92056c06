// SPDX-License-Identifier: Apache-2.0
#include "kernels/top_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

struct Found {
  std::vector<int> ids;
  std::vector<float> logprobs, wanted_logprobs;
};

// logits [rows, stride]
Found Find(Backend backend, std::vector<float> logits, int rows, int vocab, int stride, int count,
           std::vector<int> wanted) {
  Found found{std::vector<int>(rows * count, -2), std::vector<float>(rows * count), std::vector<float>(rows)};
  TensorView view = ContiguousView(nullptr, DType::kF32, {rows, vocab}, 2);
  view.strides[0] = stride;
  const TensorView any = ContiguousView(nullptr, DType::kF32, {}, 1);
  Lent lent_ids(backend, found.ids, any), lent_wanted(backend, wanted, any);
  Lent lent_logits(backend, logits, view), lent_logprobs(backend, found.logprobs, any);
  Lent lent_wanted_logprobs(backend, found.wanted_logprobs, any);
  TopLogits top{.logits = lent_logits.view(),
                .count = count,
                .ids = static_cast<int*>(lent_ids.view().data),
                .logprobs = lent_logprobs.view().floats()};
  if (!wanted.empty()) {
    top.wanted = static_cast<int*>(lent_wanted.view().data);
    top.wanted_logprobs = lent_wanted_logprobs.view().floats();
  }
  const bool is_cuda = backend == Backend::kCuda;
  const size_t bytes = is_cuda ? cuda::TopLogitsWorkspaceBytes(top) : cuda_emulated::TopLogitsWorkspaceBytes(top);
  std::vector<uint64_t> scratch(bytes / 8);
  Lent lent_scratch(backend, scratch, any);
  const Workspace workspace{lent_scratch.view().data, bytes};
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::FindTopLogits(top, workspace);
  } else {
    is_cuda ? cuda::FindTopLogits(top, workspace) : cpu::FindTopLogits(top);
  }
  lent_ids.Fetch(), lent_logprobs.Fetch(), lent_wanted_logprobs.Fetch();
  return found;
}

struct Shape {
  int rows, vocab, padding, count;
};
class TopLogitsOf : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(TopLogitsOf, AreTheBestWithTheirLogProbabilities) {
  const auto [backend, s] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  const int stride = s.vocab + s.padding;
  std::vector<float> logits(static_cast<size_t>(s.rows) * stride, 1e9f);  // padding is not read
  std::vector<int> wanted;
  for (int row = 0; row < s.rows; ++row) {
    // In eighths, so that some are equal.
    for (int id = 0; id < s.vocab; ++id) logits[row * stride + id] = std::round(8 * normal(random)) / 8;
    if (s.vocab > 3) logits[row * stride + 2] = -INFINITY;
    wanted.push_back((s.vocab - 1) / (row + 1));
  }
  const Found found = Find(backend, logits, s.rows, s.vocab, stride, s.count, wanted);
  for (int row = 0; row < s.rows; ++row) {
    const float* of_row = &logits[row * stride];
    std::vector<int> order(s.vocab);
    for (int id = 0; id < s.vocab; ++id) order[id] = id;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return of_row[a] > of_row[b]; });
    double sum = 0;
    for (int id = 0; id < s.vocab; ++id) sum += std::exp(double{of_row[id]});
    // In f32 a logit less the maximum and that less the log of the sum are rounded, by 2^-24 of up to 40 each. The sum:
    // 16 additions and three rescalings of each of 5 + 3 + 6 merges, all of positive numbers, and exp's own 2^-22.
    const double tolerance = backend == Backend::kCpu ? 2e-6 : 80 * std::exp2(-24) + 62 * std::exp2(-24);
    const auto expect = [&](float logprob, int id) {
      if (of_row[id] == -INFINITY) {
        EXPECT_EQ(logprob, -INFINITY);
      } else {
        EXPECT_NEAR(logprob, of_row[id] - std::log(sum), tolerance) << "row " << row << " id " << id;
      }
    };
    for (int i = 0; i < s.count; ++i) {
      ASSERT_EQ(found.ids[row * s.count + i], order[i]) << "row " << row << " place " << i;
      expect(found.logprobs[row * s.count + i], order[i]);
    }
    expect(found.wanted_logprobs[row], wanted[row]);
  }
}

std::string ShapeName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const Shape& s = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.count, "_of_", s.rows, "x", s.vocab);
}
INSTANTIATE_TEST_SUITE_P(
    Backends, TopLogitsOf,
    testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(Shape{1, 1, 0, 1}, Shape{2, 8, 1, 8}, Shape{3, 515, 5, 3}, Shape{2, 4097, 0, 8},
                                     Shape{1, 262144, 0, 2}, Shape{2, 40, 0, 0}, Shape{0, 40, 0, 8})),
    ShapeName);

class TopLogitsAmong : public testing::TestWithParam<Backend> {};

TEST_P(TopLogitsAmong, EqualOnesAreThoseOfTheLowestIds) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  std::vector<float> logits(5000, -1.0f);
  logits[4999] = logits[4200] = logits[600] = logits[7] = 0.0f;
  logits[4200] = -0.0f;
  EXPECT_EQ(Find(GetParam(), logits, 1, 5000, 5000, 6, {}).ids, (std::vector<int>{7, 600, 4200, 4999, 0, 1}));
}

TEST_P(TopLogitsAmong, NanIsNeverChosenAndSpoilsItsRow) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  constexpr int kVocab = 5000;
  for (const int spoiled : {3, 4999}) {  // in either part
    std::vector<float> logits;
    for (int i = 0; i < 2 * kVocab; ++i) logits.push_back(-0.001f * static_cast<float>(i));
    logits[spoiled] = std::nanf("");
    const Found found = Find(GetParam(), logits, 2, kVocab, kVocab, 5, {0, 0});
    const std::vector<int> expected = spoiled == 3 ? std::vector<int>{0, 1, 2, 4, 5} : std::vector<int>{0, 1, 2, 3, 4};
    EXPECT_EQ(std::vector<int>(found.ids.begin(), found.ids.begin() + 5), expected);
    for (int i = 0; i < 10; ++i) EXPECT_EQ(std::isnan(found.logprobs[i]), i < 5);
    EXPECT_TRUE(std::isnan(found.wanted_logprobs[0]));
    EXPECT_FALSE(std::isnan(found.wanted_logprobs[1]));
  }
}

TEST_P(TopLogitsAmong, TooFewNumbersLeavePlacesEmpty) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  const float nan = std::nanf("");
  const Found found = Find(GetParam(), {nan, 1.0f, nan, -INFINITY, nan, nan, nan, nan}, 2, 4, 4, 3, {1, 1});
  EXPECT_EQ(found.ids, (std::vector<int>{1, 3, -1, -1, -1, -1}));
  for (const float logprob : found.logprobs) EXPECT_TRUE(std::isnan(logprob));
}

TEST_P(TopLogitsAmong, InfinityAndNothingButMinusInfinitySpoilTheirRows) {
  KVSCOPE_SKIP_WITHOUT(GetParam());
  constexpr float kInfinity = INFINITY;
  const Found found =
      Find(GetParam(), {0.0f, kInfinity, -kInfinity, -kInfinity, -kInfinity, -kInfinity}, 2, 3, 3, 2, {0, 1});
  EXPECT_EQ(found.ids, (std::vector<int>{1, 0, 0, 1}));
  for (const float logprob : found.logprobs) EXPECT_TRUE(std::isnan(logprob));
  for (const float logprob : found.wanted_logprobs) EXPECT_TRUE(std::isnan(logprob));
}

std::string BackendName(const testing::TestParamInfo<Backend>& info) {
  return Name(info.param);
}
INSTANTIATE_TEST_SUITE_P(Backends, TopLogitsAmong,
                         testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards,
                                         Backend::kCuda),
                         BackendName);

}  // namespace
}  // namespace kvscope
