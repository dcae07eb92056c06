// SPDX-License-Identifier: Apache-2.0
// values[i] += step: counters that a captured graph moves on by itself.
#pragma once

#include "kernels/tensor.h"

namespace kvscope {

namespace cpu {
void Advance(int* values, int count, int step);
}
namespace cuda {
void Advance(int* values, int count, int step, const Workspace& workspace);
}

}  // namespace kvscope
