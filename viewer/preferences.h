// SPDX-License-Identifier: Apache-2.0
// What the window keeps between runs besides its layout (view.ini) and the recent files: lines "theme light" and
// "hidden text". What it does not know it leaves out.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace kvscope {

struct Preferences {
  std::optional<bool> is_dark;             // nothing: never chosen
  std::vector<std::string> hidden_panels;  // by name
  friend bool operator==(const Preferences&, const Preferences&) = default;
};

Preferences ReadPreferences(const std::string& path);
// False: it could not be written; the old file stays.
bool WritePreferences(const std::string& path, const Preferences& preferences);

}  // namespace kvscope
