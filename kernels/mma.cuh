// SPDX-License-Identifier: Apache-2.0
// d += a b on tensor cores (sm_80 and later), by the 32 lanes of a warp together: a [16, 16] and b [16, 8] in f16, d
// [16, 8] in f32. Two halves a register. With g = lane / 4 and i = 2 (lane % 4), a lane holds
//   a[0]: row g, columns i, i + 1; a[1]: row g + 8; a[2], a[3]: the same rows, columns i + 8, i + 9
//   b[0]: rows i, i + 1 of column g; b[1]: rows i + 8, i + 9
//   d[0], d[1]: row g, columns i, i + 1; d[2], d[3]: row g + 8
#pragma once

#ifdef __CUDACC__
#include <cstdint>

namespace kvscope::cuda {

__device__ inline void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace kvscope::cuda
#endif
