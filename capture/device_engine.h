// SPDX-License-Identifier: Apache-2.0
// A run on a device. Everything is enqueued on one stream: chunks as they come, a decode step as a CUDA graph that
// reads token, position and number of tokens from memory. What attention saw lies in a stage on the device, is copied
// on a second stream into a pinned ring (device_ring.h) while the model goes on, and reaches the sink from there. Two
// stages take turns; the model waits for one only when its copy is still under way, and for the ring only when that is
// full. Level relevance copies nothing but column statistics.
//
// Attention uses exactly the f16-rounded q, k and v that are recorded. Weights are f16 or bf16, the rest is f32, but
// for the activations that meet the weights of several tokens at once: they are rounded to the weights' type.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "capture/engine.h"
#include "kernels/dense_matmul.h"
#include "kernels/device.h"
#include "kernels/matmul.h"

namespace kvscope {

struct DeviceOptions {
  DenseType weights = DenseType::kF16;
  int64_t ring_bytes = int64_t{512} << 20;  // pinned memory for what the sink has not taken yet
};

// What recording takes, on the device and of the host's pinned memory; 0 without a sink.
struct CaptureMemory {
  int64_t device_bytes = 0, host_bytes = 0;
};

// Sees the residual stream [tokens, hidden] of a chunk before each layer, and behind the last one with layer ==
// num_layers; what it leaves there goes on. To compare layers with the CPU's one by one: the device waits for it.
using ResidualHook = std::function<void(int layer, std::span<float> residual)>;

// Empty, or what of this run no device computes, for messages: "experts", "int8 activations".
std::string WhyNotOnDevice(const ModelConfig& config, Activations activations = Activations::kFloat);

class DeviceEngine : public Engine {
 public:
  virtual void set_residual_hook(ResidualHook hook) = 0;
  virtual CaptureMemory capture_memory() const = 0;  // of the run since Begin
  virtual int64_t weight_bytes() const = 0;
};

namespace KVSCOPE_TWIN {  // cuda, but in tests
// On the device in use (UseDevice). Throws Error when weights or memory do not fit.
std::unique_ptr<DeviceEngine> MakeDeviceEngine(const Model& model, const DeviceOptions& options);
// Random weights of this shape, for performance only.
std::unique_ptr<DeviceEngine> MakeRandomEngine(const ModelConfig& config, const DeviceOptions& options);
}  // namespace KVSCOPE_TWIN

}  // namespace kvscope
