// SPDX-License-Identifier: Apache-2.0
// The one matrix micro-kernel: x [rows, depth] times a panel [depth, 32]. Internal to kernels/*.cpp.
// Each output is a single chain of fused multiply-adds over depth 0, 1, 2 ..., so a row's result does not depend on how
// many rows are computed with it: prefill, decode and batches of forks give the same bits.
#pragma once

#include <cstdint>

#include "kernels/simd.h"

namespace kvscope::panel {

inline constexpr int kColumns = 32;
inline constexpr int kMaxRows = 12;  // 24 accumulators of 32 vector registers

// out[row][column] = (accumulate ? out : 0) + sum over d of x[row][d] * panel[d][column]
template <int kRows>
inline void Multiply(const float* x, int64_t x_stride, const float* panel, int64_t panel_stride, int depth,
                     bool accumulate, float* out, int64_t out_stride) {
  simd::Floats low[kRows], high[kRows];
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    low[row] = accumulate ? simd::Load(out + row * out_stride) : simd::Zero();
    high[row] = accumulate ? simd::Load(out + row * out_stride + 16) : simd::Zero();
  }
  for (int d = 0; d < depth; ++d) {
    const simd::Floats panel_low = simd::Load(panel + d * panel_stride);
    const simd::Floats panel_high = simd::Load(panel + d * panel_stride + 16);
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
      const simd::Floats value = simd::Broadcast(x[row * x_stride + d]);
      low[row] = simd::Fma(value, panel_low, low[row]);
      high[row] = simd::Fma(value, panel_high, high[row]);
    }
  }
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
    simd::Store(out + row * out_stride, low[row]);
    simd::Store(out + row * out_stride + 16, high[row]);
  }
}

// Any number of rows.
inline void MultiplyRows(const float* x, int64_t x_stride, int rows, const float* panel, int64_t panel_stride,
                         int depth, bool accumulate, float* out, int64_t out_stride) {
  int row = 0;
  const auto step = [&]<int kRows>() {
    Multiply<kRows>(x + row * x_stride, x_stride, panel, panel_stride, depth, accumulate, out + row * out_stride,
                    out_stride);
    row += kRows;
  };
  while (rows - row >= 12) step.template operator()<12>();
  if (rows - row >= 8) step.template operator()<8>();
  if (rows - row >= 4) step.template operator()<4>();
  switch (rows - row) {
    case 3:
      step.template operator()<3>();
      break;
    case 2:
      step.template operator()<2>();
      break;
    case 1:
      step.template operator()<1>();
      break;
    default:
      break;
  }
}

}  // namespace kvscope::panel
