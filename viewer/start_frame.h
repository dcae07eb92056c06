// SPDX-License-Identifier: Apache-2.0
// What is seen before there is anything to see: how to open a trace.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace kvscope {

struct StartActions {
  std::vector<std::string> recent_files;  // the newest first; those that are gone are shown as such
  std::function<void()> browse;
  std::function<void(const std::string& path)> open;
};

// Fills the viewport's work area.
void DrawStart(const StartActions& actions);
// A menu's or list's entry of a recent file: its name, and that it is gone if it is. True when it was chosen.
bool RecentFileItem(const std::string& path);

}  // namespace kvscope
