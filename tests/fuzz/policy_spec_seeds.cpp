// SPDX-License-Identifier: Apache-2.0
// links: kvscope_replay_lib
// Writes one file per policy, with all its parameters, and some specs with every part: policy_spec_seeds FOLDER
#include <filesystem>
#include <fstream>

#include "replay/policy_spec.h"
#include "replay/registry.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path folder = std::filesystem::path(argv[1]) / "policy_spec";
  std::filesystem::create_directories(folder);
  std::vector<std::string> specs{"snapkv+ada/chunk=16@int4&all:window=8:pool=7:alpha=0.5",
                                 "h2o+pyramid@int8:every=4",
                                 "adkvc/block=8@mixed:balance=key:ladder=16-4:prefill_chunk=24",
                                 "snapkv+quantile@mixed",
                                 "tova+thresholds@mixed:theta_high=1:theta_low=0.5",
                                 "fastkv:tsp_layer=50",
                                 "tova+ada"};
  for (const auto& [name, info] : kvscope::Scorers()) {
    specs.push_back(name + ":" + kvscope::PolicySpec::Parse(name).parameters);
  }
  for (const auto& [name, info] : kvscope::Combinations()) specs.push_back(name);
  for (size_t i = 0; i < specs.size(); ++i) std::ofstream(folder / ("seed_" + std::to_string(i))) << specs[i];
}
