// SPDX-License-Identifier: Apache-2.0
// Rows of q, k and v as f32, whatever the trace holds them in.
#pragma once

#include <span>

#include "core/buffer.h"

namespace kvscope {

void ReadFloats(const Buffer& rows, size_t at, std::span<float> floats);  // elements [at, at + floats.size())

}  // namespace kvscope
