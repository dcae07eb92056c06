// SPDX-License-Identifier: Apache-2.0
#include "viewer/preferences.h"

#include <fstream>

#include "viewer/recent_files.h"

namespace kvscope {

Preferences ReadPreferences(const std::string& path) {
  Preferences preferences;
  std::ifstream file(path);
  for (std::string what, value; file >> what >> value;) {
    if (what == "theme" && (value == "dark" || value == "light")) preferences.is_dark = value == "dark";
    if (what == "hidden") preferences.hidden_panels.push_back(value);
  }
  return preferences;
}

bool WritePreferences(const std::string& path, const Preferences& preferences) {
  std::string text;
  if (preferences.is_dark) text += *preferences.is_dark ? "theme dark\n" : "theme light\n";
  for (const std::string& panel : preferences.hidden_panels) text += "hidden " + panel + "\n";
  return WriteWhole(path, text);
}

}  // namespace kvscope
