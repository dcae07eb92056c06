// SPDX-License-Identifier: Apache-2.0
#include "replay/workbench.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "replay/analysis.h"

namespace kvscope {
namespace {

int64_t BytesOf(const KvHeadData& data) {
  return static_cast<int64_t>(data.q.size_bytes() + data.k.size_bytes() + data.v.size_bytes() +
                              data.lse.size() * sizeof(float));
}

int64_t BytesOf(const std::vector<LayerEvidence>& layers) {
  int64_t bytes = 0;
  for (const LayerEvidence& layer : layers) {
    for (const auto& [spec, values] : layer.statistics) bytes += static_cast<int64_t>(values.size() * sizeof(float));
  }
  return bytes;
}

bool IsSame(const PlanRequest& a, const PlanRequest& b) {
  return a.spec.text == b.spec.text && a.decision_token == b.decision_token && a.guards.sinks == b.guards.sinks &&
         a.guards.recent == b.guards.recent;
}

}  // namespace

// A trace whose KV heads stay in memory, the first that fit. (Passes go from the first layer to the last: dropping the
// one used longest ago would drop each before its turn.)
class Workbench::KeptSource final : public TraceSource {
 public:
  explicit KeptSource(const TraceSource& source) : source_(source) {}
  const TraceInfo& info() const override { return source_.info(); }
  const TraceTokens& tokens() const override { return source_.tokens(); }
  const TraceAnswer& answer() const override { return source_.answer(); }
  const std::vector<int>& q_token(int layer_index) const override { return source_.q_token(layer_index); }
  std::shared_ptr<const KvHeadData> ReadKvHead(int layer_index, int kv_head_index) const override {
    const std::pair key{layer_index, kv_head_index};
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = kept_.find(key); found != kept_.end()) return found->second;
    }
    auto data = source_.ReadKvHead(layer_index, kv_head_index);
    const std::lock_guard lock(mutex_);
    if (bytes_ + BytesOf(*data) <= kRowBytes && kept_.emplace(key, data).second) bytes_ += BytesOf(*data);
    return data;
  }

 private:
  const TraceSource& source_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<int, int>, std::shared_ptr<const KvHeadData>> kept_;
  mutable int64_t bytes_ = 0;
};

Workbench::Workbench(const TraceSource& source) : source_(std::make_unique<KeptSource>(source)) {}
Workbench::~Workbench() = default;

std::vector<int> Workbench::NeedleBefore(int decision_token) const {
  return NeedleTokens(source_->info(), decision_token);
}

std::shared_ptr<const Plan> Workbench::Decide(const PlanRequest& request, const std::vector<int>& watched_tokens,
                                              const std::atomic<bool>& is_cancelled) {
  if (const std::string reason = WhyRefused(*source_, request); !reason.empty())
    throw Error(StrCat("policy '", request.spec.text, "': ", reason));
  std::optional<SeenPolicy> seen = FindSeen(request);
  if (!seen) {
    const std::lock_guard pass_lock(pass_mutex_);
    seen = FindSeen(request);  // another thread may have shown it meanwhile
    if (!seen) {
      PlanOptions options;
      options.known = &known_;
      options.is_cancelled = &is_cancelled;
      std::vector<SeenPolicy> shown = ShowTrace(*source_, {request}, options);
      if (BytesOf(known_) > kStatisticBytes) known_.clear();
      if (shown.empty()) throw Error("cancelled");
      seen = shown[0];
      const std::lock_guard lock(seen_mutex_);
      seen_.push_front(std::move(shown[0]));
      if (seen_.size() > kMostSeen) seen_.pop_back();
    }
  }
  return std::make_shared<const Plan>(kvscope::Decide(*seen, request.budget, watched_tokens));
}

std::optional<SeenPolicy> Workbench::FindSeen(const PlanRequest& request) {
  const std::lock_guard lock(seen_mutex_);
  const auto found = std::ranges::find_if(seen_, [&](const SeenPolicy& one) { return IsSame(one.request, request); });
  if (found == seen_.end()) return std::nullopt;
  seen_.splice(seen_.begin(), seen_, found);
  return seen_.front();
}

std::optional<Trial> Workbench::Measure(std::shared_ptr<const Plan> plan, const std::atomic<bool>& is_cancelled) const {
  std::mutex mutex;
  std::vector<CacheAction> actions;
  EvaluateOptions options;
  options.needle_tokens = NeedleBefore(plan->request.decision_token);
  options.answer_begin = source_->info().prompt_tokens;
  options.full_rows = &full_rows_;
  options.is_cancelled = &is_cancelled;
  options.see_actions = [&](size_t, std::span<const CacheAction> some) {
    const std::lock_guard lock(mutex);
    actions.insert(actions.end(), some.begin(), some.end());
  };
  Trial trial;
  trial.metrics = Evaluate(*source_, {&*plan, 1}, options).at(0);
  if (is_cancelled) return std::nullopt;
  trial.metrics.FillRow(plan->FullBytes(), trial.figures, trial.arrays);
  trial.history = std::make_shared<const CacheHistory>(std::move(plan), std::move(actions));
  return trial;
}

}  // namespace kvscope
