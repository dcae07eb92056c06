// SPDX-License-Identifier: Apache-2.0
// What a decode step keeps of its logits: the best few and their log-probabilities, and that of a wanted id.
#pragma once

#include <cstddef>

#include "kernels/tensor.h"

namespace kvscope {

inline constexpr int kMaxTop = 8;

// Everything lies beside the logits. -0 equals 0. A NaN is never chosen (an id of -1 where too few others are left) and
// makes every log-probability of its row NaN, the wanted one's too, so that the caller can refuse them; so do +infinity
// and a row of nothing but -infinity. Otherwise -infinity is a probability of 0.
struct TopLogits {
  TensorView logits;                 // [rows, vocab] f32, any row stride
  int count = kMaxTop;               // <= kMaxTop, <= vocab
  int* ids = nullptr;                // [rows, count], best first; of equal ones the lower id
  float* logprobs = nullptr;         // [rows, count]: logit - log sum exp
  const int* wanted = nullptr;       // [rows]: an id per row, in [0, vocab) (checked on the CPU only), or null
  float* wanted_logprobs = nullptr;  // [rows], with wanted
};

namespace cpu {
void FindTopLogits(const TopLogits& top);
}
namespace cuda {
void FindTopLogits(const TopLogits& top, const Workspace& workspace);
size_t TopLogitsWorkspaceBytes(const TopLogits& top);  // grows with rows and vocab
}  // namespace cuda

}  // namespace kvscope
