// SPDX-License-Identifier: Apache-2.0
// What a warp does with tensor cores (sm_80 and later), all 32 lanes together. Two halves a register, the lower one
// first. Below, g = lane / 4 and i = 2 (lane % 4).
#pragma once

#ifdef __CUDACC__
#include <cstdint>

namespace kvscope::cuda {

// d += a b: a [16, 16] and b [16, 8] in f16, d [16, 8] in f32. A lane holds
//   a[0]: row g, columns i, i + 1; a[1]: row g + 8; a[2], a[3]: the same rows, columns i + 8, i + 9
//   b[0]: rows i, i + 1 of column g; b[1]: rows i + 8, i + 9
//   d[0], d[1]: row g, columns i, i + 1; d[2], d[3]: row g + 8
__device__ inline void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices [8, 8] of halves from shared memory. Lane 8 m + r says where row r of matrix m lies (16 bytes,
// aligned); words[m] becomes columns i, i + 1 of row g of matrix m.
__device__ inline void LoadMatrices(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// The same of the transposed matrices: words[m] becomes rows i, i + 1 of column g of matrix m.
__device__ inline void LoadMatricesTransposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// 2^x by the special function unit alone (2 units in the last place; results below 2^-126 are 0): exp2f takes three
// instructions more for those.
__device__ inline float Exp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

}  // namespace kvscope::cuda
#endif
