// SPDX-License-Identifier: Apache-2.0
#include "tests/support/core_files.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/error.h"

// For builds with a leak sanitizer: HDF5 loses a block when it cannot close a file on a full disk.
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libhdf5\n";
}

namespace kvscope {

std::string TempPath(const std::string& name) {
  // ctest runs tests of one program side by side.
  const auto folder = std::filesystem::path(KVSCOPE_BINARY_DIR) / "test_files" / std::to_string(getpid());
  std::filesystem::create_directories(folder);
  static const struct Remover {
    std::filesystem::path folder;
    pid_t owner = getpid();
    ~Remover() {
      std::error_code ignored;
      if (getpid() == owner) std::filesystem::remove_all(folder, ignored);
    }
  } remover{folder};
  return (folder / name).string();
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

CommandResult RunCommand(const std::string& shell_command) {
  CommandResult result;
  FILE* pipe = popen((shell_command + " 2>&1").c_str(), "r");
  KVSCOPE_CHECK(pipe != nullptr);
  char part[4096];
  while (const size_t count = std::fread(part, 1, sizeof part, pipe)) result.output.append(part, count);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

CommandResult RunPython(const std::string& script, const std::string& arguments) {
  const std::string path = TempPath("script.py");
  WriteFile(path, script);
  return RunCommand("/usr/bin/python3 " + path + " " + arguments);
}

}  // namespace kvscope
