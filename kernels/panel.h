// SPDX-License-Identifier: Apache-2.0
// The one matrix micro-kernel: x [rows, depth] times a panel [depth, 32]. Internal to kernels/*.cpp.
// Each output is a single chain of fused multiply-adds over depth 0, 1, 2 ..., so a row's result does not depend on how
// many rows are computed with it: prefill, decode and batches of forks give the same bits.
#pragma once

#include <cstdint>

#include "kernels/simd.h"

namespace kvscope::panel {

inline constexpr int kColumns = 32;
inline constexpr int kMostRows = simd::kMostSums >= 24 ? 12 : 6;  // whose sums stay in registers

// out[row][column] = (accumulate ? out : 0) + sum over d of x[row][d] * panel[d][column], for kHalves * 16 columns.
template <int kRows, int kHalves>
inline void Multiply(const float* x, int64_t x_stride, const float* panel, int64_t panel_stride, int depth,
                     bool accumulate, float* out, int64_t out_stride) {
  simd::Floats sum[kRows][kHalves];
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half)
      sum[row][half] = accumulate ? simd::Load(out + row * out_stride + half * simd::kLanes) : simd::Zero();
  }
  for (int d = 0; d < depth; ++d) {
    simd::Floats columns[kHalves];
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half)
      columns[half] = simd::Load(panel + d * panel_stride + half * simd::kLanes);
#pragma GCC unroll 12
    for (int row = 0; row < kRows; ++row) {
      const simd::Floats value = simd::Broadcast(x[row * x_stride + d]);
#pragma GCC unroll 2
      for (int half = 0; half < kHalves; ++half) sum[row][half] = simd::Fma(value, columns[half], sum[row][half]);
    }
  }
#pragma GCC unroll 12
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; ++half)
      simd::Store(out + row * out_stride + half * simd::kLanes, sum[row][half]);
  }
}

// Any number of rows. Both halves of the panel at once where the sums of that many rows stay in registers, else one
// after the other.
inline void MultiplyRows(const float* x, int64_t x_stride, int rows, const float* panel, int64_t panel_stride,
                         int depth, bool accumulate, float* out, int64_t out_stride) {
  int row = 0;
  const auto step = [&]<int kRows>() {
    constexpr int kHalves = kRows * 2 <= simd::kMostSums ? 2 : 1;
    for (int column = 0; column < kColumns; column += kHalves * simd::kLanes) {
      Multiply<kRows, kHalves>(x + row * x_stride, x_stride, panel + column, panel_stride, depth, accumulate,
                               out + row * out_stride + column, out_stride);
    }
    row += kRows;
  };
  while (rows - row >= kMostRows) step.template operator()<kMostRows>();
  if constexpr (kMostRows > 8) {
    if (rows - row >= 8) step.template operator()<8>();
  }
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
