// SPDX-License-Identifier: Apache-2.0
#include "capture/activations_flag.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "capture/decoder.h"
#include "capture/full_cache.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr int kLogitRows = 32;  // rows of logits held at once

}  // namespace

void AddActivationsOption(CLI::App& app, std::string& name) {
  app.add_option("--activations", name,
                 "float, or int8: faster and less accurate products with quantised weights, on the CPU")
      ->check(CLI::IsMember({"float", "int8"}))
      ->capture_default_str();
}

Activations ActivationsFromName(const std::string& name) {
  KVSCOPE_CHECK(name == "float" || name == "int8");
  return name == "int8" ? Activations::kInt8 : Activations::kFloat;
}

double MeanKlOfInt8(const Model& model, std::span<const int> ids) {
  KVSCOPE_CHECK(!ids.empty());
  const size_t hidden = model.config.hidden, vocab = model.config.vocab;
  Decoder as_float(model), as_int8(model, Activations::kInt8);
  FullCache float_cache(model.config, DType::kF16), int8_cache(model.config, DType::kF16);
  const DecoderInput float_input{&float_cache, ids, {}}, int8_input{&int8_cache, ids, {}};
  const std::span<const float> float_hidden = as_float.Run({&float_input, 1}),
                               int8_hidden = as_int8.Run({&int8_input, 1});
  std::vector<float> float_logits, int8_logits;
  double sum = 0;
  for (size_t begin = 0; begin < ids.size(); begin += kLogitRows) {
    const size_t rows = std::min<size_t>(kLogitRows, ids.size() - begin);
    float_logits.resize(rows * vocab);
    int8_logits.resize(rows * vocab);
    as_float.Logits(float_hidden.subspan(begin * hidden, rows * hidden), static_cast<int>(rows), float_logits);
    as_int8.Logits(int8_hidden.subspan(begin * hidden, rows * hidden), static_cast<int>(rows), int8_logits);
    for (size_t row = 0; row < rows; ++row) {
      const std::span<float> truth(&float_logits[row * vocab], vocab), other(&int8_logits[row * vocab], vocab);
      NormalizeLogits(truth);
      NormalizeLogits(other);
      sum += KlDivergence(truth, other);
    }
  }
  return sum / static_cast<double>(ids.size());
}

void ReportInt8(const char* program, const Model& model, std::span<const int> prompt) {
  constexpr size_t kTokens = 256;
  if (prompt.empty()) return;
  prompt = prompt.first(std::min(kTokens, prompt.size()));
  std::fprintf(stderr, "%s: int8 activations: mean KL from float ones %.2g nats over the first %zu tokens (%s)\n",
               program, MeanKlOfInt8(model, prompt), prompt.size(), Int8InstructionSet());
}

}  // namespace kvscope
