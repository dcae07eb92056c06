// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

struct Case {
  int group, tokens, row_end;
  AttentionRule rule{.scale = 0.17f};
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.group << " heads, " << c.tokens << " tokens, row_end " << c.row_end << ", window " << c.rule.window
       << ", softcap " << c.rule.softcap;
}

class ColumnStats : public testing::TestWithParam<Case> {};

// ADKVC's moving average R <- (1 - alpha) R + alpha w, query by query, is the column sum with geometric weights (E12):
// to 1e-12 in the specification, to 1e-5 in the pass that everything runs on.
TEST(ColumnStatsRecursion, EqualsTheWeightedColumnSum) {
  const int tokens = 200, head_dim = 16;
  std::mt19937 random(8);
  std::normal_distribution<float> normal;
  std::vector<Half> q, k;
  for (int i = 0; i < tokens * head_dim; ++i) {
    q.push_back(HalfFromFloat(normal(random) * 2)), k.push_back(HalfFromFloat(normal(random)));
  }
  const auto score = [&](int query, int token) {
    double sum = 0;
    for (int dim = 0; dim < head_dim; ++dim) {
      sum += static_cast<double>(FloatFromHalf(q[query * head_dim + dim])) * FloatFromHalf(k[token * head_dim + dim]);
    }
    return sum * 0.25;
  };
  std::vector<float> lse(tokens);
  std::vector<int> q_token(tokens);
  std::iota(q_token.begin(), q_token.end(), 0);
  for (int query = 0; query < tokens; ++query) {
    double sum = 0;
    for (int token = 0; token <= query; ++token) sum += std::exp(score(query, token));
    lse[query] = static_cast<float>(std::log(sum));
  }
  for (const double half_life : {0.5, 8.0, 64.0, 1024.0}) {
    const double alpha = 1 - std::exp2(-1 / half_life);
    std::vector<double> relevance(tokens, 0.0);
    for (int query = 0; query < tokens; ++query) {
      for (int token = 0; token < query; ++token) {
        const double weight = std::exp(score(query, token) - lse[query]);
        relevance[token] = (1 - alpha) * relevance[token] + alpha * weight;
      }
    }
    const ColumnStatsProblem p{q.data(), k.data(), DType::kF16, lse.data(), q_token,         1,
                               tokens,   tokens,   head_dim,    tokens,     {.scale = 0.25f}};
    const std::vector<StatisticSpec> specs{{StatisticSpec::Kind::kGeometric, 0, 1, half_life}};
    std::vector<std::vector<double>> plain(1);
    std::vector<std::vector<float>> fast(1);
    cpu::ColumnStats(p, specs, plain);
    cpu_fast::ColumnStats(p, specs, fast);
    for (int token = 0; token < tokens; ++token) {
      EXPECT_NEAR(plain[0][token], relevance[token], 1e-12) << half_life;
      EXPECT_NEAR(fast[0][token], relevance[token], 1e-5 * relevance[token] + 1e-9) << half_life;
    }
  }
}

TEST_P(ColumnStats, FastEqualsTheSpecification) {
  const Case c = GetParam();
  const int head_dim = 32;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<Half> q, k, v(static_cast<size_t>(c.tokens) * head_dim);
  for (int i = 0; i < c.group * c.tokens * head_dim; ++i) q.push_back(HalfFromFloat(normal(random) * 1.5f));
  for (int i = 0; i < c.tokens * head_dim; ++i)
    k.push_back(HalfFromFloat(normal(random) * (i < head_dim ? 3.0f : 1.0f)));
  std::vector<float> q_floats(q.size()), out(q.size()), lse(static_cast<size_t>(c.group) * c.tokens);
  FloatsFromHalves(q, q_floats);
  CausalAttention attention;
  attention.q = q_floats.data(), attention.q_head_stride = static_cast<int64_t>(c.tokens) * head_dim,
  attention.q_row_stride = head_dim;
  attention.k = k.data(), attention.v = v.data(), attention.group = c.group, attention.num_queries = c.tokens;
  attention.head_dim_k = attention.head_dim_v = head_dim, attention.rule = c.rule;
  attention.out = out.data(), attention.out_head_stride = attention.q_head_stride, attention.out_row_stride = head_dim;
  attention.lse = lse.data(), attention.lse_head_stride = c.tokens;
  cpu_fast::Attend(attention);

  std::vector<int> q_token(c.tokens);
  std::iota(q_token.begin(), q_token.end(), 0);
  ColumnStatsProblem p{q.data(), k.data(), DType::kF16, lse.data(), q_token, c.group,
                       c.tokens, c.tokens, head_dim,    c.row_end,  c.rule};
  using Kind = StatisticSpec::Kind;
  const std::vector<StatisticSpec> specs{
      {Kind::kSum, 0, 0, 0},  {Kind::kSum, 1, 0, 0},    {Kind::kSum, 32, 0, 0},       {Kind::kSumSquares, 32, 0, 0},
      {Kind::kMax, 0, 1, 0},  {Kind::kMax, 0, 64, 0},   {Kind::kGeometric, 0, 1, 64}, {Kind::kGeometric, 0, 0, 2},
      {Kind::kSum, 0, 40, 0}, {Kind::kSum, 10000, 0, 0}};
  std::vector<std::vector<double>> plain(specs.size());
  std::vector<std::vector<float>> fast(specs.size());
  cpu::ColumnStats(p, specs, plain);
  cpu_fast::ColumnStats(p, specs, fast);
  const double most = c.rule.softcap > 0 ? 4e-5 : 1e-5;  // a capped score of 50 is off by up to 3e-5
  for (size_t s = 0; s < specs.size(); ++s) {
    ASSERT_EQ(plain[s].size(), fast[s].size());
    for (size_t i = 0; i < plain[s].size(); ++i) {
      ASSERT_NEAR(fast[s][i], plain[s][i], most * std::fabs(plain[s][i]) + 1e-7) << ToString(specs[s]) << " at " << i;
    }
  }
  // What a pass that ends earlier gives, bit for bit.
  if (c.row_end > 9) {
    std::vector<StatisticSpec> skipping = specs;
    for (StatisticSpec& spec : skipping) spec.skip_rows = 7;
    std::vector<std::vector<float>> skipped(specs.size()), earlier(specs.size());
    cpu_fast::ColumnStats(p, skipping, skipped);
    cpu::ColumnStats(p, skipping, plain);
    p.row_end -= 7;
    cpu_fast::ColumnStats(p, specs, earlier);
    for (size_t s = 0; s < specs.size(); ++s) {
      for (int head = 0; head < c.group; ++head) {
        for (int token = 0; token < c.row_end; ++token) {
          const size_t i = static_cast<size_t>(head) * c.row_end + token;
          const float expected = token < p.row_end ? earlier[s][static_cast<size_t>(head) * p.row_end + token] : 0.0f;
          ASSERT_EQ(skipped[s][i], expected) << ToString(skipping[s]) << " at " << token;
          ASSERT_NEAR(plain[s][i], expected, most * std::fabs(expected) + 1e-7);
        }
      }
    }
  }
  // Every row sums to one, so the columns of all rows sum to the number of rows.
  const double total = std::accumulate(fast[0].begin(), fast[0].end(), 0.0);
  EXPECT_NEAR(total, static_cast<double>(c.group) * c.row_end, 1e-4 * total);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ColumnStats,
                         testing::Values(Case{3, 1, 1}, Case{3, 300, 300}, Case{1, 530, 517}, Case{8, 257, 256},
                                         Case{2, 64, 10}));

std::vector<Case> RuleCases() {
  std::vector<Case> cases;
  for (const auto& [group, tokens, row_end] : {std::tuple{3, 300, 300}, {1, 1100, 1090}, {2, 64, 10}}) {
    for (const int window : {0, 1, 7, 256, 300}) {
      for (const float softcap : {0.0f, 5.0f, 50.0f}) {
        if (window > 0 || softcap > 0) {
          cases.push_back({group, tokens, row_end, {.scale = 0.17f, .softcap = softcap, .window = window}});
        }
      }
    }
  }
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Rules, ColumnStats, testing::ValuesIn(RuleCases()));

// Rows that a file holds a part of: the tokens that a row sees go by its token, not by its place.
TEST(ColumnStatsWindow, CountsByTheTokensOfTheRows) {
  constexpr int kTokens = 900, kDim = 16;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<int> q_token;
  for (int token = 3; token < kTokens; token += token < 500 ? 37 : 3) q_token.push_back(token);
  const int rows = static_cast<int>(q_token.size());
  std::vector<Half> q, k;
  std::vector<float> lse;
  for (int i = 0; i < rows * kDim; ++i) q.push_back(HalfFromFloat(normal(random)));
  for (int i = 0; i < kTokens * kDim; ++i) k.push_back(HalfFromFloat(normal(random)));
  for (int i = 0; i < rows; ++i) lse.push_back(2 + normal(random));
  using Kind = StatisticSpec::Kind;
  const std::vector<StatisticSpec> specs{
      {Kind::kSum, 0, 0, 0}, {Kind::kSum, 64, 0, 0}, {Kind::kMax, 0, 5, 0}, {Kind::kGeometric, 0, 1, 4}};
  for (const int window : {1, 20, 100}) {
    const ColumnStatsProblem p{q.data(),
                               k.data(),
                               DType::kF16,
                               lse.data(),
                               q_token,
                               1,
                               rows,
                               kTokens,
                               kDim,
                               kTokens,
                               {.scale = 0.2f, .window = window}};
    std::vector<std::vector<double>> plain(specs.size());
    std::vector<std::vector<float>> fast(specs.size());
    cpu::ColumnStats(p, specs, plain);
    cpu_fast::ColumnStats(p, specs, fast);
    for (size_t s = 0; s < specs.size(); ++s) {
      for (int token = 0; token < kTokens; ++token) {
        ASSERT_NEAR(fast[s][token], plain[s][token], 1e-5 * plain[s][token] + 1e-7) << ToString(specs[s]) << token;
        const bool is_seen = std::any_of(q_token.begin(), q_token.end(), [&](int query) {
          return token <= query - specs[s].min_distance && token > query - window &&
                 (specs[s].last_rows == 0 || query >= kTokens - specs[s].last_rows);
        });
        ASSERT_EQ(plain[s][token] > 0, is_seen) << ToString(specs[s]) << " at " << token;
      }
    }
  }
}

struct TwinCase {
  int group, tokens, row_end, head_dim, row_step;  // row_step: of every how many tokens a row of q is there
};
void PrintTo(const TwinCase& c, std::ostream* out) {
  *out << c.group << " heads, " << c.tokens << " tokens, row_end " << c.row_end << ", dim " << c.head_dim;
}

class ColumnStatsTwin : public testing::TestWithParam<std::tuple<Backend, TwinCase>> {};

TEST_P(ColumnStatsTwin, EqualsTheSpecification) {
  const auto [backend, c] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  std::mt19937 random(4);
  std::normal_distribution<float> normal;
  std::vector<int> q_token;
  for (int token = 0; token < c.tokens; token += c.row_step) q_token.push_back(token);
  const int rows = static_cast<int>(q_token.size());
  std::vector<Half> q, k;
  std::vector<float> lse;
  for (int i = 0; i < c.group * rows * c.head_dim; ++i) q.push_back(HalfFromFloat(normal(random)));
  for (int i = 0; i < c.tokens * c.head_dim; ++i) k.push_back(HalfFromFloat(normal(random)));
  for (int i = 0; i < c.group * rows; ++i) lse.push_back(2 + normal(random));
  using Kind = StatisticSpec::Kind;
  std::vector<StatisticSpec> specs{{Kind::kSum, 0, 0, 0},   {Kind::kSum, 20, 0, 0},       {Kind::kSumSquares, 0, 1, 0},
                                   {Kind::kMax, 0, 5, 0},   {Kind::kGeometric, 0, 1, 16}, {Kind::kGeometric, 0, 0, 1},
                                   {Kind::kSum, 0, 0, 0, 3}};
  std::vector<float> out(specs.size() * c.group * c.row_end);
  ColumnStatsProblem host{q.data(), k.data(), DType::kF16, lse.data(), q_token,        c.group,
                          rows,     c.tokens, c.head_dim,  c.row_end,  {.scale = 0.2f}};
  ColumnStatsProblem lent = host;
  std::vector<std::vector<double>> plain(specs.size());

  const TensorView any = ContiguousView(nullptr, DType::kF32, {1}, 1);
  Lent lent_q(backend, q, any), lent_k(backend, k, any);
  Lent lent_lse(backend, lse, any);
  Lent lent_token(backend, q_token, any);
  lent.q = lent_q.view().data, lent.k = lent_k.view().data, lent.lse = lent_lse.view().floats();
  lent.q_token = {static_cast<const int*>(lent_token.view().data), q_token.size()};
  for (const int window : {0, 1, 7, 100, 1000}) {
    for (const float softcap : {0.0f, 3.0f}) {  // scores reach some 7
      SCOPED_TRACE(StrCat("window ", window, ", softcap ", softcap));
      host.rule.window = lent.rule.window = window, host.rule.softcap = lent.rule.softcap = softcap;
      cpu::ColumnStats(host, specs, plain);
      std::fill(out.begin(), out.end(), -7.0f);
      Lent lent_out(backend, out, any);
      if (IsEmulated(backend)) {
        cuda_emulated::SetBackend(backend);
        cuda_emulated::ColumnStats(lent, specs, lent_out.view().floats(), {});
      } else {
        cuda::ColumnStats(lent, specs, lent_out.view().floats(), {});
      }
      lent_out.Fetch();
      for (size_t s = 0; s < specs.size(); ++s) {
        for (size_t i = 0; i < plain[s].size(); ++i) {
          // What the specification alone counts: rows older than 24 half-lives, 2^-24 of weights up to some 10.
          ASSERT_NEAR(out[s * plain[s].size() + i], plain[s][i], 1e-5 * std::fabs(plain[s][i]) + 1e-6)
              << ToString(specs[s]) << " at " << i;
        }
      }
    }
  }
}

std::string TwinName(const testing::TestParamInfo<std::tuple<Backend, TwinCase>>& info) {
  const TwinCase& c = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", c.group, "_heads_", c.tokens, "_tokens_", c.row_end, "_dim_",
                c.head_dim, "_every_", c.row_step);
}
INSTANTIATE_TEST_SUITE_P(Backends, ColumnStatsTwin,
                         testing::Combine(testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards,
                                                          Backend::kCuda),
                                          testing::Values(TwinCase{3, 1, 1, 64, 1}, TwinCase{2, 150, 150, 32, 1},
                                                          TwinCase{1, 131, 100, 80, 1}, TwinCase{1, 90, 90, 16, 7})),
                         TwinName);

}  // namespace
}  // namespace kvscope
