// SPDX-License-Identifier: Apache-2.0
// What packing costs, measured on the prompt: how much of a key and of a value is lost at each step of a store's
// ladder, and the factors that make channels of keys alike before they are packed.
#pragma once

#include <span>
#include <vector>

#include "replay/policy.h"
#include "replay/store.h"

namespace kvscope {

// D(bits) [ladder]: squared error over squared size, the mean of K's and V's, over some tokens of every KV head of the
// layer. To be dropped is 1. key_factors: [kv_head] of BalanceKeys, or empty.
std::vector<double> MeasureDistortion(const LayerView& view, const Store& store,
                                      std::span<const std::vector<float>> key_factors);

// [head_dim_k] of BalanceKeys, scaled to a geometric mean of 1. The two channels of a rotary pair (c, c + head_dim_k /
// 2) share one. balance: kKey: (max |k|)^-1/2 (SmoothAttention's); kQueryKey: (max |q| / max |k|)^1/2 (MiKV's).
std::vector<float> KeyFactors(const LayerView& view, int kv_head, KeyBalance balance);

}  // namespace kvscope
