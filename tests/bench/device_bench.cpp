// SPDX-License-Identifier: Apache-2.0
// The CUDA twins on the device at hand, one JSON line per figure, each beside the limit measured in the same run:
//   device_bench [TOKENS [QUERIES]]      32768 and 8192, an 8B model's attention (32 heads, 8 KV heads, 128 channels)
// Times are medians of 20 after 3 rounds to warm up; what is timed reads more than the L2 cache holds.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_decode.h"
#include "kernels/attention_prefill.h"
#include "kernels/column_stats.h"
#include "kernels/device.h"

namespace kvscope {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kDim = 128, kGroup = kHeads / kKvHeads;
constexpr int kWarmUps = 3, kRounds = 20;
constexpr float kScale = 0.0883883f;

double MedianSecs(const std::function<void()>& run) {
  cudaEvent_t begin, end;
  KVSCOPE_CHECK_CUDA(cudaEventCreate(&begin));
  KVSCOPE_CHECK_CUDA(cudaEventCreate(&end));
  std::vector<double> secs;
  for (int round = 0; round < kWarmUps + kRounds; ++round) {
    KVSCOPE_CHECK_CUDA(cudaEventRecord(begin, nullptr));
    run();
    KVSCOPE_CHECK_CUDA(cudaEventRecord(end, nullptr));
    KVSCOPE_CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0;
    KVSCOPE_CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (round >= kWarmUps) secs.push_back(milliseconds * 1e-3);
  }
  KVSCOPE_CHECK_CUDA(cudaEventDestroy(begin));
  KVSCOPE_CHECK_CUDA(cudaEventDestroy(end));
  std::nth_element(secs.begin(), secs.begin() + kRounds / 2, secs.end());
  return secs[kRounds / 2];
}

// Random halves on the device; a short pattern repeated, as nobody looks at them.
cuda::DeviceBuffer RandomHalves(size_t count, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<Half> pattern(65521), halves(count);
  for (Half& half : pattern) half = HalfFromFloat(normal(random));
  for (size_t i = 0; i < count; ++i) halves[i] = pattern[i % pattern.size()];
  cuda::DeviceBuffer buffer(count * sizeof(Half));
  buffer.CopyFromHost(halves.data(), buffer.bytes());
  return buffer;
}

TensorView View(const cuda::DeviceBuffer& buffer, DType dtype, std::array<int64_t, 4> shape, int rank) {
  return ContiguousView(buffer.data(), dtype, shape, rank, Device::kCuda);
}

double CopyBytesPerSec() {
  const size_t bytes = size_t{1} << 30;
  const cuda::DeviceBuffer from(bytes), to(bytes);
  const double secs = MedianSecs(
      [&] { KVSCOPE_CHECK_CUDA(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, nullptr)); });
  std::printf("{\"benchmark\": \"copy on the device\", \"gib\": 1, \"gb_per_sec_read_and_write\": %.0f}\n",
              2e-9 * static_cast<double>(bytes) / secs);
  return 2.0 * static_cast<double>(bytes) / secs;
}

void MeasureDecode(int tokens, double copy_bytes_per_sec) {
  const size_t cache = size_t{kKvHeads} * tokens * kDim;
  const cuda::DeviceBuffer k = RandomHalves(cache, 1), v = RandomHalves(cache, 2);
  cuda::DeviceBuffer q(kHeads * kDim * sizeof(float)), out(q.bytes()), lse(kHeads * sizeof(float));
  const cuda::DeviceBuffer weights(size_t{kHeads} * tokens * sizeof(float));
  q.Clear();
  DecodeAttention problem{.q = View(q, DType::kF32, {kHeads, kDim}, 2),
                          .k = View(k, DType::kF16, {kKvHeads, tokens, kDim}, 3),
                          .v = View(v, DType::kF16, {kKvHeads, tokens, kDim}, 3),
                          .rule = {.scale = kScale},
                          .out = View(out, DType::kF32, {kHeads, kDim}, 2),
                          .lse = View(lse, DType::kF32, {kHeads}, 1),
                          .weights = {}};
  const cuda::DeviceBuffer scratch(cuda::DecodeWorkspaceBytes(problem));
  for (const bool with_weights : {false, true}) {
    if (with_weights) problem.weights = View(weights, DType::kF32, {kHeads, tokens}, 2);
    const double secs = MedianSecs([&] { cuda::AttendDecode(problem, {scratch.data(), scratch.bytes(), nullptr}); });
    const double bytes = static_cast<double>(k.bytes() + v.bytes() + (with_weights ? weights.bytes() : 0));
    std::printf(
        "{\"benchmark\": \"attention_decode\", \"tokens\": %d, \"weights\": %s, \"us\": %.1f, \"gb_per_sec\": %.0f, "
        "\"share_of_copy\": %.3f}\n",
        tokens, with_weights ? "true" : "false", 1e6 * secs, 1e-9 * bytes / secs, bytes / secs / copy_bytes_per_sec);
  }
}

void MeasurePrefill(int tokens) {
  const cuda::DeviceBuffer q = RandomHalves(size_t{kHeads} * tokens * kDim, 3),
                           k = RandomHalves(size_t{kKvHeads} * tokens * kDim, 4),
                           v = RandomHalves(size_t{kKvHeads} * tokens * kDim, 5);
  const cuda::DeviceBuffer out(q.bytes()), lse(size_t{kHeads} * tokens * sizeof(float));
  PrefillAttention problem{.q = View(q, DType::kF16, {kHeads, tokens, kDim}, 3),
                           .k = View(k, DType::kF16, {kKvHeads, tokens, kDim}, 3),
                           .v = View(v, DType::kF16, {kKvHeads, tokens, kDim}, 3),
                           .first_query = 0,
                           .rule = {.scale = kScale},
                           .out = View(out, DType::kF16, {kHeads, tokens, kDim}, 3),
                           .lse = View(lse, DType::kF32, {kHeads, tokens}, 2)};
  const double products = 2.0 * kHeads * kDim * static_cast<double>(tokens) * tokens;  // two, causal
  double attention_secs = 0;
  for (const PrefillPath path : {PrefillPath::kWgmma, PrefillPath::kMma}) {  // the last is what column_stats joins
    if (!cuda::HasPath(path)) continue;
    problem.path = path;
    attention_secs = MedianSecs([&] { cuda::AttendPrefill(problem, {}); });
    std::printf(
        "{\"benchmark\": \"attention_prefill\", \"path\": \"%s\", \"tokens\": %d, \"ms\": %.3f, "
        "\"tflop_per_sec\": %.1f}\n",
        path == PrefillPath::kMma ? "mma" : "wgmma", tokens, 1e3 * attention_secs, 1e-12 * products / attention_secs);
  }

  std::vector<int> positions(tokens);
  std::iota(positions.begin(), positions.end(), 0);
  cuda::DeviceBuffer q_token(positions.size() * sizeof(int));
  q_token.CopyFromHost(positions.data(), q_token.bytes());
  using Kind = StatisticSpec::Kind;
  const std::vector<std::pair<const char*, std::vector<StatisticSpec>>> sets{
      {"sum", {{Kind::kSum, 0, 1, 0}}},
      {"ema", {{Kind::kGeometric, 0, 1, 64}}},
      {"sum, last 32, max, ema",
       {{Kind::kSum, 0, 0, 0}, {Kind::kSum, 32, 0, 0}, {Kind::kMax, 0, 1, 0}, {Kind::kGeometric, 0, 1, 64}}}};
  const cuda::DeviceBuffer sums(4 * size_t{kGroup} * tokens * sizeof(float));
  for (const auto& [name, specs] : sets) {
    const double secs = MedianSecs([&] {
      for (int kv_head = 0; kv_head < kKvHeads; ++kv_head) {
        const size_t rows = size_t{static_cast<size_t>(kv_head)} * tokens * kDim;
        const ColumnStatsProblem of_head{static_cast<const Half*>(q.data()) + kGroup * rows,
                                         static_cast<const Half*>(k.data()) + rows,
                                         DType::kF16,
                                         static_cast<const float*>(lse.data()) + size_t(kGroup) * kv_head * tokens,
                                         {static_cast<const int*>(q_token.data()), positions.size()},
                                         kGroup,
                                         tokens,
                                         tokens,
                                         kDim,
                                         tokens,
                                         {.scale = kScale}};
        cuda::ColumnStats(of_head, specs, static_cast<float*>(sums.data()), {});
      }
    });
    std::printf(
        "{\"benchmark\": \"column_stats\", \"statistics\": \"%s\", \"tokens\": %d, \"ms\": %.3f, "
        "\"share_of_attention\": %.3f}\n",
        name, tokens, 1e3 * secs, secs / attention_secs);
  }
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  using namespace kvscope;
  try {
    const int tokens = argc > 1 ? std::atoi(argv[1]) : 32768, queries = argc > 2 ? std::atoi(argv[2]) : 8192;
    if (argc > 3 || tokens < 1 || queries < 1) throw Error("usage: device_bench [TOKENS [QUERIES]]");
    if (!cuda::IsAvailable()) throw Error("expected a CUDA device that this build has code for, found none");
    std::printf("{\"device\": \"%s\"}\n", cuda::DeviceName().c_str());
    const double copy = CopyBytesPerSec();
    MeasureDecode(tokens, copy);
    MeasurePrefill(queries);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "device_bench: %s\n", error.what());
    return 2;
  }
}
