// SPDX-License-Identifier: Apache-2.0
#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <climits>
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
  int tokens, heads, head_dim, capacity;  // capacity: tokens that a head of out has room for
};

void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.tokens << " of " << s.capacity << " tokens, " << s.heads << " heads of " << s.head_dim;
}

template <typename Element>
struct Problem {
  Problem(const Shape& shape, int seed) : s(shape) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 4);
    for (int i = 0; i < s.tokens * s.heads * s.head_dim; ++i) x.push_back(normal(random));
    std::vector<double> inv_freq;
    for (int i = 0; i < s.head_dim / 2; ++i) inv_freq.push_back(std::pow(1e4, -2.0 * i / s.head_dim));
    for (int token = 0; token < s.tokens; ++token) {
      const RopeAngles angles = RopeAnglesAt(100 + token, inv_freq, 1.0);
      cos.insert(cos.end(), angles.cos.begin(), angles.cos.end());
      sin.insert(sin.end(), angles.sin.begin(), angles.sin.end());
    }
    out.assign(static_cast<size_t>(s.heads) * s.capacity * s.head_dim, Element{});
  }

  void Run(Backend backend, bool rotates = true) {
    const DType dtype = std::is_same_v<Element, Half> ? DType::kF16 : DType::kF32;
    TensorView out_view = ContiguousView(nullptr, dtype, {s.heads, s.tokens, s.head_dim}, 3);
    out_view.strides[0] = int64_t{s.capacity} * s.head_dim;
    const TensorView angles = ContiguousView(nullptr, DType::kF32, {s.tokens, s.head_dim / 2}, 2);
    Lent lent_x(backend, x, ContiguousView(nullptr, DType::kF32, {s.tokens, s.heads, s.head_dim}, 3));
    Lent lent_cos(backend, cos, angles), lent_sin(backend, sin, angles);
    Lent lent_out(backend, out, out_view);
    Lent lent_bad(backend, bad_token, ContiguousView(nullptr, DType::kF32, {1}, 1));
    RopeRows rows{.x = lent_x.view(), .cos = {}, .sin = {}, .out = lent_out.view()};
    Lent lent_first(backend, first, ContiguousView(nullptr, DType::kF32, {2}, 1));
    Lent lent_copy(backend, copy, ContiguousView(nullptr, dtype, {s.heads, s.tokens, s.head_dim}, 3));
    if (!copy.empty()) {
      rows.copy = lent_copy.view();
      rows.first_position = static_cast<const int*>(lent_first.view().data);
      rows.first_out = rows.first_position + 1;
    }
    if (rotates) rows.cos = lent_cos.view(), rows.sin = lent_sin.view();
    rows.bad_token = static_cast<int*>(lent_bad.view().data);
    if (IsEmulated(backend)) {
      cuda_emulated::SetBackend(backend);
      cuda_emulated::Rope({&rows, 1}, {});
    } else {
      backend == Backend::kCuda ? cuda::Rope({&rows, 1}, {}) : cpu::Rope(rows);
    }
    lent_out.Fetch(), lent_bad.Fetch(), lent_copy.Fetch();
  }

  double Out(int head, int token, int i) const {
    const Element value = out[(size_t(head) * s.capacity + token) * s.head_dim + i];
    if constexpr (std::is_same_v<Element, Half>) {
      return FloatFromHalf(value);
    } else {
      return value;
    }
  }
  double Expected(int head, int token, int i) const {
    const int half = s.head_dim / 2;
    const float* row = &x[(token * s.heads + head) * s.head_dim];
    const double c = cos[token * half + i % half], d = sin[token * half + i % half];
    return i < half ? row[i] * c - row[i + half] * d : row[i] * c + row[i - half] * d;
  }

  Shape s;
  std::vector<float> x, cos, sin;
  std::vector<Element> out, copy;  // copy: not wanted when empty
  std::vector<int> first{0, 0};    // position and row of out, with copy
  std::vector<int> bad_token{INT_MAX};
};

class Rope : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(Rope, RotatesRoundsAndPutsRowsByHead) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  Problem<Half> problem(shape, 1);
  problem.Run(backend);
  Problem<float> exact(shape, 1);
  exact.Run(backend);
  for (int head = 0; head < shape.heads; ++head) {
    for (int token = 0; token < shape.capacity; ++token) {
      for (int i = 0; i < shape.head_dim; ++i) {
        if (token >= shape.tokens) {
          ASSERT_EQ(problem.Out(head, token, i), 0) << "room behind the tokens";
          continue;
        }
        const double expected = problem.Expected(head, token, i);
        ASSERT_NEAR(problem.Out(head, token, i), expected, 5e-4 * std::fabs(expected) + 2e-6);  // half an ulp of f16
        ASSERT_NEAR(exact.Out(head, token, i), expected, 2e-6);                                 // values reach some 20
      }
    }
  }
  EXPECT_EQ(problem.bad_token[0], INT_MAX);
}

TEST_P(Rope, TakesPositionsAndRowsFromWhereTheyAreKept) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  if (shape.tokens < 3) return;
  Problem<Half> whole(shape, 5);
  whole.Run(backend);
  // The last two tokens alone: angles from their own rows, into their own rows, and once more beside.
  Problem<Half> last(shape, 5);
  const int first = shape.tokens - 2;
  last.x.erase(last.x.begin(), last.x.begin() + size_t(first) * shape.heads * shape.head_dim);
  last.s.tokens = 2;
  last.first = {first, first};
  last.copy.resize(size_t(shape.heads) * 2 * shape.head_dim);
  last.Run(backend);
  for (int head = 0; head < shape.heads; ++head) {
    for (int i = 0; i < 2 * shape.head_dim; ++i) {
      const Half expected = whole.out[(size_t(head) * shape.capacity + first) * shape.head_dim + i];
      ASSERT_EQ(last.out[(size_t(head) * shape.capacity + first) * shape.head_dim + i], expected);
      ASSERT_EQ(last.copy[size_t(head) * 2 * shape.head_dim + i], expected);
    }
    if (first > 0) {
      ASSERT_EQ(last.out[size_t(head) * shape.capacity * shape.head_dim], Half{}) << "nobody wrote there";
    }
  }
}

TEST_P(Rope, LeavesValuesAsTheyAre) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  Problem<float> problem(shape, 2);
  problem.Run(backend, false);
  for (int token = 0; token < shape.tokens; ++token) {
    for (int head = 0; head < shape.heads; ++head) {
      for (int i = 0; i < shape.head_dim; ++i) {
        ASSERT_EQ(problem.Out(head, token, i), problem.x[(token * shape.heads + head) * shape.head_dim + i]);
      }
    }
  }
}

TEST_P(Rope, NamesTheFirstTokenOutOfRange) {
  const auto [backend, shape] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  if (shape.tokens < 3) return;
  const size_t row = size_t(shape.heads) * shape.head_dim;
  for (const float value : {1e5f, -INFINITY, std::nanf("")}) {
    for (const int dim : {1, shape.head_dim - 1}) {  // of either half of a pair
      Problem<Half> problem(shape, 3);
      problem.x[row + dim] = problem.x[2 * row + 3] = value;
      problem.Run(backend, false);
      EXPECT_EQ(problem.bad_token[0], 1) << value << " " << dim;
    }
    if (std::isfinite(value)) {
      Problem<float> wide(shape, 3);
      wide.x[row + 1] = value;
      wide.Run(backend, false);
      EXPECT_EQ(wide.bad_token[0], INT_MAX) << "f32 holds it";
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const Shape& s = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.tokens, "x", s.heads, "x", s.head_dim);
}
INSTANTIATE_TEST_SUITE_P(
    Backends, Rope,
    testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(Shape{1, 9, 64, 5}, Shape{7, 3, 64, 7}, Shape{3, 1, 80, 9}, Shape{0, 2, 8, 2})),
    TestName);

}  // namespace
}  // namespace kvscope
