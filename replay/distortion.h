// SPDX-License-Identifier: Apache-2.0
// What packing costs, measured on the prompt: how much of a key and of a value is lost at each step of a store's
// ladder, and the factors that make channels of keys alike before they are packed.
#pragma once

#include <span>
#include <vector>

#include "replay/policy.h"
#include "replay/store.h"

namespace kvscope {

// D(bits) [ladder] of one KV head, over some of its tokens. key_factors: of BalanceKeys, or empty. harm: not kNone.
//   kOutput    an entry of weight a changes the head's output by a (dv + (q dk) scale (v - o)), to be dropped by
//              a (v - o) / (1 - a): so D = E[((q dk) scale)^2] + E|dv|^2 / E|v - mean v|^2, with the errors of channels
//              independent of each other and of q. Where it reaches 1, those bits are worse than nothing.
//   kRelative  D = (E|dk|^2 / E|k|^2 + E|dv|^2 / E|v|^2) / 2.
//   kCapped    that, or 1 where E[((q dk) scale)^2] reaches 1.
std::vector<double> MeasureDistortion(const LayerView& view, int kv_head, const Store& store,
                                      std::span<const float> key_factors, Harm harm);

// [head_dim_k] of BalanceKeys, scaled to a geometric mean of 1. The two channels of a rotary pair (c, c + head_dim_k /
// 2) share one. balance: kKey: (max |k|)^-1/2 (SmoothAttention's); kQueryKey: (max |q| / max |k|)^1/2 (MiKV's).
std::vector<float> KeyFactors(const LayerView& view, int kv_head, KeyBalance balance);

}  // namespace kvscope
