// SPDX-License-Identifier: Apache-2.0
// What a plan did to the queries after its decision. One layer is evaluated by one thread into a LayerMetrics; layers
// are reduced in order, so figures do not depend on the number of threads.
//
// attention_loss  1 - full-cache weight on the entries that the query could see, over the full row's sum
// output_error    |o - o_full|_2 / |o_full|_2 of a head
// topk_overlap    share of the k entries that the full cache weighs most that the query could see
// needle          tokens of the needle spans: share still there, weight over the policy's own cache. Counted are the
//                 layers and queries whose window still holds some of it, and of it that part
#pragma once

#include <span>
#include <vector>

#include "core/results.h"
#include "replay/policy.h"

namespace kvscope {

// Sums over queries, or over heads.
struct LayerMetrics {
  LayerMetrics() = default;
  LayerMetrics(const ModelShape& shape, int num_queries);

  std::vector<double> loss_head, error_head, overlap_head;          // [head], over queries
  std::vector<double> needle_weight_head, full_needle_weight_head;  // [head], over answer queries
  std::vector<double> retention_kv_head;                            // [kv_head], over answer queries
  std::vector<double> decision_retention_kv_head;                   // [kv_head], right after the decision
  std::vector<double> loss_query, error_query;                      // [query], over heads
  std::vector<double> retention_query;                              // [query], over KV heads
  std::vector<double> bytes_query;       // [query] cache of the layer afterwards, state included
  std::vector<double> read_bytes_query;  // [query]
  std::vector<char> sees_needle_query;   // [query] whether the layer's window holds some of it
  bool sees_needle_at_decision = false;
  double decision_bytes = 0;
  int64_t decision_entries = 0;
  double decision_bits = 0;         // sum over entries
  double decision_needle_bits = 0;  // sum over KV heads and needle tokens, dropped ones 0; as of the whole needle
  double needle_bits = 0;           // and over answer queries
  double prefill_peak_bytes = 0;    // largest before the decision; 0: the whole prefill, uncompressed
};

struct PlanMetrics {
  int num_queries = 0, num_answer_queries = 0;
  bool has_needle = false;
  int num_needle_tokens = 0;
  ModelShape shape;
  std::vector<LayerMetrics> layers;

  // Fills the columns and arrays that replay measures. full_bytes: fp16 cache before the decision.
  void FillRow(double full_bytes, ResultRow& figures, std::vector<NamedArray>& arrays) const;
};

// The sum of weights[i] * mask[i], in an order that depends on the length alone.
double MaskedSum(std::span<const float> weights, std::span<const float> mask);
// The k tokens of the largest weights, ascending; of equal ones the lower token.
std::vector<int> TopTokens(std::span<const float> weights, int k);
// |a - b| / |b|; 0 when both are zero.
double RelativeError(std::span<const float> a, std::span<const float> b);

}  // namespace kvscope
