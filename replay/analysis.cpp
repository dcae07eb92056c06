// SPDX-License-Identifier: Apache-2.0
#include "replay/analysis.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "replay/engine.h"

namespace kvscope {
namespace {

using Kind = StatisticSpec::Kind;

constexpr int kWindow = 32;       // rows of the short statistic
constexpr double kHalfLife = 64;  // queries
constexpr int kSampledRows = 64;  // for mass by distance
constexpr int kSinkTokens = 4;
constexpr double kLogLow = -8, kLogWidth = 0.25;
constexpr int kLogBins = 32;

NamedArray PerHead(const std::string& name, const ModelShape& shape, const std::vector<float>& values) {
  return {name, {"layer", "head"}, {shape.num_layers, shape.num_heads}, values};
}

std::string Numbers(const std::vector<int>& numbers) {
  std::string text;
  for (const int number : numbers) {
    if (!text.empty()) text += ',';
    text += std::to_string(number);
  }
  return text;
}

// Bin 0: the token itself; bin b: distances 2^(b-1) .. 2^b - 1.
size_t BinOfDistance(int distance) {
  return std::bit_width(static_cast<unsigned>(distance));
}

}  // namespace

double NeedleAuc(std::span<const float> values, std::span<const int> needle_tokens) {
  const double num_needle = static_cast<double>(needle_tokens.size());
  const double num_rest = static_cast<double>(values.size()) - num_needle;
  if (num_needle == 0 || num_rest <= 0) return 0.5;
  double wins = 0;
  for (const int token : needle_tokens) {
    const float value = values[token];
    int lower = 0, equal = 0;
    for (const float other : values) lower += other < value, equal += other == value;
    for (const int other : needle_tokens) lower -= values[other] < value, equal -= values[other] == value;
    wins += lower + 0.5 * equal;
  }
  return wins / (num_needle * num_rest);
}

std::vector<int> NeedleTokens(const TraceInfo& info, int end) {
  std::vector<int> tokens;
  for (const Span& span : info.spans) {
    if (span.kind != "needle") continue;
    for (int token = std::max(0, span.token_begin); token < std::min(span.token_end, end); ++token) {
      tokens.push_back(token);
    }
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

Analysis::Analysis(const TraceSource& source)
    : source_(source), shape_(ShapeOf(source.info())), row_end_(source.info().prompt_tokens) {
  const int marked = DecisionToken(source.info(), Protocol::kContext);
  context_end_ = marked >= 1 && marked < row_end_ ? marked : row_end_;
  needle_ = NeedleTokens(source.info(), context_end_);
  statistics_ = {{"sum", {.kind = Kind::kSum}, true, {}, {}},
                 {"last32", {.kind = Kind::kSum, .last_rows = kWindow}, false, {}, {}},
                 {"ema64", {.kind = Kind::kGeometric, .min_distance = 1, .half_life = kHalfLife}, true, {}, {}},
                 {"max", {.kind = Kind::kMax, .min_distance = 1}, true, {}, {}}};
  const bool has_window = WhyRowsAreMissing(source, std::max(0, context_end_ - kWindow), row_end_).empty();
  const bool has_all = has_window && WhyRowsAreMissing(source, 0, row_end_).empty();
  std::erase_if(statistics_, [&](const Statistic& statistic) {
    return statistic.needs_all_rows ? !has_all || needle_.empty() : !has_window;
  });
  histogram_needle_.assign(kLogBins, 0.0);
  histogram_rest_.assign(kLogBins, 0.0);
  rows_.resize(static_cast<size_t>(shape_.num_layers) * shape_.num_heads);
}

void Analysis::AddEvidence(Evidence& evidence) {
  for (const Statistic& statistic : statistics_) {
    evidence.Add(statistic.spec, row_end_);
    if (context_end_ < row_end_) evidence.Add(statistic.spec, context_end_);
  }
  std::vector<int> tokens;
  const int count = std::min(kSampledRows, row_end_);
  for (int i = 1; i <= count; ++i) tokens.push_back(static_cast<int>(int64_t{row_end_} * i / count) - 1);
  evidence.SampleRows(tokens, [this](int layer_index, int head, int query_token, std::span<const float> weights) {
    SeeRow(layer_index, head, query_token, weights);
  });
}

void Analysis::SeeRow(int layer_index, int head, int query_token, std::span<const float> weights) {
  RowSums& sums = rows_[static_cast<size_t>(layer_index) * shape_.num_heads + head];
  const size_t num_bins = BinOfDistance(query_token) + 1;
  if (sums.mass_from_bin.size() < num_bins) sums.mass_from_bin.resize(num_bins);
  double total = 0;
  int end = query_token + 1;  // tokens of bin b are [query - 2^b + 1, end)
  for (size_t bin = 0; bin < num_bins; ++bin) {
    const int begin = std::max<int>(0, query_token - (1 << bin) + 1);
    double mass = 0;
    for (int token = begin; token < end; ++token) mass += weights[token];
    sums.mass_from_bin[bin] += mass;
    total += mass;
    end = begin;
  }
  if (!std::isfinite(total)) {
    throw Error(StrCat("layer ", source_.info().layers[layer_index].layer, ", token ", query_token,
                       ": expected finite weights, found ", total, "; the trace is damaged, see kvscope verify"));
  }
  for (int token = 0; token < std::min(kSinkTokens, query_token + 1); ++token) sums.sink += weights[token];
  ++sums.rows;
}

void Analysis::CountRelevance(const LayerEvidence& layer) {
  const auto window =
      std::find_if(statistics_.begin(), statistics_.end(), [](const auto& s) { return s.name == "last32"; });
  if (window == statistics_.end()) return;
  std::vector<float> relevance(row_end_);
  for (int head = 0; head < shape_.num_heads; ++head) {
    const std::span<const float> sums = layer.Statistic(window->spec, head, row_end_);
    for (int token = 0; token < row_end_; ++token) relevance[token] += sums[token];
    if (needle_.empty()) continue;
    size_t next_needle = 0;
    for (int token = 0; token < context_end_; ++token) {
      const bool is_needle = next_needle < needle_.size() && needle_[next_needle] == token;
      next_needle += is_needle;
      const double log = std::log10(std::max<double>(sums[token] / kWindow, 1e-30));
      const int bin = std::clamp(static_cast<int>(std::floor((log - kLogLow) / kLogWidth)), 0, kLogBins - 1);
      (is_needle ? histogram_needle_ : histogram_rest_)[bin] += 1;
    }
  }
  if (layer.layer_index > 0) {
    double dot = 0, a = 0, b = 0;
    for (int token = 0; token < row_end_; ++token) {
      dot += double{relevance[token]} * previous_relevance_[token];
      a += double{relevance[token]} * relevance[token];
      b += double{previous_relevance_[token]} * previous_relevance_[token];
    }
    similarity_.push_back(static_cast<float>(a > 0 && b > 0 ? dot / std::sqrt(a * b) : 0));
  }
  previous_relevance_ = std::move(relevance);
}

void Analysis::SeeLayer(const LayerEvidence& layer) {
  for (Statistic& statistic : statistics_) {
    for (int head = 0; !needle_.empty() && head < shape_.num_heads; ++head) {
      const auto after = layer.Statistic(statistic.spec, head, row_end_);
      statistic.auc.push_back(static_cast<float>(NeedleAuc(after.first(context_end_), needle_)));
      if (context_end_ == row_end_) continue;
      const auto before = layer.Statistic(statistic.spec, head, context_end_);
      statistic.auc_before.push_back(static_cast<float>(NeedleAuc(before, needle_)));
    }
  }
  CountRelevance(layer);
}

void Analysis::SeeNeedleWeights(const PlanMetrics& metrics) {
  if (!metrics.has_needle || metrics.num_answer_queries == 0) return;
  for (const LayerMetrics& layer : metrics.layers) {
    for (const double weight : layer.full_needle_weight_head) {
      needle_weight_.push_back(static_cast<float>(weight / metrics.num_answer_queries));
    }
  }
}

Results::Trace Analysis::Finish(const std::string& path) const {
  const TraceInfo& info = source_.info();
  Results::Trace trace{info.run_id, path, {}, {}};
  trace.attributes = {{"prompt_tokens", std::to_string(info.prompt_tokens)},
                      {"layers", std::to_string(shape_.num_layers)},
                      {"heads", std::to_string(shape_.num_heads)},
                      {"kv_heads", std::to_string(shape_.num_kv_heads)},
                      {"head_numbers", Numbers(info.layers[0].heads)},
                      {"kv_head_numbers", Numbers(info.layers[0].kv_heads)},
                      {"model", info.model.name},
                      {"task", info.task.name},
                      {"sink_tokens", std::to_string(kSinkTokens)}};
  std::vector<int> layers;
  for (const LayerInfo& layer : info.layers) layers.push_back(layer.layer);
  trace.attributes["layer_numbers"] = Numbers(layers);
  if (!needle_.empty()) {
    trace.attributes["needle_begin"] = std::to_string(needle_.front());
    trace.attributes["needle_end"] = std::to_string(needle_.back() + 1);
  }
  if (!needle_weight_.empty()) trace.arrays.push_back(PerHead("needle_weight", shape_, needle_weight_));
  for (const Statistic& statistic : statistics_) {
    if (statistic.auc.empty()) continue;
    trace.arrays.push_back(PerHead("needle_auc_" + statistic.name, shape_, statistic.auc));
    if (statistic.auc_before.empty()) continue;
    trace.arrays.push_back(PerHead("needle_auc_" + statistic.name + "_before_question", shape_, statistic.auc_before));
  }
  if (!needle_.empty() && !previous_relevance_.empty()) {
    for (const auto& [name, counts] :
         {std::pair{"relevance_needle", &histogram_needle_}, {"relevance_rest", &histogram_rest_}}) {
      trace.arrays.push_back({name, {"bin"}, {kLogBins}, {counts->begin(), counts->end()}});
    }
    trace.attributes["relevance_log10_low"] = StrCat(kLogLow);
    trace.attributes["relevance_log10_width"] = StrCat(kLogWidth);
    trace.attributes["relevance_statistic"] = StrCat("mean weight of the prompt's last ", kWindow, " rows");
  }
  size_t num_bins = 0;
  for (const RowSums& sums : rows_) num_bins = std::max(num_bins, sums.mass_from_bin.size());
  NamedArray mass{"mass_by_distance", {"layer", "bin"}, {shape_.num_layers, static_cast<int64_t>(num_bins)}, {}};
  std::vector<float> sink;
  mass.values.assign(shape_.num_layers * num_bins, 0.0f);
  for (size_t i = 0; i < rows_.size(); ++i) {
    const double rows = std::max(1, rows_[i].rows);
    sink.push_back(static_cast<float>(rows_[i].sink / rows));
    for (size_t bin = 0; bin < rows_[i].mass_from_bin.size(); ++bin) {
      mass.values[i / shape_.num_heads * num_bins + bin] +=
          static_cast<float>(rows_[i].mass_from_bin[bin] / rows / shape_.num_heads);
    }
  }
  if (num_bins > 0) {
    trace.arrays.push_back(std::move(mass));
    trace.arrays.push_back(PerHead("sink_mass", shape_, sink));
  }
  if (!similarity_.empty()) {
    trace.arrays.push_back({"adjacent_similarity", {"layer"}, {shape_.num_layers - 1}, similarity_});
  }
  return trace;
}

}  // namespace kvscope
