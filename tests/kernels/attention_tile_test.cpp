// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_tile.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "core/half.h"

namespace kvscope {
namespace {

// A problem with outliers, so that tolerances mean something.
struct Problem {
  Problem(int group, int first_query, int num_queries, int head_dim, int seed, const AttentionRule& rule = {}) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int tokens = first_query + num_queries;
    for (int i = 0; i < tokens * head_dim; ++i) {
      k.push_back(HalfFromFloat(normal(random) * (i % 37 == 0 ? 6.0f : 1.0f)));
      v.push_back(HalfFromFloat(normal(random)));
    }
    for (int i = 0; i < group * num_queries * head_dim; ++i) q.push_back(FloatFromHalf(HalfFromFloat(normal(random))));
    out.assign(q.size(), 0.0f);
    lse.assign(static_cast<size_t>(group) * num_queries, 0.0f);
    p.q = q.data(), p.q_head_stride = static_cast<int64_t>(num_queries) * head_dim, p.q_row_stride = head_dim;
    p.k = k.data(), p.v = v.data(), p.group = group, p.num_queries = num_queries, p.first_query = first_query;
    p.head_dim_k = p.head_dim_v = head_dim, p.rule = rule;
    p.rule.scale = 1 / std::sqrt(static_cast<float>(head_dim));
    p.out = out.data(), p.out_head_stride = p.q_head_stride, p.out_row_stride = head_dim;
    p.lse = lse.data(), p.lse_head_stride = num_queries;
  }
  std::vector<Half> k, v;
  std::vector<float> q, out, lse;
  CausalAttention p;
};

struct Shape {
  int group, first_query, num_queries, head_dim;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.group << " heads, queries " << s.first_query << "+" << s.num_queries << ", dim " << s.head_dim;
}

class AttentionTile : public testing::TestWithParam<Shape> {};

TEST_P(AttentionTile, FastEqualsTheSpecification) {
  const Shape s = GetParam();
  Problem plain(s.group, s.first_query, s.num_queries, s.head_dim, 1),
      fast(s.group, s.first_query, s.num_queries, s.head_dim, 1);
  cpu::Attend(plain.p);
  cpu_fast::Attend(fast.p);
  // f32 dot products of 64 terms with scores up to some 20: 2e-6 relative in the weights.
  for (size_t i = 0; i < plain.out.size(); ++i)
    ASSERT_NEAR(fast.out[i], plain.out[i], 2e-5f * (1 + std::fabs(plain.out[i]))) << i;
  for (size_t i = 0; i < plain.lse.size(); ++i)
    ASSERT_NEAR(fast.lse[i], plain.lse[i], 1e-5f * (1 + std::fabs(plain.lse[i]))) << i;
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTile,
                         testing::Values(Shape{3, 0, 1, 64}, Shape{3, 0, 70, 64}, Shape{1, 300, 5, 64},
                                         Shape{3, 600, 130, 64}, Shape{8, 255, 2, 128}, Shape{2, 31, 33, 32},
                                         Shape{4, 511, 1, 80}));

TEST(AttentionTile, ARowDoesNotDependOnHowQueriesAreGrouped) {
  Problem whole(3, 0, 600, 64, 7);
  cpu_fast::Attend(whole.p);
  for (const int query : {0, 1, 63, 64, 255, 256, 257, 511, 599}) {
    Problem one(3, 0, 600, 64, 7);
    one.p.q += query * one.p.q_row_stride, one.p.out += query * one.p.out_row_stride, one.p.lse += query;
    one.p.first_query = query, one.p.num_queries = 1;
    cpu_fast::Attend(one.p);
    for (int head = 0; head < 3; ++head) {
      ASSERT_EQ(one.lse[head * 600 + query], whole.lse[head * 600 + query]);
      for (int dim = 0; dim < 64; ++dim) {
        const size_t i = (static_cast<size_t>(head) * 600 + query) * 64 + dim;
        ASSERT_EQ(one.out[i], whole.out[i]) << "query " << query;
      }
    }
  }
}

struct RuleCase {
  int group, head_dim, window;
  float softcap;
  AttentionRule rule() const { return {.softcap = softcap, .window = window}; }
};

class AttentionTileRule : public testing::TestWithParam<std::tuple<std::pair<int, int>, int, float>> {
 protected:
  static RuleCase Case() {
    const auto [shape, window, softcap] = GetParam();
    return {shape.first, shape.second, window, softcap};
  }
};

TEST_P(AttentionTileRule, FastEqualsTheSpecification) {
  const RuleCase c = Case();
  for (const auto& [first_query, num_queries] : {std::pair{0, 70}, {250, 140}, {767, 1}}) {
    Problem plain(c.group, first_query, num_queries, c.head_dim, 3, c.rule()),
        fast(c.group, first_query, num_queries, c.head_dim, 3, c.rule());
    cpu::Attend(plain.p);
    cpu_fast::Attend(fast.p);
    // As without a rule, and a capped score of 50 is off by up to 3e-5, its weight by as much.
    const float most = c.softcap > 0 ? 5e-5f : 2e-5f;
    for (size_t i = 0; i < plain.out.size(); ++i)
      ASSERT_NEAR(fast.out[i], plain.out[i], most * (1 + std::fabs(plain.out[i]))) << i;
    for (size_t i = 0; i < plain.lse.size(); ++i)
      ASSERT_NEAR(fast.lse[i], plain.lse[i], 1e-5f * (1 + std::fabs(plain.lse[i]))) << i;
  }
}

TEST_P(AttentionTileRule, ARowDoesNotDependOnHowQueriesAreGrouped) {
  const RuleCase c = Case();
  constexpr int kTokens = 600;
  Problem whole(c.group, 0, kTokens, c.head_dim, 7, c.rule());
  cpu_fast::Attend(whole.p);
  const auto expect_same = [&](int begin, int count) {
    Problem part(c.group, 0, kTokens, c.head_dim, 7, c.rule());
    part.p.q += begin * part.p.q_row_stride, part.p.out += begin * part.p.out_row_stride, part.p.lse += begin;
    part.p.first_query = begin, part.p.num_queries = count;
    cpu_fast::Attend(part.p);
    for (int head = 0; head < c.group; ++head) {
      for (int query = begin; query < begin + count; ++query) {
        ASSERT_EQ(part.lse[head * kTokens + query], whole.lse[head * kTokens + query]) << "query " << query;
        for (int dim = 0; dim < c.head_dim; ++dim) {
          const size_t i = (static_cast<size_t>(head) * kTokens + query) * c.head_dim + dim;
          ASSERT_EQ(part.out[i], whole.out[i]) << "query " << query;
        }
      }
    }
  };
  for (const int query : {0, 1, 6, 7, 255, 256, 257, 299, 300, 511, 512, 555, 599}) expect_same(query, 1);
  for (int begin = 0; begin < kTokens; begin += 77) expect_same(begin, std::min(77, kTokens - begin));
}

TEST_P(AttentionTileRule, KeysOutsideTheWindowMayHoldAnyFiniteNumber) {
  const RuleCase c = Case();
  Problem clean(c.group, 500, 40, c.head_dim, 5, c.rule()), spoilt(c.group, 500, 40, c.head_dim, 5, c.rule());
  for (int i = 0; i < clean.p.rule.FirstSeen(500) * c.head_dim; ++i) {
    spoilt.k[i] = HalfFromFloat(i % 2 ? 6e4f : -6e4f), spoilt.v[i] = HalfFromFloat(6e4f);
  }
  cpu_fast::Attend(clean.p);
  cpu_fast::Attend(spoilt.p);
  EXPECT_EQ(clean.out, spoilt.out);
  EXPECT_EQ(clean.lse, spoilt.lse);
}

INSTANTIATE_TEST_SUITE_P(Rules, AttentionTileRule,
                         testing::Combine(testing::Values(std::pair{1, 64}, std::pair{3, 32}, std::pair{2, 256}),
                                          testing::Values(0, 1, 7, 256, 300), testing::Values(0.0f, 5.0f, 50.0f)));

TEST(ScoreTile, SoftCapsToSixPartsInTenMillion) {
  std::vector<float> q(16), key(16), panels(PanelFloats(1, 16)), score(kPanelTokens);
  q[0] = 1;
  for (const float softcap : {0.5f, 5.0f, 50.0f}) {
    for (double share = 1e-6; share < 1e3; share *= 1.003) {
      for (const double sign : {1.0, -1.0}) {
        key[0] = static_cast<float>(sign * share * softcap);
        PackKeyPanels(key.data(), DType::kF32, 1, 16, panels.data());
        ScoreTile(q.data(), 16, 1, panels.data(), 1, 16, {.softcap = softcap}, score.data(), kPanelTokens);
        const double expected = double{softcap} * std::tanh(double{key[0]} / softcap);
        ASSERT_NEAR(score[0], expected, 6e-7 * std::fabs(expected)) << key[0] << " capped at " << softcap;
      }
    }
  }
  key[0] = NAN;
  PackKeyPanels(key.data(), DType::kF32, 1, 16, panels.data());
  ScoreTile(q.data(), 16, 1, panels.data(), 1, 16, {.softcap = 5}, score.data(), kPanelTokens);
  EXPECT_TRUE(std::isnan(score[0])) << "damage must show";
}

TEST(ExpShifted, IsExpToFourPartsInTenMillion) {
  std::vector<float> values;
  for (int i = 0; i < 1003; ++i) values.push_back(-90.0f + i * 0.0905f);
  std::vector<float> weights = values;
  const float sum = ExpShifted(weights, 0.5f);
  double expected_sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double shifted = values[i] - 0.5f;
    if (shifted < -87.01) {
      EXPECT_EQ(weights[i], 0.0f);
    } else if (shifted > -86.9) {
      EXPECT_NEAR(weights[i] / std::exp(shifted), 1.0, 4e-7) << shifted;
    }
    expected_sum += weights[i];
  }
  EXPECT_NEAR(sum / expected_sum, 1.0, 1e-6);
}

}  // namespace
}  // namespace kvscope
