// SPDX-License-Identifier: Apache-2.0
// Files that tests make, and programs that tests run.
#pragma once

#include <string>

namespace kvscope {

// A path in a folder of this test program's own below the build folder.
std::string TempPath(const std::string& name);
std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, const std::string& bytes);

struct CommandResult {
  int exit_code = -1;
  std::string output;  // stdout and stderr
};
CommandResult RunCommand(const std::string& shell_command);
// Runs a script with Debian's Python, which has h5py and numpy. Arguments are not quoted.
CommandResult RunPython(const std::string& script, const std::string& arguments);

}  // namespace kvscope
