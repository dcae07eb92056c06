// SPDX-License-Identifier: Apache-2.0
// Made-up but plausible results of replay and live, for tests of the report and for looking at its pictures. Nothing
// here was measured.
#pragma once

#include <string>
#include <vector>

#include "core/results.h"

namespace kvscope {

struct FakeResultsOptions {
  int layers = 30, heads = 9, kv_heads = 3, tokens = 2048;
  std::vector<double> contexts = {2048}, depths = {0, 0.25, 0.5, 0.75, 1};
  std::vector<double> fractions = {0.5, 0.25};
  std::vector<std::string> policies = {"full",  "random", "recent_window", "streaming_llm",  "h2o",
                                       "tova",  "snapkv", "snapkv+ada",    "snapkv+pyramid", "snapkv@int4",
                                       "adkvc", "int8",   "int4",          "top_k_oracle"};
  double samples = 1;  // n of each live row
  std::string model = "SmolLM2-135M-Instruct", task = "niah";
};
Results FakeReplay(const FakeResultsOptions& options = {});
Results FakeLive(const FakeResultsOptions& options = {});

}  // namespace kvscope
