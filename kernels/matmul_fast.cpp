// SPDX-License-Identifier: Apache-2.0
#include <tbb/parallel_for.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <vector>

#include "core/error.h"
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

// Input i of a quad to 32 floats.
template <int kCodeBits, int kInput>
void ExpandInput(const GroupNumbers& numbers, simd::Words low, simd::Words high, float* out) {
  constexpr int kMask = (1 << kCodeBits) - 1, kShift = 8 * kInput;
  simd::Store(out, simd::Fma(numbers.scale[0], simd::FromBits<kShift, kMask>(low), numbers.minimum[0]));
  simd::Store(
      out + simd::kLanes,
      simd::Fma(numbers.scale[1], simd::FromBits<kShift + (kCodeBits == 4 ? 4 : 0), kMask>(high), numbers.minimum[1]));
}

template <int kCodeBits>
void ExpandBlock(const QuantFormat& format, const std::byte* block, const std::byte* codes, float* out) {
  for (int group = 0; group < kBlockInputs / format.group; ++group) {
    const GroupNumbers numbers = LoadGroup(format, block, group);
    for (int input = 0; input < format.group; input += kQuad, out += kQuad * kPanelOutputs) {
      const simd::Words low = simd::LoadWords(codes);
      const simd::Words high = kCodeBits == 4 ? low : simd::LoadWords(codes + simd::kLanes * kQuad);
      codes += kQuad * kPanelOutputs * kCodeBits / 8;
      ExpandInput<kCodeBits, 0>(numbers, low, high, out);
      ExpandInput<kCodeBits, 1>(numbers, low, high, out + kPanelOutputs);
      ExpandInput<kCodeBits, 2>(numbers, low, high, out + 2 * kPanelOutputs);
      ExpandInput<kCodeBits, 3>(numbers, low, high, out + 3 * kPanelOutputs);
    }
  }
}

void ExpandBf16(const std::byte* block, int count, float* out) {
  for (int i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, block + i * 2, sizeof bits);
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
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
        ExpandBf16(block, count, out);
        break;
      case WeightKind::kQuantised:
        if (format_.code_bits == 4) {
          ExpandBlock<4>(format_, block, block + codes_offset_, out);
        } else {
          ExpandBlock<8>(format_, block, block + codes_offset_, out);
        }
    }
  }
}

namespace cpu_fast {
namespace {

// Few rows: expand a block at a time into L1. Many rows: expand the panel once, then sweep the rows.
constexpr int kFewRows = 2 * panel::kMaxRows;

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
  for (int begin = 0; begin < w.inputs(); begin += depth_step) {
    const int end = std::min(begin + depth_step, w.inputs());
    w.Expand(panel_index, begin, end, scratch.data());
    panel::MultiplyRows(p.x + begin, p.x_stride, p.rows, scratch.data(), kPanelOutputs, end - begin, begin > 0, out,
                        out_stride);
  }
  if (is_direct) return;
  for (int row = 0; row < p.rows; ++row)
    std::copy_n(out + row * kPanelOutputs, columns, p.out + row * p.out_stride + panel_index * kPanelOutputs);
}

void MultiplyCodes(const MatmulProblem& p, int panel_index, const QuantizedRows& x) {
  static const int8::InstructionSet& best =
      *std::find_if(int8::InstructionSets(), int8::InstructionSets() + int8::kNumInstructionSets,
                    [](const int8::InstructionSet& set) { return set.is_available; });
  const PackedMatrix& w = *p.weights;
  const QuantFormat& format = w.format();
  best.multiply({.weights = w.Block(panel_index, 0),
                 .num_blocks = w.blocks(),
                 .block_bytes = w.block_bytes(),
                 .codes_offset = w.codes_offset(),
                 .code_bits = format.code_bits,
                 .group = format.group,
                 .zero = format.zero,
                 .has_minimum = format.has_minimum,
                 .is_half = format.is_half,
                 .codes = x.codes(0),
                 .scales = x.scales(0),
                 .sums = x.sums(0),
                 .scaled_sums = x.scaled_sums(0),
                 .rows = p.rows,
                 .columns = std::min(kPanelOutputs, w.outputs() - panel_index * kPanelOutputs),
                 .out = p.out + panel_index * kPanelOutputs,
                 .out_stride = p.out_stride});
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

// A problem with the rows that it multiplies as bytes, if it does; problems of the same x share them.
struct Part {
  MatmulProblem problem;
  int quantized = -1;
};

struct Parts {
  std::vector<Part> parts;
  std::vector<QuantizedRows> quantized;
};

Parts Prepare(std::span<const MatmulProblem> problems, Activations activations) {
  Parts all;
  for (const MatmulProblem& p : problems) {
    Part& part = all.parts.emplace_back(Part{p});
    if (activations == Activations::kFloat || p.weights->kind() != WeightKind::kQuantised) continue;
    const auto same = [&](const Part& other) {
      return other.quantized >= 0 && other.problem.x == p.x && other.problem.rows == p.rows &&
             other.problem.x_stride == p.x_stride && other.problem.weights->inputs() == p.weights->inputs() &&
             other.problem.weights->format().group == p.weights->format().group;
    };
    const auto found = std::find_if(all.parts.begin(), all.parts.end(), same);
    if (found != all.parts.end()) {
      part.quantized = found->quantized;
    } else {
      all.quantized.push_back(Quantize(p));
      part.quantized = static_cast<int>(all.quantized.size()) - 1;
    }
  }
  return all;
}

}  // namespace

void Matmul(const MatmulProblem& problem, Activations activations) {
  Matmul({&problem, 1}, activations);
}

void Matmul(std::span<const MatmulProblem> problems, Activations activations) {
  const Parts all = Prepare(problems, activations);
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
      const Part& part = all.parts[which];
      if (part.quantized < 0) {
        MultiplyFloats(part.problem, panel_index, scratch);
      } else {
        MultiplyCodes(part.problem, panel_index, all.quantized[part.quantized]);
      }
    }
  });
}

}  // namespace cpu_fast
}  // namespace kvscope
