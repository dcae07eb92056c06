// SPDX-License-Identifier: Apache-2.0
#include "replay/layer_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "kernels/quantize.h"
#include "replay/policy_spec.h"
#include "tests/support/core_message.h"

namespace kvscope {
namespace {

constexpr ModelShape kShape{.num_layers = 1, .num_heads = 6, .num_kv_heads = 2, .head_dim_k = 32, .head_dim_v = 48};
constexpr float kScale = 0.2f;

// Random q, k, v of one layer, rounded to f16.
struct Layer {
  explicit Layer(int tokens) : num_tokens(tokens) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& rows, int heads, int dim) {
      for (int i = 0; i < heads * tokens * dim; ++i) {
        rows.push_back(FloatFromHalf(HalfFromFloat(normal(random) * (i % 41 == 0 ? 4.0f : 1.0f))));
      }
    };
    fill(q, kShape.num_heads, kShape.head_dim_k);
    fill(k, kShape.num_kv_heads, kShape.head_dim_k);
    fill(v, kShape.num_kv_heads, kShape.head_dim_v);
    out.resize(static_cast<size_t>(kShape.num_heads) * tokens * kShape.head_dim_v);
    lse.resize(static_cast<size_t>(kShape.num_heads) * tokens);
  }
  const float* K(int kv_head) const { return &k[static_cast<size_t>(kv_head) * num_tokens * kShape.head_dim_k]; }
  const float* V(int kv_head) const { return &v[static_cast<size_t>(kv_head) * num_tokens * kShape.head_dim_v]; }
  LayerStep StepOf(int token, int count) {
    LayerStep step;
    step.first_token = token, step.num_tokens = count;
    step.q = &q[static_cast<size_t>(token) * kShape.head_dim_k], step.q_head_stride = num_tokens * kShape.head_dim_k;
    step.k = &k[static_cast<size_t>(token) * kShape.head_dim_k], step.k_head_stride = num_tokens * kShape.head_dim_k;
    step.v = &v[static_cast<size_t>(token) * kShape.head_dim_v], step.v_head_stride = num_tokens * kShape.head_dim_v;
    step.out = &out[static_cast<size_t>(token) * kShape.head_dim_v];
    step.out_head_stride = num_tokens * kShape.head_dim_v;
    step.q_token_stride = step.k_token_stride = kShape.head_dim_k;
    step.v_token_stride = step.out_token_stride = kShape.head_dim_v;
    step.lse = &lse[token], step.lse_head_stride = num_tokens;
    return step;
  }
  int num_tokens;
  std::vector<float> q, k, v, out, lse;
};

// out [head, tokens, dim] and lse [head, tokens] by the attention of the decoder.
void AttendPlainly(const Layer& layer, std::vector<float>& out, std::vector<float>& lse,
                   const AttentionRule& rule = {.scale = kScale}) {
  out.resize(layer.out.size());
  lse.resize(layer.lse.size());
  for (int kv_head = 0; kv_head < kShape.num_kv_heads; ++kv_head) {
    const size_t first_head = static_cast<size_t>(kv_head) * kShape.HeadsPerKvHead() * layer.num_tokens;
    CausalAttention p;
    p.q = &layer.q[first_head * kShape.head_dim_k];
    p.q_head_stride = layer.num_tokens * kShape.head_dim_k, p.q_row_stride = kShape.head_dim_k;
    p.k = layer.K(kv_head), p.v = layer.V(kv_head), p.dtype = DType::kF32, p.group = kShape.HeadsPerKvHead();
    p.num_queries = layer.num_tokens, p.head_dim_k = kShape.head_dim_k, p.head_dim_v = kShape.head_dim_v;
    p.rule = rule, p.out = &out[first_head * kShape.head_dim_v];
    p.out_head_stride = layer.num_tokens * kShape.head_dim_v, p.out_row_stride = kShape.head_dim_v;
    p.lse = &lse[first_head], p.lse_head_stride = layer.num_tokens;
    cpu_fast::Attend(p);
  }
}

std::vector<int> Range(int count) {
  std::vector<int> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

CacheRules RulesFor(int decision_token, int budget) {
  CacheRules rules;
  rules.policy = "test";
  rules.decision_token = decision_token;
  rules.budget_entries.assign(kShape.num_kv_heads, budget);
  return rules;
}

std::shared_ptr<const Store> StoreOf(const std::string& spec) {
  return PolicySpec::Parse(spec).MakeStore();
}

LayerCache Loaded(const Layer& layer, const std::string& spec, int tokens, std::span<const int> keep,
                  const CacheRules& rules) {
  (void)tokens;
  LayerCache cache(kShape, 0, {.scale = kScale}, StoreOf(spec), rules);
  for (int kv_head = 0; kv_head < kShape.num_kv_heads; ++kv_head) {
    cache.Load(kv_head, layer.K(kv_head), layer.V(kv_head), DType::kF32, {{keep.begin(), keep.end()}});
  }
  return cache;
}

// A policy whose answers a test writes down.
class Scripted final : public Policy {
 public:
  std::function<std::optional<LayerPlan>(const StepView&)> after_step;
  std::function<std::optional<ReadPlan>(const QueryView&)> before_step;
  PolicyNeeds Needs(const ModelShape&) const override { return {}; }
  void AfterLayer(const LayerView&) override {}
  Budgets Allocate(const ModelShape&, std::span<const PolicyBudget>) override { return {}; }
  LayerPlan Select(int, const std::vector<int>&) override { return {}; }
  bool ChoosesReads() const override { return before_step != nullptr; }
  std::optional<ReadPlan> BeforeStep(const QueryView& query) override { return before_step(query); }
  int num_left = 0;
  bool WatchesSteps() const override { return after_step != nullptr; }
  void AfterWindow(int, int, int count) override { num_left += count; }
  std::optional<LayerPlan> AfterStep(const StepView& step, const std::vector<int>&) override {
    return after_step(step);
  }
  std::unique_ptr<Policy> Snapshot() const override { return std::make_unique<Scripted>(*this); }
};

TEST(LayerCache, WithEverythingKeptEqualsTheDecoderBitForBit) {
  Layer layer(600);
  std::vector<float> out, lse;
  AttendPlainly(layer, out, lse);
  const int decision = 300;
  LayerCache cache = Loaded(layer, "full", decision, Range(decision), RulesFor(decision, decision));
  Scripted idle;
  cache.Step(layer.StepOf(decision, 290), idle);  // a chunk, then tokens one at a time
  for (int token = 590; token < 600; ++token) cache.Step(layer.StepOf(token, 1), idle);
  for (int head = 0; head < kShape.num_heads; ++head) {
    for (int token = decision; token < 600; ++token) {
      const size_t row = static_cast<size_t>(head) * 600 + token;
      ASSERT_EQ(layer.lse[row], lse[row]) << "head " << head << ", token " << token;
      for (int dim = 0; dim < kShape.head_dim_v; ++dim) {
        ASSERT_EQ(layer.out[row * kShape.head_dim_v + dim], out[row * kShape.head_dim_v + dim]);
      }
    }
  }
}

TEST(LayerCache, OneAtATimeEqualsAChunk) {
  Layer chunk(400), single(400);
  const std::vector<int> keep = {0, 3, 4, 5, 17, 200, 255, 256, 299};
  LayerCache chunk_cache = Loaded(chunk, "full@int4", 300, keep, RulesFor(300, 9));
  LayerCache single_cache = Loaded(single, "full@int4", 300, keep, RulesFor(300, 9));
  Scripted idle, watching;
  watching.after_step = [](const StepView&) { return std::nullopt; };
  chunk_cache.Step(chunk.StepOf(300, 100), idle);
  single_cache.Step(single.StepOf(300, 100), watching);
  EXPECT_EQ(chunk.out, single.out);
  EXPECT_EQ(chunk.lse, single.lse);
  EXPECT_EQ(chunk_cache.StoredBytes(), single_cache.StoredBytes());
  EXPECT_EQ(chunk_cache.num_entries(), 2 * 109);
}

TEST(LayerCache, WeightsAreThoseOfTheEntriesKept) {
  Layer layer(300);
  const std::vector<int> keep = {0, 10, 20, 290};
  LayerCache cache = Loaded(layer, "full", 299, keep, RulesFor(299, 4));
  const LayerStep step = layer.StepOf(299, 1);
  cache.Append(step);
  AttendRecord record;
  record.wants_weights = true;
  record.watched = {{1, 3}, {0}};
  cache.Attend(step, nullptr, &record);
  for (int head = 0; head < kShape.num_heads; ++head) {
    const int kv_head = head / kShape.HeadsPerKvHead();
    std::vector<double> weight;
    double sum = 0;
    for (const int token : {0, 10, 20, 290, 299}) {
      double score = 0;
      for (int dim = 0; dim < kShape.head_dim_k; ++dim) {
        score += double(layer.q[(size_t(head) * 300 + 299) * kShape.head_dim_k + dim]) *
                 layer.K(kv_head)[token * kShape.head_dim_k + dim];
      }
      weight.push_back(std::exp(score * kScale));
      sum += weight.back();
    }
    ASSERT_EQ(record.weights[head].size(), 5u);
    for (int slot = 0; slot < 5; ++slot) EXPECT_NEAR(record.weights[head][slot], weight[slot] / sum, 1e-5);
    const std::vector<float>& watched = record.watched_weights[head];
    if (kv_head == 0) {
      EXPECT_EQ(watched, (std::vector<float>{record.weights[head][1], record.weights[head][3]}));
    } else {
      EXPECT_EQ(watched, std::vector<float>{record.weights[head][0]});
    }
  }
}

TEST(LayerCache, WatchedWeightsOfAChunkAreCausal) {
  Layer layer(310);
  LayerCache cache = Loaded(layer, "full", 300, Range(300), RulesFor(300, 300));
  const LayerStep step = layer.StepOf(300, 10);
  cache.Append(step);
  AttendRecord record;
  record.watched.assign(2, {5, 304});
  cache.Attend(step, nullptr, &record);
  for (int token = 0; token < 10; ++token) {
    EXPECT_GT(record.watched_weights[0][token * 2], 0.0f);
    EXPECT_EQ(record.watched_weights[0][token * 2 + 1] > 0, token >= 4) << token;
  }
}

TEST(LayerCache, EvictionDropsTheEntriesAndLogsThem) {
  Layer layer(40);
  LayerCache cache = Loaded(layer, "full", 38, Range(38), RulesFor(38, 38));
  const int64_t bytes_per_entry = cache.StoredBytes() / cache.num_entries();
  std::vector<CacheAction> log;
  cache.set_action_log(&log);
  Scripted policy;
  policy.after_step = [](const StepView& step) {
    LayerPlan plan(2);
    for (int kv_head = 0; kv_head < 2; ++kv_head) {
      for (int slot = 0; slot < static_cast<int>(step.TokenFromSlot(kv_head).size()); ++slot) {
        if (slot != kv_head + 3) plan[kv_head].keep.push_back(slot);
      }
    }
    return plan;
  };
  const auto clone = cache.Clone();
  cache.Step(layer.StepOf(38, 2), policy);
  EXPECT_EQ(cache.num_slots(0), 38);
  EXPECT_EQ(cache.StoredBytes(), 76 * bytes_per_entry);
  ASSERT_EQ(log.size(), 4u);
  EXPECT_EQ(log[0].token, 3);
  EXPECT_EQ(log[1].token, 4);
  EXPECT_EQ(log[2].token, 4);  // slot 3 once 3 is gone
  EXPECT_EQ(log[3].token, 5);
  EXPECT_EQ(log[3].query_token, 39);
  // What stayed is what a cache loaded with just that gives; the clone from before is untouched.
  std::vector<int> left = Range(38);
  left.erase(left.begin() + 3, left.begin() + 5);
  EXPECT_TRUE(std::equal(left.begin(), left.end(), cache.TokenFromSlot(0).begin()));
  EXPECT_EQ(clone->num_slots(0), 38);
  EXPECT_EQ(clone->TokenFromSlot(0)[3], 3);
}

// Whole and compacted: what has left the window goes before a query attends, is not logged, and the policy is told.
TEST(LayerCache, DropsWhatHasLeftTheWindow) {
  const AttentionRule rule{.scale = kScale, .softcap = 2, .window = 40};
  Layer layer(120);
  std::vector<float> out, lse;
  AttendPlainly(layer, out, lse, rule);
  const auto make = [&](const char* spec) {
    LayerCache cache(kShape, 0, rule, StoreOf(spec), RulesFor(60, 40));
    HeadPlan plan{Range(60)};
    plan.keep.erase(plan.keep.begin(), plan.keep.begin() + 20);
    for (int kv_head = 0; kv_head < kShape.num_kv_heads; ++kv_head) {
      cache.Load(kv_head, layer.K(kv_head), layer.V(kv_head), DType::kF32, plan);
    }
    return cache;
  };
  for (const char* spec : {"full", "full@mixed"}) {
    LayerCache cache = make(spec);
    std::vector<CacheAction> log;
    cache.set_action_log(&log);
    Scripted watching;
    watching.after_step = [](const StepView&) { return std::nullopt; };
    cache.Step(layer.StepOf(60, 20), watching);  // a chunk, then one at a time
    for (int token = 80; token < 120; ++token) cache.Step(layer.StepOf(token, 1), watching);
    EXPECT_EQ(watching.num_left, 2 * 60);
    EXPECT_TRUE(log.empty());
    EXPECT_EQ(cache.num_slots(1), 40);
    EXPECT_EQ(cache.TokenFromSlot(1)[0], 80);
    for (int head = 0; head < kShape.num_heads; ++head) {
      for (int token = 60; token < 120; ++token) {
        const size_t row = static_cast<size_t>(head) * 120 + token;
        ASSERT_NEAR(layer.lse[row], lse[row], 1e-5) << "head " << head << ", token " << token;
        for (int dim = 0; dim < kShape.head_dim_v; ++dim) {
          ASSERT_NEAR(layer.out[row * kShape.head_dim_v + dim], out[row * kShape.head_dim_v + dim], 1e-5);
        }
      }
    }
  }
  // Nobody watching, the same; and before anything leaves, a chunk.
  Scripted idle;
  LayerCache cache = make("full");
  EXPECT_TRUE(cache.TakesTokensSingly(idle, 60));
  EXPECT_FALSE(cache.TakesTokensSingly(idle, 39));
  const std::vector<float> expected = layer.lse;
  cache.Step(layer.StepOf(60, 60), idle);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(layer.lse[i], expected[i], 1e-5);
}

// One entry as the plain specification of @mixed keeps it.
std::vector<float> Packed(std::span<const float> row, int bits) {
  std::vector<float> decoded(row.begin(), row.end());
  if (bits == 16) return decoded;
  std::vector<std::byte> packed(cpu::AsymmetricGroupBytes(static_cast<int>(row.size()), bits));
  cpu::QuantizeAsymmetric(row, bits, packed.data());
  cpu::DequantizeAsymmetric(packed.data(), bits, decoded);
  return decoded;
}

// Pools are read one after the other and merged by the online softmax: the outcome is that of one plain attention over
// the decoded entries in the order of tokens, and every weight comes back to its own slot.
TEST(LayerCache, PoolsOfDifferentBitsAttendLikeOnePlainCache) {
  const int tokens = 700, query = 699;
  Layer layer(tokens), decoded(tokens);
  HeadPlan plan;
  std::mt19937 random(3);
  for (int token = 0; token < query; ++token) {
    if (random() % 5 == 0) continue;
    plan.keep.push_back(token);
    plan.bits.push_back(std::array<uint8_t, 4>{16, 8, 4, 2}[random() % 4]);
  }
  LayerCache cache(kShape, 0, {.scale = kScale}, StoreOf("full@mixed"), RulesFor(query, 700));
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    cache.Load(kv_head, layer.K(kv_head), layer.V(kv_head), DType::kF32, plan);
    EXPECT_TRUE(std::ranges::equal(cache.BitsFromSlot(kv_head), plan.bits));
    for (size_t slot = 0; slot < plan.keep.size(); ++slot) {
      const size_t row = static_cast<size_t>(kv_head) * tokens + plan.keep[slot];
      const auto pack = [&](std::vector<float>& rows, int dim) {
        const std::vector<float> entry = Packed(std::span(rows).subspan(row * dim, dim), plan.bits[slot]);
        std::ranges::copy(entry, rows.begin() + static_cast<int64_t>(row) * dim);
      };
      pack(decoded.k, kShape.head_dim_k), pack(decoded.v, kShape.head_dim_v);
    }
  }
  LayerCache plain = Loaded(decoded, "full@fp32", query, plan.keep, RulesFor(query, 700));
  const auto run = [&](LayerCache& of, Layer& from, AttendRecord& record) {
    record.wants_weights = true;
    record.watched.assign(2, {0, 17, 200});
    const LayerStep step = from.StepOf(query, 1);
    of.Append(step);
    of.Attend(step, nullptr, &record);
  };
  AttendRecord mixed_record, plain_record;
  run(cache, layer, mixed_record), run(plain, decoded, plain_record);
  for (int head = 0; head < kShape.num_heads; ++head) {
    ASSERT_EQ(mixed_record.weights[head].size(), plan.keep.size() + 1);
    for (size_t slot = 0; slot < mixed_record.weights[head].size(); ++slot) {  // sums in another order, in f32
      EXPECT_NEAR(mixed_record.weights[head][slot], plain_record.weights[head][slot], 1e-6);
    }
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_NEAR(mixed_record.watched_weights[head][i], plain_record.watched_weights[head][i], 1e-6);
    }
  }
  for (size_t i = 0; i < layer.out.size(); ++i) EXPECT_NEAR(layer.out[i], decoded.out[i], 1e-5);
}

TEST(LayerCache, LowersBitsWhenThePolicySaysSoAndLogsIt) {
  Layer layer(40);
  LayerCache cache(kShape, 0, {.scale = kScale}, StoreOf("full@mixed"), RulesFor(38, 40));
  for (int kv_head = 0; kv_head < 2; ++kv_head) {
    cache.Load(kv_head, layer.K(kv_head), layer.V(kv_head), DType::kF32, {Range(38)});
  }
  std::vector<CacheAction> log;
  cache.set_action_log(&log);
  Scripted policy;
  policy.after_step = [](const StepView& step) {
    HeadPlan head{Range(static_cast<int>(step.TokenFromSlot(0).size()))};
    head.bits.assign(head.keep.size(), 16);
    head.bits[5] = 4;
    head.keep.erase(head.keep.begin() + 7), head.bits.erase(head.bits.begin() + 7);
    return LayerPlan{head, head};
  };
  const int64_t before = cache.StoredBytes();
  cache.Step(layer.StepOf(38, 1), policy);
  ASSERT_EQ(log.size(), 4u);
  EXPECT_EQ(log[0].token, 5);
  EXPECT_EQ(int{log[0].bits}, 4);
  EXPECT_EQ(log[1].token, 7);
  EXPECT_EQ(int{log[1].bits}, 0);
  EXPECT_LT(cache.StoredBytes(), before);
  policy.after_step = [](const StepView& step) {
    HeadPlan head{Range(static_cast<int>(step.TokenFromSlot(0).size()))};
    head.bits.assign(head.keep.size(), 16);  // slot 5 would rise from 4
    return LayerPlan{head, head};
  };
  EXPECT_THROW(cache.Step(layer.StepOf(39, 1), policy), Error);
}

TEST(LayerCache, ReadsOnlyWhatThePolicyChose) {
  Layer layer(500), gathered(500);
  LayerCache all = Loaded(layer, "full", 499, Range(499), RulesFor(499, 4));
  Scripted reader, idle;
  double full_sum = 0;
  reader.before_step = [&](const QueryView& query) {
    for (const float weight : query.FullWeight(0)) full_sum += weight;
    ReadPlan plan;
    plan.slots = {{0, 300, 301, 499}, {7, 8, 9, 499}};
    return plan;
  };
  all.Step(layer.StepOf(499, 1), reader);
  EXPECT_NEAR(full_sum, 1.0, 1e-5);
  LayerCache few(kShape, 0, {.scale = kScale}, StoreOf("full"), RulesFor(499, 3));
  few.Load(0, gathered.K(0), gathered.V(0), DType::kF32, {{0, 300, 301}});
  few.Load(1, gathered.K(1), gathered.V(1), DType::kF32, {{7, 8, 9}});
  few.Step(gathered.StepOf(499, 1), idle);
  EXPECT_EQ(layer.out, gathered.out);
  EXPECT_EQ(layer.lse, gathered.lse);
}

TEST(LayerCache, ABrokenPolicyIsNamed) {
  const struct {
    std::vector<int> keep;
    const char* complaint;
  } cases[] = {{{}, "at least 1 entry"},
               {{0, 0}, "ascending"},
               {{5, 2}, "ascending"},
               {{0, 21}, "slots from 0 to 20"},
               {{-1}, "slots from 0 to 20"}};
  for (const auto& broken : cases) {
    Layer layer(21);
    LayerCache cache = Loaded(layer, "full", 20, Range(20), RulesFor(20, 20));
    Scripted policy;
    policy.after_step = [&](const StepView&) { return LayerPlan{{{0}, {}}, {broken.keep, {}}}; };
    const std::string message = MessageOf([&] { cache.Step(layer.StepOf(20, 1), policy); });
    EXPECT_THAT(message, testing::HasSubstr("policy 'test'"));
    EXPECT_THAT(message, testing::HasSubstr(broken.complaint));
    EXPECT_EQ(cache.num_slots(0), 21) << "a refused plan changes nothing";
  }
}

TEST(LayerCache, ALateOrUnguardedEvictionIsNamed) {
  Layer layer(21);
  CacheRules rules = RulesFor(20, 20);
  rules.growth = Growth::kFixed, rules.every = 1;
  Scripted lazy;
  lazy.after_step = [](const StepView&) { return std::nullopt; };
  LayerCache cache = Loaded(layer, "full", 20, Range(20), rules);
  EXPECT_THAT(MessageOf([&] { cache.Step(layer.StepOf(20, 1), lazy); }), testing::HasSubstr("at most 20 entries"));
  rules.guards.sinks = 2;
  LayerCache guarded = Loaded(layer, "full", 20, Range(20), rules);
  Scripted careless;
  careless.after_step = [](const StepView&) { return LayerPlan{{{0, 2, 20}, {}}, {{0, 1, 20}, {}}}; };
  EXPECT_THAT(MessageOf([&] { guarded.Step(layer.StepOf(20, 1), careless); }), testing::HasSubstr("guarded"));
}

TEST(LayerCache, AReaderBeyondItsBudgetIsNamed) {
  Layer layer(21);
  LayerCache cache = Loaded(layer, "full", 20, Range(20), RulesFor(20, 3));
  Scripted greedy;
  greedy.before_step = [](const QueryView&) { return ReadPlan{{{0, 1, 2, 3, 4}, {0}}, {}}; };
  EXPECT_THAT(MessageOf([&] { cache.Step(layer.StepOf(20, 1), greedy); }), testing::HasSubstr("from 1 to 4 entries"));
}

}  // namespace
}  // namespace kvscope
