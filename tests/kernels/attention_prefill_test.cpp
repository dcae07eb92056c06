// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_prefill.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "kernels/attention_decode.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

struct Shape {
  int heads, kv_heads, first_query, queries, head_dim, head_dim_v, capacity;  // capacity: tokens of a KV head
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.heads << "/" << s.kv_heads << " heads, " << s.queries << " queries from " << s.first_query << ", dims "
       << s.head_dim << " and " << s.head_dim_v;
}

// K has outlier channels and a token that takes nearly all weight of some heads, as real caches have. out lies as the
// next projection reads it: [queries, heads, head_dim_v].
template <typename Element>
struct Problem {
  Problem(const Shape& shape, const AttentionRule& unscaled, int seed) : s(shape), rule(unscaled) {
    rule.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int i = 0; i < s.heads * s.queries * s.head_dim; ++i) q.push_back(HalfFromFloat(normal(random)));
    for (int i = 0; i < s.kv_heads * s.capacity * s.head_dim; ++i) {
      const bool is_sink = i / s.head_dim % s.capacity == 2;
      k.push_back(HalfFromFloat(normal(random) * (i % 37 == 0 ? 6.0f : 1.0f) * (is_sink ? 3.0f : 1.0f)));
    }
    for (int i = 0; i < s.kv_heads * s.capacity * s.head_dim_v; ++i) v.push_back(HalfFromFloat(normal(random)));
    out.assign(static_cast<size_t>(s.queries) * s.heads * s.head_dim_v, Element{});
    lse.assign(static_cast<size_t>(s.heads) * s.queries, -7.0f);
  }

  void Run(Backend backend, PrefillPath path = PrefillPath::kMma) {
    const int tokens = s.first_query + s.queries;
    const auto cache = [&](int dim) {
      TensorView view = ContiguousView(nullptr, DType::kF16, {s.kv_heads, tokens, dim}, 3);
      view.strides[0] = int64_t{s.capacity} * dim;
      return view;
    };
    const DType dtype = std::is_same_v<Element, Half> ? DType::kF16 : DType::kF32;
    TensorView out_view = ContiguousView(nullptr, dtype, {s.heads, s.queries, s.head_dim_v}, 3);
    out_view.strides[0] = s.head_dim_v, out_view.strides[1] = int64_t{s.heads} * s.head_dim_v;
    Lent lent_q(backend, q, ContiguousView(nullptr, DType::kF16, {s.heads, s.queries, s.head_dim}, 3));
    Lent lent_k(backend, k, cache(s.head_dim)), lent_v(backend, v, cache(s.head_dim_v));
    Lent lent_out(backend, out, out_view);
    Lent lent_lse(backend, lse, ContiguousView(nullptr, DType::kF32, {s.heads, s.queries}, 2));
    const PrefillAttention problem{.q = lent_q.view(),
                                   .k = lent_k.view(),
                                   .v = lent_v.view(),
                                   .first_query = s.first_query,
                                   .rule = rule,
                                   .out = lent_out.view(),
                                   .lse = lent_lse.view(),
                                   .path = path};
    if (IsEmulated(backend)) {
      cuda_emulated::SetBackend(backend);
      cuda_emulated::AttendPrefill(problem, {});
    } else {
      backend == Backend::kCuda ? cuda::AttendPrefill(problem, {}) : cpu::AttendPrefill(problem);
    }
    lent_out.Fetch(), lent_lse.Fetch();
  }

  static double Value(Element value) {
    if constexpr (std::is_same_v<Element, Half>) {
      return FloatFromHalf(value);
    } else {
      return value;
    }
  }

  Shape s;
  AttentionRule rule;
  std::vector<Half> q, k, v;
  std::vector<Element> out;
  std::vector<float> lse;
};

template <typename Element>
void ExpectTheSpecification(Backend backend, PrefillPath path, const Shape& shape, const AttentionRule& rule) {
  SCOPED_TRACE(StrCat("window ", rule.window, ", softcap ", rule.softcap));
  Problem<Element> problem(shape, rule, 1);
  problem.Run(backend, path);
  Problem<float> plain(shape, rule, 1);
  plain.Run(Backend::kCpu);
  for (size_t i = 0; i < plain.lse.size(); ++i) {
    // Scores reach some 40, in f32.
    ASSERT_NEAR(problem.lse[i], plain.lse[i], 1e-5 * (1 + std::fabs(plain.lse[i]))) << i;
  }
  for (size_t i = 0; i < plain.out.size(); ++i) {
    // Weights in f16, 2^-11 each, of values up to some 4; an f16 result is rounded once more.
    ASSERT_NEAR(Problem<Element>::Value(problem.out[i]), plain.out[i], 2e-3 + 5e-4 * std::fabs(plain.out[i])) << i;
  }
}

class AttentionPrefill : public testing::TestWithParam<std::tuple<Backend, PrefillPath, Shape>> {};

TEST_P(AttentionPrefill, EqualsTheSpecification) {
  const auto [backend, path, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  if (backend == Backend::kCuda && !cuda::HasPath(path)) GTEST_SKIP() << "no device and image for this path";
  ExpectTheSpecification<Half>(backend, path, shape, {});
  ExpectTheSpecification<float>(backend, path, shape, {});
}

// A window of 100 ends within tiles of 32, 64 and 128 tokens; 1 and 7 leave rows of a block without any token of its
// first tiles; 1000 is longer than every context.
TEST_P(AttentionPrefill, KeepsToTheWindowAndTheSoftcap) {
  const auto [backend, path, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  if (backend == Backend::kCuda && !cuda::HasPath(path)) GTEST_SKIP() << "no device and image for this path";
  for (const int window : {1, 7, 100, 1000}) ExpectTheSpecification<Half>(backend, path, shape, {.window = window});
  for (const int window : {0, 1, 7, 100, 1000}) {
    ExpectTheSpecification<float>(backend, path, shape, {.softcap = 20, .window = window});
  }
}

// The specification itself: a row is one decode step over the tokens of its window alone.
TEST(AttentionPrefillRow, IsTheDecodeStepOverWhatItSees) {
  const Shape shape{4, 2, 20, 30, 16, 32, 50};
  for (const int window : {0, 1, 7, 100}) {
    for (const float softcap : {0.0f, 20.0f}) {
      Problem<float> problem(shape, {.softcap = softcap, .window = window}, 3);
      problem.Run(Backend::kCpu);
      for (int query = 0; query < shape.queries; ++query) {
        const int end = shape.first_query + query + 1, begin = window > 0 ? std::max(0, end - window) : 0;
        const auto seen = [&](std::vector<Half>& cache, int dim) {
          TensorView view = ContiguousView(&cache[int64_t{begin} * dim], DType::kF16, {2, end - begin, dim}, 3);
          view.strides[0] = int64_t{shape.capacity} * dim;
          return view;
        };
        DecodeAttention step;
        step.q = ContiguousView(&problem.q[query * 16], DType::kF16, {4, 16}, 2);
        step.q.strides[0] = shape.queries * 16;
        step.k = seen(problem.k, 16), step.v = seen(problem.v, 32);
        step.rule = {.scale = problem.rule.scale, .softcap = softcap};
        std::vector<float> out(4 * 32), lse(4);
        step.out = ContiguousView(out.data(), DType::kF32, {4, 32}, 2);
        step.lse = ContiguousView(lse.data(), DType::kF32, {4}, 1);
        cpu::AttendDecode(step);
        for (int head = 0; head < 4; ++head) {  // both in double, rounded to f32 at the end
          ASSERT_NEAR(problem.lse[head * shape.queries + query], lse[head], 1e-5) << window << " " << query;
        }
        for (int i = 0; i < 4 * 32; ++i) {
          ASSERT_NEAR(problem.out[query * 4 * 32 + i], out[i], 1e-6) << window << " " << query;
        }
      }
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, PrefillPath, Shape>>& info) {
  const Shape& s = std::get<2>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.heads, "_", s.kv_heads, "_from_", s.first_query, "_queries_",
                s.queries, "_dims_", s.head_dim, "_", s.head_dim_v);
}
INSTANTIATE_TEST_SUITE_P(
    Backends, AttentionPrefill,
    testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(PrefillPath::kMma),
                     testing::Values(Shape{3, 1, 0, 1, 64, 64, 4}, Shape{2, 1, 0, 70, 64, 64, 80},
                                     Shape{1, 1, 130, 5, 32, 32, 135}, Shape{2, 2, 62, 66, 80, 48, 128},
                                     Shape{1, 1, 0, 129, 128, 128, 129}, Shape{2, 1, 9, 0, 64, 64, 10},
                                     Shape{1, 1, 30, 66, 256, 256, 96}, Shape{1, 1, 0, 33, 192, 128, 33})),
    TestName);
INSTANTIATE_TEST_SUITE_P(
    Wgmma, AttentionPrefill,
    testing::Combine(testing::Values(Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(PrefillPath::kWgmma),
                     testing::Values(Shape{3, 1, 0, 1, 64, 64, 4}, Shape{2, 1, 126, 70, 64, 64, 200},
                                     Shape{1, 1, 380, 5, 32, 32, 385}, Shape{1, 1, 127, 67, 80, 48, 256},
                                     Shape{1, 1, 0, 129, 128, 128, 129}, Shape{1, 1, 262, 30, 128, 96, 300},
                                     Shape{2, 1, 9, 0, 64, 64, 10})),
    TestName);

}  // namespace
}  // namespace kvscope
