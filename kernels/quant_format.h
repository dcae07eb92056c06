// SPDX-License-Identifier: Apache-2.0
// Every quantised weight is scale * code + minimum, one scale and minimum for a group of inputs: what differs between
// the types of model files is how codes, scales and minimums are packed. Scale and code are short enough for
// scale * code to be exact in f32, so one fused multiply-add gives what a multiplication and an addition give.
#pragma once

namespace kvscope {

struct QuantFormat {
  int code_bits = 8;         // 4 or 8: what a code takes in memory; never negative
  int group = 32;            // inputs that share a scale: 16 or 32
  bool has_minimum = false;  // false: the minimum is -zero * scale, and nowhere stored
  int zero = 0;              // the code that stands for 0; only without minimum
  bool is_half = true;       // scales and minimums are f16 numbers

  friend bool operator==(const QuantFormat&, const QuantFormat&) = default;
};

}  // namespace kvscope
