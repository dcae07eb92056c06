// SPDX-License-Identifier: Apache-2.0
// A block takes 64 tokens of one query head and keeps their keys in shared memory; its warps share the rows of q, 16 at
// a time. Scores come off the tensor cores, weights from the stored lse, and each lane adds what falls into its
// columns; lanes and warps meet once at the end, so that the order of additions depends on shapes only. Nothing but q,
// k, lse and the sums is read or written. Rows that no statistic counts, or that see none of the tokens, are skipped
// whole.
#include <algorithm>
#include <climits>
#include <cmath>

#include "core/error.h"
#include "kernels/ceil_divide.h"
#include "kernels/column_stats.h"
#include "kernels/launch.cuh"
#include "kernels/mma.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

using Kind = StatisticSpec::Kind;

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kColumns = 64, kColumnTiles = kColumns / 8;  // tokens of a block
constexpr int kRows = 16;                                  // of a warp at a time
constexpr int kMaxStats = 4;                               // of a launch; more take another
constexpr int kPad = 4;  // words after a key, so that the 8 keys of a fragment lie in different banks
constexpr int kMaxDim = 256;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504f;

struct Statistic {
  Kind kind = Kind::kSum;
  int row_begin = 0, row_end = 0, min_distance = 0;
  unsigned reach = INT_MAX;              // a row counts so many tokens, back from the one min_distance before its own
  float log2_alpha = 0, log2_decay = 0;  // kGeometric: the weight of a row is 2^(log2_alpha + age log2_decay)
};

struct Arguments {
  const uint32_t *q, *k;  // pairs of halves
  const float* lse;
  const int* q_token;
  float* out;  // [statistics, group, columns]
  int group, num_rows, num_tokens, columns, pairs;
  int row_begin, row_end;  // that any statistic counts
  int window;              // INT_MAX: none
  bool is_capped;
  float to_tanh;  // of soft-capped scores only: scale / softcap
  float to_log2;  // from a score's tanh or, not capped, from q·k
  Statistic stats[kMaxStats];
};

__device__ float Combine(Kind kind, float a, float b) {
  return kind == Kind::kMax ? fmaxf(a, b) : a + b;
}

// Scores of kRows rows of q against the block's keys, as fragments: [column tile][d of mma.cuh].
__device__ void ScoreRows(const Arguments& a, const uint32_t* keys, const uint32_t* q_low, const uint32_t* q_high,
                          float (&score)[kColumnTiles][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4, stride = a.pairs + kPad;
  for (int pair = lane % 4; pair < a.pairs; pair += 8) {
    const uint32_t rows[4] = {q_low ? q_low[pair] : 0, q_high ? q_high[pair] : 0, q_low ? q_low[pair + 4] : 0,
                              q_high ? q_high[pair + 4] : 0};
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
      const uint32_t* key = keys + (tile * 8 + row) * stride + pair;
      const uint32_t columns[2] = {key[0], key[4]};
      Mma(score[tile], rows, columns);
    }
  }
}

__device__ void CapScores(float to_tanh, float (&score)[kColumnTiles][4]) {
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) score[tile][i] = tanhf(score[tile][i] * to_tanh);
  }
}

// Adds one row's weights to the sums of the lane's columns. first: the first of d's two numbers of that row.
__device__ void AddRow(const Statistic& stat, int query, int first_token, int first,
                       const float (&weight)[kColumnTiles][4], float (&total)[kColumnTiles][2]) {
  if (query < stat.row_begin || query >= stat.row_end) return;
  const float age = static_cast<float>(stat.row_end - 1 - query);
  const float factor = stat.kind == Kind::kGeometric ? exp2f(fmaf(age, stat.log2_decay, stat.log2_alpha)) : 1.0f;
  const int newest = query - stat.min_distance - first_token;  // of the columns
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int tile = 0; tile < kColumnTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (static_cast<unsigned>(newest - (tile * 8 + column + i)) >= stat.reach) continue;  // later ones too
      const float w = weight[tile][first + i];
      if (stat.kind == Kind::kMax) {
        total[tile][i] = fmaxf(total[tile][i], w);
      } else {
        total[tile][i] = fmaf(stat.kind == Kind::kSumSquares ? w : factor, w, total[tile][i]);
      }
    }
  }
}

template <int kStats>
__global__ void __launch_bounds__(kThreads) ColumnStatsKernel(Arguments a) {
  KVSCOPE_DYNAMIC_SHARED(uint32_t, keys);  // [kColumns, pairs + kPad]
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int first_token = static_cast<int>(blockIdx.x) * kColumns, head = static_cast<int>(blockIdx.y);
  const int stride = a.pairs + kPad;
  for (int i = thread; i < kColumns * a.pairs; i += kThreads) {
    const int column = i / a.pairs, pair = i % a.pairs, token = first_token + column;
    keys[column * stride + pair] = token < a.num_tokens ? a.k[int64_t{token} * a.pairs + pair] : 0;
  }
  __syncthreads();

  float total[kStats][kColumnTiles][2] = {};
  for (int row = warp * kRows; row < a.num_rows; row += kWarps * kRows) {
    const int oldest = a.q_token[row], newest = a.q_token[min(row + kRows, a.num_rows) - 1];
    if (newest < first_token || newest < a.row_begin || oldest >= a.row_end) continue;
    if (oldest - (first_token + kColumns) >= a.window - 1) break;  // all tokens have left the window, of later rows too
    const int low = row + lane / 4, high = low + 8;
    const int64_t first_row = int64_t{head} * a.num_rows;
    const bool has_low = low < a.num_rows, has_high = high < a.num_rows;
    float weight[kColumnTiles][4] = {};
    ScoreRows(a, keys, has_low ? a.q + (first_row + low) * a.pairs : nullptr,
              has_high ? a.q + (first_row + high) * a.pairs : nullptr, weight);
    const float low_shift = has_low ? -a.lse[first_row + low] * kLog2E : 0.0f;
    const float high_shift = has_high ? -a.lse[first_row + high] * kLog2E : 0.0f;
    if (a.is_capped) CapScores(a.to_tanh, weight);
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weight[tile][i] = exp2f(fmaf(weight[tile][i], a.to_log2, i < 2 ? low_shift : high_shift));
      }
    }
#pragma unroll
    for (int s = 0; s < kStats; ++s) {
      if (has_low) AddRow(a.stats[s], a.q_token[low], first_token, 0, weight, total[s]);
      if (has_high) AddRow(a.stats[s], a.q_token[high], first_token, 2, weight, total[s]);
    }
  }

  __syncthreads();                                        // the keys are read
  float* const of_warp = reinterpret_cast<float*>(keys);  // [kWarps, kStats, kColumns]
#pragma unroll
  for (int s = 0; s < kStats; ++s) {
#pragma unroll
    for (int tile = 0; tile < kColumnTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float value = total[s][tile][i];
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) {  // over the rows of the fragment
          value = Combine(a.stats[s].kind, value, __shfl_xor_sync(kAllLanes, value, offset));
        }
        if (lane < 4) of_warp[(warp * kStats + s) * kColumns + tile * 8 + lane * 2 + i] = value;
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < kStats * kColumns; i += kThreads) {
    const int s = i / kColumns, token = first_token + i % kColumns;
    float value = of_warp[i];
    for (int other = 1; other < kWarps; ++other) {
      value = Combine(a.stats[s].kind, value, of_warp[other * kStats * kColumns + i]);
    }
    if (token < a.columns) a.out[(int64_t{s} * a.group + head) * a.columns + token] = value;
  }
}

Statistic StatisticOf(const StatisticSpec& spec, int row_end, int window) {
  Statistic stat{.kind = spec.kind, .row_end = row_end - spec.skip_rows, .min_distance = spec.min_distance};
  stat.reach = static_cast<unsigned>(std::max(0, window - spec.min_distance));
  if (spec.last_rows > 0) stat.row_begin = std::max(0, stat.row_end - spec.last_rows);
  if (spec.kind != Kind::kGeometric) return stat;
  const double oldest = stat.row_end - 1 - 24 * spec.half_life;  // as cpu_fast
  stat.row_begin = std::max(stat.row_begin, static_cast<int>(std::ceil(std::max(0.0, oldest))));
  stat.log2_alpha = static_cast<float>(std::log2(1 - std::exp2(-1 / spec.half_life)));
  stat.log2_decay = static_cast<float>(-1 / spec.half_life);
  return stat;
}

template <int kStats>
void LaunchOf(Arguments a, std::span<const StatisticSpec> specs, int row_end, void* stream) {
  a.row_begin = row_end, a.row_end = 0;
  for (int s = 0; s < kStats; ++s) {
    a.stats[s] = StatisticOf(specs[s], row_end, a.window);
    a.row_begin = std::min(a.row_begin, a.stats[s].row_begin);
    a.row_end = std::max(a.row_end, a.stats[s].row_end);
  }
  const dim3 grid(CeilDivide(a.columns, kColumns), a.group);
  const size_t shared = sizeof(uint32_t) * kColumns * std::max(a.pairs + kPad, kWarps * kStats);
  Launch("ColumnStatsKernel", ColumnStatsKernel<kStats>, grid, kThreads, shared, stream, a);
}

}  // namespace

void ColumnStats(const ColumnStatsProblem& p, std::span<const StatisticSpec> specs, float* out,
                 const Workspace& workspace) {
  KVSCOPE_CHECK(p.dtype == DType::kF16);
  KVSCOPE_CHECK_EQ(p.head_dim % 16, 0);
  KVSCOPE_CHECK_LE(p.head_dim, kMaxDim);
  KVSCOPE_CHECK_LE(p.row_end, INT32_MAX - kColumns);
  if (p.row_end == 0) return;
  const bool is_capped = p.rule.softcap > 0;
  Arguments a{.q = static_cast<const uint32_t*>(p.q),
              .k = static_cast<const uint32_t*>(p.k),
              .lse = p.lse,
              .q_token = p.q_token.data(),
              .out = out,
              .group = p.group,
              .num_rows = p.num_rows,
              .num_tokens = std::min(p.num_tokens, p.row_end),
              .columns = p.row_end,
              .pairs = p.head_dim / 2,
              .row_begin = 0,
              .row_end = 0,
              .window = p.rule.window > 0 ? p.rule.window : INT_MAX,
              .is_capped = is_capped,
              .to_tanh = is_capped ? p.rule.scale / p.rule.softcap : 0,
              .to_log2 = (is_capped ? p.rule.softcap : p.rule.scale) * kLog2E,
              .stats = {}};
  for (size_t s = 0; s < specs.size();) {
    const std::span<const StatisticSpec> rest = specs.subspan(s);
    const size_t count = rest.size() >= kMaxStats ? kMaxStats : rest.size() >= 2 ? 2 : 1;
    if (count == kMaxStats) LaunchOf<kMaxStats>(a, rest, p.row_end, workspace.stream);
    if (count == 2) LaunchOf<2>(a, rest, p.row_end, workspace.stream);
    if (count == 1) LaunchOf<1>(a, rest, p.row_end, workspace.stream);
    a.out += static_cast<int64_t>(count) * a.group * a.columns;
    s += count;
  }
}

}  // namespace kvscope::KVSCOPE_TWIN
