// SPDX-License-Identifier: Apache-2.0
// What a trace with a part of the heads keeps of a layer; as it is when it keeps all.
#pragma once

#include <vector>

#include "core/trace.h"
#include "core/trace_writer.h"

namespace kvscope {

LayerChunk SelectHeads(LayerChunk chunk, const LayerInfo& info);
std::vector<Half> SelectHeads(std::vector<Half> rows, const LayerInfo& info);  // [heads, tokens]

}  // namespace kvscope
