// SPDX-License-Identifier: Apache-2.0
// out[token] = scale * table[ids[token]]: rows of an embedding table by id.
#pragma once

#include "kernels/dense_matmul.h"
#include "kernels/tensor.h"

namespace kvscope {

// ids [tokens], beside out, each in [0, table.outputs): checked on the CPU only. out [tokens, table.inputs] f32, any
// row stride.
namespace cpu {
void Embed(const int* ids, const DenseMatrix& table, float scale, const TensorView& out);
}
namespace cuda {
void Embed(const int* ids, const DenseMatrix& table, float scale, const TensorView& out, const Workspace& workspace);
}

}  // namespace kvscope
