// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "replay/allocators/bit_math.h"
#include "replay/registry.h"
#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

using testing::ElementsAre;

constexpr std::array<uint8_t, 4> kLadder{16, 8, 4, 2};

// A problem of some rows, and the storage that its view looks into.
struct Problem {
  std::vector<std::vector<float>> priority;
  Bits bits_now;
  std::vector<int> tokens;
  std::vector<double> entry_bytes{256, 136, 72, 40}, distortion{0, 3e-5, 8e-3, 0.2};
  std::vector<double> distortion_of_last;  // where the last row has one of its own
  double bytes = 0;
  int rows_per_layer = 1;

  explicit Problem(std::vector<std::vector<float>> rows) : priority(std::move(rows)) {
    tokens.resize(priority[0].size());
    std::iota(tokens.begin(), tokens.end(), 0);
    for (const auto& row : priority) bits_now.emplace_back(row.size(), 16);
  }
  SpendingView View() const {
    SpendingView view{{}, kLadder, entry_bytes, bytes, static_cast<int>(bytes / 256 / priority.size())};
    for (size_t row = 0; row < priority.size(); ++row) {
      const bool is_last = row + 1 == priority.size() && !distortion_of_last.empty();
      view.rows.push_back({static_cast<int>(row) / rows_per_layer, priority[row], bits_now[row], tokens,
                           is_last ? distortion_of_last : distortion});
    }
    return view;
  }
};

// Relevance with a long tail, as attention has.
Problem RandomProblem(int rows, int slots, int seed) {
  std::mt19937 random(seed);
  std::lognormal_distribution<float> tail(0, 2);
  std::vector<std::vector<float>> priority(rows);
  for (auto& row : priority) {
    for (int slot = 0; slot < slots; ++slot) row.push_back(1e-3f * tail(random));
  }
  return Problem(std::move(priority));
}

std::unique_ptr<Allocator> Make(const std::string& name, std::map<std::string, std::string> values = {}) {
  Params params("test", std::move(values));
  return Allocators().at(name).make(params);
}

double Loss(const Problem& problem, const Bits& bits) {
  double loss = 0;
  for (size_t row = 0; row < bits.size(); ++row) {
    for (size_t slot = 0; slot < bits[row].size(); ++slot) {
      const size_t step = LadderIndex(kLadder, bits[row][slot]);
      loss += problem.priority[row][slot] * (step == kLadder.size() ? 1.0 : problem.distortion[step]);
    }
  }
  return loss;
}

TEST(Lambda, GivesTheWorthiestEntryTheMostBits) {
  // Gains per byte of R = 1: dropped to 2 bits 0.8 / 40 = 0.02, 2 to 4 bits 0.192 / 32 = 0.006, 4 to 8 bits
  // 0.00797 / 64 = 1.2e-4; of R = 4 and 8 four and eight times that. So 2 bits for 8 and 4 come first, then 4 bits for
  // 8 (0.048), 4 bits for 4 (0.024), 2 bits for 1 (0.02).
  Problem problem({{8, 4, 1}});
  const auto allocator = Make("lambda", {{"floor", "0"}});
  problem.bytes = 80;
  EXPECT_THAT(allocator->Spend(problem.View())[0], ElementsAre(2, 2, 0));
  problem.bytes = 112;
  EXPECT_THAT(allocator->Spend(problem.View())[0], ElementsAre(4, 2, 0));
  problem.bytes = 144;
  EXPECT_THAT(allocator->Spend(problem.View())[0], ElementsAre(4, 4, 0));
  problem.bytes = 184;
  EXPECT_THAT(allocator->Spend(problem.View())[0], ElementsAre(4, 4, 2));
  problem.bytes = 3 * 256;
  EXPECT_THAT(Make("lambda")->Spend(problem.View())[0], ElementsAre(16, 16, 16)) << "everything fits";
}

TEST(Lambda, SkipsBitsThatLieAboveTheHull) {
  // Two bits that lose half are worse than a mix of dropped and four bits: 1 - (1 - 0.008) * 40 / 72 = 0.449.
  Problem problem = RandomProblem(1, 400, 1);
  problem.distortion[3] = 0.5;
  problem.bytes = 400 * 50;
  const Bits bits = Make("lambda", {{"floor", "0"}})->Spend(problem.View());
  EXPECT_EQ(std::count(bits[0].begin(), bits[0].end(), 2), 0);
  problem.distortion[3] = 0.4;
  const Bits with_two = Make("lambda", {{"floor", "0"}})->Spend(problem.View());
  EXPECT_GT(std::count(with_two[0].begin(), with_two[0].end(), 2), 0);
}

TEST(Lambda, LeavesLessThanOneEntryUnspent) {
  for (int seed = 0; seed < 5; ++seed) {
    Problem problem = RandomProblem(6, 300, seed);
    for (const double share : {0.9, 0.5, 0.25, 0.1, 0.03}) {
      problem.bytes = share * 6 * 300 * 256;
      const double spent = BytesOf(problem.View(), Make("lambda")->Spend(problem.View()));
      EXPECT_LE(spent, problem.bytes);
      EXPECT_GT(spent, problem.bytes - 256) << share;
    }
  }
}

TEST(Lambda, BytesAndLossAreMonotoneInTheBudget) {
  Problem problem = RandomProblem(3, 200, 7);
  double loss_before = 1e30, spent_before = 0;
  for (double share = 0.02; share <= 1; share *= 1.2) {
    problem.bytes = share * 3 * 200 * 256;
    const Bits bits = Make("lambda", {{"floor", "0"}})->Spend(problem.View());
    const double spent = BytesOf(problem.View(), bits), loss = Loss(problem, bits);
    EXPECT_GE(spent, spent_before);
    EXPECT_LE(loss, loss_before * (1 + 1e-9));
    spent_before = spent, loss_before = loss;
  }
}

// No other way to spend the same bytes, tried at random, loses less.
TEST(Lambda, IsNotBeatenByRandomSwaps) {
  Problem problem = RandomProblem(1, 60, 3);
  problem.bytes = 0.2 * 60 * 256;
  const Bits best = Make("lambda", {{"floor", "0"}})->Spend(problem.View());
  const double loss = Loss(problem, best);
  std::mt19937 random(5);
  for (int tried = 0; tried < 20000; ++tried) {
    Bits other = best;
    for (int change = 0; change < 2; ++change) {
      constexpr std::array<uint8_t, 5> kChoices{0, 2, 4, 8, 16};
      other[0][random() % 60] = kChoices[random() % 5];
    }
    if (BytesOf(problem.View(), other) > BytesOf(problem.View(), best)) continue;
    // The rest of less than an entry that the greedy end leaves unspent is all that can be gained.
    EXPECT_GE(Loss(problem, other), loss * 0.97);
  }
}

TEST(Lambda, BitsNeverRiseAndWhatIsGoneStaysGone) {
  Problem problem = RandomProblem(4, 100, 9);
  std::mt19937 random(2);
  for (auto& row : problem.bits_now) {
    for (uint8_t& bits : row) bits = std::array<uint8_t, 5>{0, 2, 4, 8, 16}[random() % 5];
  }
  for (const std::string name : {"lambda", "quantile", "thresholds", "tiers"}) {
    for (const double share : {1.0, 0.3, 0.1}) {
      problem.bytes = share * 4 * 100 * 256;
      const Bits bits = Make(name)->Spend(problem.View());
      for (size_t row = 0; row < bits.size(); ++row) {
        for (size_t slot = 0; slot < bits[row].size(); ++slot) EXPECT_LE(bits[row][slot], problem.bits_now[row][slot]);
      }
      EXPECT_LE(BytesOf(problem.View(), bits), problem.bytes) << name;
    }
  }
}

TEST(Lambda, EveryLayerKeepsItsFloor) {
  Problem problem({std::vector<float>(100, 1e-6f), std::vector<float>(100, 1.0f)});  // the first layer is worth nothing
  problem.bytes = 0.2 * 2 * 100 * 256;
  const Bits without = Make("lambda", {{"floor", "0"}})->Spend(problem.View());
  EXPECT_GE(std::count(without[0].begin(), without[0].end(), 0), 98)
      << "one entry always stays, and the bytes left over";
  const Bits with = Make("lambda", {{"floor", "0.5"}})->Spend(problem.View());
  EXPECT_EQ(std::count(with[0].begin(), with[0].end(), 0), 90) << "half of a uniform share of 20";
}

TEST(Lambda, SharesBytesEquallyBetweenLayersWhenAsked) {
  Problem problem({std::vector<float>(100, 1e-6f), std::vector<float>(100, 1.0f)});
  problem.bytes = 0.2 * 2 * 100 * 256;
  const Bits bits = Make("lambda", {{"share", "layer"}})->Spend(problem.View());
  EXPECT_EQ(bits[0], bits[1]) << "within a layer all are alike";
}

TEST(Lambda, ProtectedEntriesKeepTheirBitsWhileOthersCanPay) {
  Problem problem = RandomProblem(1, 50, 4);
  problem.priority[0][49] = ProtectedPriority(49);
  problem.bytes = 256 + 49 * 40;
  EXPECT_EQ(Make("lambda")->Spend(problem.View())[0][49], 16);
  problem.bytes = 100;
  EXPECT_GT(Make("lambda")->Spend(problem.View())[0][49], 0) << "the last to go";
}

TEST(Lambda, ATieGoesToTheLowerToken) {
  Problem problem({std::vector<float>(5, 1.0f)});
  problem.bytes = 3 * 40;
  EXPECT_THAT(Make("lambda", {{"floor", "0"}})->Spend(problem.View())[0], ElementsAre(2, 2, 2, 0, 0));
}

TEST(Lambda, NeverGivesBitsThatAreAsBadAsNone) {
  // Two bits are out in the second row. All are to stay: 10 entries of 40 bytes and 10 of 72.
  Problem problem({std::vector<float>(10, 1.0f), std::vector<float>(10, 1.0f)});
  problem.distortion_of_last = {0, 3e-5, 8e-3, 1};
  problem.bytes = 10 * 40 + 10 * 72;
  for (const std::map<std::string, std::string>& values :
       {std::map<std::string, std::string>{{"floor", "1"}}, {{"drop", "last"}}}) {
    const Bits bits = Make("lambda", values)->Spend(problem.View());
    EXPECT_EQ(bits[1], std::vector<uint8_t>(10, 4)) << values.begin()->first;
    EXPECT_LE(BytesOf(problem.View(), bits), problem.bytes);
  }
  EXPECT_EQ(Make("lambda", {{"drop", "last"}})->Spend(problem.View())[0], std::vector<uint8_t>(10, 2));
  problem.bytes -= 72 + 40;
  const Bits fewer = Make("lambda", {{"drop", "last"}})->Spend(problem.View());
  EXPECT_EQ(std::count(fewer[1].begin(), fewer[1].end(), 0), 1);
}

TEST(Lambda, TheMostBitsOnOfferAreNeverAsBadAsNone) {
  Problem problem = RandomProblem(2, 100, 7);
  problem.distortion = {0, 3e-5, 2, 9};
  for (const std::string drop : {"any", "last"}) {
    problem.bytes = 2 * 100 * 60;
    const Bits bits = Make("lambda", {{"ladder", "4"}, {"drop", drop}})->Spend(problem.View());
    EXPECT_GT(BytesOf(problem.View(), bits), problem.bytes - 72);
    EXPECT_LE(BytesOf(problem.View(), bits), problem.bytes);
    for (const auto& row : bits) {
      for (const uint8_t value : row) EXPECT_TRUE(value == 0 || value == 4);
    }
  }
}

TEST(Lambda, FindsSmallWeightsBesideProtectedOnes) {
  for (const char* power : {"1", "2", "3", "8"}) {
    Problem problem = RandomProblem(1, 300, 8);
    problem.priority[0][299] = ProtectedPriority(299);
    problem.bytes = 0.5 * 300 * 256;
    const Bits bits = Make("lambda", {{"power", power}})->Spend(problem.View());
    EXPECT_EQ(bits[0][299], 16);
    EXPECT_GT(BytesOf(problem.View(), bits), problem.bytes - 256) << power;
  }
}

TEST(Lambda, OffersOnlyTheLadderAsked) {
  Problem problem = RandomProblem(1, 100, 6);
  problem.bytes = 0.25 * 100 * 256;
  const Bits only_four = Make("lambda", {{"ladder", "4"}})->Spend(problem.View());
  for (const uint8_t bits : only_four[0]) EXPECT_TRUE(bits == 0 || bits == 4);
  const Bits kept = Make("lambda", {{"drop", "last"}})->Spend(problem.View());
  EXPECT_EQ(std::count(kept[0].begin(), kept[0].end(), 0), 0) << "all fit at 2 bits";
}

TEST(Tiers, SolveTheShareFromTheBudget) {
  Problem problem({{5, 4, 3, 2, 1, 0.5f, 0.4f, 0.3f, 0.2f, 0.1f}});
  problem.bytes = 3 * 256 + 7 * 40;
  EXPECT_THAT(Make("tiers")->Spend(problem.View())[0], ElementsAre(16, 16, 16, 2, 2, 2, 2, 2, 2, 2));
  problem.bytes = 6 * 40 + 10;  // not enough for the lower tier: the least relevant go
  EXPECT_THAT(Make("tiers")->Spend(problem.View())[0], ElementsAre(2, 2, 2, 2, 2, 2, 0, 0, 0, 0));
  PolicyBudget budget = BudgetOfLayers({1, 1, 1, 16, 16}, 10, 4);
  budget.bytes = 3 * 256 + 7 * 40;
  budget.entry_bytes[16] = 256, budget.entry_bytes[2] = 40;
  EXPECT_EQ(Make("tiers")->ContestedEntries(budget), 3);
  Params params("test", {{"high", "4"}, {"low", "8"}});
  EXPECT_THROW(Allocators().at("tiers").make(params), Error);
}

TEST(Quantile, TakesTheFirstTripleThatFits) {
  Problem problem({{5, 4, 3, 2, 1, 0.5f, 0.4f, 0.3f, 0.2f, 0.1f}});
  problem.bytes = 136 + 4 * 72 + 5 * 40;  // 8/4/2: a tenth at 8, four at 4
  EXPECT_THAT(Make("quantile")->Spend(problem.View())[0], ElementsAre(8, 4, 4, 4, 4, 2, 2, 2, 2, 2));
  problem.bytes = 72 + 3 * 40;  // 4/2/dropped
  EXPECT_THAT(Make("quantile")->Spend(problem.View())[0], ElementsAre(4, 2, 2, 2, 0, 0, 0, 0, 0, 0));
  problem.bytes = 256 + 9 * 136;  // 16/8/4
  EXPECT_THAT(Make("quantile")->Spend(problem.View())[0], ElementsAre(16, 8, 8, 8, 8, 8, 8, 8, 8, 8));
}

TEST(Thresholds, QuantiseAllThenEvictAmongTheLowest) {
  Problem problem({{0.9f, 0.2f, 0.04f, 0.05f, 0.03f}});
  const std::map<std::string, std::string> theta{{"theta_high", "0.5"}, {"theta_low", "0.1"}};
  problem.bytes = 1e9;
  EXPECT_THAT(Make("thresholds", theta)->Spend(problem.View())[0], ElementsAre(8, 4, 2, 2, 2));
  problem.bytes = 136 + 72 + 40;
  EXPECT_THAT(Make("thresholds", theta)->Spend(problem.View())[0], ElementsAre(8, 4, 0, 2, 0));
  problem.bytes = 136;  // none of the lowest is left: the least relevant of all
  EXPECT_THAT(Make("thresholds", theta)->Spend(problem.View())[0], ElementsAre(8, 0, 0, 0, 0));
  EXPECT_THROW(Make("thresholds", {{"theta_high", "0.1"}, {"theta_low", "0.5"}}), Error);
}

}  // namespace
}  // namespace kvscope
