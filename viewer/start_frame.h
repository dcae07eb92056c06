// SPDX-License-Identifier: Apache-2.0
// What is seen before there is anything to see: how to open a trace.
#pragma once

#include "viewer/shell.h"

namespace kvscope {

class StartFrame final : public Frame {
 public:
  void Draw() override;
};

}  // namespace kvscope
