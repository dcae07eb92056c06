// SPDX-License-Identifier: Apache-2.0
// The viewer's heatmap of a long head, one JSON line a figure: the first picture, and the exact one.
//   heatmap_bench [TOKENS [HEAD_DIM]]      131072 128
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "core/error.h"
#include "replay/head_overview.h"
#include "replay/weight_map.h"

namespace kvscope {
namespace {

constexpr int kWidth = 1200, kHeight = 900;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Measure(int tokens, int dim) {
  auto data = std::make_shared<KvHeadData>();
  data->num_tokens = data->num_rows = tokens, data->group = 1, data->head_dim_k = data->head_dim_v = dim;
  data->k = Buffer(DType::kF16, static_cast<size_t>(tokens) * dim);
  data->q = Buffer(DType::kF16, static_cast<size_t>(tokens) * dim);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (Half& half : data->k.halves()) half = HalfFromFloat(normal(random));
  for (Half& half : data->q.halves()) half = HalfFromFloat(normal(random));
  data->lse.assign(tokens, 12.0f);
  std::vector<int> q_token(tokens);
  std::iota(q_token.begin(), q_token.end(), 0);
  const float scale = 1 / std::sqrt(static_cast<float>(dim));
  const TokenBand bands[] = {{tokens / 2, tokens / 2 + 15}, {tokens - 40, tokens}};
  const std::atomic<bool> goes_on{false};

  double begin = Seconds();
  WeightMap map(data, q_token, 0, {.scale = scale}, {0, tokens, 0, tokens}, kHeight, kWidth, bands);
  map.Refine(map.rows(), goes_on);
  const double first = Seconds() - begin;
  while (map.Refine(4096, goes_on)) {
  }
  const double all = Seconds() - begin;
  begin = Seconds();
  OverviewOfKvHead(*data, q_token, {.scale = scale}, 64, {bands, 1}, {bands + 1, 1}, goes_on);
  const double overview = Seconds() - begin;
  std::printf(
      "{\"benchmark\": \"heatmap\", \"tokens\": %d, \"head_dim\": %d, \"cells\": \"%dx%d\", \"first_picture_secs\": "
      "%.3f, "
      "\"exact_secs\": %.2f, \"overview_of_a_head_secs\": %.3f}\n",
      tokens, dim, map.columns(), map.rows(), first, all, overview);
}

}  // namespace
}  // namespace kvscope

int main(int argc, char** argv) {
  const int tokens = argc > 1 ? std::atoi(argv[1]) : 131072, dim = argc > 2 ? std::atoi(argv[2]) : 128;
  if (argc > 3 || tokens < 64 || dim < 16 || dim % 16 != 0) {
    std::fprintf(stderr, "usage: heatmap_bench [TOKENS [HEAD_DIM]]\n");
    return 2;
  }
  kvscope::Measure(tokens, dim);
  return 0;
}
