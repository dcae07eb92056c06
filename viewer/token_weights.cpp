// SPDX-License-Identifier: Apache-2.0
#include "viewer/token_weights.h"

#include <algorithm>

#include "core/error.h"
#include "replay/token_map.h"

namespace kvscope {

void TokenWeights::Update(TraceDocument& document, ViewState& view, const std::vector<TokenBand>& askers, Jobs& jobs) {
  const TraceReader& reader = document.reader();
  const auto& layers = reader.info().layers;
  view.layer_index = std::clamp(view.layer_index, 0, static_cast<int>(layers.size()) - 1);
  const LayerInfo& layer = layers[view.layer_index];
  view.head_index = std::clamp(view.head_index, 0, static_cast<int>(layer.heads.size()) - 1);
  const bool has_vectors = reader.info().level == TraceLevel::kQkv || reader.info().level == TraceLevel::kQkvRows;
  std::shared_ptr<const KvHeadData> data;
  if (has_vectors) {
    data = document.KvHead(view.layer_index, view.head_index / layer.HeadsPerKvHead());
    failure_ = document.kv_head_failure();
    if (!data) return;
  }
  const Request request{&document,
                        view.layer_index,
                        view.head_index,
                        document.num_tokens(),
                        has_vectors ? data->num_rows : reader.num_rows(),
                        askers};
  if (request == request_) return;
  request_ = request;
  is_of_all_ = reader.HasColumns();
  if (has_vectors) {
    Compute([data, askers, q_token = reader.q_token(view.layer_index),
             member = view.head_index % layer.HeadsPerKvHead(), rule = RuleOf(layer)](
                const auto& is_cancelled) { return MeanWeights(*data, q_token, member, rule, askers, is_cancelled); },
            jobs);
  } else if (is_of_all_) {
    Compute(
        [&reader, layer_index = view.layer_index, head_index = view.head_index](const auto&) {
          return ReduceRows(reader.ReadColumnStatistics(layer_index), head_index, RowReduction::kMean);
        },
        jobs);
  } else {
    Compute(
        [&reader, askers, layer_index = view.layer_index, head_index = view.head_index](const auto&) {
          const RecordedRows recorded = reader.ReadRows(layer_index, head_index);
          return ReduceRows(recorded, ChooseRows(recorded.row_token, askers), RowReduction::kMean);
        },
        jobs);
  }
}

void TokenWeights::Compute(std::function<std::vector<float>(const std::atomic<bool>&)> weights, Jobs& jobs) {
  jobs.Start(slot_, [this, weights](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
    std::vector<float> means;
    std::string failure;
    try {
      means = weights(is_cancelled);
    } catch (const Error& error) {
      failure = error.what();
    }
    float highest = 0;
    for (size_t token = kSinkTokens; token < means.size(); ++token) highest = std::max(highest, means[token]);
    return [this, means, highest, failure] { weights_ = means, highest_ = highest, failure_ = failure; };
  });
}

}  // namespace kvscope
