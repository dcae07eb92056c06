// SPDX-License-Identifier: Apache-2.0
// How calls into HDF5 turn into Errors; for h5.cpp and h5_attributes.cpp only.
#pragma once

#include <string>
#include <string_view>

namespace kvscope::h5 {

// The innermost description of HDF5's error stack, which it clears.
std::string WhyItFailed();
[[noreturn]] void Fail(const std::string& place, std::string_view what);

template <typename Status>
Status Check(Status status, const std::string& place, std::string_view what) {
  if (status < 0) Fail(place, what);
  return status;
}

}  // namespace kvscope::h5
