// SPDX-License-Identifier: Apache-2.0
// The same Q, K, V through kvpress 0.5.5 (tests/python/make_kvpress_fixture.py) and through our policies under
// compat=kvpress: scores to 1e-3, kept sets equal but for ties.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/half.h"
#include "kernels/column_stats.h"
#include "tests/support/replay_views.h"

namespace kvscope {
namespace {

constexpr double kScoreTolerance = 1e-3;  // relative; kvpress sums float32 in another order

class KvpressFixture {
 public:
  KvpressFixture() {
    const std::string path = KVSCOPE_SOURCE_DIR "/tests/replay/fixtures/kvpress";
    std::ifstream header(path + ".json"), file(path + ".bin", std::ios::binary);
    header_ = nlohmann::json::parse(header);
    data_.assign(std::istreambuf_iterator<char>(file), {});
    if (data_.size() != header_["bin_bytes"]) throw Error("kvpress.bin: its size differs from the header's");
    const int layers = header_["layers"], heads = header_["heads"], kv_heads = header_["kv_heads"],
              dim = header_["dim"];
    shape = {layers, heads, kv_heads, dim, dim};
    num_tokens = header_["tokens"];
  }
  template <typename Element>
  const Element* Array(const std::string& name) const {
    return reinterpret_cast<const Element*>(data_.data() + header_["arrays"].at(name)["offset"].get<size_t>());
  }
  nlohmann::json Press(const std::string& name) const {
    for (const nlohmann::json& press : header_["presses"]) {
      if (press["name"] == name) return press;
    }
    throw Error("no press " + name);
  }
  // A layer with the statistics that `needs` names.
  TinyLayerView View(int layer, const PolicyNeeds& needs) const {
    TinyLayerView view(shape, layer, num_tokens);
    std::vector<int> q_token(num_tokens);
    for (int token = 0; token < num_tokens; ++token) q_token[token] = token;
    const size_t group = shape.HeadsPerKvHead(), row = num_tokens, matrix = row * shape.head_dim_k;
    for (int kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
      const size_t head = layer * shape.num_heads + kv_head * group;
      ColumnStatsProblem problem;
      problem.q = Array<Half>("q") + head * matrix;
      problem.k = Array<Half>("k") + (layer * shape.num_kv_heads + kv_head) * matrix;
      problem.lse = Array<float>("lse") + head * row;
      problem.q_token = q_token;
      problem.group = static_cast<int>(group);
      problem.num_rows = problem.num_tokens = problem.row_end = num_tokens;
      problem.head_dim = shape.head_dim_k;
      problem.rule.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim_k));
      std::vector<std::vector<double>> results(needs.statistics.size());
      cpu::ColumnStats(problem, needs.statistics, results);
      for (size_t statistic = 0; statistic < results.size(); ++statistic) {
        for (size_t member = 0; member < group; ++member) {
          const auto begin = results[statistic].begin() + member * row;
          view.Set(needs.statistics[statistic], static_cast<int>(kv_head * group + member),
                   std::vector<float>(begin, begin + row));
        }
      }
    }
    return view;
  }

  ModelShape shape;
  int num_tokens = 0;

 private:
  nlohmann::json header_;
  std::vector<char> data_;
};

const KvpressFixture& Fixture() {
  static const KvpressFixture fixture;
  return fixture;
}

struct Case {
  std::string press, spec;
  bool compares_scores = true;
};
void PrintTo(const Case& given, std::ostream* out) {
  *out << given.press << " as " << given.spec;
}

class Kvpress : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Presses, Kvpress,
                         testing::Values(Case{"snapkv", "snapkv:compat=kvpress"}, Case{"snapkv", "snapkv:window=64"},
                                         Case{"tova", "tova:compat=kvpress"},
                                         Case{"observed_attention", "observed_attention"},
                                         Case{"streaming_llm", "streaming_llm:every=0", false},
                                         Case{"pyramidkv", "snapkv+pyramid:compat=kvpress"},
                                         Case{"ada_snapkv", "snapkv+ada:compat=kvpress"},
                                         Case{"ada_snapkv_narrow", "snapkv+ada:compat=kvpress:window=8:alpha=0.6"}));

TEST_P(Kvpress, ScoresAndKeptSetsAgree) {
  const KvpressFixture& fixture = Fixture();
  const PolicySpec spec = PolicySpec::Parse(GetParam().spec);
  const size_t row = fixture.num_tokens;
  const nlohmann::json press = fixture.Press(GetParam().press);
  ASSERT_EQ(press["kept"].size(), 2u);
  for (const nlohmann::json& expected : press["kept"]) {
    const double ratio = expected["compression_ratio"];
    const int entries = BudgetSpec{BudgetSpec::Unit::kCompressionRatio, ratio}.Entries(fixture.num_tokens, 1, 1);
    const float* scores = fixture.Array<float>(expected["scores"]);
    const uint8_t* kept = fixture.Array<uint8_t>(expected["kept"]);

    const std::unique_ptr<Policy> policy = spec.MakePolicy({});
    const PolicyNeeds needs = policy->Needs(fixture.shape);
    for (int layer = 0; layer < fixture.shape.num_layers; ++layer) policy->AfterLayer(fixture.View(layer, needs));
    const Budgets budgets = AllocateAll(*policy, fixture.shape, fixture.num_tokens, entries);
    for (int layer = 0; layer < fixture.shape.num_layers; ++layer) {
      PerSlot priority;
      for (int kv_head = 0; kv_head < fixture.shape.num_kv_heads; ++kv_head) {
        const std::span<const float> ranked = policy->Priority(layer, kv_head);
        priority.emplace_back(ranked.begin(), ranked.end());
      }
      const LayerPlan plan = policy->Select(layer, budgets[layer]);
      for (int kv_head = 0; kv_head < fixture.shape.num_kv_heads; ++kv_head) {
        const size_t begin = (layer * fixture.shape.num_kv_heads + kv_head) * row;
        std::vector<int> kept_by_kvpress;
        for (size_t token = 0; token < row; ++token) {
          if (kept[begin + token]) kept_by_kvpress.push_back(static_cast<int>(token));
          const float ours = priority[kv_head][token], theirs = scores[begin + token];
          if (ours >= kProtectedPriority || !GetParam().compares_scores) continue;
          ASSERT_NEAR(ours, theirs, kScoreTolerance * std::fabs(theirs) + 1e-12)
              << "layer " << layer << " token " << token;
        }
        EXPECT_EQ(plan[kv_head].keep, kept_by_kvpress)
            << "ratio " << ratio << " layer " << layer << " kv_head " << kv_head;
      }
    }
  }
}

TEST(KvpressBudget, CompressionRatioRoundsAsKvpressDoes) {
  std::ifstream file(KVSCOPE_SOURCE_DIR "/tests/replay/fixtures/kvpress.json");
  const nlohmann::json header = nlohmann::json::parse(file);
  for (const nlohmann::json& entry : header["kept_count"]) {
    const BudgetSpec budget{BudgetSpec::Unit::kCompressionRatio, entry[1]};
    EXPECT_EQ(budget.Entries(entry[0], 256, 256), entry[2].get<int>()) << entry.dump();
  }
}

}  // namespace
}  // namespace kvscope
