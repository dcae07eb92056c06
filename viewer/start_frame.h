// SPDX-License-Identifier: Apache-2.0
// What is seen before there is anything to see: how to open a trace.
#pragma once

#include "viewer/shell.h"

namespace kvscope {

class StartFrame final : public Frame {
 public:
  explicit StartFrame(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  void Draw() override;
  void DroppedFiles(std::vector<std::string> paths) override;

 private:
  std::vector<std::string> paths_;
};

}  // namespace kvscope
