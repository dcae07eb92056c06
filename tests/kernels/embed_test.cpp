// SPDX-License-Identifier: Apache-2.0
#include "kernels/embed.h"

#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "core/error.h"
#include "tests/support/kernels_backend.h"

namespace kvscope {
namespace {

struct Shape {
  int tokens, dim, padding;
};
class Embed : public testing::TestWithParam<std::tuple<Backend, Shape>> {};

TEST_P(Embed, PutsRowsByIdExactly) {
  const auto [backend, s] = GetParam();
  KVSCOPE_SKIP_WITHOUT(backend);
  constexpr int kIds = 19;
  constexpr float kScale = 1.7f;
  for (const DenseType type : {DenseType::kF16, DenseType::kBF16}) {
    std::vector<uint16_t> table;
    for (int i = 0; i < kIds * s.dim; ++i) table.push_back(DenseBits(0.37f * static_cast<float>(i % 1009 - 500), type));
    std::vector<int> ids;
    for (int token = 0; token < s.tokens; ++token) ids.push_back((7 * token + 18) % kIds);
    std::vector<float> out(static_cast<size_t>(s.tokens) * (s.dim + s.padding), -7.0f);
    TensorView out_view = ContiguousView(nullptr, DType::kF32, {s.tokens, s.dim}, 2);
    out_view.strides[0] = s.dim + s.padding;
    Lent lent_table(backend, table, ContiguousView(nullptr, DType::kF16, {kIds, s.dim}, 2));
    Lent lent_ids(backend, ids, ContiguousView(nullptr, DType::kF32, {s.tokens}, 1));
    Lent lent_out(backend, out, out_view);
    const DenseMatrix matrix{lent_table.view().data, type, kIds, s.dim};
    const auto* const lent = static_cast<const int*>(lent_ids.view().data);
    if (IsEmulated(backend)) {
      cuda_emulated::SetBackend(backend);
      cuda_emulated::Embed(lent, matrix, kScale, lent_out.view(), {});
    } else {
      backend == Backend::kCuda ? cuda::Embed(lent, matrix, kScale, lent_out.view(), {})
                                : cpu::Embed(lent, matrix, kScale, lent_out.view());
    }
    lent_out.Fetch();
    for (int token = 0; token < s.tokens; ++token) {
      for (int i = 0; i < s.dim + s.padding; ++i) {
        const float expected = i < s.dim ? kScale * DenseValue(table[ids[token] * s.dim + i], type) : -7.0f;
        ASSERT_EQ(out[token * (s.dim + s.padding) + i], expected) << "token " << token << " dim " << i;
      }
    }
  }
}

std::string TestName(const testing::TestParamInfo<std::tuple<Backend, Shape>>& info) {
  const Shape& s = std::get<1>(info.param);
  return StrCat(Name(std::get<0>(info.param)), "_", s.tokens, "x", s.dim);
}
INSTANTIATE_TEST_SUITE_P(
    Backends, Embed,
    testing::Combine(testing::Values(Backend::kCpu, Backend::kEmulated, Backend::kEmulatedBackwards, Backend::kCuda),
                     testing::Values(Shape{1, 576, 0}, Shape{5, 264, 3}, Shape{515, 8, 0}, Shape{0, 8, 0})),
    TestName);

}  // namespace
}  // namespace kvscope
