// SPDX-License-Identifier: Apache-2.0
#include "viewer/token_weights.h"

#include <algorithm>

namespace kvscope {

void TokenWeights::Update(TraceDocument& document, ViewState& view, const std::vector<TokenBand>& askers, Jobs& jobs) {
  const auto& layers = document.reader().info().layers;
  view.layer_index = std::clamp(view.layer_index, 0, static_cast<int>(layers.size()) - 1);
  const LayerInfo& layer = layers[view.layer_index];
  view.head_index = std::clamp(view.head_index, 0, static_cast<int>(layer.heads.size()) - 1);
  const auto data = document.KvHead(view.layer_index, view.head_index / layer.HeadsPerKvHead());
  if (!data) return;
  const Request request{&document, view.layer_index, view.head_index, data->num_tokens, data->num_rows, askers};
  if (request == request_) return;
  request_ = request;
  jobs.Start(slot_,
             [this, data, askers, q_token = document.reader().q_token(view.layer_index),
              member = view.head_index % layer.HeadsPerKvHead(),
              scale = layer.scale](const std::atomic<bool>& is_cancelled) -> Jobs::Finish {
               std::vector<float> means = MeanWeights(*data, q_token, member, scale, askers, is_cancelled);
               float highest = 0;
               for (size_t token = kSinkTokens; token < means.size(); ++token)
                 highest = std::max(highest, means[token]);
               return [this, means, highest] { weights_ = means, highest_ = highest; };
             });
}

}  // namespace kvscope
