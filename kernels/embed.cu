// SPDX-License-Identifier: Apache-2.0
// A thread per element.
#include "core/error.h"
#include "kernels/dense.cuh"
#include "kernels/embed.h"
#include "kernels/launch.cuh"
#include "kernels/rows.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

struct Rows {
  const int* ids;
  const uint16_t* table;
  float* out;
  int64_t tokens, out_stride;
  int dim;
  float scale;
};

template <DenseType kType>
__global__ void __launch_bounds__(kThreads) EmbedKernel(Rows r) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= r.dim) return;
  for (int64_t token = blockIdx.y; token < r.tokens; token += gridDim.y) {
    r.out[token * r.out_stride + i] = r.scale * FloatFromDense<kType>(r.table[int64_t{r.ids[token]} * r.dim + i]);
  }
}

}  // namespace

void Embed(const int* ids, const DenseMatrix& table, float scale, const TensorView& out, const Workspace& workspace) {
  KVSCOPE_CHECK(out.device == kTwinDevice && out.dtype == DType::kF32);
  KVSCOPE_CHECK_EQ(out.shape[1], table.inputs);
  const Rows rows{
      ids, static_cast<const uint16_t*>(table.data), out.floats(), out.shape[0], out.strides[0], table.inputs, scale};
  if (rows.tokens == 0 || rows.dim == 0) return;
  const auto kernel = table.type == DenseType::kF16 ? EmbedKernel<DenseType::kF16> : EmbedKernel<DenseType::kBF16>;
  Launch("EmbedKernel", kernel, RowGrid(rows.tokens, rows.dim, kThreads), kThreads, 0, workspace.stream, rows);
}

}  // namespace kvscope::KVSCOPE_TWIN
