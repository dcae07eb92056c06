// SPDX-License-Identifier: Apache-2.0
#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

constexpr float kEpsilon = 1e-5f;

void NormOn(Backend backend, const TensorView& x, const TensorView& weight, const TensorView& out) {
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::RmsNorm(x, weight, kEpsilon, out, {});
  } else {
    backend == Backend::kCuda ? cuda::RmsNorm(x, weight, kEpsilon, out, {}) : cpu::RmsNorm(x, weight, kEpsilon, out);
  }
}

// Rows of very different size, each with an outlier; `padding` more elements between rows.
std::vector<float> RandomRows(int rows, int stride, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  for (int row = 0; row < rows; ++row) {
    const float size = std::pow(10.0f, static_cast<float>(row % 7) - 3);
    for (int i = 0; i < stride; ++i) values.push_back(normal(random) * size * (i == 5 ? 50.0f : 1.0f));
  }
  return values;
}

TensorView Rows(int rows, int dim, int stride) {
  TensorView view = ContiguousView(nullptr, DType::kF32, {rows, dim}, 2);
  view.strides[0] = stride;
  return view;
}

using Shape = std::tuple<int, int, int>;  // rows, dim, padding between rows
class RmsNorm : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(RmsNorm, DividesByTheRootOfTheMeanSquare) {
  const auto [backend, shape] = GetParam();
  const auto [rows, dim, padding] = shape;
  KVSCOPE_SKIP_WITHOUT(backend);
  std::vector<float> x = RandomRows(rows, dim + padding, 1), weight = RandomRows(1, dim, 2), out(x.size(), -7.0f);
  Lent lent_x(backend, x, Rows(rows, dim, dim + padding)), lent_out(backend, out, Rows(rows, dim, dim + padding));
  Lent lent_weight(backend, weight, ContiguousView(nullptr, DType::kF32, {dim}, 1));
  NormOn(backend, lent_x.view(), lent_weight.view(), lent_out.view());
  lent_out.Fetch();
  for (int row = 0; row < rows; ++row) {
    const float* in = &x[row * (dim + padding)];
    long double squares = 0;
    for (int i = dim - 1; i >= 0; --i) squares += static_cast<long double>(in[i]) * in[i];
    const long double root = std::sqrt(squares / dim + kEpsilon);
    for (int i = 0; i < dim; ++i) {
      // A sum in f32 is off by up to 1.4e-6, its root by half of that, and three roundings follow.
      const double expected = static_cast<double>(in[i] / root * weight[i]);
      ASSERT_NEAR(out[row * (dim + padding) + i], expected, 1e-6 * std::fabs(expected))
          << "row " << row << " dim " << i;
    }
    for (int i = dim; i < dim + padding; ++i) ASSERT_EQ(out[row * (dim + padding) + i], -7.0f) << "padding written";
  }
}

TEST_P(RmsNorm, WorksInPlace) {
  const auto [backend, shape] = GetParam();
  const auto [rows, dim, padding] = shape;
  KVSCOPE_SKIP_WITHOUT(backend);
  std::vector<float> x = RandomRows(rows, dim + padding, 3), weight = RandomRows(1, dim, 4), out = x;
  Lent lent_x(backend, x, Rows(rows, dim, dim + padding)), lent_out(backend, out, Rows(rows, dim, dim + padding));
  Lent lent_weight(backend, weight, ContiguousView(nullptr, DType::kF32, {dim}, 1));
  NormOn(backend, lent_x.view(), lent_weight.view(), lent_out.view());
  lent_out.Fetch();
  NormOn(backend, lent_x.view(), lent_weight.view(), lent_x.view());
  lent_x.Fetch();
  EXPECT_EQ(x, out);
}

// Heads of several tokens side by side, as a projection leaves them, behind other columns.
TEST_P(RmsNorm, TakesHeadsOfTokensWithOtherColumnsBetween) {
  const auto [backend, shape] = GetParam();
  const auto [tokens, dim, padding] = shape;
  KVSCOPE_SKIP_WITHOUT(backend);
  constexpr int kHeads = 3;
  const int stride = kHeads * dim + padding;
  std::vector<float> x = RandomRows(tokens, stride, 5), weight = RandomRows(1, dim, 6);
  const std::vector<float> before = x;
  TensorView view = ContiguousView(nullptr, DType::kF32, {tokens, kHeads, dim}, 3);
  view.strides[0] = stride;
  Lent lent(backend, x, view), lent_weight(backend, weight, ContiguousView(nullptr, DType::kF32, {dim}, 1));
  NormOn(backend, lent.view(), lent_weight.view(), lent.view());
  lent.Fetch();
  for (int token = 0; token < tokens; ++token) {
    for (int at = 0; at < stride; ++at) {
      const float* in = &before[token * stride + at / dim * dim];
      double expected = before[token * stride + at], squares = 0;
      for (int i = 0; i < dim && at < kHeads * dim; ++i) squares += double{in[i]} * in[i];
      if (at < kHeads * dim) expected = expected / std::sqrt(squares / dim + kEpsilon) * weight[at % dim];
      ASSERT_NEAR(x[token * stride + at], expected, 2e-6 * std::fabs(expected)) << token << " " << at;
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const auto [rows, dim, padding] = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", rows, "x", dim, "_padded_", padding);
}
INSTANTIATE_TEST_SUITE_P(Backends, RmsNorm,
                         testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated,
                                                          Backend::kEmulatedBackwards, Backend::kCuda),
                                          testing::Values(Shape{1, 576, 0}, Shape{9, 64, 0}, Shape{3, 4096, 8},
                                                          Shape{70, 33, 3}, Shape{2, 1, 0}, Shape{0, 576, 0})),
                         TestName);

TEST(RmsNormOfZeros, IsZero) {
  std::vector<float> x(64, 0.0f), weight(64, 2.0f), out(64, 1.0f);
  cpu::RmsNorm(ContiguousView(x.data(), DType::kF32, {1, 64}, 2), ContiguousView(weight.data(), DType::kF32, {64}, 1),
               kEpsilon, ContiguousView(out.data(), DType::kF32, {1, 64}, 2));
  EXPECT_EQ(out, x);
}

#ifndef KVSCOPE_HAVE_CUDA
TEST(RmsNormOnCuda, SaysThatThisBuildHasNone) {
  EXPECT_THROW(cuda::RmsNorm({}, {}, kEpsilon, {}, {}), Error);
}
#endif

}  // namespace
}  // namespace kvscope
