// SPDX-License-Identifier: Apache-2.0
// The product of codes, once for all instruction sets. Isa is a struct of static functions on 16 lanes, one an output:
//   Floats, Ints   16 floats, 16 int32, with Zero, Broadcast, Store, Mul, Fma, Add ... on them
//   LoadNibbles    64 bytes as 16 quads of 4-bit codes, of the low or the high half of each byte
//   LoadBytes      64 bytes as 16 quads of 8-bit codes
//   Sums4, Sums8   running sums of products of quads; Sums4 takes at most 8 quads, whose codes are below 16
//   AddTo          sums += code * x over each quad; x is one quad of activations, the same for all lanes
//   Total          the sums as Ints; those of 8-bit codes are of (code - kByteBias)
// Included by one file per instruction set, each with its own flags, hence the unnamed namespace: no two of them share
// a function.
#pragma once

#include "kernels/matmul_int8.h"

namespace kvscope::int8 {
namespace {

constexpr int kLanes = 16, kOutputs = 32, kInputs = 32, kQuad = 4;

template <typename Isa>
typename Isa::Floats LoadScales(const std::byte* at, int lane, bool is_half) {
  return is_half ? Isa::LoadHalves(at + lane * 2) : Isa::LoadFloats(reinterpret_cast<const float*>(at) + lane);
}

// sums[row] = the products of one group of weights of 16 outputs with kRows rows.
template <typename Isa, int kRows, int kCodeBits, int kGroup>
inline __attribute__((always_inline)) void Dot(const std::byte* codes, bool is_high, const int8_t* x, int64_t x_stride,
                                               typename Isa::Ints (&totals)[kRows]) {
  if constexpr (kCodeBits == 4) {
    typename Isa::Sums4 sums[kRows] = {};
#pragma GCC unroll 8
    for (int quad = 0; quad < kGroup / kQuad; ++quad) {
      const auto weights = Isa::LoadNibbles(codes + quad * kLanes * kQuad, is_high);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) Isa::AddTo(sums[row], weights, x + row * x_stride + quad * kQuad);
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) totals[row] = Isa::Total(sums[row]);
  } else {
    typename Isa::Sums8 sums[kRows] = {};
#pragma GCC unroll 8
    for (int quad = 0; quad < kGroup / kQuad; ++quad) {
      const auto weights = Isa::LoadBytes(codes + (quad * kOutputs + (is_high ? kLanes : 0)) * kQuad);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) Isa::AddTo(sums[row], weights, x + row * x_stride + quad * kQuad);
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) totals[row] = Isa::Total(sums[row]);
  }
}

template <typename Isa, int kRows, int kCodeBits, int kGroup, bool kHasMinimum>
void MultiplyRows(const PanelProblem& p, int first_row) {
  using Floats = typename Isa::Floats;
  using Ints = typename Isa::Ints;
  constexpr int kGroups = kInputs / kGroup;
  constexpr int kGroupBytes = kGroup * kOutputs * kCodeBits / 8;
  const int64_t x_stride = p.num_blocks * kInputs, group_stride = p.num_blocks * kGroups;
  const int8_t* const x = p.codes + first_row * x_stride;
  const int64_t first_group = first_row * group_stride;
  const int scale_bytes = p.is_half ? 2 : 4;
  // What a row's sum of codes is worth beside the products that Dot gives.
  const int offset = (kCodeBits == 8 ? Isa::kByteBias : 0) - (kHasMinimum ? 0 : p.zero);
  const Ints offsets = Isa::Broadcast(offset);

  Floats sums[2][kRows];
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kRows; ++i) sums[i / kRows][i % kRows] = Isa::Zero();
  const std::byte* block = p.weights;
  for (int64_t group = 0; group < group_stride; ++group) {
    const int within = static_cast<int>(group % kGroups);
    const std::byte* const codes = block + p.codes_offset + within * kGroupBytes;
    const std::byte* const scales = block + within * kOutputs * scale_bytes;
    const std::byte* const minimums = scales + kGroups * kOutputs * scale_bytes;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Ints totals[kRows];
      Dot<Isa, kRows, kCodeBits, kGroup>(codes, half == 1, x + group * kGroup, x_stride, totals);
      const Floats scale = LoadScales<Isa>(scales, half * kLanes, p.is_half);
      const Floats minimum = kHasMinimum ? LoadScales<Isa>(minimums, half * kLanes, p.is_half) : Isa::Zero();
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const int64_t at = first_group + row * group_stride + group;
        Ints total = totals[row];
        if (offset != 0) total = Isa::Add(total, Isa::Mul(Isa::Broadcast(p.sums[at]), offsets));
        Floats& sum = sums[half][row];
        sum = Isa::Fma(Isa::Mul(scale, Isa::Broadcast(p.scales[at])), Isa::ToFloats(total), sum);
        if (kHasMinimum) sum = Isa::Fma(minimum, Isa::Broadcast(p.scaled_sums[at]), sum);
      }
    }
    if (within == kGroups - 1) block += p.block_bytes;
  }
  for (int row = 0; row < kRows; ++row) {
    float* const out = p.out + (first_row + row) * p.out_stride;
    if (p.columns == kOutputs) {
      Isa::Store(out, sums[0][row]);
      Isa::Store(out + kLanes, sums[1][row]);
    } else {
      float all[kOutputs];
      Isa::Store(all, sums[0][row]);
      Isa::Store(all + kLanes, sums[1][row]);
      for (int column = 0; column < p.columns; ++column) out[column] = all[column];
    }
  }
}

template <typename Isa, int kCodeBits, int kGroup, bool kHasMinimum>
void MultiplyAllRows(const PanelProblem& p) {
  constexpr int kMany = Isa::kRows;
  int row = 0;
  for (; p.rows - row >= kMany; row += kMany) MultiplyRows<Isa, kMany, kCodeBits, kGroup, kHasMinimum>(p, row);
  for (; p.rows - row >= 2; row += 2) MultiplyRows<Isa, 2, kCodeBits, kGroup, kHasMinimum>(p, row);
  if (row < p.rows) MultiplyRows<Isa, 1, kCodeBits, kGroup, kHasMinimum>(p, row);
}

template <typename Isa, int kCodeBits, int kGroup>
void MultiplyGroups(const PanelProblem& p) {
  p.has_minimum ? MultiplyAllRows<Isa, kCodeBits, kGroup, true>(p) : MultiplyAllRows<Isa, kCodeBits, kGroup, false>(p);
}

template <typename Isa>
void Multiply(const PanelProblem& p) {
  if (p.code_bits == 4) {
    p.group == 16 ? MultiplyGroups<Isa, 4, 16>(p) : MultiplyGroups<Isa, 4, 32>(p);
  } else {
    p.group == 16 ? MultiplyGroups<Isa, 8, 16>(p) : MultiplyGroups<Isa, 8, 32>(p);
  }
}

}  // namespace
}  // namespace kvscope::int8
