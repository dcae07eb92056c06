// SPDX-License-Identifier: Apache-2.0
#include "replay/live/live_run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <numeric>

#include "capture/cpu_engine.h"
#include "capture/full_cache.h"
#include "capture/run.h"
#include "core/error.h"
#include "replay/analysis.h"
#include "replay/live/forks.h"
#include "replay/live/policy_cache.h"
#include "replay/live/propagation.h"
#include "replay/sweep.h"

namespace kvscope {
namespace {

constexpr int kSpeedSteps = 4;

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double Mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double MeanBits(const Plan& plan) {
  double bits = 0, entries = 0;
  for (const LayerPlan& layer : plan.layers) {
    for (const HeadPlan& head : layer) {
      bits += std::accumulate(head.bits.begin(), head.bits.end(), 0.0);
      entries += static_cast<double>(head.bits.size());
    }
  }
  return entries > 0 ? bits / entries : plan.store->bits();
}

int64_t ProcessPeakBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoll(line.substr(6)) * 1024;
  }
  return 0;
}

// A fork of one plan and what was seen of it.
struct PlanFork {
  const Plan* plan = nullptr;
  Results::Row* row = nullptr;
  double prefill_secs = 0, plan_secs = 0, first_token_secs = 0;
  double prefill_peak = 0;  // of a policy that compresses during prefill
  double prefill_bytes = 0, bytes_sum = 0, bytes_peak = 0, entries = 0;
  int bytes_count = 0;

  void SawBytes(const KvCache& cache) {
    const double bytes = cache.Bytes();
    bytes_sum += bytes;
    bytes_peak = std::max(bytes_peak, bytes);
    ++bytes_count;
  }
};

class LivePrompt {
 public:
  LivePrompt(Decoder& decoder, const Tokenizer& tokenizer, const Prompt& prompt, const LiveOptions& options)
      : decoder_(decoder),
        tokenizer_(tokenizer),
        prompt_(prompt),
        options_(options),
        info_(MakeInfo()),
        decision_token_(DecisionToken(info_, options.protocol)),
        trace_(UpToDecision()),
        full_(decoder.model().config, options.kv_dtype) {}

  std::vector<Results::Row> Run(std::vector<PlanRequest> requests) {
    taps_ = ResidualTaps(requests, ShapeOf(info_));
    PrefillToDecision();
    for (PlanRequest& request : requests) request.decision_token = decision_token_;
    rows_.resize(requests.size());
    std::vector<PlanRequest> accepted;
    std::vector<size_t> row_from_plan;
    for (size_t i = 0; i < requests.size(); ++i) {
      std::string why = WhyRefused(trace_, requests[i]);
      if (requests[i].spec.Needs(ShapeOf(info_)).trace_weights) {
        why = "sees the full cache's weights at every step, which only a trace has; replay it";
      }
      rows_[i].figures = DescribeRow(info_, prompt_.file_stem, requests[i], options_.protocol, "live", options_.seed);
      if (why.empty()) {
        accepted.push_back(requests[i]);
        row_from_plan.push_back(i);
      } else {
        rows_[i].figures.Set("refused_reason", why);
      }
    }
    const auto begin = Clock::now();
    std::vector<Plan> plans = MakePlans(trace_, accepted, PlanningOptions());
    const double plan_secs = SecondsSince(begin) / std::max<size_t>(1, plans.size());
    MakeReference();
    for (size_t first = 0; first < plans.size();) {
      const size_t last = EndOfGroup(plans, first);
      RunGroup(plans, row_from_plan, first, last, plan_secs);
      first = last;
    }
    return std::move(rows_);
  }

 private:
  TraceInfo MakeInfo() const {
    RunOptions run;
    run.kv_dtype = options_.kv_dtype;
    run.level = TraceLevel::kQkv;
    run.prefill_chunk = options_.prefill_chunk;
    return MakeTraceInfo(decoder_.model().config, CpuEngineInfo(decoder_.activations()), "", prompt_, run);
  }

  PlanOptions PlanningOptions() const {
    PlanOptions options;
    options.seed = options_.seed;
    options.watched_tokens = NeedleTokens(info_, decision_token_);
    return options;
  }

  // What is recorded in memory ends at the decision: what comes later differs from policy to policy.
  TraceInfo UpToDecision() const {
    if (decision_token_ < 1)
      throw Error(StrCat(prompt_.file_stem, ": --decide-at context: this task marks no context"));
    TraceInfo info = info_;
    info.prompt_tokens = decision_token_;
    return info;
  }

  // The common part: full prefill up to the decision, recorded in memory.
  void PrefillToDecision() {
    const auto begin = Clock::now();
    trace_.AppendTokens(TokensFromIds(&tokenizer_, std::span(prompt_.ids).first(decision_token_), 0));
    int next_token = 0;
    const LayerObserver record = [&](int layer, LayerChunk& chunk) {
      trace_.AppendChunk(layer, next_token, std::move(chunk));
    };
    const HiddenObserver advance = [&](int first_token, std::span<const float> hidden) {
      next_token = first_token + static_cast<int>(hidden.size() / decoder_.model().config.hidden);
      Report("prefill", next_token, decision_token_);
    };
    const std::vector<float> hidden =
        Prefill(decoder_, full_, prompt_.ids, decision_token_, options_.prefill_chunk, info_.segments, record, advance,
                taps_.Observer(decoder_.model().config.num_layers));
    decision_logits_.resize(decoder_.model().config.vocab);
    decoder_.Logits(hidden, 1, decision_logits_);
    prefill_secs_ = SecondsSince(begin);
  }

  // What every fork is compared with: the full cache and its own continuation.
  void MakeReference() {
    std::vector<Fork> reference(1);
    reference[0] = {full_.Fork(), decision_logits_};
    FeedQuestion(reference);
    if (prompt_.forced_ids.empty()) {
      std::vector<Fork> decoding;
      decoding.push_back(reference[0].Clone());
      reference_ids_ = DecodeGreedily(decoder_, tokenizer_, decoding, prompt_.max_new, {})[0].ids;
    } else {
      reference_ids_ = prompt_.forced_ids;
    }
    reference_ = std::move(reference[0]);
  }

  // Under --decide-at context the rest of the prompt goes over the compacted caches, as chunks.
  void FeedQuestion(std::span<Fork> forks) {
    int begin = decision_token_;
    const int end = static_cast<int>(prompt_.ids.size());
    if (begin == end) return;
    for (const int chunk_end : ChunkEnds(begin, end, options_.prefill_chunk, info_.segments)) {
      Feed(decoder_, forks, std::span(prompt_.ids).subspan(begin, chunk_end - begin));
      begin = chunk_end;
    }
  }

  std::unique_ptr<PolicyCache> MakeCache(const Plan& plan, const TraceSource& trace) const {
    std::vector<std::unique_ptr<LayerCache>> layers;
    for (int layer = 0; layer < plan.shape.num_layers; ++layer) {
      layers.push_back(plan.MakeCache(layer));
      for (int kv_head = 0; kv_head < plan.shape.num_kv_heads; ++kv_head) {
        const std::shared_ptr<const KvHeadData> data = trace.ReadKvHead(layer, kv_head);
        layers.back()->Load(kv_head, data->k.data(), data->v.data(), options_.kv_dtype, plan.layers[layer][kv_head]);
      }
    }
    return std::make_unique<PolicyCache>(std::move(layers), plan.policy->Snapshot(), options_.kv_dtype,
                                         plan.request.FirstDecision());
  }

  // The rest of the prefill of a policy that decided early: over its own cache.
  void FinishPrefill(Fork& fork, PlanFork& seen) {
    int begin = seen.plan->request.FirstDecision();
    seen.prefill_peak = fork.cache->Bytes();
    for (const int end : ChunkEnds(begin, decision_token_, options_.prefill_chunk, info_.segments)) {
      Feed(decoder_, {&fork, 1}, std::span(prompt_.ids).subspan(begin, end - begin));
      seen.prefill_peak = std::max(seen.prefill_peak, fork.cache->Bytes());
      begin = end;
    }
  }

  // As many plans as fit the stated memory: each fork lives three times at once at most.
  size_t EndOfGroup(const std::vector<Plan>& plans, size_t first) const {
    double bytes = 0;
    size_t last = first;
    for (; last < plans.size(); ++last) {
      for (const PolicyBudget& asked : plans[last].asked) {
        const double entries = plans[last].policy->ChoosesReads() ? asked.num_tokens : asked.uniform_entries;
        bytes += 3 * entries * asked.num_rows * plans[last].BytesPerEntry();
      }
      if (last > first && bytes > static_cast<double>(options_.fork_bytes)) break;
    }
    return last;
  }

  // The cache that a plan goes on from. One that propagates has its upper layers run first and decides on those; logits
  // become theirs.
  std::unique_ptr<PolicyCache> Start(Plan& plan, PlanFork& fork, std::vector<float>& logits) {
    fork.prefill_secs = prefill_secs_;
    const std::optional<Propagation> propagation = plan.policy->Propagates();
    if (!propagation) return MakeCache(plan, trace_);
    const ResidualTap& tap = taps_.at(propagation->after_layer);
    fork.prefill_secs = tap.secs;
    PropagatedPrefill prefill = RunPropagated(decoder_, trace_, tap, *propagation, options_.prefill_chunk);
    const PlanRequest request = plan.request;
    plan = std::move(MakePlans(*prefill.trace, {request}, PlanningOptions())[0]);
    KVSCOPE_CHECK(plan.policy->Propagates()->tokens == propagation->tokens);  // lower layers are the same
    logits = std::move(prefill.logits);
    return MakeCache(plan, *prefill.trace);
  }

  void RunGroup(std::vector<Plan>& plans, const std::vector<size_t>& row_from_plan, size_t first, size_t last,
                double plan_secs) {
    std::vector<PlanFork> seen(last - first);
    std::vector<Fork> forks;
    for (size_t i = first; i < last; ++i) {
      const auto begin = Clock::now();
      PlanFork& fork = seen[i - first];
      std::vector<float> logits = decision_logits_;
      std::unique_ptr<PolicyCache> cache = Start(plans[i], fork, logits);
      fork.plan = &plans[i];
      fork.row = &rows_[row_from_plan[i]];
      const PolicyCache& policy_cache = *cache;
      forks.push_back({std::move(cache), std::move(logits)});
      if (plans[i].request.FirstDecision() < decision_token_) FinishPrefill(forks.back(), fork);
      fork.plan_secs = plan_secs + SecondsSince(begin);
      fork.prefill_bytes = policy_cache.Bytes();
      fork.bytes_peak = fork.prefill_bytes;
      fork.entries = static_cast<double>(policy_cache.num_entries());
    }
    const auto question_begin = Clock::now();
    FeedQuestion(forks);
    const double question_secs = SecondsSince(question_begin) / static_cast<double>(forks.size());
    for (PlanFork& fork : seen) fork.first_token_secs = fork.prefill_secs + fork.plan_secs + question_secs;
    Report("forks", static_cast<int>(first), static_cast<int>(plans.size()));
    MeasureContinuation(forks, seen);
    if (prompt_.forced_ids.empty()) {
      MeasureAnswer(forks, seen);
      if (options_.measures_speed) MeasureSpeed(forks, seen);
      DecodeAnswers(forks, seen);
    } else if (options_.measures_speed) {
      MeasureSpeed(forks, seen);
    }
    Report("forks", static_cast<int>(last), static_cast<int>(plans.size()));
    for (const PlanFork& fork : seen) FillBytes(fork);
  }

  // KL and agreement on the full cache's continuation; perplexity when the continuation was given.
  void MeasureContinuation(std::span<Fork> forks, std::span<PlanFork> seen) {
    if (reference_ids_.empty()) return;
    std::vector<Fork> chain;
    chain.push_back(reference_.Clone());
    for (const Fork& fork : forks) chain.push_back(fork.Clone());
    const std::vector<ChainScore> scores = ScoreChain(decoder_, chain, reference_ids_);
    for (size_t i = 0; i < forks.size(); ++i) {
      const ChainScore& score = scores[i + 1];
      ResultRow& figures = seen[i].row->figures;
      figures.Set("kl", Mean(score.kl));
      figures.Set("top1_agreement", static_cast<double>(std::count(score.agrees.begin(), score.agrees.end(), true)) /
                                        static_cast<double>(score.agrees.size()));
      if (prompt_.forced_ids.empty()) continue;
      const double perplexity = std::exp(Mean(score.nll));
      figures.Set("perplexity", perplexity);
      figures.Set("metric", "perplexity");
      figures.Set("metric_value", perplexity);
      figures.Set("n", static_cast<double>(score.nll.size()));
      seen[i].SawBytes(*chain[i + 1].cache);
    }
  }

  // The expected answer under teacher forcing, after the wording's priming text.
  void MeasureAnswer(std::span<Fork> forks, std::span<PlanFork> seen) {
    if (prompt_.task.scored_text.empty()) return;
    const std::vector<int> priming = tokenizer_.EncodeAfter(prompt_.ids.back(), prompt_.task.priming_text);
    const std::vector<int> scored =
        tokenizer_.EncodeAfter(priming.empty() ? prompt_.ids.back() : priming.back(), prompt_.task.scored_text);
    std::vector<int> ids = priming;
    ids.insert(ids.end(), scored.begin(), scored.end());
    std::vector<Fork> chain;
    chain.push_back(reference_.Clone());
    for (const Fork& fork : forks) chain.push_back(fork.Clone());
    const std::vector<ChainScore> scores = ScoreChain(decoder_, chain, ids);
    size_t first_digit = priming.size();
    const auto has_digit = [&](int id) {
      return std::ranges::any_of(tokenizer_.Piece(id), [](char c) { return c >= '0' && c <= '9'; });
    };
    while (first_digit + 1 < ids.size() && !has_digit(ids[first_digit])) ++first_digit;
    for (size_t i = 0; i < forks.size(); ++i) {
      const ChainScore& score = scores[i + 1];
      const std::span<const double> answer = std::span(score.nll).subspan(priming.size());
      seen[i].row->figures.Set("answer_nll", Mean(answer));
      seen[i].row->figures.Set("answer_rank", score.rank[first_digit]);
    }
  }

  void MeasureSpeed(std::span<Fork> forks, std::span<PlanFork> seen) {
    for (size_t i = 0; i < forks.size(); ++i) {
      Fork alone = forks[i].Clone();
      std::vector<double> secs;
      for (int step = 0; step < kSpeedSteps; ++step) {
        const int id = ArgMax(alone.logits);
        const auto begin = Clock::now();
        Feed(decoder_, {&alone, 1}, {&id, 1});
        secs.push_back(SecondsSince(begin));
      }
      std::nth_element(secs.begin(), secs.begin() + kSpeedSteps / 2, secs.end());
      seen[i].row->figures.Set("tokens_per_s", 1 / secs[kSpeedSteps / 2]);
    }
  }

  void DecodeAnswers(std::span<Fork> forks, std::span<PlanFork> seen) {
    const std::vector<GreedyAnswer> answers = DecodeGreedily(
        decoder_, tokenizer_, forks, prompt_.max_new, [&](size_t fork) { seen[fork].SawBytes(*forks[fork].cache); });
    for (size_t i = 0; i < forks.size(); ++i) {
      const std::string text = tokenizer_.Decode(answers[i].ids);
      const double score = ScoreAnswer(prompt_.task, text);
      if (std::isnan(score)) continue;
      ResultRow& figures = seen[i].row->figures;
      figures.Set("metric", "accuracy");
      figures.Set("metric_value", score);
      figures.Set("n", 1);
      figures.Set("answer_prefix", AnswerPrefix(prompt_.task, text));
    }
  }

  void FillBytes(const PlanFork& fork) {
    const ModelShape& shape = fork.plan->shape;
    const double full_bytes = fork.plan->FullBytes();
    ResultRow& figures = fork.row->figures;
    if (options_.keeps_kept) AddKeptArrays(*fork.plan, fork.row->arrays);
    AddNeedleArrays(*fork.plan, NeedleTokens(info_, decision_token_), fork.row->arrays);
    figures.Set("bits", MeanBits(*fork.plan));
    figures.Set("full_bytes", full_bytes);
    figures.Set("prefill_bytes_peak", fork.prefill_peak > 0 ? fork.prefill_peak : full_bytes);
    figures.Set("kept_bytes_prefill", fork.prefill_bytes);
    figures.Set("kept_fraction", fork.prefill_bytes / full_bytes);
    figures.Set("kept_tokens", fork.entries / (shape.num_layers * shape.num_kv_heads));
    if (fork.bytes_count > 0) {
      figures.Set("kept_bytes_mean", fork.bytes_sum / fork.bytes_count);
      figures.Set("kept_bytes_peak", fork.bytes_peak);
    }
    figures.Set("ttft_s", fork.first_token_secs);
    figures.Set("process_peak_bytes", static_cast<double>(ProcessPeakBytes()));
  }

  void Report(const std::string& stage, int done, int total) const {
    if (options_.progress) options_.progress(stage, done, total);
  }

  Decoder& decoder_;
  const Tokenizer& tokenizer_;
  const Prompt& prompt_;
  const LiveOptions& options_;
  const TraceInfo info_;
  const int decision_token_;
  MemoryTrace trace_;
  FullCache full_;
  ResidualTaps taps_;
  double prefill_secs_ = 0;
  std::vector<float> decision_logits_;
  Fork reference_;
  std::vector<int> reference_ids_;
  std::vector<Results::Row> rows_;
};

}  // namespace

std::vector<Results::Row> RunLive(Decoder& decoder, const Tokenizer& tokenizer, const Prompt& prompt,
                                  std::vector<PlanRequest> requests, const LiveOptions& options) {
  return LivePrompt(decoder, tokenizer, prompt, options).Run(std::move(requests));
}

}  // namespace kvscope
