// SPDX-License-Identifier: Apache-2.0
// out += x, row by row: a bias, or what a block adds to the residual stream.
#pragma once

#include "kernels/tensor.h"

namespace kvscope {

// out [rows, dim] f32, any row stride; x [rows, dim] f32 beside it, or [dim] for all rows.
namespace cpu {
void AddRows(const TensorView& x, const TensorView& out);
}
namespace cuda {
void AddRows(const TensorView& x, const TensorView& out, const Workspace& workspace);
}

}  // namespace kvscope
