// SPDX-License-Identifier: Apache-2.0
// From a policy's slider to the next picture, one JSON line a policy: what was seen of the trace stays, the budget is
// another each time. decide: what is kept; picture: its map as pixels; measure: the decode rows over it.
//   slider_bench TRACE [REPEATS]      9
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "core/trace_reader.h"
#include "replay/workbench.h"
#include "viewer/kept_map.h"

namespace kvscope {
namespace {

double Milliseconds() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

void Measure(const TraceReader& trace, Workbench& bench, const std::string& spec, int repeats) {
  const int decision = trace.info().prompt_tokens;
  const std::vector<int> needle = bench.NeedleBefore(decision);
  const std::atomic<bool> goes_on{false};
  std::vector<double> decide, picture, measure;
  double first = 0;
  for (int repeat = 0; repeat <= repeats; ++repeat) {
    const double keep = 0.10 + 0.05 * repeat;
    double begin = Milliseconds();
    const auto plan =
        bench.Decide({PolicySpec::Parse(spec), {BudgetSpec::Unit::kFraction, keep}, {}, decision}, needle);
    const double decided = Milliseconds() - begin;
    begin = Milliseconds();
    const CacheHistory history(plan, {});
    const KeptMap map = MakeKeptMap(history, decision, 1024);
    RetentionAfter(history, needle, decision);
    CountLosses(history, needle, decision);
    MakeKeptImage(map, KeptMapKind::kBits, map, {});
    const double painted = Milliseconds() - begin;
    begin = Milliseconds();
    bench.Measure(plan, goes_on);
    const double measured = Milliseconds() - begin;
    if (repeat == 0) {
      first = decided;
      continue;
    }
    decide.push_back(decided), picture.push_back(painted), measure.push_back(measured);
  }
  std::printf(
      "{\"benchmark\": \"slider\", \"policy\": \"%s\", \"tokens\": %d, \"decode_rows\": %zu, \"first_time_ms\": %.0f, "
      "\"decide_ms\": %.1f, \"picture_ms\": %.1f, \"measure_ms\": %.1f, \"slider_to_picture_ms\": %.1f, "
      "\"slider_to_measured_picture_ms\": %.1f}\n",
      spec.c_str(), decision, trace.steps().size(), first, Median(decide), Median(picture), Median(measure),
      Median(decide) + Median(picture), Median(decide) + Median(measure) + Median(picture));
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  try {
    if (argc < 2) throw kvscope::Error("usage: slider_bench TRACE [REPEATS]");
    const auto trace = kvscope::TraceReader::Open(argv[1]);
    kvscope::Workbench bench(*trace);
    for (const char* spec : {"snapkv", "ada_kv", "h2o", "adkvc", "snapkv@int4"})
      kvscope::Measure(*trace, bench, spec, argc > 2 ? std::max(1, std::atoi(argv[2])) : 9);
  } catch (const kvscope::Error& error) {
    std::fprintf(stderr, "slider_bench: %s\n", error.what());
    return 2;
  }
  return 0;
}
