// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <cmath>
#include <vector>

#include "kernels/quantized_rows.h"

namespace kvscope::cpu {
namespace {

void MultiplyFloats(const MatmulProblem& p) {
  for (int output = 0; output < p.weights->outputs(); ++output) {
    std::vector<double> sums(p.rows, 0.0);
    for (int input = 0; input < p.weights->inputs(); ++input) {
      const double weight = p.weights->At(output, input);
      for (int row = 0; row < p.rows; ++row) sums[row] += p.x[row * p.x_stride + input] * weight;
    }
    for (int row = 0; row < p.rows; ++row) p.out[row * p.out_stride + output] = static_cast<float>(sums[row]);
  }
}

void MultiplyCodes(const MatmulProblem& p) {
  const PackedMatrix& w = *p.weights;
  const QuantFormat& format = w.format();
  const int inputs = w.inputs(), groups = inputs / format.group;
  std::vector<int8_t> codes(inputs);
  std::vector<float> scales(groups);
  std::vector<int32_t> sums(groups);
  for (int row = 0; row < p.rows; ++row) {
    QuantizeRow({p.x + row * p.x_stride, static_cast<size_t>(inputs)}, format.group, codes.data(), scales.data(),
                sums.data());
    for (int output = 0; output < w.outputs(); ++output) {
      float total = 0;
      for (int group = 0; group < groups; ++group) {
        const int first = group * format.group;
        int32_t dot = 0;
        for (int input = first; input < first + format.group; ++input)
          dot += codes[input] * (w.Code(output, input) - (format.has_minimum ? 0 : format.zero));
        total = std::fma(w.Scale(output, first) * scales[group], static_cast<float>(dot), total);
        if (format.has_minimum)
          total = std::fma(w.Minimum(output, first), scales[group] * static_cast<float>(sums[group]), total);
      }
      p.out[row * p.out_stride + output] = total;
    }
  }
}

}  // namespace

void Matmul(const MatmulProblem& p, Activations activations) {
  if (activations == Activations::kInt8 && p.weights->kind() == WeightKind::kQuantised) {
    MultiplyCodes(p);
  } else {
    MultiplyFloats(p);
  }
}

}  // namespace kvscope::cpu
