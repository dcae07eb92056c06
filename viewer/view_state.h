// SPDX-License-Identifier: Apache-2.0
// Everything that is chosen, in one struct that can be compared, saved and tested.
#pragma once

#include <string>
#include <vector>

#include "replay/engine.h"
#include "replay/token_map.h"
#include "replay/weight_map.h"

namespace kvscope {

enum class HeadOrder { kLayer, kNeedle, kEntropy, kSink, kLocal };  // of the overview

enum class HeatmapKind { kQuery, kLayer, kStep };  // what stands on the vertical axis, over tokens
enum class LayerHeads { kMax, kMean, kOne };       // whose weights stand for a layer: all heads', or the chosen one's

// A policy under trial, as replay takes it.
struct PolicyChoice {
  std::string spec;  // see replay/policy_spec.h
  double keep_fraction = 0.25;
  friend bool operator==(const PolicyChoice&, const PolicyChoice&) = default;
};

// Whatever their parameters: what one showed may stay until the other has an answer.
inline bool IsSamePolicy(const PolicyChoice& a, const PolicyChoice& b) {
  return a.spec.substr(0, a.spec.find(':')) == b.spec.substr(0, b.spec.find(':'));
}

inline constexpr int kMostPolicies = 4;  // side by side

// What the maps of policies show; difference: of bits, to the first policy.
enum class KeptMapKind { kKept, kBits, kDifference };

struct ViewState {
  int document_index = 0;  // of the open traces
  int layer_index = 0;     // of those recorded
  int head_index = 0;      // of the layer's stored query heads
  bool is_log = true;      // the colour scale
  bool masks_sinks = false;
  HeadOrder head_order = HeadOrder::kLayer;
  int step = 0;           // of decoding, in the timeline
  int marked_token = -1;  // in every panel; -1: none
  MapWindow window{};     // of the heatmap; empty: all
  HeatmapKind heatmap_kind = HeatmapKind::kQuery;
  RowReduction reduction = RowReduction::kMax;  // of query rows, in token x layer and token x step
  LayerHeads layer_heads = LayerHeads::kMax;    // in token x layer
  std::vector<PolicyChoice> policies{{"snapkv"}, {"adkvc"}};
  int policy_index = 0;  // the one that all panels follow
  Protocol protocol = Protocol::kPrompt;
  KeptMapKind kept_map = KeptMapKind::kBits;
  bool follows_policies = false;      // they are replayed, and panels show what the one chosen keeps
  std::string curve_column{};         // of results, against bytes; empty or not there: the first there is
  bool grid_shows_retention = false;  // of the needle by the chosen policy; else the recorded answer
  friend bool operator==(const ViewState&, const ViewState&) = default;
};

inline constexpr int kSinkTokens = 4;  // that "mask the sinks" leaves out

}  // namespace kvscope
