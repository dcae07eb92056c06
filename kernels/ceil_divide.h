// SPDX-License-Identifier: Apache-2.0
// Block counts and the like.
#pragma once

#include <concepts>
#include <type_traits>

#include "kernels/device.h"

namespace kvscope {

// a / b rounded up; a >= 0, b > 0, no overflow on the way.
template <std::integral Integer>
KVSCOPE_HOST_DEVICE constexpr Integer CeilDivide(Integer a, std::type_identity_t<Integer> b) {
  return a / b + (a % b != 0);
}

}  // namespace kvscope
