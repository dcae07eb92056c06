// SPDX-License-Identifier: Apache-2.0
// A model's weights on a device: every matrix in f16 or bf16, q, k and v of a layer as one, gate and up as one.
#pragma once

#include <vector>

#include "capture/model.h"
#include "kernels/dense_matmul.h"
#include "kernels/device.h"

namespace kvscope::KVSCOPE_TWIN {

class DeviceWeights {
 public:
  // Vectors are f32; without data where the model has none.
  struct Layer {
    TensorView attn_norm, ffn_norm;            // [hidden]
    TensorView qkv_bias;                       // [(heads + 2 kv_heads) * head_dim]
    TensorView q_norm, k_norm;                 // [head_dim]
    TensorView post_attn_norm, post_ffn_norm;  // [hidden]
    DenseMatrix qkv;                           // [(heads + 2 kv_heads) * head_dim, hidden]
    DenseMatrix attn_out;                      // [hidden, heads * head_dim]
    DenseMatrix gate_up;                       // [2 ffn, hidden]
    DenseMatrix down;                          // [hidden, ffn]
  };

  // Throws Error when a weight is outside the type's range, the kernels do not take a width, or memory does not
  // suffice.
  DeviceWeights(const Model& model, DenseType type);
  // Random ones of a model's shape, made on the device; norms are 1.
  DeviceWeights(const ModelConfig& config, uint64_t seed, DenseType type);

  const ModelConfig& config() const { return config_; }
  DenseType type() const { return type_; }
  const DenseMatrix& embedding() const { return embedding_; }
  const DenseMatrix& head() const { return head_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const TensorView& output_norm() const { return output_norm_; }
  size_t bytes() const { return bytes_; }

 private:
  void CheckRoom(bool is_tied) const;
  void* Allocate(size_t bytes);
  DenseMatrix Upload(const char* name, std::initializer_list<const PackedMatrix*> parts);
  TensorView Upload(const std::vector<float>& vector);

  ModelConfig config_;
  DenseType type_;
  std::vector<DeviceBuffer> buffers_;
  size_t bytes_ = 0;
  DenseMatrix embedding_, head_;
  std::vector<Layer> layers_;
  TensorView output_norm_;
};

}  // namespace kvscope::KVSCOPE_TWIN
