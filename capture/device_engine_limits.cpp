// SPDX-License-Identifier: Apache-2.0
// What the device's kernels do not compute; no CUDA in here.
#include "capture/device_engine.h"

namespace kvscope {

std::string WhyNotOnDevice(const ModelConfig& config, Activations activations) {
  if (activations == Activations::kInt8) return "int8 activations";
  return config.num_experts > 0 ? "experts" : "";
}

}  // namespace kvscope
