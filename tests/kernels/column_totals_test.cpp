// SPDX-License-Identifier: Apache-2.0
#include "kernels/column_totals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

struct Shape {
  int rows, tokens, stride;
};
class ColumnTotals : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(ColumnTotals, AddUpAndRise) {
  const auto [backend, s] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  std::vector<float> sums, maxima, highest(static_cast<size_t>(s.rows) * s.stride, 0.5f);
  std::vector<double> total(highest.size(), 1 / 3.0);
  for (int i = 0; i < s.rows * s.tokens; ++i) {
    sums.push_back(0.1f * static_cast<float>(i % 17));
    maxima.push_back(i % 11 == 3 ? std::nanf("") : 0.25f * static_cast<float>(i % 5));
  }
  std::vector<float> expected_highest = highest;
  std::vector<double> expected_total = total;
  for (int row = 0; row < s.rows; ++row) {
    for (int token = 0; token < s.tokens; ++token) {
      const int from = row * s.tokens + token, to = row * s.stride + token;
      expected_total[to] += sums[from];
      if (!std::isnan(maxima[from])) expected_highest[to] = std::max(expected_highest[to], maxima[from]);
    }
  }

  const TensorView any = ContiguousView(nullptr, DType::kF32, {}, 1);
  Lent lent_sums(backend, sums, any), lent_maxima(backend, maxima, any), lent_highest(backend, highest, any);
  Lent lent_total(backend, total, any);
  const kvscope::ColumnTotals columns{.sums = lent_sums.view().floats(),
                                      .maxima = lent_maxima.view().floats(),
                                      .rows = s.rows,
                                      .num_tokens = s.tokens,
                                      .total = static_cast<double*>(lent_total.view().data),
                                      .highest = lent_highest.view().floats(),
                                      .stride = s.stride};
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::AddColumns(columns, {});
  } else {
    backend == Backend::kCuda ? cuda::AddColumns(columns, {}) : cpu::AddColumns(columns);
  }
  lent_total.Fetch(), lent_highest.Fetch();
  EXPECT_EQ(total, expected_total);
  EXPECT_EQ(highest, expected_highest);
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const Shape& s = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.rows, "x", s.tokens, "_of_", s.stride);
}
INSTANTIATE_TEST_SUITE_P(
    Backends, ColumnTotals,
    testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(Shape{1, 1, 1}, Shape{3, 300, 512}, Shape{515, 2, 3}, Shape{2, 0, 4})),
    TestName);

}  // namespace
}  // namespace kvscope
