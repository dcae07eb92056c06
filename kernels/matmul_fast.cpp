// SPDX-License-Identifier: Apache-2.0
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "kernels/matmul.h"
#include "kernels/panel.h"
#include "kernels/simd.h"

namespace kvscope {
namespace {

constexpr int kColumns = panel::kColumns;

#ifndef KVSCOPE_SIMD_PLAIN
__m128i LoadBytes(const std::byte* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

void ExpandQ8(const std::byte* block, float* out) {
  const auto* scales = reinterpret_cast<const float*>(block);
  const simd::Floats low = simd::Load(scales), high = simd::Load(scales + 16);
  const std::byte* codes = block + kColumns * 4;
  for (int i = 0; i < kQuantBlock; ++i, codes += kColumns, out += kColumns) {
    simd::Store(out, simd::Mul(simd::FromSignedBytes(LoadBytes(codes)), low));
    simd::Store(out + 16, simd::Mul(simd::FromSignedBytes(LoadBytes(codes + 16)), high));
  }
}

void ExpandQ4(const std::byte* block, float* out) {
  const auto* scales = reinterpret_cast<const float*>(block);
  const simd::Floats low = simd::Load(scales), high = simd::Load(scales + 16);
  const simd::Floats low_minimum = simd::Load(scales + 32), high_minimum = simd::Load(scales + 48);
  const std::byte* codes = block + kColumns * 8;
  const __m128i nibble = _mm_set1_epi8(15);
  for (int i = 0; i < kQuantBlock; ++i, codes += 16, out += kColumns) {
    const __m128i pairs = LoadBytes(codes);
    simd::Store(out, simd::Fma(low, simd::FromUnsignedBytes(_mm_and_si128(pairs, nibble)), low_minimum));
    simd::Store(out + 16, simd::Fma(high, simd::FromUnsignedBytes(_mm_and_si128(_mm_srli_epi16(pairs, 4), nibble)),
                                    high_minimum));
  }
}
#endif

}  // namespace

void PackedMatrix::Expand(int panel, int begin, int end, float* out) const {
  for (int input = begin; input < end; input += kQuantBlock, out += kQuantBlock * kColumns) {
    const std::byte* block = Block(panel, input / kQuantBlock);
    const int count = std::min(kQuantBlock, end - input);
    switch (kind_) {
      case WeightKind::kF32:
        std::memcpy(out, block, static_cast<size_t>(count) * kColumns * 4);
        break;
      case WeightKind::kF16:
        for (int i = 0; i < count * kColumns; i += simd::kLanes)
          simd::Store(out + i, simd::Load(reinterpret_cast<const Half*>(block) + i));
        break;
#ifndef KVSCOPE_SIMD_PLAIN
      case WeightKind::kQ8:
        ExpandQ8(block, out);
        break;
      case WeightKind::kQ4:
        ExpandQ4(block, out);
        break;
#else
      default:
        for (int i = 0; i < kQuantBlock; ++i) {
          for (int column = 0; column < kColumns; ++column)
            out[i * kColumns + column] = At(panel * kColumns + column, input + i);
        }
#endif
    }
  }
}

namespace cpu_fast {
namespace {

// Few rows: expand a block at a time into L1. Many rows: expand the panel once, then sweep the rows.
constexpr int kFewRows = 2 * panel::kMaxRows;

void MultiplyPanel(const MatmulProblem& p, int panel_index, std::vector<float>& scratch) {
  const PackedMatrix& w = *p.weights;
  const int columns = std::min(kColumns, w.outputs() - panel_index * kColumns);
  const int depth_step = p.rows <= kFewRows ? kQuantBlock : w.inputs();
  const bool is_direct = columns == kColumns;
  scratch.resize(static_cast<size_t>(depth_step) * kColumns + (is_direct ? 0 : static_cast<size_t>(p.rows) * kColumns));
  float* out =
      is_direct ? p.out + panel_index * kColumns : scratch.data() + static_cast<int64_t>(depth_step) * kColumns;
  const int64_t out_stride = is_direct ? p.out_stride : kColumns;
  for (int begin = 0; begin < w.inputs(); begin += depth_step) {
    const int end = std::min(begin + depth_step, w.inputs());
    w.Expand(panel_index, begin, end, scratch.data());
    panel::MultiplyRows(p.x + begin, p.x_stride, p.rows, scratch.data(), kColumns, end - begin, begin > 0, out,
                        out_stride);
  }
  if (is_direct) return;
  for (int row = 0; row < p.rows; ++row)
    std::copy_n(out + row * kColumns, columns, p.out + row * p.out_stride + panel_index * kColumns);
}

}  // namespace

void Matmul(const MatmulProblem& problem) {
  Matmul({&problem, 1});
}

void Matmul(std::span<const MatmulProblem> problems) {
  int num_panels = 0;
  int64_t work = 1;
  for (const MatmulProblem& p : problems) {
    num_panels += p.weights->num_panels();
    work = std::max<int64_t>(work, static_cast<int64_t>(p.weights->inputs()) * std::max(p.rows, 4));
  }
  // A few panels a task: enough work to pay for the task even at one row.
  const int grain = static_cast<int>(std::max<int64_t>(1, 20000 / work));
  tbb::parallel_for(tbb::blocked_range<int>(0, num_panels, grain), [&](const tbb::blocked_range<int>& range) {
    thread_local std::vector<float> scratch;
    for (int index = range.begin(); index < range.end(); ++index) {
      int panel_index = index;
      size_t which = 0;
      while (panel_index >= problems[which].weights->num_panels())
        panel_index -= problems[which++].weights->num_panels();
      MultiplyPanel(problems[which], panel_index, scratch);
    }
  });
}

}  // namespace cpu_fast
}  // namespace kvscope
