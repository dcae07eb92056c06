// SPDX-License-Identifier: Apache-2.0
#include "capture/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>

#include "capture/column_accumulator.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kTopAlternatives = 8;
constexpr int kLogitRows = 64;    // rows of logits held at once
constexpr int kColumnSteps = 64;  // between two times that the column statistics go to the sink

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

std::vector<int> AllOr(const std::vector<int>& chosen, int count, const char* what) {
  std::vector<int> all(count);
  std::iota(all.begin(), all.end(), 0);
  if (chosen.empty()) return all;
  std::vector<int> sorted = chosen;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  if (sorted.front() < 0 || sorted.back() >= count) {
    throw Error(StrCat("--", what, ": expected numbers from 0 to ", count - 1, ", found ",
                       sorted.front() < 0 ? sorted.front() : sorted.back()));
  }
  return sorted;
}

// The rows of an array [all heads, row_elements] that belong to the stored heads.
Buffer SelectHeads(const Buffer& from, const std::vector<int>& heads, int num_heads) {
  const size_t row = from.size() / num_heads;
  Buffer to(from.dtype(), row * heads.size());
  for (size_t i = 0; i < heads.size(); ++i)
    std::memcpy(to.At(i * row), from.At(heads[i] * row), row * ElementBytes(from.dtype()));
  return to;
}

// Takes a layer's chunk to the sink, cut down to what is recorded.
class ChunkRecorder {
 public:
  ChunkRecorder(const TraceInfo& info, const FullCache& cache, RunSink* sink)
      : info_(info), cache_(cache), sink_(sink), layer_index_(info.model.num_layers, -1) {
    for (size_t i = 0; i < info.layers.size(); ++i) layer_index_[info.layers[i].layer] = static_cast<int>(i);
    if (!sink || info.level != TraceLevel::kRelevance) return;
    for (const LayerInfo& layer : info.layers) columns_.emplace_back(layer);
  }

  LayerObserver Observer(bool is_step) {
    if (!sink_) return {};
    return [this, is_step](int layer, LayerChunk& chunk, const float* q) { Record(layer, chunk, q, is_step); };
  }

  // Level relevance: the statistics of all rows so far.
  void SendColumns() {
    for (size_t i = 0; i < columns_.size(); ++i)
      sink_->SetColumnStatistics(static_cast<int>(i), columns_[i].statistics());
  }

 private:
  void Record(int layer, LayerChunk& chunk, const float* q, bool is_step) {
    const int index = layer_index_[layer];
    if (index < 0) return;
    const LayerInfo& info = info_.layers[index];
    // The cache's count covers finished layers: all but the last still have this chunk to come.
    const int first_token = next_token_;
    const bool is_whole = static_cast<int>(info.heads.size()) == info.num_heads;
    if (is_step && sink_->wants_rows()) {
      std::vector<Half> weights(static_cast<size_t>(info.num_heads) * (first_token + 1));
      cache_.WeightRows(layer, q, chunk.lse.data(), weights);
      if (!is_whole) {
        std::vector<Half> some;
        for (const int head : info.heads)
          some.insert(some.end(), weights.begin() + static_cast<int64_t>(head) * (first_token + 1),
                      weights.begin() + static_cast<int64_t>(head + 1) * (first_token + 1));
        weights = std::move(some);
      }
      sink_->AppendRows(index, first_token, std::move(weights));
    }
    if (!columns_.empty()) columns_[index].Add(chunk, first_token, cache_);
    if (!sink_->wants_vectors()) return;
    if (!is_whole) {
      LayerChunk some;
      some.num_tokens = chunk.num_tokens;
      some.q = SelectHeads(chunk.q, info.heads, info.num_heads);
      some.k = SelectHeads(chunk.k, info.kv_heads, info.num_kv_heads);
      some.v = SelectHeads(chunk.v, info.kv_heads, info.num_kv_heads);
      for (const int head : info.heads)
        some.lse.insert(some.lse.end(), chunk.lse.begin() + static_cast<int64_t>(head) * chunk.num_tokens,
                        chunk.lse.begin() + static_cast<int64_t>(head + 1) * chunk.num_tokens);
      chunk = std::move(some);
    }
    sink_->AppendChunk(index, first_token, std::move(chunk));
  }

 public:
  int next_token_ = 0;  // absolute token of the chunk being run

 private:
  const TraceInfo& info_;
  const FullCache& cache_;
  RunSink* sink_;
  std::vector<int> layer_index_;
  std::vector<ColumnAccumulator> columns_;  // [recorded layer] at level relevance
};

StepInfo MakeStep(std::span<const float> logits, int64_t time_ns) {
  StepInfo step;
  step.time_ns = time_ns;
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [&](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  const int count = std::min<int>(kTopAlternatives, static_cast<int>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), better);
  const double lse = LogSumExp(logits);
  for (int i = 0; i < count; ++i) {
    step.top_ids.push_back(order[i]);
    step.top_logprobs.push_back(static_cast<float>(logits[order[i]] - lse));
  }
  step.sampled_id = order[0];
  return step;
}

}  // namespace

TraceInfo MakeTraceInfo(const Model& model, const std::string& model_sha256, const Prompt& prompt,
                        const RunOptions& options) {
  const ModelConfig& c = model.config;
  TraceInfo info;
  std::random_device random;
  char run_id[33];
  std::snprintf(run_id, sizeof run_id, "%08x%08x%08x%08x", random(), random(), random(), random());
  info.run_id = run_id;
  info.created_utc = UtcNow();
  info.generator = "kvscope-capture " KVSCOPE_VERSION;
  info.level = options.level;
  if (options.level == TraceLevel::kRelevance && options.query_rows != "all") {
    throw Error(StrCat("--query-rows ", options.query_rows, ": level relevance counts all rows; leave the option out"));
  }
  info.model.name = c.name;
  info.model.architecture = c.architecture.name;
  info.model.num_layers = c.num_layers;
  info.model.vocab = c.vocab;
  info.model.file_sha256 = model_sha256;
  info.model.norm_epsilon = c.rms_epsilon;
  info.model.backend = "cpu";
  info.model.device = CpuName();
  info.model.engine_flags = StrCat("march=", KVSCOPE_MARCH_NAME, " prefill_chunk=", options.prefill_chunk);
  info.model.kv_dtype = options.kv_dtype;
  info.model.prefill_chunk = options.prefill_chunk;
  info.model.query_rows = options.query_rows;
  info.rope_sets.push_back({"default", c.rope_inv_freq, 1.0});
  const std::vector<int> kv_heads = AllOr(options.kv_heads, c.num_kv_heads, "kv-heads");
  for (const int layer : AllOr(options.layers, c.num_layers, "layers")) {
    LayerInfo l;
    l.layer = layer;
    l.num_heads = c.num_heads;
    l.num_kv_heads = c.num_kv_heads;
    l.head_dim_k = l.head_dim_v = c.head_dim;
    l.scale = c.Scale();
    l.kv_heads = kv_heads;
    for (const int kv_head : kv_heads) {
      for (int i = 0; i < l.HeadsPerKvHead(); ++i) l.heads.push_back(kv_head * l.HeadsPerKvHead() + i);
    }
    info.layers.push_back(std::move(l));
  }
  info.segments = prompt.segments;
  info.spans = prompt.spans;
  info.task = prompt.task;
  info.prompt_tokens = static_cast<int>(prompt.ids.size());
  return info;
}

TraceTokens TokensFromIds(const Tokenizer& tokenizer, std::span<const int> ids, int first_position) {
  TraceTokens tokens;
  for (size_t i = 0; i < ids.size(); ++i) {
    tokens.ids.push_back(ids[i]);
    tokens.positions.push_back(first_position + static_cast<int>(i));
    tokens.pieces.emplace_back(tokenizer.Piece(ids[i]));
    tokens.logprobs.push_back(std::numeric_limits<float>::quiet_NaN());
  }
  return tokens;
}

std::vector<int> ChunkEnds(int begin, int end, int chunk, const std::vector<Segment>& segments) {
  std::vector<int> borders{end};
  for (const Segment& segment : segments) {
    for (const int border : {segment.token_begin, segment.token_end}) {
      if (border > begin && border < end) borders.push_back(border);
    }
  }
  std::sort(borders.begin(), borders.end());
  borders.erase(std::unique(borders.begin(), borders.end()), borders.end());
  std::vector<int> ends;
  for (const int border : borders) {
    for (int at = begin + chunk; at < border; at += chunk) ends.push_back(at);
    ends.push_back(border);
    begin = border;
  }
  return ends;
}

std::vector<float> Prefill(Decoder& decoder, KvCache& cache, std::span<const int> ids, int end, int chunk,
                           const std::vector<Segment>& segments, const LayerObserver& observer,
                           const HiddenObserver& on_hidden, const ResidualObserver& on_residual) {
  const size_t width = decoder.model().config.hidden;
  std::vector<float> last;
  int begin = cache.num_tokens();
  for (const int chunk_end : ChunkEnds(begin, end, chunk, segments)) {
    const DecoderInput input{&cache, ids.subspan(begin, chunk_end - begin), observer, on_residual};
    const std::span<const float> hidden = decoder.Run({&input, 1});
    if (on_hidden) on_hidden(begin, hidden);
    last.assign(hidden.end() - static_cast<int64_t>(width), hidden.end());
    begin = chunk_end;
  }
  return last;
}

RunOutcome RunPrompt(Decoder& decoder, const Tokenizer& tokenizer, const Prompt& prompt, const RunOptions& options,
                     const TraceInfo& info, FullCache& cache, RunSink* sink) {
  const ModelConfig& c = decoder.model().config;
  const int prompt_tokens = static_cast<int>(prompt.ids.size());
  const bool is_forced = !prompt.forced_ids.empty();
  const int max_steps = is_forced ? static_cast<int>(prompt.forced_ids.size()) : prompt.max_new;
  const auto begin = std::chrono::steady_clock::now();
  RunOutcome outcome;
  outcome.prompt_tokens = prompt_tokens;
  ChunkRecorder recorder(info, cache, sink);
  if (sink) sink->AppendTokens(TokensFromIds(tokenizer, prompt.ids, 0));

  const auto observe_hidden = [&](int first_token, std::span<const float> hidden) {
    const int rows = static_cast<int>(hidden.size() / c.hidden);
    recorder.next_token_ = first_token + rows;
    if (options.progress) options.progress(first_token + rows, prompt_tokens + max_steps);
    if (!options.logprobs || !sink) return;
    std::vector<float> logprobs, logits;
    for (int row = 0; row < rows; row += kLogitRows) {
      const int count = std::min(kLogitRows, rows - row);
      logits.resize(static_cast<size_t>(count) * c.vocab);
      decoder.Logits(hidden.subspan(static_cast<size_t>(row) * c.hidden, static_cast<size_t>(count) * c.hidden), count,
                     logits);
      for (int i = 0; i < count && first_token + row + i + 1 < prompt_tokens; ++i) {
        const std::span<const float> one(&logits[static_cast<size_t>(i) * c.vocab], c.vocab);
        logprobs.push_back(static_cast<float>(one[prompt.ids[first_token + row + i + 1]] - LogSumExp(one)));
      }
    }
    if (!logprobs.empty()) sink->SetLogprobs(first_token + 1, std::move(logprobs));
  };
  std::vector<float> logits(c.vocab);
  decoder.Logits(Prefill(decoder, cache, prompt.ids, prompt_tokens, options.prefill_chunk, info.segments,
                         recorder.Observer(/*is_step=*/false), observe_hidden),
                 1, logits);
  recorder.SendColumns();
  outcome.prefill_secs = SecondsSince(begin);

  const auto decode_begin = std::chrono::steady_clock::now();
  double nll = 0;
  for (int step = 0; step < max_steps; ++step) {
    StepInfo info_of_step =
        MakeStep(logits, std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
    const int id = is_forced ? prompt.forced_ids[step] : info_of_step.sampled_id;
    const auto logprob = static_cast<float>(logits[id] - LogSumExp(logits));
    nll -= logprob;
    if (!is_forced && tokenizer.IsEnd(id)) break;
    if (sink) {
      TraceTokens token = TokensFromIds(tokenizer, {&id, 1}, prompt_tokens + step);
      token.logprobs[0] = logprob;
      sink->AppendTokens(std::move(token));
    }
    recorder.next_token_ = prompt_tokens + step;
    const DecoderInput input{&cache, {&id, 1}, recorder.Observer(/*is_step=*/true)};
    const std::span<const float> hidden = decoder.Run({&input, 1});
    decoder.Logits(hidden, 1, logits);
    if (sink) sink->AppendStep(std::move(info_of_step));
    outcome.answer_ids.push_back(id);
    if ((step + 1) % kColumnSteps == 0) recorder.SendColumns();
    if (options.progress) options.progress(prompt_tokens + step + 1, prompt_tokens + max_steps);
  }
  if (outcome.answer_ids.size() % kColumnSteps != 0) recorder.SendColumns();
  outcome.decode_secs = SecondsSince(decode_begin);
  outcome.steps = static_cast<int>(outcome.answer_ids.size());
  outcome.mean_nll = is_forced ? nll / outcome.steps : std::nan("");
  outcome.score = std::nan("");
  if (is_forced || !sink) {
    if (!is_forced)
      outcome.answer = tokenizer.Decode(outcome.answer_ids), outcome.score = ScoreAnswer(prompt.task, outcome.answer);
    return outcome;
  }
  outcome.answer = tokenizer.Decode(outcome.answer_ids);
  outcome.score = ScoreAnswer(prompt.task, outcome.answer);
  std::vector<Segment> segments = info.segments;
  std::vector<Span> spans = info.spans;
  if (outcome.steps > 0) {
    segments.push_back(
        {"answer", segments.empty() ? 0 : segments.back().turn, prompt_tokens, prompt_tokens + outcome.steps, false});
    spans.push_back({"answer", prompt_tokens, prompt_tokens + outcome.steps, outcome.answer});
  }
  sink->SetSegments(std::move(segments), std::move(spans));
  sink->SetAnswer({outcome.answer, outcome.score});
  return outcome;
}

}  // namespace kvscope
