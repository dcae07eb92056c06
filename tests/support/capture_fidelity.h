// SPDX-License-Identifier: Apache-2.0
// How far a device's layers are from the CPU's when each gets the CPU's input, and whole runs from each other.
#pragma once

#include <span>
#include <vector>

#include "capture/device_engine.h"
#include "capture/model.h"
#include "core/memory_trace.h"

namespace kvscope {

// Relative Frobenius errors; out is what the layer adds to the residual stream. lse: the root of the mean square of its
// differences, and the largest.
struct FidelityErrors {
  double q = 0, k = 0, v = 0, out = 0, lse = 0, largest_lse = 0;
};
FidelityErrors Worst(const FidelityErrors& a, const FidelityErrors& b);

// Layer by layer, one chunk of tokens from position 0 on.
std::vector<FidelityErrors> CompareLayers(const Model& model, DeviceEngine& engine, std::span<const int> ids);

// The worst layer of two traces of the same tokens; out stays 0.
FidelityErrors CompareTraces(const TraceSource& device, const TraceSource& cpu);

}  // namespace kvscope
