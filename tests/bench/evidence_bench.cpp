// SPDX-License-Identifier: Apache-2.0
// The evidence pass beside Eigen's sgemm, in one run: both count useful floating-point operations only (the pass: those
// of the causal QK^T, not exp, not the statistics), on 1 and 2 threads. The pass is to reach 40 % of Eigen's rate.
#include <benchmark/benchmark.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

#include <Eigen/Core>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "core/half.h"
#include "kernels/column_stats.h"

namespace kvscope {
namespace {

constexpr int kTokens = 4096, kHeadDim = 64, kGroup = 3, kMatrix = 1024;

struct Inputs {
  Inputs() : q(size_t{kGroup} * kTokens * kHeadDim), k(size_t{kTokens} * kHeadDim), lse(size_t{kGroup} * kTokens) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (Half& value : q) value = HalfFromFloat(normal(random));
    for (Half& value : k) value = HalfFromFloat(normal(random));
    for (int i = 0; i < kGroup * kTokens; ++i) lse[i] = std::log(1.0f + i % kTokens) + 0.5f;
    for (int token = 0; token < kTokens; ++token) q_token.push_back(token);
  }
  std::vector<Half> q, k;
  std::vector<float> lse;
  std::vector<int> q_token;
};

double rates[2][3];  // [evidence, Eigen][threads] in FLOP/s

// One problem per thread, as over KV heads.
void Evidence(benchmark::State& state) {
  static const Inputs inputs;
  const int threads = static_cast<int>(state.range(0));
  tbb::global_control control(tbb::global_control::max_allowed_parallelism, threads);
  ColumnStatsProblem problem;
  problem.q = inputs.q.data(), problem.k = inputs.k.data(), problem.lse = inputs.lse.data();
  problem.q_token = inputs.q_token;
  problem.group = kGroup, problem.num_rows = problem.num_tokens = problem.row_end = kTokens;
  problem.head_dim = kHeadDim, problem.rule.scale = 1 / std::sqrt(float{kHeadDim});
  const StatisticSpec specs[] = {{.kind = StatisticSpec::Kind::kSum},
                                 {.kind = StatisticSpec::Kind::kSum, .last_rows = 32}};
  std::vector<std::vector<float>> out(2);
  for (auto _ : state) cpu_fast::ColumnStats(problem, specs, out);
  const double flops = double{kGroup} * kTokens * (kTokens + 1.0) / 2 * 2 * kHeadDim;
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void EigenSgemm(benchmark::State& state) {
  const int threads = static_cast<int>(state.range(0));
  tbb::global_control control(tbb::global_control::max_allowed_parallelism, threads);
  std::vector<Eigen::MatrixXf> a, b, c;
  for (int i = 0; i < threads; ++i) {
    a.push_back(Eigen::MatrixXf::Random(kMatrix, kMatrix));
    b.push_back(Eigen::MatrixXf::Random(kMatrix, kMatrix));
    c.push_back(Eigen::MatrixXf::Zero(kMatrix, kMatrix));
  }
  for (auto _ : state) {
    tbb::parallel_for(
        0, threads, [&](int i) { c[i].noalias() = a[i] * b[i]; }, tbb::static_partitioner());
    benchmark::DoNotOptimize(c[0].data());
  }
  state.counters["FLOP/s"] =
      benchmark::Counter(2.0 * kMatrix * kMatrix * kMatrix * threads, benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK(EigenSgemm)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Evidence)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

// Remembers the rates, so that the ratio can be printed.
class RatioReporter final : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      const bool is_eigen = run.benchmark_name().find("Eigen") != std::string::npos;
      const int threads = run.benchmark_name().find("/2") != std::string::npos ? 2 : 1;
      const auto rate = run.counters.find("FLOP/s");
      if (rate != run.counters.end())
        rates[is_eigen][threads] = std::max(rates[is_eigen][threads], double(rate->second));
    }
  }
};

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  Eigen::setNbThreads(1);
  kvscope::RatioReporter reporter;
  benchmark::RunSpecifiedBenchmarks(&reporter);
  for (const int threads : {1, 2}) {
    const double evidence = kvscope::rates[0][threads], eigen = kvscope::rates[1][threads];
    if (evidence > 0 && eigen > 0) {
      std::printf("%d thread(s): evidence %.1f GFLOP/s of causal QK^T, Eigen sgemm %.1f GFLOP/s: %.1f %%\n", threads,
                  evidence / 1e9, eigen / 1e9, 100 * evidence / eigen);
    }
  }
}
