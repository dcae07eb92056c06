// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_decode_split.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

struct Shape {
  int heads, kv_heads, tokens, head_dim, head_dim_v, capacity;  // capacity: tokens that a KV head has room for
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.heads << "/" << s.kv_heads << " heads, " << s.tokens << " of " << s.capacity << " tokens, dims "
       << s.head_dim << " and " << s.head_dim_v;
}

// K has outlier channels and one token that takes nearly all weight of some heads, as real caches have.
template <typename Element>
struct Problem {
  Problem(const Shape& shape, int seed, const AttentionRule& unscaled = {}) : s(shape), rule(unscaled) {
    rule.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int i = 0; i < s.kv_heads * s.capacity * s.head_dim; ++i) {
      const bool is_sink = s.tokens > 0 && i / s.head_dim % s.capacity == s.tokens / 3;
      k.push_back(From(normal(random) * (i % 37 == 0 ? 6.0f : 1.0f) * (is_sink ? 4.0f : 1.0f)));
    }
    for (int i = 0; i < s.kv_heads * s.capacity * s.head_dim_v; ++i) v.push_back(From(normal(random)));
    for (int i = 0; i < s.heads * s.head_dim; ++i) q.push_back(normal(random));
    out.assign(s.heads * s.head_dim_v, -7.0f);
    lse.assign(s.heads, -7.0f);
    weights.assign(static_cast<size_t>(s.heads) * s.tokens, -7.0f);
  }
  static Element From(float value) {
    if constexpr (std::is_same_v<Element, Half>)
      return HalfFromFloat(value);
    else
      return value;
  }
  static double Value(Element value) {
    if constexpr (std::is_same_v<Element, Half>)
      return FloatFromHalf(value);
    else
      return value;
  }
  double K(int kv_head, int token, int dim) const {
    return Value(k[(kv_head * s.capacity + token) * s.head_dim + dim]);
  }
  double V(int kv_head, int token, int dim) const {
    return Value(v[(kv_head * s.capacity + token) * s.head_dim_v + dim]);
  }
  int FirstSeen() const { return rule.FirstSeen(s.tokens - 1); }
  double Score(int head, int token) const {
    double score = 0;
    for (int dim = s.head_dim - 1; dim >= 0; --dim) {
      score += q[head * s.head_dim + dim] * K(head / (s.heads / s.kv_heads), token, dim);
    }
    score *= rule.scale;
    return rule.softcap > 0 ? rule.softcap * std::tanh(score / rule.softcap) : score;
  }
  // So that whoever reads what has left the window gives it away.
  void ForgetUnseen() {
    for (int kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
      const int64_t first = int64_t{kv_head} * s.capacity;
      std::fill_n(k.begin() + first * s.head_dim, FirstSeen() * s.head_dim, From(NAN));
      std::fill_n(v.begin() + first * s.head_dim_v, FirstSeen() * s.head_dim_v, From(NAN));
    }
  }

  void Run(Backend backend, bool with_weights = true) {
    const DType dtype = std::is_same_v<Element, Half> ? DType::kF16 : DType::kF32;
    const auto cache = [&](int dim) {
      TensorView view = ContiguousView(nullptr, dtype, {s.kv_heads, s.tokens, dim}, 3);
      view.strides[0] = static_cast<int64_t>(s.capacity) * dim;
      return view;
    };
    Lent lent_q(backend, q, ContiguousView(nullptr, DType::kF32, {s.heads, s.head_dim}, 2));
    Lent lent_k(backend, k, cache(s.head_dim)), lent_v(backend, v, cache(s.head_dim_v));
    Lent lent_out(backend, out, ContiguousView(nullptr, DType::kF32, {s.heads, s.head_dim_v}, 2));
    Lent lent_lse(backend, lse, ContiguousView(nullptr, DType::kF32, {s.heads}, 1));
    Lent lent_weights(backend, weights, ContiguousView(nullptr, DType::kF32, {s.heads, s.tokens}, 2));
    const DecodeAttention problem{lent_q.view(),
                                  lent_k.view(),
                                  lent_v.view(),
                                  rule,
                                  lent_out.view(),
                                  lent_lse.view(),
                                  with_weights ? lent_weights.view() : TensorView{},
                                  nullptr};
    Attend(backend, problem);
    lent_out.Fetch(), lent_lse.Fetch(), lent_weights.Fetch();
  }

  // q and weights in f16, room for s.capacity tokens, of which the call finds s.tokens.
  void RunKept(Backend backend, std::vector<Half>& half_q, std::vector<Half>& half_weights) {
    std::vector<int> tokens{s.tokens};
    const auto cache = [&](int dim) { return ContiguousView(nullptr, DType::kF16, {s.kv_heads, s.capacity, dim}, 3); };
    Lent lent_q(backend, half_q, ContiguousView(nullptr, DType::kF16, {s.heads, s.head_dim}, 2));
    Lent lent_k(backend, k, cache(s.head_dim)), lent_v(backend, v, cache(s.head_dim_v));
    Lent lent_out(backend, out, ContiguousView(nullptr, DType::kF32, {s.heads, s.head_dim_v}, 2));
    Lent lent_lse(backend, lse, ContiguousView(nullptr, DType::kF32, {s.heads}, 1));
    Lent lent_weights(backend, half_weights, ContiguousView(nullptr, DType::kF16, {s.heads, s.capacity}, 2));
    Lent lent_tokens(backend, tokens, ContiguousView(nullptr, DType::kF32, {1}, 1));
    const DecodeAttention problem{
        lent_q.view(),   lent_k.view(),   lent_v.view(),       rule,
        lent_out.view(), lent_lse.view(), lent_weights.view(), static_cast<const int*>(lent_tokens.view().data)};
    Attend(backend, problem);
    lent_out.Fetch(), lent_lse.Fetch(), lent_weights.Fetch();
  }

  static void Attend(Backend backend, const DecodeAttention& problem) {
    if (backend == Backend::kCuda) {
      const cuda::DeviceBuffer scratch(cuda::DecodeWorkspaceBytes(problem));
      cuda::AttendDecode(problem, {scratch.data(), scratch.bytes(), nullptr});
      cuda::Synchronize();
    } else if (IsEmulated(backend)) {
      std::vector<float> scratch(cuda_emulated::DecodeWorkspaceBytes(problem) / sizeof(float), std::nanf(""));
      cuda_emulated::SetBackend(backend);
      cuda_emulated::AttendDecode(problem, {scratch.data(), scratch.size() * sizeof(float), nullptr});
    } else {
      backend == Backend::kCpu ? cpu::AttendDecode(problem) : cpu_fast::AttendDecode(problem);
    }
  }

  Shape s;
  AttentionRule rule;
  std::vector<Element> k, v;
  std::vector<float> q, out, lse, weights;
};

// Scores, lse, weights and out hang together and nothing else does: checked against scores computed here.
template <typename Element>
void ExpectSoftmaxOfScores(const Problem<Element>& p) {
  const Shape& s = p.s;
  for (int head = 0; head < s.heads; ++head) {
    double sum = 0;
    std::vector<double> out(s.head_dim_v, 0.0);
    for (int token = 0; token < s.tokens; ++token) {
      const double weight = p.weights[static_cast<size_t>(head) * s.tokens + token];
      if (token < p.FirstSeen()) {
        ASSERT_EQ(weight, 0) << "head " << head << " token " << token;
        continue;
      }
      // Scores reach some 40; their f32 dot products are off by 1e-5 at most, and so are the weights, relatively.
      const double expected = std::exp(p.Score(head, token) - p.lse[head]);
      ASSERT_NEAR(weight, expected, 3e-5 * expected + 1e-30) << "head " << head << " token " << token;
      sum += weight;
      for (int dim = 0; dim < s.head_dim_v; ++dim) out[dim] += weight * p.V(head / (s.heads / s.kv_heads), token, dim);
    }
    ASSERT_NEAR(sum, 1, 3e-5);
    for (int dim = 0; dim < s.head_dim_v; ++dim) {
      // Weights of 3e-5 relative error times values up to some 5.
      ASSERT_NEAR(p.out[head * s.head_dim_v + dim], out[dim], 1e-4) << "head " << head << " dim " << dim;
    }
  }
}

class AttentionDecode : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(AttentionDecode, IsTheSoftmaxOfTheScoresOverF16) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  Problem<Half> problem(shape, 1);
  problem.Run(backend);
  ExpectSoftmaxOfScores(problem);
}

TEST_P(AttentionDecode, IsTheSoftmaxOfTheScoresOverF32) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  Problem<float> problem(shape, 2);
  problem.Run(backend);
  ExpectSoftmaxOfScores(problem);
}

TEST_P(AttentionDecode, KeepsToTheWindowAndTheSoftcap) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  const auto check = [&](auto problem) {
    SCOPED_TRACE(StrCat("window ", problem.rule.window, ", softcap ", problem.rule.softcap));
    problem.ForgetUnseen();
    problem.Run(backend);
    ExpectSoftmaxOfScores(problem);
  };
  for (const int window : {1, 7, 100, 30000}) check(Problem<Half>(shape, 7, {.window = window}));
  for (const int window : {0, 1, 7, 100}) check(Problem<float>(shape, 8, {.softcap = 20, .window = window}));
}

TEST_P(AttentionDecode, DoesNotNeedWeights) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  Problem<Half> with(shape, 3), without(shape, 3);
  with.Run(backend, true);
  without.Run(backend, false);
  EXPECT_EQ(with.out, without.out);
  EXPECT_EQ(with.lse, without.lse);
  EXPECT_TRUE(std::all_of(without.weights.begin(), without.weights.end(), [](float w) { return w == -7.0f; }));
}

TEST_P(AttentionDecode, OfNoTokensIsZero) {
  const Backend backend = std::get<0>(GetParam());
  Shape shape = std::get<1>(GetParam());
  KVSCOPE_SKIP_WITHOUT(backend);
  shape.tokens = 0;
  Problem<Half> problem(shape, 4);
  problem.Run(backend);
  EXPECT_TRUE(std::all_of(problem.out.begin(), problem.out.end(), [](float x) { return x == 0.0f; }));
  EXPECT_TRUE(std::all_of(problem.lse.begin(), problem.lse.end(), [](float x) { return x == -INFINITY; }));
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const Shape& s = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.heads, "_", s.kv_heads, "_tokens_", s.tokens, "_of_", s.capacity,
                "_dims_", s.head_dim, "_", s.head_dim_v);
}
// As a captured graph has it: room for more tokens than are there, the number kept beside, q and weights in f16.
TEST_P(AttentionDecode, TakesTheNumberOfTokensFromWhereItIsKept) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  if (backend == Backend::kCpuFast) return;
  for (const AttentionRule& rule : {AttentionRule{}, {.window = 1}, {.window = 100}, {.softcap = 20, .window = 7}}) {
    Problem<Half> exact(shape, 6, rule);
    for (float& x : exact.q) x = FloatFromHalf(HalfFromFloat(x));
    Problem<Half> kept = exact;
    exact.Run(backend);
    std::vector<Half> q(kept.q.size()), weights(size_t(shape.heads) * shape.capacity, HalfFromFloat(-7));
    HalvesFromFloats(kept.q, q);
    kept.RunKept(backend, q, weights);
    EXPECT_EQ(kept.out, exact.out);
    EXPECT_EQ(kept.lse, exact.lse);
    for (int head = 0; head < shape.heads; ++head) {
      for (int token = 0; token < shape.capacity; ++token) {
        const float expected = token < shape.tokens ? exact.weights[size_t(head) * shape.tokens + token] : -7;
        ASSERT_EQ(weights[size_t(head) * shape.capacity + token], HalfFromFloat(expected)) << head << " " << token;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, AttentionDecode,
                         testing::Combine(testing::Values(Backend::kCpu, Backend::kCpuFast, Backend::kCuda),
                                          testing::Values(Shape{9, 3, 1, 64, 64, 4}, Shape{9, 3, 2049, 64, 64, 2100},
                                                          Shape{8, 8, 200, 128, 128, 200}, Shape{8, 1, 65, 80, 80, 65},
                                                          Shape{12, 1, 333, 64, 32, 340},
                                                          Shape{4, 2, 128, 192, 128, 130},
                                                          Shape{2, 2, 20000, 32, 32, 20001})),
                         TestName);
// Smaller, as a barrier costs a switch of fibres; the last has splits longer than the shortest, and so would the one
// before were all its tokens there: it has more splits than the plan of its room.
INSTANTIATE_TEST_SUITE_P(
    Emulated, AttentionDecode,
    testing::Combine(testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards),
                     testing::Values(Shape{9, 3, 1, 64, 64, 4}, Shape{3, 1, 333, 64, 64, 340},
                                     Shape{2, 2, 70, 128, 128, 70}, Shape{8, 1, 65, 80, 80, 65},
                                     Shape{12, 1, 130, 64, 32, 130}, Shape{4, 2, 128, 192, 128, 130},
                                     Shape{1, 1, 16384, 8, 8, 16500}, Shape{1, 1, 16500, 8, 8, 16500})),
    TestName);

// The CUDA twin's arithmetic, on the host: plans, part offsets and merging.
class DecodeSplits : public testing::TestWithParam<int> {};

TEST_P(DecodeSplits, CoverEveryTokenOnce) {
  const DecodePlan plan = PlanDecode(9, 3, GetParam(), 64, 64);
  EXPECT_LE(plan.num_splits, kDecodeMaxSplits);
  EXPECT_EQ(plan.split_tokens % kDecodeTileTokens, 0);
  int token = 0;
  for (int split = 0; split < plan.num_splits; ++split) {
    EXPECT_EQ(SplitBegin(plan, split), token);
    if (plan.num_tokens > 0) {
      EXPECT_GT(SplitEnd(plan, split), token) << "an empty split";
    }
    token = SplitEnd(plan, split);
  }
  EXPECT_EQ(token, plan.num_tokens);
  for (int fewer = 0; fewer <= GetParam(); fewer += 1 + fewer / 50)
    ASSERT_LE(PlanDecode(9, 3, fewer, 64, 64).num_splits, MaxSplits(GetParam())) << fewer;
}

TEST_P(DecodeSplits, CoverTheWindowOnce) {
  const DecodePlan shapes = PlanDecode(9, 3, 0, 64, 64);
  for (const int window : {1, 7, 128, 4096, 300000}) {
    const DecodePlan plan = PlanWindow(shapes, GetParam(), window);
    int token = std::max(0, GetParam() - window);
    for (int split = 0; split < plan.num_splits; ++split) {
      EXPECT_EQ(SplitBegin(plan, split), token);
      token = SplitEnd(plan, split);
    }
    EXPECT_EQ(token, GetParam());
    EXPECT_EQ(EndToken(plan), GetParam());
    EXPECT_LE(plan.num_splits, MaxSplits(std::min(GetParam(), window)));
  }
}

TEST_P(DecodeSplits, GiveEveryPartItsOwnPlaceInTheWorkspace) {
  const DecodePlan plan = PlanDecode(3, 1, GetParam(), 64, 16);
  std::vector<int> uses(WorkspaceFloats(plan), 0);
  for (int head = 0; head < plan.num_heads; ++head) {
    for (int split = 0; split < plan.num_splits; ++split) {
      const int64_t part = PartIndex(plan, head, split);
      for (int dim = 0; dim < plan.head_dim_v; ++dim) ++uses.at(part * plan.head_dim_v + dim);
      ++uses.at(PartMaximaOffset(plan) + part);
      ++uses.at(PartSumsOffset(plan) + part);
    }
  }
  EXPECT_TRUE(std::all_of(uses.begin(), uses.end(), [](int n) { return n == 1; }));
}

TEST_P(DecodeSplits, MergeToTheSoftmaxOfTheWhole) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 12);  // scores up to some 40
  std::vector<float> scores(GetParam());
  for (float& score : scores) score = normal(random);
  const DecodePlan plan = PlanDecode(1, 1, GetParam(), 64, 64);
  SoftmaxPart whole;
  for (int split = 0; split < plan.num_splits; ++split) {
    SoftmaxPart part;
    for (int token = SplitBegin(plan, split); token < SplitEnd(plan, split); ++token) {
      part = MergeParts(part, {scores[token], 1});
    }
    whole = MergeParts(whole, part);
  }
  if (scores.empty()) {
    EXPECT_EQ(LogSumExp(whole), -INFINITY);
    EXPECT_EQ(Normaliser(whole), 0.0f);
    return;
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const float score : scores) sum += std::exp(score - max);
  EXPECT_EQ(whole.max, static_cast<float>(max));
  EXPECT_NEAR(LogSumExp(whole), max + std::log(sum), 1e-5 * (1 + std::fabs(max)));
}

INSTANTIATE_TEST_SUITE_P(Tokens, DecodeSplits, testing::Values(0, 1, 64, 127, 128, 129, 2048, 16384, 16385, 200001));

TEST(MergeParts, HasTheEmptyPartAsItsNeutralElement) {
  const SoftmaxPart part{-3.5f, 2.25f}, empty;
  EXPECT_EQ(MergeParts(part, empty).max, part.max);
  EXPECT_EQ(MergeParts(empty, part).sum, part.sum);
  EXPECT_EQ(MergeParts(empty, empty).sum, 0.0f);
  EXPECT_EQ(MergeParts(empty, empty).max, -INFINITY);
}

TEST(MergeParts, SurvivesScoresFarApart) {
  const SoftmaxPart merged = MergeParts({-1e30f, 5}, {1e30f, 2});
  EXPECT_EQ(merged.max, 1e30f);
  EXPECT_EQ(merged.sum, 2.0f);
}

#ifndef KVSCOPE_HAVE_CUDA
TEST(AttentionDecodeOnCuda, SaysThatThisBuildHasNone) {
  EXPECT_THROW(cuda::AttendDecode({}, {}), Error);
}
#endif

}  // namespace
}  // namespace kvscope
