// SPDX-License-Identifier: Apache-2.0
#include "replay/live/propagation.h"

#include <algorithm>
#include <cstring>

#include "capture/full_cache.h"
#include "core/error.h"

namespace kvscope {

ResidualTaps::ResidualTaps(const std::vector<PlanRequest>& requests, const ModelShape& shape) {
  for (const PlanRequest& request : requests) {
    const int layer = request.spec.Needs(shape).propagates_after;
    if (layer >= 0) taps_[layer] = {};
  }
}

ResidualObserver ResidualTaps::Observer(int num_layers) {
  if (taps_.empty()) return {};
  chunk_begin_ = std::chrono::steady_clock::now();
  return [this, num_layers](int layer, std::span<const float> residual) {
    const auto now = std::chrono::steady_clock::now();
    if (const auto tap = taps_.find(layer); tap != taps_.end()) {
      tap->second.residual.insert(tap->second.residual.end(), residual.begin(), residual.end());
      tap->second.secs += std::chrono::duration<double>(now - chunk_begin_).count();
    }
    if (layer + 1 == num_layers) chunk_begin_ = now;
  };
}

PropagatedTrace::PropagatedTrace(const TraceSource& whole, const Propagation& propagation)
    : whole_(whole),
      after_layer_(propagation.after_layer),
      num_rows_(static_cast<int>(propagation.tokens.size())),
      upper_(whole.info()) {
  KVSCOPE_CHECK(num_rows_ > 0);
  int row = 0;
  for (int token = 0; token < static_cast<int>(whole.tokens().ids.size()); ++token) {
    while (row + 1 < num_rows_ && propagation.tokens[row + 1] <= token) ++row;
    row_from_token_.push_back(row);
  }
}

void PropagatedTrace::AppendChunk(int layer_index, int first_row, LayerChunk chunk) {
  KVSCOPE_CHECK(layer_index > after_layer_);
  upper_.AppendChunk(layer_index, first_row, std::move(chunk));
}

// rows: [heads, num_rows, dim]; the result is [heads, token, dim].
Buffer PropagatedTrace::Spread(const Buffer& rows, int heads, int dim) const {
  const size_t num_tokens = row_from_token_.size();
  Buffer spread(rows.dtype(), heads * num_tokens * dim);
  for (int head = 0; head < heads; ++head) {
    for (size_t token = 0; token < num_tokens; ++token) {
      const size_t source = static_cast<size_t>(head) * num_rows_ + row_from_token_[token];
      std::memcpy(spread.At((head * num_tokens + token) * dim), rows.At(source * dim),
                  dim * ElementBytes(rows.dtype()));
    }
  }
  return spread;
}

std::shared_ptr<const KvHeadData> PropagatedTrace::ReadKvHead(int layer_index, int kv_head_index) const {
  if (layer_index <= after_layer_) return whole_.ReadKvHead(layer_index, kv_head_index);
  const std::shared_ptr<const KvHeadData> rows = upper_.ReadKvHead(layer_index, kv_head_index);
  KVSCOPE_CHECK_EQ(rows->num_rows, num_rows_);
  auto data = std::make_shared<KvHeadData>();
  data->num_tokens = data->num_rows = static_cast<int>(row_from_token_.size());
  data->group = rows->group;
  data->head_dim_k = rows->head_dim_k;
  data->head_dim_v = rows->head_dim_v;
  data->q = Spread(rows->q, rows->group, rows->head_dim_k);
  data->k = Spread(rows->k, 1, rows->head_dim_k);
  data->v = Spread(rows->v, 1, rows->head_dim_v);
  for (int head = 0; head < rows->group; ++head) {
    for (const int row : row_from_token_) data->lse.push_back(rows->lse[static_cast<size_t>(head) * num_rows_ + row]);
  }
  return data;
}

PropagatedPrefill RunPropagated(Decoder& decoder, const TraceSource& whole, const ResidualTap& tap,
                                const Propagation& propagation, int prefill_chunk) {
  const ModelConfig& c = decoder.model().config;
  const std::span<const int> tokens = propagation.tokens;
  PropagatedPrefill result;
  result.trace = std::make_unique<PropagatedTrace>(whole, propagation);
  FullCache cache(c, whole.info().model.kv_dtype);
  size_t begin = 0;
  const LayerObserver record = [&](int layer, LayerChunk& chunk) {
    result.trace->AppendChunk(layer, static_cast<int>(begin), std::move(chunk));
  };
  result.logits.resize(c.vocab);
  while (begin < tokens.size()) {
    const std::span<const int> positions =
        tokens.subspan(begin, std::min(tokens.size() - begin, static_cast<size_t>(prefill_chunk)));
    std::vector<float> residual;
    for (const int token : positions) {
      const auto row = tap.residual.begin() + static_cast<int64_t>(token) * c.hidden;
      residual.insert(residual.end(), row, row + c.hidden);
    }
    const DecoderInput input{&cache, {}, record, {}, residual, positions};
    const std::span<const float> hidden = decoder.Run({&input, 1}, propagation.after_layer + 1);
    begin += positions.size();
    if (begin == tokens.size()) decoder.Logits(hidden.last(c.hidden), 1, result.logits);
  }
  return result;
}

}  // namespace kvscope
