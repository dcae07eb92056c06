// SPDX-License-Identifier: Apache-2.0
#include "capture/feed_forward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "tests/support/core_message.h"

namespace kvscope {
namespace {

constexpr int kHidden = 32, kFfn = 48, kExperts = 6, kUsed = 2;

class Experts : public testing::Test {
 protected:
  Experts() {
    config_.hidden = kHidden;
    config_.ffn = kFfn;
    config_.num_experts = kExperts;
    config_.experts_used = kUsed;
    weights_.router = Random(kExperts, kHidden);
    for (int i = 0; i < kExperts; ++i)
      weights_.experts.push_back({Random(kFfn, kHidden), Random(kFfn, kHidden), Random(kHidden, kFfn)});
  }

  PackedMatrix Random(int outputs, int inputs) {
    PackedMatrix matrix(WeightKind::kF32, outputs, inputs);
    std::vector<float> row(inputs);
    for (int output = 0; output < outputs; ++output) {
      for (float& value : row) value = normal_(random_) / std::sqrt(static_cast<float>(inputs));
      matrix.SetRow(output, row);
    }
    return matrix;
  }
  std::vector<float> Rows(int rows) {
    std::vector<float> x(static_cast<size_t>(rows) * kHidden);
    for (float& value : x) value = 2 * normal_(random_);
    return x;
  }

  static std::vector<double> Product(const PackedMatrix& matrix, const std::vector<double>& x) {
    std::vector<double> out(matrix.outputs());
    for (int output = 0; output < matrix.outputs(); ++output) {
      for (int input = 0; input < matrix.inputs(); ++input) out[output] += x[input] * matrix.At(output, input);
    }
    return out;
  }
  // One token as the papers say it: softmax over all experts, the best chosen, their weights normalised.
  std::vector<double> Expected(const float* row) const {
    const std::vector<double> x(row, row + kHidden);
    std::vector<double> shares = Product(weights_.router, x);
    double sum = 0;
    for (double& share : shares) sum += share = std::exp(share);
    for (double& share : shares) share /= sum;
    std::vector<int> order(kExperts);
    for (int i = 0; i < kExperts; ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](int a, int b) { return shares[a] > shares[b]; });
    const double chosen = shares[order[0]] + shares[order[1]];
    std::vector<double> out(kHidden);
    for (int rank = 0; rank < kUsed; ++rank) {
      const FeedForward& expert = weights_.experts[order[rank]];
      std::vector<double> gate = Product(expert.gate, x);
      const std::vector<double> up = Product(expert.up, x);
      for (int i = 0; i < kFfn; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const std::vector<double> part = Product(expert.down, gate);
      for (int i = 0; i < kHidden; ++i) out[i] += shares[order[rank]] / chosen * part[i];
    }
    return out;
  }

  std::mt19937 random_{7};
  std::normal_distribution<float> normal_;
  ModelConfig config_;
  LayerWeights weights_;
};

TEST_F(Experts, GiveWhatTheirDefinitionGives) {
  constexpr int kRows = 9;
  const std::vector<float> x = Rows(kRows);
  std::vector<float> out(x.size());
  FeedForwardRunner().Run(config_, weights_, x.data(), kRows, out.data());
  for (int row = 0; row < kRows; ++row) {
    const std::vector<double> expected = Expected(&x[row * kHidden]);
    for (int i = 0; i < kHidden; ++i) EXPECT_NEAR(out[row * kHidden + i], expected[i], 2e-5) << row << " " << i;
  }
}

TEST_F(Experts, ARowDoesNotDependOnTheOthers) {
  constexpr int kRows = 40;
  const std::vector<float> x = Rows(kRows);
  std::vector<float> together(x.size()), alone(kHidden);
  FeedForwardRunner runner;
  runner.Run(config_, weights_, x.data(), kRows, together.data());
  for (int row = 0; row < kRows; ++row) {
    runner.Run(config_, weights_, &x[row * kHidden], 1, alone.data());
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), &together[row * kHidden])) << row;
  }
}

TEST_F(Experts, ARouterWithoutNumbersIsAnError) {
  std::vector<float> x(kHidden, INFINITY), out(kHidden);
  EXPECT_EQ(MessageOf([&] { FeedForwardRunner().Run(config_, weights_, x.data(), 1, out.data()); }),
            "the router of a layer's experts gives scores that are not numbers; the model file is damaged");
}

}  // namespace
}  // namespace kvscope
