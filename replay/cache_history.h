// SPDX-License-Identifier: Apache-2.0
// What one plan's caches held after each query: the decision, and every change that was logged since. Behind the
// viewer's maps of what is kept, and its answer to "why was it lost".
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "replay/engine.h"
#include "replay/layer_cache.h"

namespace kvscope {

// When and why one KV head lost a token.
struct TokenLoss {
  int token = 0;
  int query_token = 0;  // after this query it was gone; for the decision, the token before it
  bool is_at_decision = true;
  std::optional<EntryRank> rank;  // absent: the policy ranks nothing
};

class CacheHistory {
 public:
  // actions: of Evaluate, in any order of layers; empty before the plan was evaluated.
  CacheHistory(std::shared_ptr<const Plan> plan, std::vector<CacheAction> actions);

  const Plan& plan() const { return *plan_; }
  // Bits of each token [query_token + 1] in a KV head's cache once that query was done; 0: not there, be it for the
  // policy or the layer's window. From the token before the decision on.
  std::vector<uint8_t> BitsAfter(int layer_index, int kv_head, int query_token) const;
  // What changed in a layer's caches right after a query.
  std::span<const CacheAction> ActionsOf(int layer_index, int query_token) const;
  // Tokens before it have left the layer's window once that query was done, whatever the policy.
  int FirstInWindow(int layer_index, int query_token) const {
    return plan_->rules.at(layer_index).FirstSeen(query_token);
  }
  // Those of these tokens (ascending) that the policy took from a KV head up to a query. Ranks of the decision are
  // known of the tokens that the plan watched.
  std::vector<TokenLoss> LossesUntil(int layer_index, int kv_head, std::span<const int> tokens, int query_token) const;

 private:
  std::shared_ptr<const Plan> plan_;
  std::vector<CacheAction> actions_;  // by layer, then query token
  std::span<const CacheAction> OfLayer(int layer_index) const;
};

}  // namespace kvscope
