// SPDX-License-Identifier: Apache-2.0
// What an action says when it fails.
#pragma once

#include <functional>
#include <string>

#include "core/error.h"

namespace kvscope {

// The text of the Error that it throws; empty when it throws none.
inline std::string MessageOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace kvscope
