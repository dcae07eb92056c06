// SPDX-License-Identifier: Apache-2.0
// A thread per element. expf, not __expf: the CPU's result within its rounding.
#include "core/error.h"
#include "kernels/glu.h"
#include "kernels/launch.cuh"
#include "kernels/rows.cuh"

namespace kvscope::KVSCOPE_TWIN {
namespace {

constexpr int kThreads = 256;

struct Rows {
  const float *gate, *up;
  float* out;
  int64_t rows, width, gate_stride, up_stride, out_stride;
};

template <Gate kKind>
__global__ void __launch_bounds__(kThreads) GluKernel(Rows r) {
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i >= r.width) return;
  for (int64_t row = blockIdx.y; row < r.rows; row += gridDim.y) {
    const float gate = r.gate[row * r.gate_stride + i];
    const float exponent = kKind == Gate::kGelu ? -gate * fmaf(gate * gate, kGeluCubic, kGeluLinear) : -gate;
    r.out[row * r.out_stride + i] = gate / (1 + expf(exponent)) * r.up[row * r.up_stride + i];
  }
}

}  // namespace

void Glu(Gate kind, const TensorView& gate, const TensorView& up, const TensorView& out, const Workspace& workspace) {
  KVSCOPE_CHECK(gate.device == kTwinDevice && up.device == kTwinDevice && out.device == kTwinDevice);
  KVSCOPE_CHECK(gate.rank == 1 || gate.rank == 2);
  KVSCOPE_CHECK(up.rank == gate.rank && up.shape == gate.shape);
  KVSCOPE_CHECK(out.rank == gate.rank && out.shape == gate.shape);
  const bool has_rows = gate.rank == 2;
  const Rows rows{.gate = gate.floats(),
                  .up = up.floats(),
                  .out = out.floats(),
                  .rows = has_rows ? gate.shape[0] : 1,
                  .width = has_rows ? gate.shape[1] : gate.shape[0],
                  .gate_stride = gate.strides[0],
                  .up_stride = up.strides[0],
                  .out_stride = out.strides[0]};
  if (rows.rows == 0 || rows.width == 0) return;
  const auto kernel = kind == Gate::kGelu ? GluKernel<Gate::kGelu> : GluKernel<Gate::kSilu>;
  Launch("GluKernel", kernel, RowGrid(rows.rows, rows.width, kThreads), kThreads, 0, workspace.stream, rows);
}

}  // namespace kvscope::KVSCOPE_TWIN
