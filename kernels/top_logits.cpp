// SPDX-License-Identifier: Apache-2.0
#include "kernels/top_logits.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace kvscope {

void cpu::FindTopLogits(const TopLogits& top) {
  const auto vocab = static_cast<int>(top.logits.shape[1]);
  KVSCOPE_CHECK(top.count >= 0 && top.count <= kMaxTop);
  KVSCOPE_CHECK_LE(top.count, vocab);
  for (int64_t row = 0; row < top.logits.shape[0]; ++row) {
    const float* logits = top.logits.floats() + row * top.logits.strides[0];
    std::vector<int> ids;
    double max = -INFINITY, sum = 0;
    for (int id = 0; id < vocab; ++id) {
      if (std::isnan(logits[id])) continue;
      ids.push_back(id);
      max = std::max<double>(max, logits[id]);
    }
    for (int id = 0; id < vocab; ++id) sum += std::exp(logits[id] - max);
    const auto logprob = [&](int id) { return static_cast<float>(logits[id] - max - std::log(sum)); };

    const auto kept = std::min(static_cast<size_t>(top.count), ids.size());
    std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(kept), ids.end(),
                      [&](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    for (int i = 0; i < top.count; ++i) {
      const bool has_id = static_cast<size_t>(i) < kept;
      top.ids[row * top.count + i] = has_id ? ids[i] : -1;
      top.logprobs[row * top.count + i] = has_id ? logprob(ids[i]) : NAN;
    }
    if (!top.wanted) continue;
    KVSCOPE_CHECK(top.wanted[row] >= 0 && top.wanted[row] < vocab);
    top.wanted_logprobs[row] = logprob(top.wanted[row]);
  }
}

#ifndef KVSCOPE_HAVE_CUDA
void cuda::FindTopLogits(const TopLogits&, const Workspace&) {
  throw Error("top_logits on cuda: this build has no CUDA; rebuild with nvcc on PATH and -DKVSCOPE_CUDA=ON");
}
size_t cuda::TopLogitsWorkspaceBytes(const TopLogits&) {
  return 0;
}
#endif

}  // namespace kvscope
