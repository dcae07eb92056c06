// SPDX-License-Identifier: Apache-2.0
// The instruction set that every processor has, and the choice among them.
#include "kernels/matmul_int8.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "kernels/matmul_int8_panel.h"
#include "kernels/packed_matrix.h"
#include "kernels/quantized_rows.h"

namespace kvscope::int8 {
namespace {

struct Plain {
  static constexpr int kRows = 2;
  static constexpr int kByteBias = 0;
  struct Floats {
    float v[kLanes];
  };
  struct Ints {
    int32_t v[kLanes];
  };
  struct Codes {
    uint8_t v[kLanes][kQuad];
  };
  using Sums4 = Ints;
  using Sums8 = Ints;

  template <typename Vector, typename Function>
  static Vector Each(Function function) {
    Vector out;
    for (int lane = 0; lane < kLanes; ++lane) out.v[lane] = function(lane);
    return out;
  }
  static Floats Zero() { return Broadcast(0.0f); }
  static Floats Broadcast(float x) {
    return Each<Floats>([=](int) { return x; });
  }
  static Ints Broadcast(int x) {
    return Each<Ints>([=](int) { return x; });
  }
  static Floats LoadFloats(const float* at) {
    return Each<Floats>([=](int lane) { return at[lane]; });
  }
  static Floats LoadHalves(const std::byte* at) {
    return Each<Floats>([=](int lane) { return FloatFromHalf(reinterpret_cast<const Half*>(at)[lane]); });
  }
  static void Store(float* at, const Floats& x) { std::memcpy(at, x.v, sizeof x.v); }
  static Floats Mul(const Floats& x, const Floats& y) {
    return Each<Floats>([&](int lane) { return x.v[lane] * y.v[lane]; });
  }
  static Floats Fma(const Floats& x, const Floats& y, const Floats& z) {
    return Each<Floats>([&](int lane) { return std::fma(x.v[lane], y.v[lane], z.v[lane]); });
  }
  static Ints Mul(const Ints& x, const Ints& y) {
    return Each<Ints>([&](int lane) { return x.v[lane] * y.v[lane]; });
  }
  static Ints Add(const Ints& x, const Ints& y) {
    return Each<Ints>([&](int lane) { return x.v[lane] + y.v[lane]; });
  }
  static Floats ToFloats(const Ints& x) {
    return Each<Floats>([&](int lane) { return static_cast<float>(x.v[lane]); });
  }

  static Codes LoadBytes(const std::byte* at) {
    Codes codes;
    std::memcpy(codes.v, at, sizeof codes.v);
    return codes;
  }
  static Codes LoadNibbles(const std::byte* at, bool is_high) {
    Codes codes = LoadBytes(at);
    for (auto& quad : codes.v) {
      for (uint8_t& code : quad) code = is_high ? code >> 4 : code & 15;
    }
    return codes;
  }
  static void AddTo(Ints& sums, const Codes& codes, const int8_t* x) {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < kQuad; ++i) sums.v[lane] += codes.v[lane][i] * x[i];
    }
  }
  static Ints Total(const Ints& sums) { return sums; }
};

}  // namespace

PanelProblem ProblemOf(const PackedMatrix& weights, int panel, const QuantizedRows& x, int rows, float* out,
                       int64_t out_stride) {
  const QuantFormat& format = weights.format();
  return {.weights = weights.Block(panel, 0),
          .num_blocks = weights.blocks(),
          .block_bytes = weights.block_bytes(),
          .codes_offset = weights.codes_offset(),
          .code_bits = format.code_bits,
          .group = format.group,
          .zero = format.zero,
          .has_minimum = format.has_minimum,
          .is_half = format.is_half,
          .codes = x.codes(0),
          .scales = x.scales(0),
          .sums = x.sums(0),
          .scaled_sums = x.scaled_sums(0),
          .rows = rows,
          .columns = std::min(kPanelOutputs, weights.outputs() - panel * kPanelOutputs),
          .out = out,
          .out_stride = out_stride};
}

void MultiplyPlain(const PanelProblem& problem) {
  Multiply<Plain>(problem);
}

const InstructionSet* InstructionSets() {
#ifdef __x86_64__
  static const InstructionSet sets[kNumInstructionSets] = {
      {"avx512vnni",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni"),
       MultiplyAvx512Vnni},
      // Every processor with AVX2 has F16C; clang 16 does not ask for it.
      {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), MultiplyAvx2},
      {"plain", true, MultiplyPlain}};
#else
  static const InstructionSet sets[kNumInstructionSets] = {
      {"avx512vnni", false, MultiplyPlain}, {"avx2", false, MultiplyPlain}, {"plain", true, MultiplyPlain}};
#endif
  return sets;
}

}  // namespace kvscope::int8
