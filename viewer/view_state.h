// SPDX-License-Identifier: Apache-2.0
// Everything that is chosen, in one struct that can be compared, saved and tested.
#pragma once

#include <string>

#include "replay/weight_map.h"

namespace kvscope {

enum class HeadOrder { kLayer, kNeedle, kEntropy, kSink, kLocal };  // of the overview

struct ViewState {
  int layer_index = 0;  // of those recorded
  int head_index = 0;   // of the layer's stored query heads
  bool is_log = true;   // the colour scale
  bool masks_sinks = false;
  HeadOrder head_order = HeadOrder::kLayer;
  int step = 0;           // of decoding, in the timeline
  int marked_token = -1;  // in every panel; -1: none
  MapWindow window{};     // of the heatmap; empty: all
  friend bool operator==(const ViewState&, const ViewState&) = default;
};

inline constexpr int kSinkTokens = 4;  // that "mask the sinks" leaves out

}  // namespace kvscope
