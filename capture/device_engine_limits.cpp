// SPDX-License-Identifier: Apache-2.0
// What the device's kernels do not compute; no CUDA in here.
#include <algorithm>

#include "capture/device_engine.h"

namespace kvscope {

std::string WhyNotOnDevice(const ModelConfig& c) {
  const auto any_layer = [&](auto&& has) { return std::any_of(c.layers.begin(), c.layers.end(), has); };
  if (any_layer([](const LayerConfig& layer) { return layer.attention.window > 0; })) return "attention windows";
  if (any_layer([](const LayerConfig& layer) { return layer.attention.softcap > 0; })) return "soft-capped scores";
  if (c.num_experts > 0) return "experts";
  return "";
}

}  // namespace kvscope
