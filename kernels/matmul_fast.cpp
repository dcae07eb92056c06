// SPDX-License-Identifier: Apache-2.0
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "core/error.h"
#include "kernels/bf16.h"
#include "kernels/matmul.h"
#include "kernels/matmul_int8.h"
#include "kernels/panel.h"
#include "kernels/quantized_rows.h"
#include "kernels/simd.h"

namespace kvscope {
namespace {

constexpr int kQuad = 4;
static_assert(kPanelOutputs == panel::kColumns && kPanelOutputs == 2 * simd::kLanes);

simd::Floats LoadNumbers(const std::byte* at, bool is_half, int lane) {
  return is_half ? simd::Load(reinterpret_cast<const Half*>(at) + lane)
                 : simd::Load(reinterpret_cast<const float*>(at) + lane);
}

// What the two halves of a panel's outputs have for one group of inputs.
struct GroupNumbers {
  simd::Floats scale[2], minimum[2];
};

GroupNumbers LoadGroup(const QuantFormat& format, const std::byte* block, int group) {
  const int groups = kBlockInputs / format.group, bytes = kPanelOutputs * (format.is_half ? 2 : 4);
  GroupNumbers numbers;
  for (int half = 0; half < 2; ++half) {
    const int lane = half * simd::kLanes;
    numbers.scale[half] = LoadNumbers(block + group * bytes, format.is_half, lane);
    numbers.minimum[half] = format.has_minimum
                                ? LoadNumbers(block + (groups + group) * bytes, format.is_half, lane)
                                : simd::Mul(simd::Broadcast(static_cast<float>(-format.zero)), numbers.scale[half]);
  }
  return numbers;
}

// Input i of a quad: the weights of the panel's 32 outputs.
template <int kCodeBits, int kInput, typename Use>
void UseInput(const GroupNumbers& numbers, simd::Words low, simd::Words high, Use&& use) {
  constexpr int kMask = (1 << kCodeBits) - 1, kShift = 8 * kInput;
  use(simd::Fma(numbers.scale[0], simd::FromBits<kShift, kMask>(low), numbers.minimum[0]),
      simd::Fma(numbers.scale[1], simd::FromBits<kShift + (kCodeBits == 4 ? 4 : 0), kMask>(high), numbers.minimum[1]));
}

// use(outputs 0 to 15, outputs 16 to 31) for each input of a block, in order.
template <int kCodeBits, typename Use>
void UseBlock(const QuantFormat& format, const std::byte* block, const std::byte* codes, Use&& use) {
  for (int group = 0; group < kBlockInputs / format.group; ++group) {
    const GroupNumbers numbers = LoadGroup(format, block, group);
    for (int input = 0; input < format.group; input += kQuad) {
      const simd::Words low = simd::LoadWords(codes);
      const simd::Words high = kCodeBits == 4 ? low : simd::LoadWords(codes + simd::kLanes * kQuad);
      codes += kQuad * kPanelOutputs * kCodeBits / 8;
      UseInput<kCodeBits, 0>(numbers, low, high, use);
      UseInput<kCodeBits, 1>(numbers, low, high, use);
      UseInput<kCodeBits, 2>(numbers, low, high, use);
      UseInput<kCodeBits, 3>(numbers, low, high, use);
    }
  }
}

template <typename Use>
void UseBlock(const PackedMatrix& w, const std::byte* block, Use&& use) {
  if (w.format().code_bits == 4) {
    UseBlock<4>(w.format(), block, block + w.codes_offset(), use);
  } else {
    UseBlock<8>(w.format(), block, block + w.codes_offset(), use);
  }
}

// One row times a panel of quantised weights, which never leave the registers: the same chain of fused multiply-adds
// over the inputs as panel::Multiply's, so the same bits.
void MultiplyRow(const PackedMatrix& w, int panel, const float* x, float* out) {
  simd::Floats low = simd::Zero(), high = simd::Zero();
  for (int block = 0; block < w.blocks(); ++block) {
    UseBlock(w, w.Block(panel, block), [&](simd::Floats first, simd::Floats second) {
      const simd::Floats value = simd::Broadcast(*x++);
      low = simd::Fma(value, first, low);
      high = simd::Fma(value, second, high);
    });
  }
  simd::Store(out, low);
  simd::Store(out + simd::kLanes, high);
}

const int8::InstructionSet& BestInstructionSet() {
  static const int8::InstructionSet& best =
      *std::find_if(int8::InstructionSets(), int8::InstructionSets() + int8::kNumInstructionSets,
                    [](const int8::InstructionSet& set) { return set.is_available; });
  return best;
}

}  // namespace

void PackedMatrix::Expand(int panel, int begin, int end, float* out) const {
  for (int input = begin; input < end; input += kBlockInputs, out += kBlockInputs * kPanelOutputs) {
    const std::byte* block = Block(panel, input / kBlockInputs);
    const int count = std::min(kBlockInputs, end - input) * kPanelOutputs;
    switch (kind_) {
      case WeightKind::kF32:
        std::memcpy(out, block, static_cast<size_t>(count) * 4);
        break;
      case WeightKind::kF16:
        for (int i = 0; i < count; i += simd::kLanes)
          simd::Store(out + i, simd::Load(reinterpret_cast<const Half*>(block) + i));
        break;
      case WeightKind::kBf16:
        for (int i = 0; i < count; ++i) out[i] = FloatFromBf16(reinterpret_cast<const uint16_t*>(block)[i]);
        break;
      case WeightKind::kQuantised:
        UseBlock(*this, block, [expanded = out](simd::Floats first, simd::Floats second) mutable {
          simd::Store(expanded, first);
          simd::Store(expanded + simd::kLanes, second);
          expanded += kPanelOutputs;
        });
    }
  }
}

const char* Int8InstructionSet() {
  return BestInstructionSet().name;
}

namespace cpu_fast {
namespace {

// Few rows: expand a block at a time into L1. Many rows: expand the panel once, then sweep the rows.
constexpr int kFewRows = 24;

void MultiplyFloats(const MatmulProblem& p, int panel_index, std::vector<float>& scratch) {
  const PackedMatrix& w = *p.weights;
  const int columns = std::min(kPanelOutputs, w.outputs() - panel_index * kPanelOutputs);
  const int depth_step = p.rows <= kFewRows ? kBlockInputs : w.inputs();
  const bool is_direct = columns == kPanelOutputs;
  scratch.resize(static_cast<size_t>(depth_step) * kPanelOutputs +
                 (is_direct ? 0 : static_cast<size_t>(p.rows) * kPanelOutputs));
  float* out = is_direct ? p.out + panel_index * kPanelOutputs
                         : scratch.data() + static_cast<int64_t>(depth_step) * kPanelOutputs;
  const int64_t out_stride = is_direct ? p.out_stride : kPanelOutputs;
  if (p.rows == 1 && w.kind() == WeightKind::kQuantised) {
    MultiplyRow(w, panel_index, p.x, out);
  } else {
    for (int begin = 0; begin < w.inputs(); begin += depth_step) {
      const int end = std::min(begin + depth_step, w.inputs());
      w.Expand(panel_index, begin, end, scratch.data());
      panel::MultiplyRows(p.x + begin, p.x_stride, p.rows, scratch.data(), kPanelOutputs, end - begin, begin > 0, out,
                          out_stride);
    }
  }
  if (is_direct) return;
  for (int row = 0; row < p.rows; ++row)
    std::copy_n(out + row * kPanelOutputs, columns, p.out + row * p.out_stride + panel_index * kPanelOutputs);
}

QuantizedRows Quantize(const MatmulProblem& p) {
  constexpr int kGrain = 16;
  QuantizedRows quantized(p.rows, p.weights->inputs(), p.weights->format().group);
  tbb::parallel_for(tbb::blocked_range<int>(0, p.rows, kGrain), [&](const tbb::blocked_range<int>& range) {
    for (int row = range.begin(); row < range.end(); ++row)
      quantized.Set(row, {p.x + row * p.x_stride, static_cast<size_t>(p.weights->inputs())});
  });
  return quantized;
}

// The rows that problems multiply as bytes; problems of the same x share them.
struct ByteRows {
  std::vector<QuantizedRows> rows;
  std::vector<int> of_problem;  // -1: it multiplies floats
};

ByteRows Prepare(std::span<const MatmulProblem> problems, Activations activations) {
  ByteRows bytes;
  bytes.of_problem.assign(problems.size(), -1);
  if (activations == Activations::kFloat) return bytes;
  for (size_t i = 0; i < problems.size(); ++i) {
    const MatmulProblem& p = problems[i];
    if (p.weights->kind() != WeightKind::kQuantised) continue;
    for (size_t other = 0; other < i && bytes.of_problem[i] < 0; ++other) {
      const MatmulProblem& o = problems[other];
      if (bytes.of_problem[other] >= 0 && o.x == p.x && o.rows == p.rows && o.x_stride == p.x_stride &&
          o.weights->inputs() == p.weights->inputs() && o.weights->format().group == p.weights->format().group) {
        bytes.of_problem[i] = bytes.of_problem[other];
      }
    }
    if (bytes.of_problem[i] >= 0) continue;
    bytes.of_problem[i] = static_cast<int>(bytes.rows.size());
    bytes.rows.push_back(Quantize(p));
  }
  return bytes;
}

}  // namespace

void Matmul(const MatmulProblem& problem, Activations activations) {
  Matmul({&problem, 1}, activations);
}

void Matmul(std::span<const MatmulProblem> problems, Activations activations) {
  const ByteRows bytes = Prepare(problems, activations);
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
      const MatmulProblem& p = problems[which];
      if (const int rows = bytes.of_problem[which]; rows < 0) {
        MultiplyFloats(p, panel_index, scratch);
      } else {
        float* const out = p.out + panel_index * kPanelOutputs;
        BestInstructionSet().multiply(
            int8::ProblemOf(*p.weights, panel_index, bytes.rows[rows], p.rows, out, p.out_stride));
      }
    }
  });
}

}  // namespace cpu_fast
}  // namespace kvscope
