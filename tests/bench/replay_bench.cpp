// SPDX-License-Identifier: Apache-2.0
// Replay of the seven policies that kvpress has too, at two budgets, on one trace: every metric of every later query,
// statistics not cached, the file in the page cache. Prints the seconds of the best of three runs, beside which
// peers/kvpress_sweep.py prints its own.
//   replay_bench niah_c4096.kvtrace.h5 [threads]
#include <tbb/global_control.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "core/trace_reader.h"
#include "replay/sweep.h"

namespace kvscope {
namespace {

double BestOfThree(const std::string& path, Protocol protocol, bool analyzes) {
  SweepOptions options;
  options.policies = {"random", "streaming_llm", "snapkv", "tova", "observed_attention", "pyramid_kv", "ada_kv"};
  options.budgets = {{BudgetSpec::Unit::kCompressionRatio, 0.5}, {BudgetSpec::Unit::kCompressionRatio, 0.75}};
  options.protocols = {protocol};
  options.is_bare = true;
  options.analyzes = analyzes;
  double best = 1e30;
  for (int run = 0; run < 3; ++run) {
    const auto start = std::chrono::steady_clock::now();
    const auto trace = TraceReader::Open(path);
    Results results;
    ReplayTrace(*trace, path, options, results);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "replay_bench: expected a trace file; see the head of tests/bench/replay_bench.cpp\n");
    return 2;
  }
  try {
    const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2;
    tbb::global_control control(tbb::global_control::max_allowed_parallelism, threads);
    for (const kvscope::Protocol protocol : {kvscope::Protocol::kPrompt, kvscope::Protocol::kContext}) {
      for (const bool analyzes : {false, true}) {
        std::printf("7 policies x 2 budgets, decided at %s, %s analysis, %d threads: %.2f s\n", Name(protocol).data(),
                    analyzes ? "with" : "without", threads, kvscope::BestOfThree(argv[1], protocol, analyzes));
        std::fflush(stdout);
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "replay_bench: %s\n", error.what());
    return 2;
  }
}
