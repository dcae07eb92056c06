// SPDX-License-Identifier: Apache-2.0
#include "kernels/dense_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

constexpr DenseType kTypes[] = {DenseType::kF16, DenseType::kBF16};
constexpr float kUntouched = -7.0f;

struct Shape {
  int rows, inputs, outputs, x_padding, out_padding;
};

struct Problem {
  Problem(const Shape& shape, DenseType dense_type) : s(shape), type(dense_type) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    x.assign(static_cast<size_t>(s.rows) * XStride(), std::nanf(""));  // padding is not read
    out.assign(static_cast<size_t>(s.rows) * OutStride(), kUntouched);
    for (int row = 0; row < s.rows; ++row) {
      for (int i = 0; i < s.inputs; ++i) x[row * XStride() + i] = normal(random) * (i == 5 ? 50.0f : 1.0f);
      for (int i = 0; i < s.outputs; ++i) out[row * OutStride() + i] = 10 * normal(random);
    }
    for (int i = 0; i < s.outputs * s.inputs; ++i) weights.push_back(DenseBits(0.05f * normal(random), type));
  }

  int XStride() const { return s.inputs + s.x_padding; }
  int OutStride() const { return s.outputs + s.out_padding; }

  void Run(Backend backend, bool accumulate) {
    TensorView x_view = ContiguousView(nullptr, DType::kF32, {s.rows, s.inputs}, 2);
    TensorView out_view = ContiguousView(nullptr, DType::kF32, {s.rows, s.outputs}, 2);
    x_view.strides[0] = XStride(), out_view.strides[0] = OutStride();
    Lent lent_x(backend, x, x_view), lent_out(backend, out, out_view);
    Lent lent_weights(backend, weights, ContiguousView(nullptr, DType::kF16, {s.outputs, s.inputs}, 2));
    const DenseMatmulProblem problem{.x = lent_x.view(),
                                     .weights = {lent_weights.view().data, type, s.outputs, s.inputs},
                                     .out = lent_out.view(),
                                     .accumulate = accumulate};
    const bool is_cuda = backend == Backend::kCuda;
    std::vector<uint16_t> scratch(
        (is_cuda ? cuda::DenseWorkspaceBytes(problem) : cuda_emulated::DenseWorkspaceBytes(problem)) / 2);
    Lent lent_scratch(backend, scratch, ContiguousView(nullptr, DType::kF16, {}, 1));
    const Workspace workspace{lent_scratch.view().data, scratch.size() * 2};
    if (IsEmulated(backend)) {
      cuda_emulated::SetBackend(backend);
      cuda_emulated::DenseMatmul(problem, workspace);
    } else {
      is_cuda ? cuda::DenseMatmul(problem, workspace) : cpu::DenseMatmul(problem);
    }
    lent_out.Fetch();
  }

  Shape s;
  DenseType type;
  std::vector<float> x, out;
  std::vector<uint16_t> weights;
};

// How far a result may be from the exact one, for sums of products whose sizes add up to `products`.
double Tolerance(Backend backend, const Problem& problem, double products, double weights, double result) {
  const double ulp = std::exp2(-24), rounded = ulp * std::fabs(result);
  if (backend == Backend::kCpu) return 1.01 * rounded;  // sums in double
  // A lane adds its products in f32, 8 at a time, then 5 shuffles and at most 4 warps.
  if (problem.s.rows == 1) return (problem.s.inputs / 32 + 8 + 5 + 4) * ulp * products + rounded;
  // x is off by half a unit of its last place, below f16's normal numbers by 2^-25; cuBLAS adds in any order.
  const double of_x =
      problem.type == DenseType::kF16 ? std::exp2(-11) * products + std::exp2(-25) * weights : std::exp2(-8) * products;
  return of_x + problem.s.inputs * ulp * products + 2 * rounded;
}

class DenseMatmul : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(DenseMatmul, MultipliesAndAdds) {
  const auto [backend, s] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  for (const DenseType type : kTypes) {
    for (const bool accumulate : {false, true}) {
      Problem problem(s, type);
      const std::vector<float> before = problem.out;
      problem.Run(backend, accumulate);
      for (int row = 0; row < s.rows; ++row) {
        const float* x = &problem.x[row * problem.XStride()];
        for (int output = 0; output < s.outputs; ++output) {
          double sum = 0, products = 0, weights = 0;
          for (int i = 0; i < s.inputs; ++i) {
            const double weight = DenseValue(problem.weights[output * s.inputs + i], type);
            sum += x[i] * weight, products += std::fabs(x[i] * weight), weights += std::fabs(weight);
          }
          const int at = row * problem.OutStride() + output;
          const double result = accumulate ? before[at] + sum : sum;
          ASSERT_NEAR(problem.out[at], result, Tolerance(backend, problem, products, weights, result))
              << "row " << row << " output " << output << (accumulate ? " added" : "");
        }
        for (int i = s.outputs; i < problem.OutStride(); ++i) {
          ASSERT_EQ(problem.out[row * problem.OutStride() + i], kUntouched) << "padding written";
        }
      }
    }
  }
}

TEST_P(DenseMatmul, RepeatsItsBits) {
  const auto [backend, s] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  if (s.inputs > 576 || s.rows > 7) return;
  Problem once(s, DenseType::kBF16), again(s, DenseType::kBF16);
  once.Run(backend, false), again.Run(backend, false);
  EXPECT_EQ(once.out, again.out);
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const Shape& s = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.rows, "x", s.inputs, "x", s.outputs);
}
// One row: a warp for two outputs (the last without a second one), through its loop once and twice; from 2,048 inputs
// on a block, whose threads come out even at 4,096. Several rows; 1,027 of them are more than a grid has.
INSTANTIATE_TEST_SUITE_P(
    Backends, DenseMatmul,
    testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(Shape{1, 8, 1, 0, 0}, Shape{1, 40, 13, 4, 3}, Shape{1, 576, 67, 0, 0},
                                     Shape{1, 2040, 9, 0, 0}, Shape{1, 4096, 5, 0, 0}, Shape{1, 5128, 2, 0, 1},
                                     Shape{0, 40, 3, 0, 0}, Shape{3, 40, 13, 4, 3}, Shape{7, 576, 67, 0, 0},
                                     Shape{2, 4096, 5, 8, 1}, Shape{515, 8, 3, 4, 0})),
    TestName);

TEST(DenseBits, AreTheValuesThatTheyStandFor) {
  for (const DenseType type : kTypes) {
    for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
      const float value = DenseValue(static_cast<uint16_t>(bits), type);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(DenseValue(DenseBits(value, type), type))) << bits;
      } else {
        ASSERT_EQ(DenseBits(value, type), bits);
      }
    }
  }
}

TEST(DenseBits, RoundToNearestEven) {
  const auto bf16 = [](float value) { return DenseValue(DenseBits(value, DenseType::kBF16), DenseType::kBF16); };
  EXPECT_EQ(bf16(1 + 1 / 256.0f), 1);
  EXPECT_EQ(bf16(1 + 3 / 256.0f), 1 + 4 / 256.0f);
  EXPECT_EQ(bf16(-1 - 1.01f / 256), -1 - 2 / 256.0f);
  EXPECT_EQ(bf16(3.4e38f), INFINITY);  // half a unit above the largest
  const auto f16 = [](float value) { return DenseValue(DenseBits(value, DenseType::kF16), DenseType::kF16); };
  EXPECT_EQ(f16(1 + 1 / 2048.0f), 1);
  EXPECT_EQ(f16(-1e6f), -INFINITY);
}

#ifndef KVSCOPE_HAVE_CUDA
TEST(DenseMatmulOnCuda, SaysThatThisBuildHasNone) {
  EXPECT_THROW(cuda::DenseMatmul({}, {}), Error);
}
#endif

}  // namespace
}  // namespace kvscope
