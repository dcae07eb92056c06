// SPDX-License-Identifier: Apache-2.0
#include "replay/cache_history.h"

#include <algorithm>
#include <tuple>

#include "core/error.h"

namespace kvscope {

CacheHistory::CacheHistory(std::shared_ptr<const Plan> plan, std::vector<CacheAction> actions)
    : plan_(std::move(plan)), actions_(std::move(actions)) {
  // One layer's come in order.
  std::ranges::stable_sort(actions_, {}, &CacheAction::layer_index);
}

std::span<const CacheAction> CacheHistory::OfLayer(int layer_index) const {
  const auto [begin, end] = std::ranges::equal_range(actions_, layer_index, {}, &CacheAction::layer_index);
  return {begin, end};
}

std::span<const CacheAction> CacheHistory::ActionsOf(int layer_index, int query_token) const {
  const auto [begin, end] = std::ranges::equal_range(OfLayer(layer_index), query_token, {}, &CacheAction::query_token);
  return {begin, end};
}

std::vector<uint8_t> CacheHistory::BitsAfter(int layer_index, int kv_head, int query_token) const {
  const int decision = plan_->request.FirstDecision();
  KVSCOPE_CHECK(query_token >= decision - 1);
  const auto store_bits = static_cast<uint8_t>(plan_->store->bits());
  const HeadPlan& head = plan_->layers.at(layer_index).at(kv_head);
  std::vector<uint8_t> bits(query_token + 1, 0);
  for (size_t i = 0; i < head.keep.size(); ++i) bits[head.keep[i]] = head.bits.empty() ? store_bits : head.bits[i];
  std::fill(bits.begin() + decision, bits.end(), store_bits);
  for (const CacheAction& action : OfLayer(layer_index)) {
    if (action.query_token > query_token) break;
    if (action.kv_head == kv_head) bits[action.token] = action.bits;
  }
  std::fill_n(bits.begin(), FirstInWindow(layer_index, query_token), uint8_t{0});
  return bits;
}

std::vector<TokenLoss> CacheHistory::LossesUntil(int layer_index, int kv_head, std::span<const int> tokens,
                                                 int query_token) const {
  const int decision = plan_->request.FirstDecision(), num_kv_heads = plan_->shape.num_kv_heads;
  const std::vector<int>& keep = plan_->layers.at(layer_index).at(kv_head).keep;
  const int in_window = FirstInWindow(layer_index, decision - 1);
  std::vector<TokenLoss> losses;
  const std::vector<int>& watched = plan_->watched_tokens;
  const size_t first = (static_cast<size_t>(layer_index) * num_kv_heads + kv_head) * watched.size();
  for (const int token : tokens) {
    if (token >= decision || token < in_window || std::ranges::binary_search(keep, token)) continue;
    TokenLoss loss{token, decision - 1, true, {}};
    const auto place = std::ranges::lower_bound(watched, token);
    if (place != watched.end() && *place == token) loss.rank = plan_->watched_rank[first + (place - watched.begin())];
    losses.push_back(loss);
  }
  for (const CacheAction& action : OfLayer(layer_index)) {
    if (action.query_token > query_token) break;
    if (action.kv_head != kv_head || action.bits > 0 || !std::ranges::binary_search(tokens, action.token)) continue;
    losses.push_back({action.token, action.query_token, false, action.rank});
  }
  std::ranges::stable_sort(losses, {}, &TokenLoss::token);
  return losses;
}

}  // namespace kvscope
