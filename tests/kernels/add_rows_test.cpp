// SPDX-License-Identifier: Apache-2.0
#include "kernels/add_rows.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

void AddOn(Backend backend, const TensorView& x, const TensorView& out) {
  if (IsEmulated(backend)) {
    cuda_emulated::SetBackend(backend);
    cuda_emulated::AddRows(x, out, {});
  } else {
    backend == Backend::kCuda ? cuda::AddRows(x, out, {}) : cpu::AddRows(x, out);
  }
}

class AddRows : public testing::TestWithParam<std::tuple<Backend, bool>> {};

TEST_P(AddRows, AddsAndLeavesThePaddingAlone) {
  const auto [backend, is_one_row] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  for (const auto& [rows, dim] : {std::pair(3, 300), std::pair(515, 5), std::pair(0, 8)}) {  // 512 rows a grid
    constexpr int kPadding = 3;
    std::vector<float> x, out(static_cast<size_t>(rows) * (dim + kPadding), 0.5f);
    for (int i = 0; i < (is_one_row ? 1 : rows) * dim; ++i) x.push_back(static_cast<float>(i));
    TensorView x_view = is_one_row ? ContiguousView(nullptr, DType::kF32, {dim}, 1)
                                   : ContiguousView(nullptr, DType::kF32, {rows, dim}, 2);
    TensorView out_view = ContiguousView(nullptr, DType::kF32, {rows, dim}, 2);
    out_view.strides[0] = dim + kPadding;
    Lent lent_x(backend, x, x_view), lent_out(backend, out, out_view);
    AddOn(backend, lent_x.view(), lent_out.view());
    lent_out.Fetch();
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < dim + kPadding; ++i) {
        const float expected = i < dim ? 0.5f + x[(is_one_row ? 0 : row * dim) + i] : 0.5f;
        ASSERT_EQ(out[row * (dim + kPadding) + i], expected) << row << " " << i;
      }
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, bool>>& info) {
  const auto [backend, is_one_row] = info.param;
  return Name(backend) + (is_one_row ? "_one_row" : "_rows");
}
INSTANTIATE_TEST_SUITE_P(Backends, AddRows,
                         testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated,
                                                          Backend::kEmulatedBackwards, Backend::kCuda),
                                          testing::Bool()),
                         TestName);

}  // namespace
}  // namespace kvscope
