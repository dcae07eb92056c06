// SPDX-License-Identifier: Apache-2.0
// From a tensor of a model file to the packed matrix that the decoder multiplies.
#pragma once

#include <cstdint>
#include <functional>

#include "capture/gguf.h"
#include "kernels/matmul.h"

namespace kvscope {

// A matrix [outputs, tensor.Cols()]; source_row says which row of the tensor, counted over all extents after the first,
// becomes row `output`. Throws Error, naming file, tensor and row, when a weight is not finite.
PackedMatrix PackWeights(const GgufFile& gguf, const GgufTensor& tensor, int outputs,
                         const std::function<int64_t(int output)>& source_row);

}  // namespace kvscope
