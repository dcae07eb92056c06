// SPDX-License-Identifier: Apache-2.0
#include "replay/head_rows.h"

#include <algorithm>

void kvscope::ReadFloats(const Buffer& rows, size_t at, std::span<float> floats) {
  if (rows.dtype() == DType::kF16) {
    FloatsFromHalves(rows.halves().subspan(at, floats.size()), floats);
  } else {
    std::copy_n(rows.floats().begin() + static_cast<int64_t>(at), floats.size(), floats.begin());
  }
}
