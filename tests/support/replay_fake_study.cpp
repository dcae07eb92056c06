// SPDX-License-Identifier: Apache-2.0
#include "tests/support/replay_fake_study.h"

#include <algorithm>
#include <cmath>
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

struct FakePolicy {
  double size = 0;   // own share of the bytes; 0: as asked
  double skill = 0;  // 0 knows nothing, 1 knows what matters
  double rounding = 0;
  const char* kind = "eviction";
};

// What a spec is worth; variants of adkvc get skills of their own.
FakePolicy PolicyOf(const std::string& spec) {
  static const std::map<std::string, FakePolicy> known = {{"full", {1, 1, 0, "baseline"}},
                                                          {"random", {0, 0, 0, "baseline"}},
                                                          {"recent_window", {0, 0.05, 0, "baseline"}},
                                                          {"int8", {0.516, 1, 0.0003, "quantization"}},
                                                          {"int4", {0.281, 1, 0.004, "quantization"}},
                                                          {"int2", {0.156, 1, 0.16, "quantization"}},
                                                          {"kivi_2", {0.194, 1, 0.03, "quantization"}},
                                                          {"kivi_4", {0.318, 1, 0.003, "quantization"}},
                                                          {"mikv", {0, 0.9, 0.02, "eviction+quantization"}},
                                                          {"h2o", {0, 0.4, 0}},
                                                          {"tova", {0, 0.9, 0}},
                                                          {"snapkv", {0, 0.7, 0}},
                                                          {"ada_kv", {0, 0.75, 0}},
                                                          {"pyramid_kv", {0, 0.66, 0}},
                                                          {"streaming_llm", {0, 0.15, 0}},
                                                          {"dynamic_kv", {0, 0.72, 0}},
                                                          {"fastkv", {0, 0.68, 0}},
                                                          {"snapkv@int4", {0, 0.93, 0.004, "eviction+quantization"}},
                                                          {"h2o@int4", {0, 0.85, 0.004, "eviction+quantization"}},
                                                          {"top_k_oracle", {0, 0.99, 0, "oracle"}}};
  if (const auto found = known.find(spec); found != known.end()) return found->second;
  FakePolicy policy{0, 0.92, 0.003, "eviction+quantization"};
  if (spec != "adkvc") policy.skill = 0.8 + 0.15 * std::sin(static_cast<double>(spec.size()) * 1.7);
  if (spec.find("half_life=") != std::string::npos) {
    policy.skill = 0.95 - 0.02 * std::log2(std::stod(spec.substr(spec.rfind('=') + 1)));
  }
  return policy;
}

struct Cell {
  std::string arm, trace, task = "niah", protocol = "prompt", mode = "live";
  double context = 2048, depth = 0.5;
  int sinks = 0, recent = 0;
};

double LossOf(const FakePolicy& policy, double fraction, const Cell& cell) {
  const double early = cell.protocol == "context" ? 0.25 : 0;  // the question is not known yet
  const double skill = std::max(0.0, policy.skill - (policy.skill < 1 ? early : 0));
  const double dropped = policy.size > 0 ? 0 : 1 - fraction;
  return policy.rounding + std::pow(1 - skill, 1.2) * dropped * dropped * 0.5 * std::sqrt(cell.context / 2048);
}

NamedArray PerHead(const char* name, int layers, int heads, Random& random, double mean, double wave) {
  NamedArray array{name, {"layer", heads == 3 ? "kv_head" : "head"}, {layers, heads}, {}};
  for (int layer = 0; layer < layers; ++layer) {
    for (int head = 0; head < heads; ++head) {
      array.values.push_back(static_cast<float>(
          std::max(0.0, mean * (1 + wave * std::sin(layer * 0.5 + head * 1.3) * (0.6 + 0.8 * Uniform(random))))));
    }
  }
  return array;
}

void AddNeedle(const FakeStudyOptions& options, const FakePolicy& policy, double fraction, Random& random,
               Results::Row& row) {
  const double kept = std::clamp(fraction + (1 - fraction) * (policy.skill - 0.15), 0.0, 1.0);
  NamedArray retention = PerHead("needle_retention", options.layers, options.kv_heads, random, kept, 0.3);
  NamedArray bits = retention;
  bits.name = "needle_bits";
  NamedArray rank{"needle_rank",
                  {"layer", "kv_head", "needle_token"},
                  {options.layers, options.kv_heads, options.needle_tokens},
                  {}};
  for (size_t i = 0; i < retention.values.size(); ++i) {
    retention.values[i] = std::min(retention.values[i], 1.0f);
    bits.values[i] = retention.values[i] * static_cast<float>(std::min(16.0, 16 * fraction + 2));
    for (int token = 0; token < options.needle_tokens; ++token) {
      rank.values.push_back(static_cast<float>(
          std::floor(2048 * std::min(1.0, (1.05 - retention.values[i]) * (0.2 + 0.8 * Uniform(random))))));
    }
  }
  row.figures.Set("needle_retention", kept);
  row.arrays = {std::move(retention), std::move(bits), std::move(rank)};
}

Results::Row RowOf(const FakeStudyOptions& options, const Cell& cell, const std::string& spec, double fraction,
                   uint64_t seed) {
  Random random(seed * 7919);
  const FakePolicy policy = PolicyOf(spec);
  Results::Row row;
  ResultRow& figures = row.figures;
  for (const auto& [column, text] : {std::pair{"trace", cell.trace},
                                     {"run_id", cell.trace},
                                     {"mode", cell.mode},
                                     {"task", cell.task},
                                     {"protocol", cell.protocol},
                                     {"policy", spec},
                                     {"class", std::string(policy.kind)},
                                     {"device", "cpu"},
                                     {"model", "made-up 135M"},
                                     {"parameters", StrCat("tracker=ema:half_life=64:window=32")}}) {
    figures.Set(column, std::string_view(text));
  }
  if (const size_t at = spec.find("half_life="); at != std::string::npos) {
    figures.Set("parameters", "tracker=ema:" + spec.substr(at));
  }
  const double kept = policy.size > 0 ? policy.size : fraction, full_bytes = cell.context * 23040;
  const double held =
      std::string(policy.kind) == "eviction+quantization" && spec.ends_with("@int4") ? std::min(kept, 0.29) : kept;
  if (policy.size == 0) figures.Set("keep_fraction_asked", fraction);
  const double loss = LossOf(policy, fraction, cell) * std::exp(0.4 * Normal(random));
  for (const auto& [column, value] :
       {std::pair{"context", cell.context},
        {"seed", 0.0},
        {"guard_sinks", double(cell.sinks)},
        {"guard_recent", double(cell.recent)},
        {"kept_fraction", held},
        {"full_bytes", full_bytes},
        {"kept_bytes_prefill", full_bytes * held},
        {"kept_bytes_mean", full_bytes * held * 1.004},
        {"kept_tokens", std::floor(cell.context * (policy.size > 0 ? 1 : std::min(1.0, fraction * 2)))}}) {
    figures.Set(column, value);
  }
  if (cell.mode == "replay") {
    figures.Set("attention_loss", loss * 0.4 * (policy.size > 0 ? 0.01 : 1) + (policy.size < 1 ? 1e-6 : 0));
    figures.Set("output_error", loss * 0.7 + (policy.size < 1 ? 1e-5 : 0));
    return row;
  }
  figures.Set("kl", 4 * loss * loss + 0.3 * loss);
  if (cell.task == "text") {
    figures.Set("perplexity", (cell.trace[0] == 'k' ? 9.2 : 24.0) * std::exp(2.2 * loss));
    figures.Set("top1_agreement", std::exp(-3 * loss));
    return row;
  }
  figures.Set("depth", cell.depth);
  const double nll = 0.03 + 9 * loss;
  figures.Set("answer_nll", nll);
  figures.Set("answer_rank", 1 + std::floor(nll));
  figures.Set("answer_prefix", std::floor(5.99 * std::exp(-0.8 * nll)));
  figures.Set("metric_value", nll < 0.35 ? 1.0 : 0.0);
  figures.Set("n", 1.0);
  if (cell.arm == "ablation") figures.Set("tokens_per_s", 31 + 3 * Normal(random));
  if (policy.size == 0) AddNeedle(options, policy, fraction, random, row);
  return row;
}

struct Arm {
  StudyArm arm;
  uint64_t seed = 1;
  void Add(const FakeStudyOptions& options, const Cell& cell, const std::vector<std::string>& specs,
           const std::vector<double>& fractions) {
    for (const std::string& spec : specs) {
      const bool is_fixed = PolicyOf(spec).size > 0;
      for (const double fraction : is_fixed ? std::vector<double>{1} : fractions)
        arm.results.rows.push_back(RowOf(options, cell, spec, fraction, ++seed));
    }
  }
};

const std::vector<std::string> kAll{"full",     "random",     "recent_window", "int8",   "int4",       "int2",
                                    "h2o",      "tova",       "snapkv",        "ada_kv", "pyramid_kv", "streaming_llm",
                                    "fastkv",   "dynamic_kv", "kivi_2",        "kivi_4", "mikv",       "snapkv@int4",
                                    "h2o@int4", "adkvc",      "top_k_oracle"};
const std::vector<std::string> kFew{"full", "adkvc", "h2o", "snapkv", "snapkv@int4", "int4", "random"};
const std::vector<std::string> kVariants{"adkvc",
                                         "adkvc:tracker=max",
                                         "adkvc:tracker=mean",
                                         "adkvc:half_life=1",
                                         "adkvc:half_life=8",
                                         "adkvc:half_life=32",
                                         "adkvc:half_life=256",
                                         "adkvc:half_life=1024",
                                         "adkvc/block=32",
                                         "adkvc:scope=kv_head",
                                         "adkvc:ladder=16-4",
                                         "adkvc:ladder=8-4-2",
                                         "adkvc+uniform",
                                         "adkvc+quantile",
                                         "adkvc+thresholds:theta_high=0.01:theta_low=0.001",
                                         "adkvc+thresholds:theta_high=0.003:theta_low=0.0003",
                                         "adkvc:drop=last",
                                         "adkvc:power=2",
                                         "adkvc:every=1",
                                         "adkvc:prefill_chunk=512:every=64",
                                         "adkvc@mixed:balance=key",
                                         "adkvc@mixed:source=original",
                                         "full",
                                         "tova",
                                         "snapkv",
                                         "observed_attention",
                                         "h2o"};

void AddNeedles(Arm& arm, const FakeStudyOptions& options, Cell cell, const std::vector<std::string>& specs,
                const std::vector<double>& fractions, int needles) {
  for (int needle = 0; needle < needles; ++needle) {
    cell.depth = 0.25 * (needle % 5);
    cell.trace = StrCat("niah_c", cell.context, "_d", 25 * (needle % 5), "_r", needle / 5);
    arm.seed = static_cast<uint64_t>(needle) * 100003 + static_cast<uint64_t>(cell.context) +
               (cell.protocol == "context" ? 7 : 0) + (cell.mode == "replay" ? 3 : 0) +
               static_cast<uint64_t>(cell.sinks);
    arm.Add(options, cell, specs, fractions);
  }
}

StudyArm MainArm(const FakeStudyOptions& options) {
  Arm main{{"main", "Which policy still answers, at equal bytes?", {}, 0, 40}};
  const std::vector<double> fractions = options.is_whole ? std::vector{0.75, 0.5, 0.25, 0.1} : std::vector{0.5, 0.25};
  for (const std::string protocol : {"context", "prompt"}) {
    if (!options.is_whole && protocol == "context") continue;
    Cell cell{.arm = "main", .trace = "", .protocol = protocol};
    AddNeedles(main, options, cell, kAll, fractions, options.needles);
    if (options.is_whole) {
      Cell guarded = cell;
      guarded.sinks = 4;
      guarded.recent = 64;
      AddNeedles(main, options, guarded, {"random", "recent_window", "adkvc"}, fractions, options.needles);
    }
    cell.mode = "replay";
    AddNeedles(main, options, cell, kAll, fractions, std::min(5, options.needles));
    main.arm.prompts_done += options.needles;
  }
  Random random(5);
  for (int needle = 0; needle < std::min(5, options.needles); ++needle) {
    Results::Trace trace;
    trace.run_id = StrCat("niah_c2048_d", 25 * needle, "_r0");
    double mean = 0.6;
    for (const char* name : {"sum", "last32", "ema64"}) {
      trace.arrays.push_back(PerHead("", options.layers, options.heads, random, mean, 0.35));
      trace.arrays.back().name = StrCat("needle_auc_", name);
      trace.arrays.push_back(PerHead("", options.layers, options.heads, random, 0.48, 0.25));
      trace.arrays.back().name = StrCat("needle_auc_", name, "_before_question");
      mean += 0.07;
    }
    for (NamedArray& array : trace.arrays) {
      for (float& value : array.values) value = std::min(value, 1.0f);
    }
    main.arm.results.traces.push_back(std::move(trace));
  }
  return main.arm;
}

StudyArm SmallArm(const FakeStudyOptions& options, const std::string& name, const std::vector<double>& contexts,
                  const std::vector<double>& fractions) {
  Arm arm{{name, "Does it hold elsewhere?", {}, 0, 30}};
  for (const double context : contexts) {
    AddNeedles(arm, options, {.arm = name, .trace = "", .context = context}, kFew, fractions, options.needles / 2);
    arm.arm.prompts_done += options.needles / 2;
  }
  return arm.arm;
}

StudyArm PerplexityArm(const FakeStudyOptions& options) {
  Arm arm{{"perplexity", "What does it cost in perplexity?", {}, 4, 4}};
  for (const double context : {2048, 4096}) {
    for (const char* text : {"kjv", "austen"}) {
      Cell cell{"perplexity", StrCat(text, "_text_c", context), "text", "context", "live", context, 0, 0, 0};
      arm.Add(options, cell, kFew, {0.5, 0.25});
    }
  }
  return arm.arm;
}

StudyArm AblationArm(const FakeStudyOptions& options) {
  Arm arm{{"ablation", "Which part of the method does it?", {}, 10, 10}};
  Cell cell{.arm = "ablation", .trace = ""};
  AddNeedles(arm, options, cell, kVariants, {0.5, 0.25}, options.needles / 2);
  cell.sinks = 4;
  cell.recent = 64;
  AddNeedles(arm, options, cell, {"adkvc"}, {0.5, 0.25}, options.needles / 2);
  cell = {.arm = "ablation", .trace = "", .mode = "replay"};
  AddNeedles(arm, options, cell, {"adkvc", "adkvc:oracle=relevance"}, {0.5, 0.25}, 1);
  return arm.arm;
}

}  // namespace

Study FakeStudy(const FakeStudyOptions& options) {
  Study study;
  study.method = "adkvc";
  study.command = "kvscope replay study adkvc --model made-up.gguf";
  study.machine = "2 cores of a made-up machine";
  study.hours = 7.25;
  study.arms.push_back(MainArm(options));
  if (!options.is_whole) return study;
  study.arms.push_back(PerplexityArm(options));
  study.arms.push_back(AblationArm(options));
  study.arms.push_back(SmallArm(options, "fractions", {2048}, {0.9, 0.33, 0.167}));
  study.arms.push_back(SmallArm(options, "doors", {2048}, {0.5, 0.25}));
  study.arms.push_back(SmallArm(options, "length", {1024, 4096}, {0.5, 0.25}));
  return study;
}

}  // namespace kvscope
