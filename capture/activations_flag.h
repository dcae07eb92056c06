// SPDX-License-Identifier: Apache-2.0
// The option --activations, the same for capture and live, and what int8 activations cost in accuracy.
#pragma once

#include <span>
#include <string>

#include "capture/model.h"
#include "kernels/matmul.h"

namespace CLI {
class App;
}

namespace kvscope {

void AddActivationsOption(CLI::App& app, std::string& name);
Activations ActivationsFromName(const std::string& name);  // float or int8

// Mean over tokens of the KL divergence (nats) of the next-token distribution with int8 activations from that with
// float ones; ids at least one, in [0, vocab). Runs both from an empty f16 cache.
double MeanKlOfInt8(const Model& model, std::span<const int> ids);

// One line to stderr: MeanKlOfInt8 of the prompt's first 256 tokens at most.
void ReportInt8(const char* program, const Model& model, std::span<const int> prompt);

}  // namespace kvscope
