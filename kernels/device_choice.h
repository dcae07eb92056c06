// SPDX-License-Identifier: Apache-2.0
// --device as people write it.
#pragma once

#include <string>

namespace kvscope {

struct DeviceChoice {
  bool is_cuda = false;
  int index = 0;
};

// cpu, cuda, cuda:N or auto: a device when there is one and the command can use it. Throws Error with what was found.
DeviceChoice ChooseDevice(const std::string& flag, bool can_use_cuda);

}  // namespace kvscope
