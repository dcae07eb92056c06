// SPDX-License-Identifier: Apache-2.0
#include "tests/support/replay_fake_results.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>

#include "core/error.h"

namespace kvscope {
namespace {

using Random = std::mt19937_64;

double Uniform(Random& random) {
  return static_cast<double>(random() >> 11) * 0x1p-53;
}
double Normal(Random& random) {
  return std::sqrt(-2 * std::log(1 - Uniform(random))) * std::cos(2 * std::acos(-1.0) * Uniform(random));
}

// How good a policy is at keeping what matters; 0 knows nothing, 1 knows everything.
double SkillOf(const std::string& policy) {
  static const std::map<std::string, double> skills = {
      {"full", 1},    {"random", 0},    {"recent_window", 0.03}, {"streaming_llm", 0.2},   {"h2o", 0.5},
      {"tova", 0.62}, {"snapkv", 0.72}, {"snapkv+ada", 0.78},    {"snapkv+pyramid", 0.68}, {"snapkv@int4", 0.83},
      {"adkvc", 0.8}, {"int8", 0.999},  {"int4", 0.97},          {"top_k_oracle", 0.97}};
  const auto known = skills.find(policy);
  return known == skills.end() ? 0.4 : known->second;
}

bool IsFixedRate(const std::string& policy) {
  return policy == "full" || policy == "int8" || policy == "int4";
}

std::string ClassOf(const std::string& policy) {
  if (policy == "top_k_oracle") return "oracle";
  if (policy == "int8" || policy == "int4") return "quantisation";
  return policy == "full" || policy == "random" || policy == "recent_window" ? "baseline" : "eviction";
}

struct Run {
  double context, depth;
  int needle_begin, needle_end;
  std::string run_id;
};

std::vector<Run> Runs(const FakeResultsOptions& options) {
  std::vector<Run> runs;
  for (const double context : options.contexts) {
    for (const double depth : options.depths) {
      const int begin = 40 + static_cast<int>(depth * (options.tokens - 130));
      const double percent = depth * 100;
      runs.push_back({context, depth, begin, begin + 14, StrCat("niah_c", context, "_d", percent, "_r00")});
    }
  }
  return runs;
}

bool Keeps(const std::string& policy, double fraction, const Run& run, int layer, int kv_head, int token, int tokens,
           Random& random) {
  if (IsFixedRate(policy)) return true;
  const double draw = Uniform(random);
  const bool needle = token >= run.needle_begin && token < run.needle_end;
  if (policy == "recent_window" || policy == "streaming_llm") {
    return token >= tokens - fraction * tokens || (policy == "streaming_llm" && token < 4);
  }
  if (policy == "random") return draw < fraction;
  const double skill = SkillOf(policy), layer_bias = std::sin(layer * 0.5 + kv_head * 1.3) * 0.35;
  if (needle) return draw < std::clamp(fraction + (1 - fraction) * (skill + layer_bias), 0.0, 1.0);
  const double recency = std::exp(-(tokens - token) / (tokens * 0.1)), sink = token < 4 ? 1 : 0;
  return draw < std::clamp(fraction * 0.85 + recency * 0.5 + sink, 0.0, 1.0);
}

NamedArray Kept(const FakeResultsOptions& options, const std::string& policy, double fraction, const Run& run,
                uint64_t seed) {
  NamedArray kept{"kept", {"layer", "kv_head", "token"}, {options.layers, options.kv_heads, options.tokens}, {}};
  Random random(seed);
  for (int layer = 0; layer < options.layers; ++layer) {
    for (int head = 0; head < options.kv_heads; ++head) {
      for (int token = 0; token < options.tokens; ++token) {
        kept.values.push_back(Keeps(policy, fraction, run, layer, head, token, options.tokens, random));
      }
    }
  }
  return kept;
}

NamedArray RetentionFrom(const NamedArray& kept, const Run& run) {
  NamedArray retention{"needle_retention", {"layer", "kv_head"}, {kept.shape[0], kept.shape[1]}, {}};
  for (int64_t head = 0; head < kept.shape[0] * kept.shape[1]; ++head) {
    float share = 0;
    for (int token = run.needle_begin; token < run.needle_end; ++token) {
      share += kept.values[static_cast<size_t>(head * kept.shape[2] + token)];
    }
    retention.values.push_back(share / static_cast<float>(run.needle_end - run.needle_begin));
  }
  return retention;
}

double MeanOf(const NamedArray& array) {
  double sum = 0;
  for (const float value : array.values) sum += value;
  return sum / static_cast<double>(array.values.size());
}

NamedArray PerHead(const FakeResultsOptions& options, const char* name, const std::function<double(int, int)>& value) {
  NamedArray array{name, {"layer", "head"}, {options.layers, options.heads}, {}};
  for (int layer = 0; layer < options.layers; ++layer) {
    for (int head = 0; head < options.heads; ++head) array.values.push_back(static_cast<float>(value(layer, head)));
  }
  return array;
}

void SetCommon(ResultRow& row, const FakeResultsOptions& options, const std::string& policy, double fraction,
               const Run& run) {
  row.Set("run_id", run.run_id);
  row.Set("trace", run.run_id + ".kvtrace.h5");
  row.Set("model", options.model);
  row.Set("device", "cpu");
  row.Set("task", options.task);
  row.Set("context", run.context);
  row.Set("depth", run.depth);
  row.Set("protocol", "prompt");
  row.Set("policy", policy);
  row.Set("class", ClassOf(policy));
  row.Set("growth", policy == "h2o" || policy == "tova" ? "fixed" : "append");
  row.Set("guard_sinks", 0.0);
  row.Set("guard_recent", 0.0);
  const double full_bytes = run.context * options.layers * options.kv_heads * 64 * 2 * 2;
  const double kept = policy == "full" ? 1 : policy == "int8" ? 0.516 : policy == "int4" ? 0.281 : fraction;
  if (!IsFixedRate(policy)) row.Set("keep_fraction_asked", fraction);
  row.Set("kept_fraction", kept);
  row.Set("kept_tokens", IsFixedRate(policy) ? run.context : std::floor(run.context * fraction));
  row.Set("full_bytes", full_bytes);
  row.Set("kept_bytes_prefill", full_bytes * kept);
  row.Set("kept_bytes_mean", full_bytes * kept * 1.003);
  row.Set("bits", policy == "int8" ? 8.0 : policy == "int4" || policy == "snapkv@int4" ? 4.0 : 16.0);
  row.Set("seed", 0.0);
  row.Set("version", "0.1.0");
}

double LossOf(const std::string& policy, double fraction) {
  if (policy == "full") return 0;
  if (policy == "int8") return 0.0004;
  return std::pow(1 - SkillOf(policy), 1.2) * std::pow(1 - fraction, 1.1) * 0.42 + 0.004 * (1 - fraction);
}

template <typename Fill>
Results Sweep(const FakeResultsOptions& options, const Fill& fill) {
  Results results;
  uint64_t seed = 1;
  for (const Run& run : Runs(options)) {
    for (const std::string& policy : options.policies) {
      for (const double fraction : IsFixedRate(policy) ? std::vector<double>{1.0} : options.fractions) {
        Results::Row row;
        SetCommon(row.figures, options, policy, fraction, run);
        fill(row, policy, fraction, run, ++seed);
        results.rows.push_back(std::move(row));
      }
    }
  }
  return results;
}

Results::Trace FakeTrace(const FakeResultsOptions& options, const Run& run, uint64_t seed) {
  Random random(seed);
  Results::Trace trace;
  trace.run_id = run.run_id;
  trace.path = run.run_id + ".kvtrace.h5";
  trace.attributes = {{"model", options.model},
                      {"needle_begin", StrCat(run.needle_begin)},
                      {"needle_end", StrCat(run.needle_end)},
                      {"prompt_tokens", StrCat(options.tokens)},
                      {"relevance_log10_low", "-8"},
                      {"relevance_log10_width", "0.25"},
                      {"relevance_statistic", "attention received, sum over the last 32 rows"}};
  const auto auc = [&](double gain) {
    return [&random, gain](int layer, int head) {
      return std::clamp(
          0.55 + gain * std::sin(layer * 0.21) * (0.5 + 0.5 * std::cos(head * 2.1)) + 0.08 * Normal(random), 0.02, 1.0);
    };
  };
  trace.arrays.push_back(PerHead(options, "needle_auc_last32", auc(0.45)));
  trace.arrays.push_back(PerHead(options, "needle_auc_sum", auc(0.2)));
  trace.arrays.push_back(
      PerHead(options, "needle_weight", [&](int layer, int) { return 0.2 * std::fabs(std::sin(layer * 0.3)); }));
  NamedArray needle{"relevance_needle", {"bin"}, {36}, {}}, rest{"relevance_rest", {"bin"}, {36}, {}};
  for (int bin = 0; bin < 36; ++bin) {
    const double x = -8 + 0.25 * bin;
    needle.values.push_back(static_cast<float>(std::round(3780 * 0.1 * std::exp(-0.5 * std::pow((x + 2.4) / 1.1, 2)))));
    rest.values.push_back(
        static_cast<float>(std::round(550000 * 0.08 * std::exp(-0.5 * std::pow((x + 3.9) / 0.9, 2)))));
  }
  trace.arrays.push_back(needle);
  trace.arrays.push_back(rest);
  const int bins = 12;
  NamedArray mass{"mass_by_distance", {"layer", "bin"}, {options.layers, bins}, {}};
  for (int layer = 0; layer < options.layers; ++layer) {
    std::vector<double> share;
    double total = 0;
    for (int bin = 0; bin < bins; ++bin) {
      share.push_back(std::exp(-bin * (0.25 + 0.25 * std::cos(layer * 0.4))) +
                      (bin == bins - 1 ? 0.2 + 0.03 * layer : 0.02));
      total += share.back();
    }
    for (const double value : share) mass.values.push_back(static_cast<float>(value / total));
  }
  trace.arrays.push_back(mass);
  trace.arrays.push_back(PerHead(options, "sink_mass", [&](int layer, int head) {
    return std::clamp(0.15 + 0.02 * layer + 0.2 * std::sin(head * 1.7) + 0.05 * Normal(random), 0.0, 1.0);
  }));
  NamedArray similarity{"adjacent_similarity", {"layer"}, {options.layers - 1}, {}};
  for (int layer = 1; layer < options.layers; ++layer) {
    similarity.values.push_back(static_cast<float>(0.8 + 0.15 * std::sin(layer * 0.35) - 0.1 * Uniform(random)));
  }
  trace.arrays.push_back(similarity);
  return trace;
}

}  // namespace

Results FakeReplay(const FakeResultsOptions& options) {
  Results results =
      Sweep(options, [&](Results::Row& row, const std::string& policy, double fraction, const Run& run, uint64_t seed) {
        Random random(seed * 7919);
        row.figures.Set("mode", "replay");
        const double loss = LossOf(policy, fraction) * std::exp(0.15 * Normal(random));
        row.figures.Set("attention_loss", loss);
        row.figures.Set("output_error", loss * 1.4);
        NamedArray kept = Kept(options, policy, fraction, run, seed);
        NamedArray retention = RetentionFrom(kept, run);
        row.figures.Set("needle_retention", MeanOf(retention));
        row.figures.Set("needle_weight_ratio", 0.3 + 0.7 * MeanOf(retention));
        if (MeanOf(retention) < 1) row.figures.Set("needle_first_lost_step", 0.0);
        row.arrays = {std::move(kept), std::move(retention), PerHead(options, "attention_loss", [&](int layer, int) {
                        return loss * (1 + 0.5 * std::sin(layer));
                      })};
      });
  uint64_t seed = 100;
  for (const Run& run : Runs(options)) results.traces.push_back(FakeTrace(options, run, ++seed));
  Results::Row refused;
  SetCommon(refused.figures, options, "critical_kv", 0.5, Runs(options)[0]);
  refused.figures.Set("mode", "replay");
  refused.figures.Set("refused_reason", "needs the attention block's input, which this trace does not hold");
  results.rows.push_back(refused);
  results.commands = {
      "kvscope capture --model SmolLM2.gguf --task niah --context 2048 --depth 0,0.25,0.5,0.75,1 -o traces/out/",
      "kvscope replay run traces/out/*.kvtrace.h5 --policy full,random,... --keep-fraction 0.5,0.25 -o replay.h5"};
  return results;
}

Results FakeLive(const FakeResultsOptions& options) {
  Results results =
      Sweep(options, [&](Results::Row& row, const std::string& policy, double fraction, const Run& run, uint64_t seed) {
        Random random(seed * 104729);
        row.figures.Set("mode", "live");
        const double drift = LossOf(policy, fraction) * (1 + 0.3 * std::fabs(Normal(random)));
        row.figures.Set("kl", 12 * drift * drift + 0.3 * drift);
        row.figures.Set("top1_agreement", std::exp(-6 * drift));
        row.figures.Set("answer_nll", 0.03 + 22 * drift * std::exp(0.2 * Normal(random)));
        row.figures.Set("answer_rank", 1 + std::floor(400 * drift * drift * 4));
        row.figures.Set("answer_prefix", std::floor(5.99 * std::exp(-14 * drift)));
        row.figures.Set("metric", "contains");
        row.figures.Set("metric_value", std::floor(options.samples * std::exp(-12 * drift) + 0.4) / options.samples);
        row.figures.Set("n", options.samples);
        row.figures.Set("tokens_per_s", 90 + 60 * (1 - fraction) + 4 * Normal(random));
        row.figures.Set("ttft_s", 1.9);
        // Policies that decide at every step drift away from what replay kept.
        const bool steps = policy == "h2o" || policy == "tova" || policy == "adkvc";
        NamedArray kept = Kept(options, policy, fraction, run, seed);
        if (steps) {
          for (float& value : kept.values) value = Uniform(random) < 0.03 ? 1 - value : value;
        }
        NamedArray retention = RetentionFrom(kept, run);
        row.figures.Set("needle_retention", MeanOf(retention));
        row.arrays = {std::move(kept), std::move(retention)};
      });
  results.commands = {
      "kvscope replay live --model SmolLM2.gguf --task niah --context 2048 --policy full,random,... -o live.h5"};
  return results;
}

}  // namespace kvscope
