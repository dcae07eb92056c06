// SPDX-License-Identifier: Apache-2.0
#include "kernels/attention_prefill.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "core/half.h"
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
  Problem(const Shape& shape, int seed) : s(shape) {
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
                                   .scale = 1 / std::sqrt(static_cast<float>(s.head_dim)),
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
  std::vector<Half> q, k, v;
  std::vector<Element> out;
  std::vector<float> lse;
};

template <typename Element>
void ExpectTheSpecification(Backend backend, PrefillPath path, const Shape& shape, int seed) {
  Problem<Element> problem(shape, seed);
  problem.Run(backend, path);
  Problem<float> plain(shape, seed);
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
  ExpectTheSpecification<Half>(backend, path, shape, 1);
  ExpectTheSpecification<float>(backend, path, shape, 2);
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
