// SPDX-License-Identifier: Apache-2.0
// One layer at a time per thread, in blocks of queries: the full cache attends first, then every plan's cache.
// A plan that neither watches steps nor chooses reads takes a block as one causal chunk; others one query at a time.
// A plan that decides during prefill (prefill_chunk) steps through the rest of the prompt unmeasured.
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_tile.h"
#include "replay/engine.h"
#include "replay/head_rows.h"

namespace kvscope {
namespace {

constexpr int64_t kWeightBytes = 64 << 20;  // full weights of a block of queries
constexpr int kMostQueries = 64;
constexpr double kSumTolerance = 0.05;  // a row that sums to something else was damaged

void AppendFloats(const Buffer& rows, int64_t first, int64_t count, std::vector<float>& floats) {
  const size_t size = floats.size();
  floats.resize(size + count);
  ReadFloats(rows, static_cast<size_t>(first), {floats.data() + size, static_cast<size_t>(count)});
}

// One plan's cache of the layer and what the next query can see of it.
struct PlanState {
  std::unique_ptr<LayerCache> cache;
  Policy* policy = nullptr;
  bool is_stepwise = false;
  double bytes_per_entry = 0;  // as read: without the policy's state
  double store_bits = 0;
  std::vector<std::map<int, double>> needle_bits;  // [kv_head] of the needle tokens there were at the decision
  bool is_measured = false;                        // the decision is behind it
  std::vector<std::vector<float>> mask;            // [kv_head][token] 1: the query sees it
  std::vector<CacheAction> actions;                // of the last query
  AttendRecord record;
  LayerMetrics metrics;
};

class LayerEvaluation {
 public:
  LayerEvaluation(const TraceSource& source, int layer_index, std::span<const Plan> plans,
                  const std::vector<std::unique_ptr<Policy>>& policies, const EvaluateOptions& options)
      : source_(source),
        layer_(source.info().layers[layer_index]),
        layer_index_(layer_index),
        rule_(RuleOf(layer_)),
        plans_(plans),
        policies_(policies),
        options_(options),
        shape_(plans[0].shape),
        num_tokens_(NumTokens(source)),
        group_(shape_.HeadsPerKvHead()) {
    first_token_ = num_tokens_;
    first_measured_ = num_tokens_;
    for (const Plan& plan : plans) {
      first_token_ = std::min(first_token_, plan.request.FirstDecision());
      first_measured_ = std::min(first_measured_, plan.request.decision_token);
      if (plan.needs.trace_weights) first_measured_ = std::min(first_measured_, plan.request.FirstDecision());
    }
    num_queries_ = num_tokens_ - first_token_;
    stride_ = (int64_t{num_tokens_} + kPanelTokens - 1) / kPanelTokens * kPanelTokens;
    is_needle_.assign(num_tokens_, 0);
    for (const int token : options.needle_tokens) is_needle_.at(token) = 1;
  }

  std::vector<LayerMetrics> Run() {
    Load();
    const int64_t row_bytes = shape_.num_heads * stride_ * static_cast<int64_t>(sizeof(float));
    const int block = static_cast<int>(std::clamp<int64_t>(kWeightBytes / row_bytes, 1, kMostQueries));
    for (begin_ = 0; begin_ < num_queries_; begin_ += block_) {
      block_ = std::min(block, num_queries_ - begin_);
      if (first_token_ + begin_ < first_measured_) block_ = std::min(block_, first_measured_ - first_token_ - begin_);
      if (first_token_ + begin_ >= first_measured_) AttendFully();
      for (size_t plan = 0; plan < plans_.size(); ++plan) {
        const int begin = std::max(begin_, plans_[plan].request.FirstDecision() - first_token_);
        const int end = begin_ + block_;
        if (begin >= end) continue;
        if (states_[plan].is_stepwise) {
          for (int query = begin; query < end; ++query) EvaluateOne(plan, query);
        } else {
          EvaluateChunk(plan, begin, end - begin);
        }
      }
    }
    std::vector<LayerMetrics> metrics;
    for (size_t plan = 0; plan < plans_.size(); ++plan) {
      if (!states_[plan].is_measured) StartMeasuring(plan);
      metrics.push_back(std::move(states_[plan].metrics));
    }
    return metrics;
  }

 private:
  // A step of the queries [query, query + count); out goes to out_.
  LayerStep StepOf(int query, int count) {
    LayerStep step;
    step.first_token = first_token_ + query, step.num_tokens = count;
    const int64_t dim_k = shape_.head_dim_k, dim_v = shape_.head_dim_v;
    step.q = q_.data() + query * dim_k, step.q_head_stride = num_queries_ * dim_k, step.q_token_stride = dim_k;
    step.k = k_.data() + query * dim_k, step.k_head_stride = num_queries_ * dim_k, step.k_token_stride = dim_k;
    step.v = v_.data() + query * dim_v, step.v_head_stride = num_queries_ * dim_v, step.v_token_stride = dim_v;
    out_.resize(static_cast<size_t>(shape_.num_heads) * count * dim_v);
    step.out = out_.data(), step.out_head_stride = count * dim_v, step.out_token_stride = dim_v;
    return step;
  }

  void Load();
  void LoadPlan(size_t plan, int kv_head, const KvHeadData& data);
  void AttendFully();
  void EvaluateChunk(size_t plan, int query, int count);
  void EvaluateOne(size_t plan, int query);
  void SeeStep(size_t plan, int query, const ReadPlan* reads, const AttendRecord& record);
  // The decision is behind it: what was kept, at which bits.
  void StartMeasuring(size_t plan);
  // What the query saw, given out [num_heads, head_dim_v] rows `out_stride` floats apart.
  void Measure(size_t plan, int query, const float* out, int64_t out_stride);
  void AddNeedleWeight(size_t plan, int head, int query, double weight);
  std::span<const float> FullWeights(int head, int query) const {
    return {&full_->weights[(int64_t{head} * block_ + query - begin_) * stride_],
            static_cast<size_t>(first_token_ + query + 1)};
  }
  bool IsAnswer(int query) const { return first_token_ + query >= options_.answer_begin; }
  // Needle tokens that a query at this token sees.
  std::span<const int> NeedleInWindow(int query_token) const {
    const auto seen = std::ranges::lower_bound(options_.needle_tokens, rule_.FirstSeen(query_token));
    return {seen, options_.needle_tokens.end()};
  }

  const TraceSource& source_;
  const LayerInfo& layer_;
  const int layer_index_;
  const AttentionRule rule_;
  std::span<const Plan> plans_;
  const std::vector<std::unique_ptr<Policy>>& policies_;
  const EvaluateOptions& options_;
  const ModelShape shape_;
  const int num_tokens_, group_;
  int first_token_ = 0, num_queries_ = 0;  // queries are first_token_ + 0, 1, ...
  int first_measured_ = 0;                 // the full cache attends from this token on
  int64_t stride_ = 0;
  std::vector<char> is_needle_;            // [token]
  std::vector<Buffer> trace_k_, trace_v_;  // [kv_head] [tokens, dim]
  std::vector<float> q_, k_, v_;           // [head or kv_head, num_queries, dim]
  std::vector<float> lse_;                 // [head, num_queries]
  std::vector<PlanState> states_;

  // Of the present block of queries.
  int begin_ = 0, block_ = 0;
  std::shared_ptr<const FullRows> full_;
  std::shared_ptr<FullRows> own_;  // its memory, used again where nobody keeps it
  std::vector<float> ones_;        // [tokens]
  std::vector<float> out_;
};

void LayerEvaluation::Load() {
  states_.resize(plans_.size());
  for (size_t plan = 0; plan < plans_.size(); ++plan) {
    PlanState& state = states_[plan];
    state.cache = plans_[plan].MakeCache(layer_index_);
    state.cache->set_action_log(&state.actions);
    state.policy = policies_[plan].get();
    state.is_stepwise = state.cache->TakesTokensSingly(*state.policy, num_tokens_ - 1);
    state.bytes_per_entry = plans_[plan].store->BytesPerEntry(shape_.head_dim_k, shape_.head_dim_v);
    state.store_bits = plans_[plan].store->bits();
    state.needle_bits.resize(shape_.num_kv_heads);
    state.mask.assign(shape_.num_kv_heads, std::vector<float>(num_tokens_, 0.0f));
    state.metrics = LayerMetrics(shape_, num_tokens_ - plans_[plan].request.decision_token);
  }
  ones_.assign(num_tokens_, 1.0f);
  const std::vector<int>& q_token = source_.q_token(layer_index_);
  const int64_t first_row = std::lower_bound(q_token.begin(), q_token.end(), first_token_) - q_token.begin();
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const auto data = source_.ReadKvHead(layer_index_, kv_head);
    if (data->num_tokens < num_tokens_ || data->num_rows < first_row + num_queries_ || data->group != group_) {
      throw Error(StrCat("layer ", layer_.layer, ": expected ", num_tokens_, " tokens and their query rows, found ",
                         data->num_tokens, "; the trace was cut or damaged, record it again"));
    }
    trace_k_.push_back(data->k), trace_v_.push_back(data->v);
    for (int head = 0; head < group_; ++head) {
      const int64_t row = int64_t{head} * data->num_rows + first_row;
      AppendFloats(data->q, row * shape_.head_dim_k, int64_t{num_queries_} * shape_.head_dim_k, q_);
      lse_.insert(lse_.end(), data->lse.begin() + row, data->lse.begin() + row + num_queries_);
    }
    AppendFloats(data->k, int64_t{first_token_} * shape_.head_dim_k, int64_t{num_queries_} * shape_.head_dim_k, k_);
    AppendFloats(data->v, int64_t{first_token_} * shape_.head_dim_v, int64_t{num_queries_} * shape_.head_dim_v, v_);
    for (size_t plan = 0; plan < plans_.size(); ++plan) LoadPlan(plan, kv_head, *data);
  }
  for (size_t plan = 0; plan < plans_.size(); ++plan) {
    if (plans_[plan].request.FirstDecision() == plans_[plan].request.decision_token) StartMeasuring(plan);
  }
}

void LayerEvaluation::LoadPlan(size_t plan, int kv_head, const KvHeadData& data) {
  PlanState& state = states_[plan];
  const HeadPlan& head = plans_[plan].layers[layer_index_][kv_head];
  state.cache->Load(kv_head, data.k.data(), data.v.data(), data.k.dtype(), head);
  for (const int token : head.keep) state.mask[kv_head][token] = 1;
  if (options_.needle_tokens.empty() || state.is_stepwise) return;
  state.record.watched.resize(shape_.num_kv_heads);
  for (size_t slot = 0; slot < head.keep.size(); ++slot) {
    if (is_needle_[head.keep[slot]]) state.record.watched[kv_head].push_back(static_cast<int>(slot));
  }
}

void LayerEvaluation::StartMeasuring(size_t plan) {
  PlanState& state = states_[plan];
  LayerMetrics& metrics = state.metrics;
  const auto in_window = static_cast<double>(NeedleInWindow(plans_[plan].request.decision_token - 1).size());
  metrics.sees_needle_at_decision = in_window > 0;
  state.is_measured = true;
  metrics.decision_bytes = state.cache->Bytes();
  metrics.decision_entries = state.cache->num_entries();
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::span<const int> tokens = state.cache->TokenFromSlot(kv_head);
    const std::span<const uint8_t> bits = state.cache->BitsFromSlot(kv_head);
    double needle = 0;
    for (size_t slot = 0; slot < tokens.size(); ++slot) {
      const double entry_bits = bits.empty() ? state.store_bits : bits[slot];
      metrics.decision_bits += entry_bits;
      needle += is_needle_[tokens[slot]];
      if (!is_needle_[tokens[slot]]) continue;
      metrics.decision_needle_bits += entry_bits;
      state.needle_bits[kv_head][tokens[slot]] = entry_bits;
    }
    if (in_window > 0) metrics.decision_retention_kv_head[kv_head] = needle / in_window;
  }
  if (in_window > 0) metrics.decision_needle_bits *= static_cast<double>(options_.needle_tokens.size()) / in_window;
}

void LayerEvaluation::AttendFully() {
  FullRowsCache* const kept = options_.full_rows;
  full_ = kept ? kept->Find(layer_index_, first_token_ + begin_, block_) : nullptr;
  if (full_) return;
  const int num_heads = shape_.num_heads, dim_v = shape_.head_dim_v;
  if (kept || !own_) own_ = std::make_shared<FullRows>();
  const std::shared_ptr<FullRows> full = own_;
  full_ = full;
  const size_t num_rows = static_cast<size_t>(num_heads) * block_;
  full->weights.resize(num_rows * stride_);
  full->out.resize(num_rows * dim_v);
  full->weight_sum.resize(num_rows);
  full->top.resize(num_rows);
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const int64_t first_head = int64_t{kv_head} * group_;
    CausalAttention problem;
    problem.q = &q_[(first_head * num_queries_ + begin_) * shape_.head_dim_k];
    problem.q_head_stride = int64_t{num_queries_} * shape_.head_dim_k, problem.q_row_stride = shape_.head_dim_k;
    problem.group = group_, problem.num_queries = block_, problem.first_query = first_token_ + begin_;
    problem.head_dim_k = shape_.head_dim_k, problem.head_dim_v = dim_v, problem.rule = rule_;
    problem.out = &full->out[first_head * block_ * dim_v];
    problem.out_head_stride = int64_t{block_} * dim_v, problem.out_row_stride = dim_v;
    problem.k = trace_k_[kv_head].data(), problem.v = trace_v_[kv_head].data();
    problem.dtype = trace_k_[kv_head].dtype();
    problem.scores = &full->weights[first_head * block_ * stride_];
    problem.scores_head_stride = block_ * stride_, problem.scores_row_stride = stride_;
    cpu_fast::Attend(problem);
  }
  for (int head = 0; head < num_heads; ++head) {
    for (int query = begin_; query < begin_ + block_; ++query) {
      const size_t index = static_cast<size_t>(head) * block_ + query - begin_;
      const std::span<float> row(&full->weights[index * stride_], first_token_ + query + 1);
      WeightsFromScores(row, 0, first_token_ + query, rule_, lse_[int64_t{head} * num_queries_ + query]);
      full->weight_sum[index] = MaskedSum(row, std::span<const float>(ones_).first(row.size()));
      if (!(std::fabs(full->weight_sum[index] - 1) < kSumTolerance)) {
        throw Error(StrCat("layer ", layer_.layer, ", head ", layer_.heads[head], ", token ", first_token_ + query,
                           ": expected weights that sum to 1, found ", full->weight_sum[index],
                           "; the trace is damaged, see kvscope verify"));
      }
      const int first_seen = rule_.FirstSeen(first_token_ + query);
      full->top[index] = TopTokens(row.subspan(first_seen), options_.top_k);
      for (int& token : full->top[index]) token += first_seen;
    }
  }
  if (kept) kept->Keep(layer_index_, first_token_ + begin_, block_, full_);
}

void LayerEvaluation::Measure(size_t plan, int query, const float* out, int64_t out_stride) {
  PlanState& state = states_[plan];
  LayerMetrics& metrics = state.metrics;
  const int plan_query = query - (plans_[plan].request.decision_token - first_token_);
  const std::span<const int> needle = NeedleInWindow(first_token_ + query);
  metrics.sees_needle_query[plan_query] = !needle.empty();
  std::vector<double> kept_mass(group_);
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::vector<float>& mask = state.mask[kv_head];
    for (int i = 0; i < group_; ++i) {
      const int head = kv_head * group_ + i;
      const size_t index = static_cast<size_t>(head) * block_ + query - begin_;
      const std::span<const float> full = FullWeights(head, query);
      kept_mass[i] = MaskedSum(full, std::span<const float>(mask).first(full.size()));
      const double loss = std::max(0.0, (full_->weight_sum[index] - kept_mass[i]) / full_->weight_sum[index]);
      const size_t dim_v = shape_.head_dim_v;
      const double error = RelativeError({out + head * out_stride, dim_v}, {&full_->out[index * dim_v], dim_v});
      double seen = 0;
      for (const int token : full_->top[index]) seen += mask[token];
      metrics.loss_head[head] += loss, metrics.loss_query[plan_query] += loss;
      metrics.error_head[head] += error, metrics.error_query[plan_query] += error;
      if (!full_->top[index].empty())
        metrics.overlap_head[head] += seen / static_cast<double>(full_->top[index].size());
      for (const int token : needle) metrics.full_needle_weight_head[head] += IsAnswer(query) ? full[token] : 0.0f;
    }
    if (!needle.empty()) {
      double kept = 0, bits = 0;
      for (const int token : needle) {
        kept += mask[token];
        if (mask[token] == 1) bits += state.needle_bits[kv_head][token];
      }
      const auto in_window = static_cast<double>(needle.size());
      const double of_needle = static_cast<double>(options_.needle_tokens.size()) / in_window;
      if (IsAnswer(query)) metrics.needle_bits += bits * of_needle;
      metrics.retention_query[plan_query] += kept / in_window;
      if (IsAnswer(query)) metrics.retention_kv_head[kv_head] += kept / in_window;
    }
    if (options_.see_query) {
      const int visible = first_token_ + query + 1;
      const int entries = static_cast<int>(std::count(mask.begin(), mask.begin() + visible, 1.0f));
      options_.see_query({plan,
                          layer_index_,
                          kv_head,
                          first_token_ + query,
                          entries,
                          {FullWeights(kv_head * group_, query).data(),
                           static_cast<size_t>(group_ * block_ * stride_ - (query - begin_) * stride_)},
                          block_ * stride_,
                          kept_mass});
    }
  }
}

void LayerEvaluation::EvaluateChunk(size_t plan, int query, int count) {
  PlanState& state = states_[plan];
  const int plan_query = query - (plans_[plan].request.decision_token - first_token_);
  for (int i = 0; i < count; ++i) {
    state.cache->Append(StepOf(query + i, 1));
    state.metrics.bytes_query[plan_query + i] = state.cache->Bytes();
    state.metrics.read_bytes_query[plan_query + i] = static_cast<double>(state.cache->StoredBytes());
    for (std::vector<float>& mask : state.mask) mask[first_token_ + query + i] = 1;
  }
  const LayerStep step = StepOf(query, count);
  const bool watches = !state.record.watched.empty() && IsAnswer(query + count - 1);
  state.cache->Attend(step, nullptr, watches ? &state.record : nullptr);
  for (int i = 0; i < count; ++i) {
    Measure(plan, query + i, step.out + i * step.out_token_stride, step.out_head_stride);
    for (int head = 0; watches && IsAnswer(query + i) && head < shape_.num_heads; ++head) {
      const size_t watched = state.record.watched[head / group_].size();
      const float* weights = state.record.watched_weights[head].data() + i * watched;
      for (size_t j = 0; j < watched; ++j) state.metrics.needle_weight_head[head] += weights[j];
    }
  }
}

void LayerEvaluation::EvaluateOne(size_t plan, int query) {
  PlanState& state = states_[plan];
  LayerCache& cache = *state.cache;
  const int plan_query = query - (plans_[plan].request.decision_token - first_token_);
  if (plan_query >= 0 && !state.is_measured) StartMeasuring(plan);
  const LayerStep step = StepOf(query, 1);
  for (std::vector<float>& mask : state.mask) {
    mask[step.first_token] = 1;
    if (const int first_seen = rule_.FirstSeen(step.first_token); first_seen > 0) mask[first_seen - 1] = 0;
  }
  state.actions.clear();
  TokenObserver observer;
  observer.wants_weights = IsAnswer(query);
  observer.attended = [&](const LayerStep&, const ReadPlan* reads, const AttendRecord& record) {
    if (plan_query >= 0) SeeStep(plan, query, reads, record);
  };
  if (plans_[plan].needs.trace_weights) {
    observer.full_row = [&](int, int head) { return FullWeights(head, query); };
  }
  cache.Step(step, *state.policy, &observer);
  if (options_.see_actions && !state.actions.empty()) options_.see_actions(plan, state.actions);
  for (const CacheAction& action : state.actions) {
    if (action.bits == 0) state.mask[action.kv_head][action.token] = 0;
    if (is_needle_[action.token]) state.needle_bits[action.kv_head][action.token] = action.bits;
  }
  if (plan_query >= 0) {
    state.metrics.bytes_query[plan_query] = cache.Bytes();
  } else {
    state.metrics.prefill_peak_bytes = std::max(state.metrics.prefill_peak_bytes, cache.Bytes());
  }
}

void LayerEvaluation::SeeStep(size_t plan, int query, const ReadPlan* reads, const AttendRecord& record) {
  PlanState& state = states_[plan];
  const int plan_query = query - (plans_[plan].request.decision_token - first_token_);
  int64_t entries_read = 0;
  for (int kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::span<const int> tokens = state.cache->TokenFromSlot(kv_head);
    const size_t count = reads ? reads->slots[kv_head].size() : tokens.size();
    entries_read += static_cast<int64_t>(count);
    std::vector<float>& mask = state.mask[kv_head];
    if (reads) std::fill(mask.begin(), mask.end(), 0.0f);
    for (size_t i = 0; i < count && (reads || IsAnswer(query)); ++i) {
      const int token = tokens[reads ? reads->slots[kv_head][i] : static_cast<int>(i)];
      mask[token] = 1;
      if (!is_needle_[token] || !IsAnswer(query)) continue;
      for (int head = kv_head * group_; head < (kv_head + 1) * group_; ++head) {
        state.metrics.needle_weight_head[head] += record.weights[head][i];
      }
    }
  }
  state.metrics.read_bytes_query[plan_query] = reads ? state.bytes_per_entry * static_cast<double>(entries_read)
                                                     : static_cast<double>(state.cache->StoredBytes());
  Measure(plan, query, out_.data(), shape_.head_dim_v);
}

}  // namespace

std::vector<PlanMetrics> Evaluate(const TraceSource& source, std::span<const Plan> plans,
                                  const EvaluateOptions& options) {
  std::vector<PlanMetrics> metrics(plans.size());
  if (plans.empty()) return metrics;
  const ModelShape& shape = plans[0].shape;
  const int num_tokens = NumTokens(source);
  std::vector<std::unique_ptr<Policy>> policies;
  for (size_t i = 0; i < plans.size(); ++i) {
    policies.push_back(plans[i].policy->Snapshot());
    const int decision = plans[i].request.decision_token;
    KVSCOPE_CHECK(options.needle_tokens.empty() || options.needle_tokens.back() < decision);
    metrics[i].num_queries = num_tokens - decision;
    metrics[i].num_answer_queries = num_tokens - std::min(num_tokens, std::max(decision, options.answer_begin));
    metrics[i].has_needle = !options.needle_tokens.empty();
    metrics[i].num_needle_tokens = static_cast<int>(options.needle_tokens.size());
    metrics[i].shape = shape;
    metrics[i].layers.resize(shape.num_layers);
  }
  tbb::parallel_for(0, shape.num_layers, [&](int layer) {
    if (options.is_cancelled && *options.is_cancelled) return;
    LayerEvaluation evaluation(source, layer, plans, policies, options);
    std::vector<LayerMetrics> layer_metrics = evaluation.Run();
    for (size_t i = 0; i < plans.size(); ++i) metrics[i].layers[layer] = std::move(layer_metrics[i]);
    if (options.layer_done) options.layer_done();
  });
  return metrics;
}

}  // namespace kvscope
