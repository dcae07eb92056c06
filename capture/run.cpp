// SPDX-License-Identifier: Apache-2.0
#include "capture/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <limits>
#include <numeric>
#include <random>

#include "capture/cpu_engine.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kTopAlternatives = 8;
constexpr int kColumnSteps = 64;  // at least, between two times that column statistics go to the sink

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

StepInfo MakeStep(Alternatives best, int64_t time_ns) {
  StepInfo step;
  step.time_ns = time_ns;
  step.sampled_id = best.ids[0];
  step.top_ids = std::move(best.ids);
  step.top_logprobs = std::move(best.logprobs);
  return step;
}

}  // namespace

TraceInfo MakeTraceInfo(const ModelConfig& c, const EngineInfo& engine, const std::string& model_sha256,
                        const Prompt& prompt, const RunOptions& options) {
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
  info.model.backend = engine.backend;
  info.model.device = engine.device;
  info.model.engine_flags = StrCat(engine.flags, " prefill_chunk=", options.prefill_chunk);
  info.model.kv_dtype = options.kv_dtype;
  info.model.prefill_chunk = options.prefill_chunk;
  info.model.query_rows = options.query_rows;
  info.rope_sets = c.rope_sets;
  const std::vector<int> kv_heads = AllOr(options.kv_heads, c.num_kv_heads, "kv-heads");
  for (const int layer : AllOr(options.layers, c.num_layers, "layers")) {
    LayerInfo l;
    l.layer = layer;
    l.num_heads = c.num_heads;
    l.num_kv_heads = c.num_kv_heads;
    l.head_dim_k = l.head_dim_v = c.head_dim;
    const LayerConfig& own = c.layers[layer];
    l.kind = own.attention.window > 0 ? "window" : "full";
    l.window = own.attention.window;
    l.scale = own.attention.scale;
    l.softcap = own.attention.softcap;
    l.rope_set = c.rope_sets[own.rope_set].name;
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

TraceInfo MakeTraceInfo(const Model& model, const std::string& model_sha256, const Prompt& prompt,
                        const RunOptions& options) {
  return MakeTraceInfo(model.config, CpuEngineInfo(), model_sha256, prompt, options);
}

int LongestRun(std::span<const Prompt> prompts) {
  size_t longest = 0;
  for (const Prompt& prompt : prompts)
    longest = std::max(longest, prompt.ids.size() + std::max<size_t>(prompt.forced_ids.size(), prompt.max_new));
  return static_cast<int>(longest);
}

TraceTokens TokensFromIds(const Tokenizer* tokenizer, std::span<const int> ids, int first_position) {
  TraceTokens tokens;
  for (size_t i = 0; i < ids.size(); ++i) {
    tokens.ids.push_back(ids[i]);
    tokens.positions.push_back(first_position + static_cast<int>(i));
    tokens.pieces.emplace_back(tokenizer ? std::string(tokenizer->Piece(ids[i])) : StrCat("<", ids[i], ">"));
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

RunOutcome RunPrompt(Engine& engine, const Tokenizer* tokenizer, const Prompt& prompt, const RunOptions& options,
                     const TraceInfo& info, RunSink* sink) {
  const int prompt_tokens = static_cast<int>(prompt.ids.size());
  const bool is_forced = !prompt.forced_ids.empty();
  const int max_steps = is_forced ? static_cast<int>(prompt.forced_ids.size()) : prompt.max_new;
  const auto begin = std::chrono::steady_clock::now();
  RunOutcome outcome;
  outcome.prompt_tokens = prompt_tokens;
  engine.Begin(info, sink, prompt_tokens + max_steps);
  const bool has_columns = sink && info.level == TraceLevel::kRelevance;
  if (sink) sink->AppendTokens(TokensFromIds(tokenizer, prompt.ids, 0));

  const std::span<const int> ids(prompt.ids);
  int first = 0;
  for (const int end : ChunkEnds(0, prompt_tokens, options.prefill_chunk, info.segments)) {
    engine.Run(ids.subspan(first, end - first), /*is_step=*/false);
    if (options.progress) options.progress(end, prompt_tokens + max_steps);
    const int known = std::min(end + 1, prompt_tokens);  // what follows the prompt is not
    if (options.logprobs && sink && known > first + 1)
      sink->SetLogprobs(first + 1, engine.Logprobs(ids.subspan(first + 1, known - first - 1)));
    first = end;
  }
  Alternatives best = engine.Best(kTopAlternatives);
  if (has_columns) engine.SendColumns();
  outcome.prefill_secs = SecondsSince(begin);

  const auto decode_begin = std::chrono::steady_clock::now();
  double nll = 0;
  int columns_due = kColumnSteps;  // the step after which the column statistics go to the sink
  for (int step = 0; step < max_steps; ++step) {
    StepInfo info_of_step =
        MakeStep(std::move(best), std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count());
    const int id = is_forced ? prompt.forced_ids[step] : info_of_step.sampled_id;
    const float logprob = is_forced ? engine.LogprobOf(id) : info_of_step.top_logprobs[0];
    nll -= logprob;
    if (!is_forced && tokenizer && tokenizer->IsEnd(id)) break;
    if (sink) {
      TraceTokens token = TokensFromIds(tokenizer, {&id, 1}, prompt_tokens + step);
      token.logprobs[0] = logprob;
      sink->AppendTokens(std::move(token));
    }
    engine.Run({&id, 1}, /*is_step=*/true);
    if (sink) sink->AppendStep(std::move(info_of_step));
    outcome.answer_ids.push_back(id);
    best = engine.Best(kTopAlternatives);
    if (has_columns && step + 1 == columns_due) {
      engine.SendColumns();
      columns_due += std::max(kColumnSteps, columns_due / 4);  // all of them, again and again
    }
    if (options.progress) options.progress(prompt_tokens + step + 1, prompt_tokens + max_steps);
  }
  outcome.steps = static_cast<int>(outcome.answer_ids.size());
  if (has_columns && outcome.steps > 0) engine.SendColumns();
  outcome.decode_secs = SecondsSince(decode_begin);
  outcome.mean_nll = is_forced ? nll / outcome.steps : std::nan("");
  outcome.score = std::nan("");
  if (is_forced) return outcome;
  if (tokenizer) outcome.answer = tokenizer->Decode(outcome.answer_ids);
  outcome.score = ScoreAnswer(prompt.task, outcome.answer);
  if (!sink) return outcome;
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
