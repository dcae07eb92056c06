// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_rule.h"

#include "core/trace.h"

kvscope::AttentionRule kvscope::RuleOf(const LayerInfo& layer) {
  return {.scale = layer.scale, .softcap = layer.softcap, .window = layer.window};
}
